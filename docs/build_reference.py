"""Make the reference of docstrings: a hook of mkdocs, or ``python docs/build_reference.py DIR``.

Every public name stands on the page of its part, in the section of its module. Formulas, here and
on the other pages, become MathML, which browsers show without any script.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import braintools_optim
from braintools_optim import schedules, transforms
from braintools_optim.signature import CommonOptions

PARTS = {
    'algorithms': 'Algorithms',
    'schedulers': 'Schedulers',
    'schedules': 'Schedules',
    'transforms': 'Transformations',
    'checkpoint': 'Checkpoints and errors',
    '': 'Optimizers and groups',
}
PAGES = {'checkpoint': 'checkpoints', '': 'optimizers'}
INTRODUCTIONS = {
    'algorithms': 'Besides the arguments shown, every class takes `grad_clip_norm`, '
    '`grad_clip_value`, `maximize`, `skip_nonfinite`, `accumulate_steps`, `constrain`, '
    '`state_dtype` and `master_dtype`. Classes that keep a first moment, as Adam does, take '
    '`mu_dtype`, and those that decay each parameter by itself take `decay_mask`; the others '
    'refuse them. '
    '[OptaxOptimizer](optimizers.md#optaxoptimizer) describes these options, and the methods '
    'that all classes have. All numbers are live; True, False, names and functions are fixed.',
    'schedulers': 'Plots and how they are attached: [Schedulers](../schedulers.md). An optimizer '
    'may be given as the first argument, as in torch. Methods that all have stand at '
    '[Scheduler](#scheduler) and [LRScheduler](#lrscheduler).',
    'schedules': 'Pure functions of the step, in `braintools_optim.schedules`: a name called with '
    'a base value and hyper-parameters returns `f(step)`, with steps counted from 0. In the '
    r'formulas $\eta$ is `base`, the number that is scheduled, such as a learning rate; $\eta_s$ '
    r'is `warmup_start_lr`, $\eta_{min}$ is `eta_min`, $\eta_{max}$ is `max_lr`, $\gamma$ is '
    r'`gamma`.',
    'transforms': 'Pure optax transformations, in `braintools_optim.transforms`. In the formulas '
    r'$g_t$ is the gradient that comes in, $u_t$ the update that goes out, $\theta$ the parameter; '
    r'`b1`, `b2` are $\beta_1, \beta_2$, and `eps` is $\epsilon$. An argument that is not '
    'described means what it means in the [class](algorithms.md) of the algorithm. Numbers may be '
    'traced; True, False, names and counts are fixed.',
    'checkpoint': 'How they are used: [Checkpoints](../checkpoints.md).',
    '': 'What all algorithms share.',
}
QUIET = {'transform', 'validate', 'affine'}  # what a class overrides to be an algorithm
# What the package calls, and users need not.
INTERNAL = {
    *('ParamGroup.copy', 'ParamGroup.hyper', 'ParamGroup.number', 'ParamGroup.set'),
    *('ChainedScheduler.shares_base', 'SequentialLR.shares_base', 'OptimState.duplicate'),
    *('Scheduler.copy', 'Scheduler.differences'),
    *('UniqueStateManager.adopt', 'UniqueStateManager.aliases', 'UniqueStateManager.position'),
    *('Hyper.replaced', 'Hyper.rate_is_read'),
}
MADE_ELSEWHERE = {'Hyper', 'LoadReport', 'ParamGroup', 'Saving', 'TrainStep'}  # not by users


# ---- which name stands where -------------------------------------------------------------------


def modules() -> Iterator[ModuleType]:
    """Yield the modules that define public names, those of parts first."""
    names = [m.name for m in pkgutil.walk_packages(braintools_optim.__path__, 'braintools_optim.')]
    for name in sorted(names, key=lambda n: (-n.count('.'), n)):
        module = None if name.endswith('__main__') else importlib.import_module(name)
        if module is not None and not hasattr(module, '__path__'):
            yield module


def public() -> dict[str, Any]:
    """Return all public names, with those of the two public modules."""
    found = {name: getattr(braintools_optim, name) for name in braintools_optim.__all__}
    for part in (schedules, transforms):
        found |= {
            f'{part.__name__.rpartition(".")[2]}.{name}': getattr(part, name)
            for name in part.__all__
        }
    return {name: x for name, x in found.items() if not isinstance(x, ModuleType)}


def home(name: str, thing: Any) -> ModuleType:
    """Return the module that defines a public name."""
    short = name.rpartition('.')[2]
    for module in modules():
        declared = getattr(module, '__all__', None)
        own = short in declared if declared else getattr(thing, '__module__', '') == module.__name__
        if own and vars(module).get(short) is thing:
            return module
    raise LookupError(f'{name} is public, and no module has it in its __all__.')


# ---- from a docstring to Markdown --------------------------------------------------------------


def inline(text: str) -> str:
    """Turn roles, formulas and literals of reStructuredText into Markdown."""
    text = re.sub(r':math:`([^`]*)`', lambda m: f'${" ".join(m[1].split())}$', text)
    text = re.sub(r':\w+:`(?:~[\w.]*\.)?([\w.]+)`', r'`\1`', text)
    return re.sub(r'``([^`]+)``', r'`\1`', text)


def markdown(docstring: str) -> str:
    """Return a NumPy docstring as Markdown."""
    blocks = re.split(r'\n\n(?!\s+>>>|    )', inspect.cleandoc(docstring))
    done = []
    for block in blocks:
        title = re.match(r'(\w[\w ]*)\n-{3,}\n', block)
        body = block[title.end() :] if title else block
        if title and '>>>' not in body and title[1] in ('Parameters', 'Attributes', 'Returns'):
            entries, _, rest = body.partition('\n\n')
            done += [f'**{title[1]}**', listed(entries), rest]
        elif title:
            done += [f'**{title[1]}**', *examples(body)]
        elif block.startswith('.. math::'):
            formulas = re.split(r'\.\. math::', block)[1:]
            done += [f'$$ {" ".join(formula.split())} $$' for formula in formulas]
        else:
            done += examples(block)
    return '\n\n'.join(filter(None, done))


def listed(entries: str) -> str:
    """Return the parameters of a docstring as a list."""
    entries = re.sub(r',\n(?=\S)', ', ', entries)  # names that fill more than a line
    return '\n'.join(map(entry, re.split(r'\n(?=\S)', entries)))


def entry(text: str) -> str:
    """Return one parameter of a docstring as an item of a list."""
    head, _, description = text.partition('\n')
    names, _, kind = head.partition(' : ')
    if not kind and not description:
        return inline(text)
    description = ' '.join(description.split())
    shown = ', '.join(f'`{name}`' for name in names.replace('\\', '').split(', '))
    return f'- {shown}{f" ({kind})" if kind else ""}: {inline(description)}'


def examples(text: str) -> list[str]:
    """Return prose, and sessions of an interpreter as blocks of code."""
    done = []
    for block in re.split(r'\n\n', text):
        code = block.lstrip().startswith('>>>')
        done.append(f'```pycon\n{inspect.cleandoc(block)}\n```' if code else inline(block))
    return done


def call(name: str, thing: Any) -> str:
    """Return how something is called, without annotations."""
    shown = []
    star = False
    algorithm = isinstance(thing, type) and issubclass(thing, braintools_optim.OptaxOptimizer)
    for p in inspect.signature(thing).parameters.values():
        common = p.kind is p.KEYWORD_ONLY and p.name in CommonOptions.__annotations__
        if p.name in ('self', 'cls') or (common and algorithm and name != 'OptaxOptimizer'):
            continue
        if p.kind is p.KEYWORD_ONLY and not star:
            shown.append('*')
        star = star or p.kind in (p.KEYWORD_ONLY, p.VAR_POSITIONAL)
        prefix = {p.VAR_POSITIONAL: '*', p.VAR_KEYWORD: '**'}.get(p.kind, '')
        default = '' if p.default is p.empty else f'={p.default!r}'
        default = re.sub('<(?:function|class) .*>|Ellipsis', '...', default)
        shown.append(f'{prefix}{p.name}{default}')
    return f'{name}({", ".join(shown)})'


def owners(cls: type) -> list[type]:
    """Return a class and its bases without an entry of their own, which an entry of it must tell.

    What they and another public base have in common stands there.
    """
    told = {
        inherited
        for base in cls.__mro__[1:]
        if getattr(braintools_optim, base.__name__, None) is base
        for inherited in base.__mro__
    }
    ours = [c for c in cls.__mro__ if c.__module__.partition('.')[0] == 'braintools_optim']
    return [c for c in ours if c not in told]


def members(cls: type) -> list[str]:
    """Return the methods and properties of a class, each with its arguments."""
    found: dict[str, Any] = {}
    for owner in owners(cls):
        for name, member in vars(owner).items():
            function = getattr(member, '__func__', member)
            own = isinstance(member, property) or '.' in getattr(function, '__qualname__', '')
            if own and not name.startswith('_') and f'{cls.__name__}.{name}' not in INTERNAL:
                found.setdefault(name, member)
    is_base = cls.__name__ in ('OptaxOptimizer', 'LRScheduler')
    return [
        method(name, member)
        for name, member in found.items()
        if inspect.getdoc(member) and (is_base or name not in QUIET)
    ]


def method(name: str, member: Any) -> str:
    """Return an item of a list about a method or property, with a list of its parameters."""
    function = getattr(member, '__func__', member)
    shown = name if isinstance(member, property) else call(name, function)
    first, *blocks = inspect.getdoc(member).split('\n\n')
    parts = [f'- `{shown}`: {inline(" ".join(first.split()))}']
    for block in blocks:
        title = re.match(r'(Parameters|Returns)\n-{3,}\n', block)
        if title and title[1] == 'Parameters':
            parts.append(listed(block[title.end() :]))
        else:
            text = inline(' '.join(block[title.end() if title else 0 :].split()))
            parts.append(f'Returns: {text}' if title else text)
    return '\n\n'.join([parts[0], *(re.sub('^', '    ', x, flags=re.MULTILINE) for x in parts[1:])])


def described(name: str, thing: Any) -> str:
    """Return what the reference says about one name."""
    short = name.rpartition('.')[2]
    error = isinstance(thing, type) and issubclass(thing, Exception)
    head = [f'### {short}']
    state = hasattr(thing, '_fields') and thing is not braintools_optim.Range
    plain = error or state or short in MADE_ELSEWHERE
    if callable(thing) and not plain:
        head.append(f'```python\n{call(short, thing)}\n```')
    if not (doc := own_doc(thing)):
        return '\n\n'.join([*head, f'Defined as `{thing}`.'])
    has_members = isinstance(thing, type) and not hasattr(thing, '_fields')
    found = members(thing) if has_members and not error else []
    more = ['**Methods and properties**', '\n'.join(found)] if found else []
    return '\n\n'.join([*head, markdown(doc), *more])


def own_doc(thing: Any) -> str | None:
    """Return what something says of itself, not what its class says, as of a number."""
    return None if isinstance(thing, int | float | str) else inspect.getdoc(thing)


def summary(thing: Any) -> str:
    """Return the first sentence about something."""
    lines = (own_doc(thing) or str(thing)).split('\n\n')[0]
    return inline(' '.join(lines.split()))


def pages() -> dict[str, str]:
    """Return the pages of the reference by file name."""
    sections: dict[str, dict[str, list[str]]] = {part: {} for part in PARTS}
    rows: dict[str, list[str]] = {part: [] for part in PARTS}
    first: dict[int, str] = {}
    for name, thing in public().items():
        module = home(name, thing)
        part = module.__name__.split('.')[1] if module.__name__.count('.') > 1 else ''
        page = f'{PAGES.get(part, part)}.md'
        title = (module.__doc__ or '').split('\n')[0].rstrip('.').replace('``', '`')
        if id(thing) in first:  # a second name of one class
            original = first[id(thing)]
            text, anchor = f'`{name}` is another name of `{original}`.', original
        else:
            text, anchor = described(name, thing), name.rpartition('.')[2]
            first[id(thing)] = name
        sections[part].setdefault(title, []).append(text)
        rows[part].append(f'| [`{name}`]({page}#{anchor.lower()}) | {summary(thing)} |')
    result = {}
    for part, title in PARTS.items():
        text = [f'# {title}', INTRODUCTIONS[part]]
        for family, entries in sections[part].items():
            text += [f'## {family}', *entries]
        result[f'{PAGES.get(part, part)}.md'] = '\n\n'.join(text) + '\n'
    index = ['# Reference', 'Every public name, from the docstrings.']
    for part, title in PARTS.items():
        index += [f'## {title}', '| name | |\n|---|---|\n' + '\n'.join(rows[part])]
    return {'index.md': '\n\n'.join(index) + '\n', **result}


# ---- hooks of mkdocs ---------------------------------------------------------------------------

_formulas: list[str] = []


def on_files(files: Any, config: Any) -> Any:
    """Add the pages of the reference."""
    from mkdocs.structure.files import File

    for name, text in pages().items():
        files.append(File.generated(config, f'reference/{name}', content=text))
    return files


def on_page_markdown(text: str, **_: Any) -> str:
    """Put formulas aside, so that Markdown leaves them alone."""
    parts = re.split(r'(```.*?```|`[^`\n]+`)', text, flags=re.DOTALL)
    pattern = r'\$\$(.+?)\$\$|\$([^$\n]+)\$'
    return ''.join(
        part if part.startswith('`') else re.sub(pattern, _put_aside, part, flags=re.DOTALL)
        for part in parts
    )


def _put_aside(match: re.Match) -> str:
    from latex2mathml.converter import convert

    block = match[1] is not None
    _formulas.append(
        convert((match[1] or match[2]).strip(), display='block' if block else 'inline')
    )
    return f'FORMULA{len(_formulas) - 1}X'


def on_page_content(html: str, **_: Any) -> str:
    """Put the formulas in their places."""
    return re.sub(r'FORMULA(\d+)X', lambda m: _formulas[int(m[1])], html)


if __name__ == '__main__':
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in pages().items():
        (folder / file).write_text(content)
