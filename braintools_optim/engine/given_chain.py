"""Chains as they are given, as ``tx=`` or by a method: what they must be, and what they read."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax

from ..check import any_traced
from ..other_libraries import did_you_mean, is_defined_here
from ..transforms.absent import is_absent

if TYPE_CHECKING:
    from ..hyper import Hyper
    from ..optimizer import OptaxOptimizer

__all__ = [
    *('HOW_TO_READ', 'built_chain', 'check_chain', 'fixed_chain', 'more_given'),
    *('noting_reads', 'refuse_untaken', 'run_given_chain', 'warn_of_unread', 'where_given'),
]

HOW_TO_READ = 'end transform(h) in optax.scale_by_learning_rate(h.lr)'
"""What makes a chain read the learning rate."""


def check_chain(owner: str, name: str, given: Any, hint: str, or_else: str | None = None) -> None:
    """Raise for what is no optax transformation, nor what makes one.

    ``hint`` says what to do, ``or_else`` what else could have been given.
    """
    if isinstance(given, optax.GradientTransformation):
        return
    if hasattr(given, 'gradient_transformation'):  # as optax.MultiSteps has it
        hint = f'give {name}.gradient_transformation()'
    what = f'the class {given.__name__}' if isinstance(given, type) else type(given).__name__
    wanted = 'an optax.GradientTransformation'
    wanted = wanted if or_else is None else f'{or_else} or {wanted}'
    raise TypeError(f'{owner} needs {wanted} for {name}, got {what}; {hint}.')


def returned_chain(method: str, given: Any) -> optax.GradientTransformation:
    """Return what a method gave as a chain, or raise where it is none."""
    if isinstance(given, optax.GradientTransformation):
        return given
    got = 'None' if given is None else type(given).__name__
    raise TypeError(f'{method} must return an optax.GradientTransformation, got {got}.')


_NO_VALUE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.TracerArrayConversionError,
)
_NO_NUMBER = 'as an integer', 'unsupported format string'  # of range(float), of f'{tracer:.2f}'


def built_chain(
    method: str, transform: Callable[[Hyper], Any], h: Hyper
) -> optax.GradientTransformation:
    """Return the chain that a method builds for live numbers; say what these cannot do."""
    try:
        return returned_chain(method, transform(h))
    except TypeError as error:
        if isinstance(error, _NO_VALUE) or any(words in str(error) for words in _NO_NUMBER):
            error.add_note(
                f'The numbers that {method} is given are traced, or floats: use them in '
                f'arithmetic and jnp.where. What a group leaves out for a number that is zero at '
                f'construction is named in structural, and asked for by h.uses(name); a number '
                f'that shapes the program, such as a count of loops, in static.'
            )
        raise


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
    except (TypeError, ValueError) as error:
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
        raise TypeError(
            f'{type(optimizer).__name__}.step takes gradients, got {", ".join(unknown)} besides; '
            f'{hint}.'
        )


def fixed_chain(
    optimizer: OptaxOptimizer, base: type, h: Hyper
) -> optax.GradientTransformation | None:
    """Return the chain that is built once for a group's values, None where one is for each trace.

    ``base`` is the class whose ``transform`` and ``default_tx`` others override.
    """
    kind = type(optimizer)
    if optimizer._tx is not None:
        _refuse_decay(kind.__name__, h)
        return optimizer._tx
    owner = next(c for c in kind.__mro__ if {'transform', 'default_tx'} & set(vars(c)))
    if owner is base:
        _refuse_unread(optimizer)
    if owner is base or 'default_tx' not in vars(owner):
        return None
    known = optimizer._running.rate_is_read
    try:
        with optimizer._running.group(h):
            chain = optimizer.default_tx()
    finally:
        optimizer._running.rate_is_read = known  # what is read while it is built stays as it is now
    return returned_chain(f'{kind.__name__}.default_tx', chain)


def _refuse_unread(optimizer: OptaxOptimizer) -> None:
    """Raise where a class has numbers of its own that nothing reads."""
    numbers, kind = sorted(optimizer._numbers.keys() - {'lr', 'weight_decay'}), type(optimizer)
    readers = {'step', 'update', 'transform'} & {*vars(optimizer), *_own_names(kind)}
    if numbers and not readers:
        raise TypeError(
            f'{kind.__name__} has {", ".join(numbers)}, and no transform(h) that reads them.'
            f'{did_you_mean("transform", _own_names(kind))}'
        )


def _own_names(kind: type) -> set[str]:
    """Return what a class and those that it is derived from have, but for this library's."""
    users = (c for c in kind.__mro__ if c is not object and not is_defined_here(c))
    return {name for c in users for name in vars(c)}


def _refuse_decay(owner: str, h: Hyper) -> None:
    """Raise for a weight decay beside a given chain."""
    decay = getattr(h, 'weight_decay', 0.0)
    if not any_traced(decay) and decay != 0.0:
        raise ValueError(
            f'{owner} runs the given tx as it is, so weight_decay={decay!r} would have no effect; '
            f'put optax.add_decayed_weights into the chain.'
        )


def noting_reads(optimizer: OptaxOptimizer, chain: Any, h: Hyper) -> optax.GradientTransformation:
    """Return a chain that notes, where it is traced, whether it reads the learning rate.

    ``h`` are the values that it was built from.
    """

    @wraps(chain.update)
    def update(*args: Any, **extra: Any) -> Any:
        running = optimizer._running
        before, running.rate_is_read = running.rate_is_read, None
        try:
            result = chain.update(*args, **extra)
        except BaseException:  # nothing was learnt
            running.rate_is_read = before
            raise
        running.rate_is_read = bool(running.rate_is_read or h.rate_is_read or before)
        if not running.rate_is_read and _is_driven(optimizer):
            warn_of_unread(optimizer)
        return result

    return chain._replace(update=update)


def _is_driven(optimizer: OptaxOptimizer) -> bool:
    """Whether somebody changes the learning rate, or wants another one for a group."""
    first = optimizer._numbers['lr']
    lrs = [optimizer._table.read(group.index, 'lr') for group in optimizer._groups]
    return not optimizer._lr_is_free or any(not any_traced(lr) and lr != first for lr in lrs)


def warn_of_unread(optimizer: OptaxOptimizer) -> None:
    """Warn that a learning rate which is driven has no effect."""
    if optimizer._groups[0].fixed_chain is None:
        instead = HOW_TO_READ
    else:
        instead = (
            'end the chain in optax.scale_by_schedule(scheduler), of the scheduler that is given '
            'as lr=, or override transform(h)'
        )
    warnings.warn(
        f'the chain of this {type(optimizer).__name__} does not read its learning rate, so '
        f'schedulers and numbers assigned to it have no effect: {instead}.',
        UserWarning,
        stacklevel=2,
    )
