"""Imports run downward only: from what people hold to the engine, and from there to the ground."""

import ast
import importlib
import sys
from graphlib import TopologicalSorter
from inspect import ismodule
from pathlib import Path

import braintools_optim

ROOT = Path(braintools_optim.__file__).parent
LAYERS = {  # from the ground up; what stands together may import one another
    'formulas': ['transforms', 'schedules'],
    'tools': [
        *(
            'by_path',
            'check',
            'class_attribute',
            'constraint',
            'decay_mask',
            'errors',
            'fixed_list',
            'fixed_options',
            'leafwise',
            'number',
            'paths',
            'plain',
        ),
        *('other_libraries', 'precision', 'ranges', 'sharding', 'signature', 'slot', 'state'),
    ],
    'engine': ['engine'],
    'schedulers': ['hyper', 'report', 'schedulers'],
    'checkpoint': ['checkpoint'],
    'optimizer': ['chains', 'copying', 'groups', 'live', 'optimizer', 'rates', 'saving'],
    'uses': ['algorithms', 'averaging', 'demo', 'train', '__init__', '__main__'],
}
HEIGHT = {unit: i for i, units in enumerate(LAYERS.values()) for unit in units}
FILES = sorted(ROOT.rglob('*.py'))


def unit_of(path):
    """Return the module or folder of the package that a file is, or is in."""
    return path.relative_to(ROOT).parts[0].removesuffix('.py')


def imported(path):
    """Return what a file imports, by the names of modules; what only type checkers read aside."""
    package = ['braintools_optim', *path.relative_to(ROOT).parts[:-1]]
    for node in statements(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = [*base, *([node.module] if node.module else [])]
            inside = module == ['braintools_optim']
            yield from ('.'.join([*module, *([x.name] * inside)]) for x in node.names)


def statements(node):
    """Return all that is below a node, but for what stands under TYPE_CHECKING."""
    for below in ast.iter_child_nodes(node):
        if not (isinstance(below, ast.If) and getattr(below.test, 'id', '') == 'TYPE_CHECKING'):
            yield below
            yield from statements(below)


def test_every_module_has_its_layer():
    assert {*map(unit_of, FILES)} == set(HEIGHT)


def test_imports_run_downward():
    upward = []
    for path in FILES:
        for name in imported(path):
            package, _, rest = name.partition('.')
            unit = rest.partition('.')[0]
            if package == 'braintools_optim' and HEIGHT.get(unit, 0) > HEIGHT[unit_of(path)]:
                upward.append(f'{path.relative_to(ROOT)} imports {name}')
    assert not upward


def test_no_two_need_each_other():
    """Nor do more of them in a circle: one can be read, and changed, after the other."""
    needs = {unit: set() for unit in HEIGHT}
    for path in FILES:
        ours = (x.split('.') for x in imported(path) if x.startswith('braintools_optim.'))
        needs[unit_of(path)] |= {name[1] for name in ours} & set(HEIGHT) - {unit_of(path)}
    list(TopologicalSorter(needs).static_order())  # which raises for a circle


def test_what_is_imported_is_declared():
    """A module's `__all__` has all that other modules of the package take from it."""
    undeclared = []
    for path in FILES:
        package = path.relative_to(ROOT.parent).parts[:-1]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level and node.module:
                above = package[: len(package) + 1 - node.level]
                source = importlib.import_module('.'.join([*above, node.module]))
                for name in {x.name for x in node.names} - set(getattr(source, '__all__', [])):
                    if not name.startswith('_') and not ismodule(getattr(source, name, None)):
                        undeclared.append(f'{source.__name__}: {name}')
    assert not undeclared


def test_formulas_are_usable_alone():
    """They import JAX and optax, never brainstate, and no other module of the package."""
    allowed = {'jax', 'optax', 'numpy', *sys.stdlib_module_names}
    for path in FILES:
        if unit_of(path) in LAYERS['formulas']:
            others = {x for x in imported(path) if x.partition('.')[0] not in allowed}
            assert all(x.startswith('braintools_optim.') for x in others), path
            assert {x.split('.')[1] for x in others} <= {unit_of(path)}, path


def test_files_are_short():
    """A file that outgrows its idea is split, also one of tests."""
    files = [*FILES, *Path(__file__).parent.glob('*.py')]
    lengths = {path.name: len(path.read_text().splitlines()) for path in files}
    assert {name: lines for name, lines in lengths.items() if lines > 500} == {}
