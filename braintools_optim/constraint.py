"""Where parameters are kept: functions that put them back after each update."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from .paths import Keys, elementary

if TYPE_CHECKING:
    from .optimizer import OptaxOptimizer

__all__ = ['check_constraints', 'check_constraints_met', 'constraint_of']


def check_constraints(owner: str, given: Any) -> None:
    """Raise for what is no function, nor a tree of them under keys of parameters."""
    for keys, found in _functions(given):
        if not (callable(found) or found is None):
            where = f' under {_dotted(keys)!r}' if keys else ''
            raise TypeError(
                f'{owner} needs a function, or a tree of functions under the keys of the '
                f'parameters, for constrain, got {found!r}{where}.'
            )


def constraint_of(given: Any, path: Keys) -> Callable[[Any], Any] | None:
    """Return the function for the array under a path, None if there is none.

    Of those under whose keys it is, the nearest one. Keys may be nested, tuples, or with dots.
    """
    name = _dotted(path)
    above = [(_dotted(keys), found) for keys, found in _functions(given)]
    near = [pair for pair in above if _is_under(name, pair[0])]
    return max(near, key=lambda pair: len(pair[0]), default=('', None))[1]


def check_constraints_met(optimizer: OptaxOptimizer) -> None:
    """Raise for functions under keys that no parameter has."""
    names = [_dotted(leaf.path) for leaf in optimizer._leaves]
    for keys, found in _functions(optimizer.constrain):
        if found is not None and not any(_is_under(name, _dotted(keys)) for name in names):
            known = ', '.join(leaf.name for leaf in optimizer._leaves)
            raise ValueError(
                f'constrain of {type(optimizer).__name__} has a function under {_dotted(keys)!r}, '
                f'where there is no parameter; there are {known}.'
            )


def _functions(given: Any, keys: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """Return what stands at the ends of a tree, with its keys."""
    if (entries := _entries(given)) is None:
        yield keys, given
    else:
        for key, below in entries.items():
            yield from _functions(below, (*keys, key))


def _entries(node: Any) -> Mapping[Any, Any] | None:
    """Return what is in a node of a tree by its keys, None if it is no node."""
    if isinstance(node, Mapping):
        return node
    if isinstance(node, list | tuple):
        named = getattr(node, '_asdict', None)
        return dict(enumerate(node)) if named is None else named()
    return None


def _dotted(keys: Keys) -> str:
    return '.'.join(map(str, elementary(keys)))


def _is_under(name: str, top: str) -> bool:
    return not top or name == top or name.startswith(f'{top}.')
