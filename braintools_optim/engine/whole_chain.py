"""The chain of an optimizer and what its step does to gradients before, as one transformation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax
from jax.experimental.sparse import BCOO

from ..transforms.absent import is_absent
from .clip import signed_and_bounded
from .finite import all_finite, where_finite

if TYPE_CHECKING:
    from ..groups import ParamGroup
    from ..optimizer import OptaxOptimizer

__all__ = ['whole_chain']


def whole_chain(
    optimizer: OptaxOptimizer, group: ParamGroup, chain: optax.GradientTransformation
) -> optax.GradientTransformation:
    """Return the chain of a group behind what a step does to the gradients of all of them."""
    if optimizer.decay_mask is not None:
        raise ValueError(
            f'{type(optimizer).__name__} has a decay_mask, which is no part of its chain: for '
            f'opt.tx put what does not decay into a group, add_param_group(params, weight_decay=0).'
        )
    if optimizer.constrain is not None:
        raise ValueError(
            f'{type(optimizer).__name__} constrains its parameters, which is no part of its chain: '
            f'for opt.tx construct it without constrain.'
        )
    if optimizer.accumulate_steps > 1:
        raise ValueError(
            f'{type(optimizer).__name__} adds up the gradients of {optimizer.accumulate_steps} '
            f'steps, which is no part of its chain: for opt.tx construct it without '
            f'accumulate_steps, and wrap opt.tx in optax.MultiSteps.'
        )
    bounds = [k for k, v in optimizer._options.items() if v is not None]
    if not (bounds or group.flags['maximize'] or optimizer.skip_nonfinite):
        return chain
    inner = optax.with_extra_args_support(chain)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        given, treedef = jax.tree.flatten(
            updates, is_leaf=lambda x: is_absent(x) or isinstance(x, BCOO)
        )
        found = [None if is_absent(g) else g for g in given]
        finite = all_finite(found) if optimizer.skip_nonfinite else None
        climbing = range(len(found)) if group.flags['maximize'] else ()
        found = signed_and_bounded(found, climbing, {k: optimizer._read(0, k) for k in bounds})
        found = [old if g is None else g for g, old in zip(found, given, strict=True)]
        new = inner.update(jax.tree.unflatten(treedef, found), state, params, **extra)
        return where_finite(finite, new, (jax.tree.map(jnp.zeros_like, new[0]), state))

    return optax.GradientTransformationExtraArgs(chain.init, update)
