"""What a transformation cannot take, said by name when it is initialized."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

__all__ = ['leaf_name', 'refuse_complex']


def leaf_name(path: Any) -> str:
    """Return the name of a leaf in a tree of parameters."""
    return jax.tree_util.keystr(path, simple=True, separator='.')


def refuse_complex(params: optax.Params) -> None:
    """Raise TypeError if a parameter is complex."""
    for path, p in jax.tree_util.tree_flatten_with_path(params)[0]:
        if jnp.iscomplexobj(p):
            raise TypeError(
                f'parameter {leaf_name(path)!r} is {p.dtype}, and this algorithm is for real ones, '
                f'as in torch; register its real and imaginary parts, or use Adam.'
            )
