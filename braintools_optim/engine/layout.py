"""Where parameters and moments lie on a mesh: a step leaves them there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from ..check import is_tracer
from ..transforms.mesh import named_sharding

__all__ = ['laid_out_like']


def laid_out_like(new: Any, like: Callable[[], Any]) -> Any:
    """Return a traced tree laid out as another one, which is not traced, if they match.

    The compiler, left to itself, would spread the layout of a gradient to all that it moves.
    """
    if jax.device_count() == 1:
        return new
    leaves, treedef = jax.tree.flatten(new)
    there = jax.tree.leaves(like())
    if len(there) != len(leaves):  # a part of a step, whose parameters are on one device
        return new
    placed = [_laid_out(x, y) for x, y in zip(leaves, there, strict=True)]
    return jax.tree.unflatten(treedef, placed)


def _laid_out(x: Any, like: Any) -> Any:
    sharding = None if is_tracer(like) else named_sharding(like)
    if not is_tracer(x) or sharding is None or x.shape != like.shape:
        return x
    if sharding.mesh.explicit_axes:  # where the type says it
        return x
    return jax.lax.with_sharding_constraint(x, sharding)
