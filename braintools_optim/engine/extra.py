"""What a chain is given besides gradients, and what is said where that does not fit."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax

from ..transforms.absent import is_absent

if TYPE_CHECKING:
    from ..optimizer import OptaxOptimizer

__all__ = ['more_given', 'refuse_untaken', 'run_given_chain', 'where_given']

_MISSING = re.compile(r'missing \d+ required keyword-only arguments?: (.+)')


def run_given_chain(
    optimizer: OptaxOptimizer,
    extra: dict[str, Any],
    chain: Any,
    grads: Any,
    state: Any,
    params: Any,
) -> tuple[Any, Any]:
    """Run a chain; what is only on offer is left out where the chain has no place for it.

    An error that tells of what the chain was given, or was not, gets a note of what can be done.
    """
    owner, groups = type(optimizer).__name__, len(optimizer._groups)
    if optimizer._running.offered:
        extra = _without_untaken(chain, extra, optimizer._running.offered)
    if extra and not isinstance(chain, optax.GradientTransformationExtraArgs):
        raise TypeError(
            f'{owner}.step got {", ".join(extra)}, but its chain takes no extra arguments.'
        )
    also = more_given(optimizer, extra)
    extra = extra | {k: where_given(grads, others) for k, others in also.items()}
    try:
        return chain.update(grads, state, params, **extra)
    except (TypeError, ValueError, KeyError) as error:
        if missing := _MISSING.search(str(error)):
            wanted = ', '.join(f'{name}=...' for name in re.findall(r"'(\w+)'", missing[1]))
            error.add_note(
                f'The chain of this {owner} takes more than gradients: opt.step(grads, {wanted}), '
                f'which there is not beside accumulate_steps. bo.train_step gives it the loss as '
                f'value, and with value_fn=True all that a line search takes.'
            )
        elif optimizer._running.offered and 'unexpected keyword argument' in str(error):
            error.add_note(f'bo.train_step(..., value_fn=False) gives {owner} gradients alone.')
        elif groups > 1 and 'value_fn' in extra:
            error.add_note(
                f'This {owner} has {groups} groups, each with a chain that sees its own parameters '
                f'alone; value_fn is given to it as it is, a function of all parameters. A line '
                f'search takes one group.'
            )
        raise


def more_given(optimizer: OptaxOptimizer, extra: dict[str, Any]) -> dict[str, Any]:
    """Return which gradients a step was given besides the first argument."""
    return {k: extra[k] for k in optimizer.more_gradients if extra.get(k) is not None}


def where_given(grads: Any, others: Any) -> Any:
    """Return ``others`` for what has gradients in ``grads``, zero where they are absent."""

    def other(g: Any, o: Any) -> Any:
        return g if is_absent(g) else jnp.zeros_like(g) if is_absent(o) else o

    return jax.tree.map(other, grads, others, is_leaf=is_absent)


def _without_untaken(chain: Any, extra: dict[str, Any], offered: frozenset[str]) -> dict[str, Any]:
    """Return extra arguments but for those on offer that a chain has no place for."""
    places: Any = {}
    if isinstance(chain, optax.GradientTransformationExtraArgs):
        places = inspect.signature(chain.update).parameters
    if any(place.kind is inspect.Parameter.VAR_KEYWORD for place in places.values()):
        return extra
    return {k: v for k, v in extra.items() if k in places or k not in offered}


def refuse_untaken(optimizer: OptaxOptimizer, extra: dict[str, Any]) -> None:
    """Raise for arguments of a step of which a class of this library knows nothing.

    What loops give to any optimizer, by optax's protocol, is let pass.
    """
    if not optimizer._is_leafwise() or not optimizer._is_known():
        return
    known = {'value', 'grad', 'value_fn', *optimizer.more_gradients}
    if unknown := sorted(extra.keys() - known):
        hint = 'numbers are assigned between steps, as in opt.current_lr = 0.1'
        if 'closure' in unknown:
            hint = 'only LBFGS takes a closure'
        elif unknown == ['gradients']:
            hint = 'they are its first argument, grads'
        raise TypeError(
            f'{type(optimizer).__name__}.step has no argument {", ".join(map(repr, unknown))}; '
            f'{hint}.'
        )
