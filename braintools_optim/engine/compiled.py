"""What a compiled program depends on, and how it is entered."""

from __future__ import annotations

import inspect
from typing import Any

import brainstate
import jax
import numpy as np

__all__ = [
    'CONFIG',
    'NUMBERS',
    'computes_twice',
    'entry_of',
    'matmul_precision',
    'modes',
    'signature_of',
    'split_extra',
]

CONFIG: Any = jax.config
"""JAX's settings, whose attributes are set dynamically."""
NUMBERS = (jax.Array, np.ndarray, np.generic, bool, int, float, complex)
"""What a program takes as an argument."""


def computes_twice() -> bool:
    """Whether JAX's settings make it compute again on the arguments, or without a program."""
    return CONFIG.jax_debug_nans or CONFIG.jax_debug_infs or CONFIG.jax_disable_jit


def entry_of(program: Any) -> Any:
    """Return a compiled program's entry in C++, which it has from its first call on.

    Its public call is a Python function: an interrupt that arrived while the program ran would be
    raised there, and drop the results. Programs with callbacks have no such entry.
    """
    entry = getattr(program, '_call', None)
    return None if inspect.isfunction(entry) else entry


def signature_of(args: tuple) -> tuple:
    """Return everything about arguments and JAX's settings on which a compiled program depends."""
    leaves, treedef = jax.tree.flatten(args)
    placed = tuple(x.sharding if getattr(x, 'committed', False) else None for x in leaves)
    return treedef, tuple(map(jax.typeof, leaves)), placed, matmul_precision()


def matmul_precision() -> Any:
    """Return the precision of products that JAX compiles programs with at present."""
    return CONFIG.jax_default_matmul_precision


def modes() -> frozenset[tuple[Any, bool]]:
    """Return the settings of brainstate that are True or False, such as ``fit``."""
    settings = brainstate.environ.all().items()
    return frozenset([(k, v) for k, v in settings if v is True or v is False])


def split_extra(extra: dict[str, Any]) -> tuple[dict[str, Any], tuple]:
    """Part extra arguments into arrays, which are traced, and all else, which is static."""
    arrays = {
        k: v for k, v in extra.items() if all(isinstance(x, NUMBERS) for x in jax.tree.leaves(v))
    }
    static = tuple((k, v) for k, v in extra.items() if k not in arrays)
    for name, value in static:
        try:
            hash(value)
        except TypeError:
            raise TypeError(
                f'step takes arrays and what has a hash besides gradients, got {name}={value!r}.'
            ) from None
    return arrays, static
