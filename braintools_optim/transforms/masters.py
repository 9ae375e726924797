"""Parameters in a narrow dtype that are updated in a wide one."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from .absent import flat, is_absent
from .refuse import check_params

__all__ = ['MasterState', 'wider', 'with_masters']


class MasterState(NamedTuple):
    """The parameters before rounding; empty for those that are not rounded."""

    master: optax.Params


def wider(dtype: Any, master: Any) -> Any:
    """Return the dtype of masters if it is wider than one of real numbers, else that one."""
    real = jnp.issubdtype(dtype, jnp.floating)
    return master if real and jnp.finfo(dtype).bits < jnp.finfo(master).bits else dtype


def with_masters(
    inner: optax.GradientTransformation,
    dtype: Any = jnp.float32,
    keep: Callable[[int, jax.Array], jax.Array] | None = None,
) -> optax.GradientTransformation:
    """Let a transformation update wide copies of narrow parameters, which are then rounded.

    In bfloat16 an update below a 512th of a parameter vanishes, and one below a 256th may; here
    they add up. ``inner`` sees the wide copies, its state is in their dtype, and the parameters are
    what they round to.

    The state is that of ``inner`` and a `MasterState`. If a parameter was assigned since, so
    that its copy does not round to it, the copy continues from the parameter, entry by entry.

    ``keep(i, copy)`` returns what is kept of the copy of leaf ``i``, absent ones counted, after an
    update. Updates are in ``dtype``, so that parameters become exactly what copies round to: what
    needs them in the dtype of the gradients, as :func:`optax.apply_if_finite`, goes into ``inner``.
    """
    chain = optax.with_extra_args_support(inner)

    def is_narrow(p: jax.Array) -> bool:
        return wider(p.dtype, dtype) != p.dtype

    def in_master_dtype(x: jax.Array) -> jax.Array:
        return x.astype(dtype) if is_narrow(x) else x

    def copy(p: jax.Array) -> jax.Array:
        return p.astype(dtype) if is_narrow(p) else jnp.zeros(0, dtype)

    def init(params: optax.Params) -> tuple[Any, MasterState]:
        return chain.init(jax.tree.map(in_master_dtype, params)), MasterState(
            jax.tree.map(copy, params)
        )

    @wraps(chain.update)  # whose arguments it takes
    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        check_params('with_masters', params)
        inner_state, (masters,) = state
        narrow, treedef = flat(params)
        old = treedef.flatten_up_to(masters)
        wide = list(map(current, narrow, old))
        updates, inner_state = chain.update(
            jax.tree.map(in_master_dtype, updates), inner_state, treedef.unflatten(wide), **extra
        )
        moved, kept = [], []
        pieces = zip(narrow, old, wide, treedef.flatten_up_to(updates), strict=True)
        for i, (p, master, before, u) in enumerate(pieces):
            if is_absent(p) or not is_narrow(p):
                moved.append(u)
                kept.append(master)
            else:
                now = before + u if keep is None else keep(i, before + u)
                goal, at = now.astype(p.dtype).astype(dtype), p.astype(dtype)
                stays = (goal == at) | jnp.isinf(at)  # from where no update leads back
                moved.append(jnp.where(stays, 0.0, goal - at))
                kept.append(now.astype(dtype))
        return treedef.unflatten(moved), (inner_state, MasterState(treedef.unflatten(kept)))

    def current(p: Any, master: Any) -> Any:
        if is_absent(p) or not is_narrow(p):
            return p
        return jnp.where(bits(master.astype(p.dtype)) == bits(p), master, p.astype(dtype))

    def bits(p: jax.Array) -> jax.Array:
        # XLA may compare numbers in more than their precision: a master would equal nothing.
        return jax.lax.bitcast_convert_type(p, f'uint{8 * p.dtype.itemsize}')

    if isinstance(inner, optax.GradientTransformationExtraArgs):
        return optax.GradientTransformationExtraArgs(init, update)
    return optax.GradientTransformation(init, update)
