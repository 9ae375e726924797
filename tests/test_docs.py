"""The documentation: its code runs, its links resolve, its reference is whole, it builds."""

import contextlib
import importlib.util
import inspect
import io
import re
import runpy
import subprocess
import sys
import warnings
from pathlib import Path

import brainstate
import numpy as np
import pytest
import saiunit as u

import braintools_optim as bo
from braintools_optim.checkpoint import codec

ROOT = Path(__file__).parent.parent
DOCS = ROOT / 'docs'
PAGES = sorted(DOCS.glob('*.md'))
TEXTS = [*PAGES, ROOT / 'README.md', ROOT / 'CONTRIBUTING.md']


def loaded(path):
    """Return a file as a module, which dataclasses and pickle need not find."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


REFERENCE = loaded(DOCS / 'build_reference.py').pages()


# ---- code --------------------------------------------------------------------------------------

BLOCK = re.compile(r'```(\w*)\n(.*?)```', re.DOTALL)


def sessions(page):
    """Return the code of a page: what follows `import torch` is another program than the rest.

    Each is a list of (code, what it prints or None): a block of text after a block of code.
    """
    found = {'torch': [], 'jax': []}
    mine = []
    for language, text in BLOCK.findall(page.read_text()):
        if language == 'python':
            mine = found['torch' if 'import torch\n' in text else 'jax']
            mine.append([text, None])
        elif language == 'text':  # both programs print it, where the page has both
            for blocks in found.values():
                if blocks and blocks[-1][1] is None and (blocks is mine or found['torch']):
                    blocks[-1][1] = text
    return found


def run(page, kind, names):
    """Run the blocks one after the other; check what they print."""
    for i, (code, shown) in enumerate(sessions(page)[kind]):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(code, f'{page.name}[{i}]', 'exec'), names)
        assert out.getvalue() == (shown or ''), f'{page.name}, block {i} of {kind}'


@pytest.mark.parametrize('page', PAGES, ids=lambda p: p.stem)
def test_code(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(page, 'jax', {'__name__': 'docs'})


def test_code_of_torch():
    pytest.importorskip('torch', reason='torch is not installed: its side of the page is not run')
    run(DOCS / 'from-pytorch.md', 'torch', {})
    assert len(sessions(DOCS / 'from-pytorch.md')['torch']) == 2


def test_limits_of_a_checkpoint(tmp_path, monkeypatch):
    counts = []

    def counting(contents):
        counts.append(codec._count(contents))
        return encode(contents)

    encode = codec.encode
    monkeypatch.setattr(codec, 'encode', counting)
    page = (DOCS / 'checkpoints.md').read_text()
    rows = re.findall(
        r'^\| `(\w+)(\(.*?\))?`(, `params=True`)? .*\| ([\d,]+) \|$', page, re.MULTILINE
    )
    assert len(rows) == 4
    for name, call, params, most in rows:
        for n in (10, 20):
            weights = {f'w{i}': brainstate.ParamState(np.zeros((2, 2))) for i in range(n)}
            opt = eval(f'bo.{name}{call or "()"}').register_trainable_weights(weights)
            opt.save(tmp_path / 'file', params=bool(params))
        each = (counts[-1] - counts[-2]) / 10
        limit = (codec.NODES - counts[-1]) / each + 20
        assert 0.98 * limit < int(most.replace(',', '')) <= limit, (name, params, limit)


# ---- examples ----------------------------------------------------------------------------------


def mlp(steps=120):
    accuracy = example('mlp')(steps)
    assert accuracy > 0.9


def rnn_integrator(steps=60):
    first, last = example('rnn_integrator')(steps)
    assert last < 0.02 * first


def spiking(steps=25):
    assert example('spiking')(steps) > 0.75


def fine_tuning(steps=120):
    first, last, moved = example('fine_tuning')(steps)
    assert last < 0.01 * first
    assert moved[0] == 0.0 and moved == sorted(moved)


def sweep(steps=60):
    lrs, losses = example('sweep')(steps)
    assert losses.shape == (64, steps) and len(set(np.asarray(lrs))) == 64
    assert np.all(losses[:, 0] == losses[0, 0])  # one model
    best = int(np.nanargmin(losses[:, -1]))
    assert 10 < best < 60 and losses[best, -1] < 0.1 * min(losses[0, -1], losses[-1, -1])


def curve_fitting(steps=10):
    found, error = example('curve_fitting')(steps)
    assert error < 0.1
    assert abs(found['amplitude'] - 12.0 * u.mV) < 0.5 * u.mV
    assert abs(found['tau'] - 18.0 * u.ms) < 1.0 * u.ms


def data_parallel(steps=30):
    path = str(DOCS / 'examples' / 'data_parallel.py')  # its devices are set before JAX begins
    command = [sys.executable, '-W', 'error', path, str(steps)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    first, last = map(float, re.search(r'loss (\S+) -> (\S+)', shown).groups())
    assert last < 0.1 * first
    assert '64 of 512 samples' in shown and shown.endswith('moments: {8}\n')


def example(name):
    return runpy.run_path(str(DOCS / 'examples' / f'{name}.py'))['main']


EXAMPLES = [mlp, rnn_integrator, spiking, fine_tuning, sweep, curve_fitting, data_parallel]


@pytest.mark.parametrize('check', EXAMPLES, ids=lambda f: f.__name__)
def test_example(check):
    check()


def test_examples_are_short_and_complete():
    files = sorted((DOCS / 'examples').glob('*.py'))
    assert [p.stem for p in files] == sorted(check.__name__ for check in EXAMPLES)
    page = (DOCS / 'examples.md').read_text()
    for path in files:
        assert len(path.read_text().splitlines()) < 100, path.name
        assert f'(examples/{path.name})' in page


# ---- links -------------------------------------------------------------------------------------


def anchors(text):
    """Return the anchors of a page's headings, as Markdown makes them."""
    text = BLOCK.sub('', text)
    titles = re.findall(r'^#+ (.*)$', text, re.MULTILINE)
    return {re.sub(r'[\s-]+', '-', re.sub(r'[^\w\s-]', '', t).strip().lower()) for t in titles}


def broken(path, text, there):
    """Return the links of a text at a path that lead nowhere."""
    found = []
    for target in re.findall(r'\]\(([^)\s]+)\)', re.sub(r'```.*?```', '', text, flags=re.DOTALL)):
        if re.match(r'\w+:', target):
            continue
        file, _, anchor = target.partition('#')
        goal = (path.parent / file).resolve() if file else path
        page = there.get(goal)
        if page is None and not goal.exists():
            found.append(f'{path.name}: {target}')
        elif anchor and anchor not in anchors(page if page is not None else goal.read_text()):
            found.append(f'{path.name}: {target} has no such heading')
    return found


def test_links():
    there = {DOCS / 'reference' / name: text for name, text in REFERENCE.items()}
    there |= {path: path.read_text() for path in TEXTS}
    assert [x for path, text in there.items() for x in broken(path, text, there)] == []


def test_that_a_broken_link_is_found(tmp_path):
    page = tmp_path / 'page.md'
    text = '# One\n[a](gone.md) [b](#two) [c](#one) [d](https://example.org)'
    assert broken(page, text, {page: text}) == [
        'page.md: gone.md',
        'page.md: #two has no such heading',
    ]


def test_navigation_names_every_page():
    listed = re.findall(r': (\S+\.md)$', (ROOT / 'mkdocs.yml').read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(
        [*(p.name for p in PAGES), *(f'reference/{name}' for name in REFERENCE)]
    )


@pytest.mark.parametrize('start', [DOCS / 'index.md', ROOT / 'README.md'], ids=lambda p: p.stem)
def test_every_page_is_linked_from(start):
    targets = re.findall(r'\]\(([^)#\s]+\.md)', start.read_text())
    linked = {(start.parent / target).resolve() for target in targets}
    assert [p.name for p in PAGES if p not in linked and p.name != 'index.md'] == []


# ---- reference ---------------------------------------------------------------------------------


def public_names():
    parts = {'': bo, 'schedules.': bo.schedules, 'transforms.': bo.transforms}
    return [
        (prefix + name, getattr(part, name))
        for prefix, part in parts.items()
        for name in part.__all__
        if not inspect.ismodule(getattr(part, name))
    ]


def test_every_public_name_is_in_the_reference():
    text = '\n'.join(REFERENCE.values())
    headings = re.findall(r'^### (\w+)$', text, re.MULTILINE)
    second = re.findall(r'^`(\S+)` is another name of', text, re.MULTILINE)
    names = [name for name, _ in public_names()]
    assert sorted([*headings, *second]) == sorted(name.rpartition('.')[2] for name in names)
    for name in names:
        assert f'[`{name}`](' in REFERENCE['index.md']


def test_every_public_name_has_a_docstring():
    bare = [
        name
        for name, thing in public_names()
        if (isinstance(thing, type) or inspect.isroutine(thing)) and not thing.__doc__
    ]
    assert bare == []


def test_the_reference_tells_inherited_methods_with_their_arguments():
    optimizer = entry_of('OptaxOptimizer', 'optimizers.md')
    for shown in (
        '- `load(path, strict=True, cast=False, rename=None)`: Take over a file',
        '    - `rename` (dict of str): New names of parameters',
        '- `current_lr`: ',
        '- `decay_mask`: ',
        '- `add_scheduler(scheduler)`: ',
    ):
        assert shown in optimizer, shown
    assert '    - `metric` (float, optional): ' in entry_of('Checkpointer', 'checkpoints.md')
    assert '    - `length` (int, optional): ' in entry_of('TrainStep', 'optimizers.md')
    assert '- `waiting` (bool): ' in entry_of('LoadReport', 'checkpoints.md')
    assert 'state_dtype=None' in entry_of('AveragedModel', 'optimizers.md')
    # A page of one algorithm does not repeat them, and internals are nowhere.
    assert 'Methods and properties' not in entry_of('AdamW', 'algorithms.md')
    assert '`hyper(' not in entry_of('ParamGroup', 'optimizers.md')


def entry_of(name, page):
    parts = re.split(r'^### (\w+)$', REFERENCE[page], flags=re.MULTILINE)
    return parts[parts.index(name) + 1]


def test_the_reference_has_no_leftovers_of_its_source():
    for name, text in REFERENCE.items():
        prose = re.sub(r'```.*?```', '', text, flags=re.DOTALL)
        assert not re.search(r':\w+:`|\.\. math|``|^-{3,}$|<function|0x', prose, re.MULTILINE), name
    assert (
        '- `betas` (tuple of float): Decay rates of the two averages.'
        in (REFERENCE['algorithms.md'])
    )


# ---- build -------------------------------------------------------------------------------------


def test_build(tmp_path):
    for needed in ('mkdocs', 'latex2mathml', 'pygments'):
        pytest.importorskip(needed, reason=f'{needed} is not installed: pip install ".[docs]"')
    with warnings.catch_warnings():
        warnings.simplefilter('default')  # of mkdocs and what it imports; strict tells its own
        from mkdocs.commands.build import build
        from mkdocs.config import load_config

        build(load_config(str(ROOT / 'mkdocs.yml'), site_dir=str(tmp_path), strict=True))
    made = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob('*.html')}
    for name in (*(p.name for p in PAGES), *(f'reference/{n}' for n in REFERENCE)):
        name = name.removesuffix('.md').removesuffix('index').rstrip('/')
        assert str(Path(name) / 'index.html') in made
    assert (tmp_path / 'examples' / 'mlp.py').exists() and (tmp_path / 'schedulers.png').exists()
    html = (tmp_path / 'reference' / 'algorithms' / 'index.html').read_text()
    mathml = '<math xmlns="http://www.w3.org/1998/Math/MathML" display='
    assert html.count(mathml + '"block"') > 20 and html.count(mathml + '"inline"') > 80
    assert not re.search(r'FORMULA\d|\\(frac|sqrt|hat|beta|operatorname)', html)
