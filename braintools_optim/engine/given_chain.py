"""Chains as they are given, as ``tx=`` or by a method: what they must be."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import optax

from ..check import any_traced
from ..other_libraries import did_you_mean, is_defined_here

if TYPE_CHECKING:
    from ..hyper import Hyper
    from ..optimizer import OptaxOptimizer

__all__ = ['built_chain', 'check_chain', 'fixed_chain']


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


def _returned_chain(method: str, given: Any) -> optax.GradientTransformation:
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
        return _returned_chain(method, transform(h))
    except TypeError as error:
        if isinstance(error, _NO_VALUE) or any(words in str(error) for words in _NO_NUMBER):
            error.add_note(
                f'The numbers that {method} is given are traced, or floats: use them in '
                f'arithmetic and jnp.where. What a group leaves out for a number that is zero at '
                f'construction is named in structural, and asked for by h.uses(name); a number '
                f'that shapes the program, such as a count of loops, in static.'
            )
        raise


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
    return _returned_chain(f'{kind.__name__}.default_tx', chain)


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
