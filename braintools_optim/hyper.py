"""Hyper-parameters as live values: which are traced, which static, their ranges, their errors.

The numbers of all groups stand in one vector in one State, so that a step reads one State and
passes one argument, and a change is a write to that State: no trace ever sees a plain number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .number import plain_number
from .own_state import NumbersState, weak_scalars

__all__ = [
    'RANGES',
    'Hyper',
    'HyperTable',
    'Range',
    'check_count',
    'check_flag',
    'check_mask',
    'check_metric',
    'check_number',
    'check_range',
    'number_at',
    'is_live',
    'is_real',
    'is_traced',
    'is_zero',
]


class Range(NamedTuple):
    """The numbers a hyper-parameter may take; ``open_high`` leaves ``high`` itself out."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, x: object) -> bool:
        low, high, open_low, open_high = self
        above = x > low if open_low else x >= low  # type: ignore[operator]
        return above and (x < high if open_high else x <= high)  # type: ignore[operator]

    def __str__(self) -> str:
        left, right = '(' if self.open_low else '[', ')' if self.open_high else ']'
        return f'{left}{self.low:g}, {self.high:g}{right}'


NON_NEGATIVE = Range(0.0, open_high=True)
UNIT = Range(0.0, 1.0)
DECAY = Range(0.0, 1.0, open_high=True)
CLIP = Range(0.0, open_low=True)  # infinity is allowed: it turns the clipping off
FINITE = Range(open_low=True, open_high=True)

RANGES: dict[str, Range] = {
    'lr': NON_NEGATIVE,
    'base_lr': NON_NEGATIVE,
    'betas': DECAY,
    'eps': NON_NEGATIVE,
    'weight_decay': NON_NEGATIVE,
    'momentum': NON_NEGATIVE,
    'dampening': UNIT,
    'alpha': NON_NEGATIVE,
    'rho': UNIT,
    'lr_decay': NON_NEGATIVE,
    'initial_accumulator_value': NON_NEGATIVE,
    'momentum_decay': NON_NEGATIVE,
    'etas': NON_NEGATIVE,
    'step_sizes': NON_NEGATIVE,
    'lambd': NON_NEGATIVE,
    't0': NON_NEGATIVE,
    'beta1': DECAY,
    'b1': DECAY,
    'beta2_decay': Range(high=0.0, open_low=True),
    'd': Range(1.0),
    'ns_coefficients': FINITE,
    'trust_coefficient': NON_NEGATIVE,
    'p_bound': NON_NEGATIVE,
    'b3': UNIT,
    'T_b3': NON_NEGATIVE,
    'T_alpha': NON_NEGATIVE,
    'alpha_start': NON_NEGATIVE,
    'gamma': NON_NEGATIVE,
    'eps_root': NON_NEGATIVE,
    'max_grad_norm': Range(0.0),  # 0 and infinity are no bound
    'lr_1d': NON_NEGATIVE,
    'lr_ref': NON_NEGATIVE,
    'betas_1d': DECAY,
    'weight_decay_1d': NON_NEGATIVE,
    'base_alpha': NON_NEGATIVE,  # the alpha of an optimizer that Lookahead is over
    'tolerance_grad': NON_NEGATIVE,
    'tolerance_change': NON_NEGATIVE,
    'preconditioner_lr': DECAY,
    'preconditioner_lr_min': DECAY,
    'preconditioner_init_scale': Range(0.0, open_low=True, open_high=True),
    'noise_scale': NON_NEGATIVE,
    'grad_clip_norm': CLIP,
    'grad_clip_value': CLIP,
    'factor': DECAY,
    'threshold': NON_NEGATIVE,
    'min_lr': NON_NEGATIVE,
    'base_momentum': UNIT,
    'max_momentum': UNIT,
}
"""The allowed range of each hyper-parameter; one that is not listed may be any finite number."""


def is_live(value: Any) -> bool:
    """Whether a constructor argument is a live number (or tuple of them) rather than a flag."""
    if isinstance(value, tuple | list):
        return bool(value) and all(map(is_live, value))
    if isinstance(value, bool | str | None) or callable(value):
        return False
    return isinstance(value, int | float | np.number | np.ndarray | jax.Array)


def check_number(
    owner: str, name: str, value: Any, like: Any = 0.0, allowed: Range | None = None
) -> Any:
    """Return ``value`` as a float, a tracer, or a tuple of these; raise where it is not allowed.

    ``like`` is the present value: it says whether a number or a tuple of how many is expected.
    ``allowed`` is the range of a name that `RANGES` does not have.
    """
    if type(value) is float and type(like) is float and name in RANGES and value in RANGES[name]:
        return value  # by far the most frequent
    value = plain_number(value)
    if isinstance(like, tuple):
        if not isinstance(value, tuple | list) or len(value) != len(like):
            raise TypeError(
                f'{owner} needs {len(like)} numbers for {name}, got {value!r}.'
            ) from None
        return tuple(check_number(owner, f'{name}[{i}]', v) for i, v in enumerate(value))
    if isinstance(value, jax.core.Tracer):
        if value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
            raise TypeError(f'{owner} needs a real scalar for {name}, got {value}.')
        return value  # its range is known when it runs, not now
    allowed = allowed or RANGES.get(name.partition('[')[0], FINITE)
    try:
        if isinstance(value, bool | str | bytes):
            raise TypeError
        number = float(value)
    except TypeError:
        raise TypeError(
            f'{owner} needs a number in {allowed} for {name}, got {value!r} '
            f'of type {type(value).__name__}.'
        ) from None
    check_range(owner, name, number, allowed)
    return number


def check_range(owner: str, name: str, number: Any, allowed: Range) -> None:
    """Raise ValueError if a number is known and not allowed."""
    if not is_traced(number) and number not in allowed:  # nan is in no range
        raise ValueError(f'{owner} needs {name} in {allowed}, got {name}={number!r}.')


def is_real(dtype: Any) -> bool:
    """Whether a dtype is one of real numbers."""
    return jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.floating)


def check_metric(owner: str, name: str, value: Any) -> float:
    """Return a number that was measured, which may be nan or infinite, or raise."""
    found = np.asarray(value)
    if found.shape != () or not is_real(found.dtype):
        raise TypeError(f'{owner} needs a number for {name}, got {value!r:.80}.')
    return float(found)


def check_count(owner: str, name: str, value: Any, least: int = 0) -> int:
    """Return an integer that is large enough, or raise."""
    message = f'{owner} needs an integer >= {least} for {name}, got {value!r}.'
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(message)
    if value < least:
        raise ValueError(message)
    return int(value)


def check_flag(owner: str, name: str, value: Any, like: Any) -> Any:
    """Return a static option; raise TypeError where a bool is expected and something else came."""
    if isinstance(like, bool) and not isinstance(value, bool | np.bool):
        raise TypeError(f'{owner} needs True or False for {name}, got {value!r}.')
    return bool(value) if isinstance(like, bool) else value


def check_mask(owner: str, name: str, mask: Any) -> None:
    """Raise for what is no mask of `optax.add_decayed_weights`."""
    if not (callable(mask) or all(isinstance(x, bool | np.bool) for x in jax.tree.leaves(mask))):
        raise ValueError(
            f'{owner} needs None, a tree of bools, or a function that gives one for {name}, got '
            f'{mask!r}.'
        )


class Hyper:
    """The values one group hands to its chain: numbers may be tracers, flags never are."""

    __module__ = 'braintools_optim'

    def __init__(self, numbers: Mapping[str, Any], flags: Mapping[str, Any], unused: frozenset):
        self.__dict__.update(flags)
        # What was zero at construction is a plain 0.0: the chain may leave its part out.
        self.__dict__.update({k: _known(k, v, unused) for k, v in numbers.items()})
        self._unused = unused

    def __getattr__(self, name: str) -> Any:
        known = ', '.join(sorted(k for k in self.__dict__ if not k.startswith('_')))
        raise AttributeError(f'this group has no hyper-parameter {name!r}; it has {known}.')

    def replaced(self, **numbers: Any) -> Hyper:
        """Return the values with other numbers."""
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__, **numbers)
        return new

    def uses(self, name: str) -> bool:
        """Whether the hyper-parameter was given a value other than zero at construction."""
        return name not in self._unused


@dataclass
class HyperTable:
    """The live numbers of every group, as one vector in one State.

    An entry is addressed by (group index, name). Whoever writes the vector, the host or a scheduler
    inside jit, it stays one abstract value: nothing retraces.
    """

    state: NumbersState = field(default_factory=lambda: NumbersState([]))
    slots: dict[tuple[int, str], slice | int] = field(default_factory=dict)

    def append(self, group: int, numbers: Mapping[str, Any]) -> None:
        """Add the numbers of a new group."""
        values, slots = self.state.entries(), dict(self.slots)
        for name, value in numbers.items():
            if isinstance(value, tuple):
                slots[group, name] = slice(len(values), len(values) + len(value))
                values.extend(value)
            else:
                slots[group, name] = len(values)
                values.append(value)
        self.state.replace(values)
        self.slots = slots

    def copy(self) -> HyperTable:
        """Return a table of the same numbers in a State of its own."""
        return HyperTable(self.state.duplicate(), dict(self.slots))

    def read(self, group: int, name: str) -> Any:
        """Return the current value: floats outside a trace, tracers inside."""
        numbers = self.state.on_host()
        return self._pick(self.state.entries() if numbers is None else numbers, group, name)

    def write(self, changes: Mapping[tuple[int, str], Any]) -> None:
        """Set several values with one write."""
        values = self.state.entries()
        for key, value in changes.items():
            values[self.slots[key]] = value
        self.state.replace(values)

    def unpack(self, vector: Any) -> list[dict[str, Any]]:
        """Return the numbers of each group out of a vector, as weakly typed scalars."""
        entries = weak_scalars(vector)
        groups: list[dict[str, Any]] = [{} for _ in range(self.group_count)]
        for group, name in self.slots:
            groups[group][name] = self._pick(entries, group, name)
        return groups

    @property
    def group_count(self) -> int:
        """The number of groups."""
        return 1 + max((group for group, _ in self.slots), default=-1)

    def _pick(self, entries: Any, group: int, name: str) -> Any:
        slot = self.slots[group, name]
        return tuple(entries[slot]) if isinstance(slot, slice) else entries[slot]


def number_at(numbers: Mapping[str, Any], name: str) -> Any:
    """Return a number by its name, or an entry of a tuple of them, as ``'betas[0]'``."""
    name, _, index = name.partition('[')
    return numbers[name][int(index[:-1])] if index else numbers[name]


def _known(name: str, value: Any, zeros: frozenset) -> Any:
    """Return a number, or tuple of them, with a plain 0.0 for those named in ``zeros``."""
    if isinstance(value, tuple):
        return tuple(0.0 if f'{name}[{i}]' in zeros else x for i, x in enumerate(value))
    return 0.0 if name in zeros else value


def is_traced(value: Any) -> bool:
    """Whether a number, or one of a tuple, is a tracer."""
    if type(value) is float:  # by far the most frequent
        return False
    entries = value if isinstance(value, tuple | list) else (value,)
    return any(isinstance(x, jax.core.Tracer) for x in entries)


def is_zero(value: Any) -> bool:
    """Whether a number is known to be zero."""
    return not is_traced(value) and value == 0.0
