"""What a transformation cannot take, or lacks, said by name."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from .names import path_name

__all__ = ['check_params', 'refuse_complex']


def check_params(owner: str, params: optax.Params | None) -> None:
    """Raise if an update that needs the parameters was not given them."""
    if params is None:
        raise ValueError(f'{owner} needs the parameters: call update(updates, state, params).')


def refuse_complex(params: optax.Params) -> None:
    """Raise TypeError if a parameter is complex."""
    for path, p in jax.tree_util.tree_flatten_with_path(params)[0]:
        if jnp.iscomplexobj(p):
            raise TypeError(
                f'parameter {path_name(path)!r} is {p.dtype}, and this algorithm is for real ones, '
                f'as in torch; register its real and imaginary parts, or use Adam.'
            )
