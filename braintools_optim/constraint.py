"""Where parameters are kept: functions that put them back after each update."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .by_path import ByPath

if TYPE_CHECKING:
    from .optimizer import OptaxOptimizer

__all__ = ['check_constraints', 'check_constraints_met']


def check_constraints(owner: str, given: Any) -> None:
    """Raise for what is no function, nor a tree of them under keys of parameters."""
    for keys, found in ByPath(given).ends.items():
        if not (callable(found) or found is None):
            where = f' under {".".join(keys)!r}' if keys else ''
            raise TypeError(
                f'{owner} needs a function, or a tree of functions under the keys of the '
                f'parameters, for constrain, got {found!r}{where}.'
            )


def check_constraints_met(optimizer: OptaxOptimizer) -> None:
    """Raise for functions under keys that no parameter has."""
    leaves = optimizer._leaves
    for keys, found in ByPath(optimizer.constrain).beside(leaf.path for leaf in leaves).items():
        if found is not None:
            raise ValueError(
                f'constrain of {type(optimizer).__name__} has a function under {keys!r}, where '
                f'there is no parameter; there are {", ".join(leaf.name for leaf in leaves)}. '
                f'What is named is registered before the first step; a function by itself is for '
                f'all.'
            )
