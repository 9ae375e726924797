"""The chain of an optimizer and what its step does to gradients before, as one transformation."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax
from jax.experimental.sparse import BCOO

from ..transforms.absent import is_absent
from .clip import signed_and_bounded
from .extra import more_given, where_given
from .finite import all_finite, where_true

if TYPE_CHECKING:
    from ..groups import ParamGroup
    from ..optimizer import OptaxOptimizer

__all__ = ['whole_chain']

_NO_PART = {
    'decay_mask': 'put what does not decay into a group, add_param_group(params, weight_decay=0)',
    **{k: f'construct it without {k}' for k in ('state_dtype', 'mu_dtype', 'constrain')},
}
"""Options that a step heeds beside the chain, and what to do instead."""


def whole_chain(
    optimizer: OptaxOptimizer, group: ParamGroup, chain: optax.GradientTransformation
) -> optax.GradientTransformation:
    """Return the chain of a group behind what a step does to the gradients of all of them."""
    for name, instead in _NO_PART.items():
        if getattr(optimizer, name) is not None:
            raise ValueError(
                f'{type(optimizer).__name__} was given {name}, which is no part of its chain: for '
                f'opt.tx {instead}.'
            )
    if optimizer.accumulate_steps > 1:
        raise ValueError(
            f'{type(optimizer).__name__} adds up the gradients of {optimizer.accumulate_steps} '
            f'steps, which is no part of its chain: for opt.tx construct it without '
            f'accumulate_steps, and wrap opt.tx in optax.MultiSteps.'
        )
    bounds, climbs = optimizer._bounded_by, group.flags['maximize']
    if optimizer._searches() and (bounds or climbs):
        raise ValueError(
            f'{type(optimizer).__name__} searches along a line on a function that a step turns and '
            f'bounds as it does gradients, which is no part of its chain: for opt.tx construct it '
            f'without maximize and bounds.'
        )
    if not (bounds or climbs or optimizer.skip_nonfinite or optimizer.more_gradients):
        return chain
    inner = optax.with_extra_args_support(chain)

    def seen(grads: Any) -> tuple[list, Any]:
        """Return the gradients that are there, and their tree as a step gives it to the chain."""
        given, treedef = jax.tree.flatten(
            grads, is_leaf=lambda x: is_absent(x) or isinstance(x, BCOO)
        )
        gradients = [None if is_absent(g) else g for g in given]
        up = range(len(gradients)) if climbs else ()
        bounded = signed_and_bounded(gradients, up, {k: optimizer._read(0, k) for k in bounds})
        pairs = zip(bounded, given, strict=True)
        return gradients, jax.tree.unflatten(treedef, [o if g is None else g for g, o in pairs])

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        gradients, updates = seen(updates)
        for name, besides in more_given(optimizer, extra).items():
            more, others = seen(besides)
            extra[name] = where_given(updates, others)
            gradients += more
        if climbs:
            extra |= _downward(extra, lambda grads: seen(grads)[1])
        finite = all_finite(gradients) if optimizer.skip_nonfinite else None
        new = inner.update(updates, state, params, **extra)
        return where_true(finite, new, (jax.tree.map(jnp.zeros_like, new[0]), state))

    return optax.GradientTransformationExtraArgs(chain.init, update)


def _downward(extra: dict[str, Any], seen: Callable[[Any], Any]) -> dict[str, Any]:
    """Return what is given of a loss to be maximized, by optax's names, as one to minimize."""
    found: dict[str, Any] = {}
    if extra.get('value') is not None:
        found['value'] = -extra['value']
    if extra.get('grad') is not None:
        found['grad'] = seen(extra['grad'])
    if callable(value_fn := extra.get('value_fn')):
        found['value_fn'] = wraps(value_fn, updated=())(lambda *a, **k: -value_fn(*a, **k))
    return found
