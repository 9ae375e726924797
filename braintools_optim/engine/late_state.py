"""States whose value is made when somebody looks, out of parts that cost less to write.

Where nobody observes them, they are written past their public property.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from brainstate import TraceContextError

from ..check import is_tracer
from ..state import OptimState
from .leaf import weakly_typed
from .observe import (
    in_foreign_trace,
    outside_of_traces,
    recorded,
    traced,
    transfers_are_guarded,
    unobserved,
    x64_enabled,
)

__all__ = ['LateState', 'NumbersState', 'ProgressState', 'apart', 'weak_scalars']

_FLOAT = frozenset([float])


@partial(jax.jit, inline=True)  # else each program would trace it anew
def weak_scalars(vector: Any) -> list:
    """Return the entries of a vector, weakly typed as Python's floats are: they widen nothing."""
    weak = weakly_typed(vector)
    return [weak[i] for i in range(weak.shape[0])]


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[:axis] + shape[axis + 1 :]


def apart(number: Any) -> Any:
    """Return a number that shares no memory with another one, which may be donated."""
    return jnp.copy(number) if isinstance(number, jax.Array) and not is_tracer(number) else number


class LateState(OptimState):
    """A State whose value is made when somebody looks, out of parts that cost less to write."""

    def put_parts(self, *parts: Any) -> None:
        """Put what the next value is made of, where nobody observes the State."""
        cell = self.__dict__
        cell['_been_writen'] = True
        cell['_parts'] = parts

    def make(self, *parts: Any) -> Any:
        """Return the value that parts make up."""
        raise NotImplementedError

    @property
    def _value(self) -> Any:
        cell = self.__dict__
        if (parts := cell.get('_parts')) is not None:
            cell['_value'] = self.make(*parts)
            del cell['_parts']  # parts go first as long as they are there: nothing is half written
        return cell['_value']

    @_value.setter
    def _value(self, value: Any) -> None:
        self.__dict__['_value'] = value
        self.__dict__.pop('_parts', None)

    def restore_value(self, v: Any) -> None:
        """Put back what a jitted function returned.

        It has the structure that it had, so where nobody observes the State it needs none of the
        checks, which would take a tenth of a small step.
        """
        if unobserved(self):
            self._value = v
        else:
            super().restore_value(v)

    def to_state_ref(self) -> Any:
        """Return the State as brainstate's graph functions carry it."""
        assert self._value is not None  # looks, so that the value is where State expects it
        return super().to_state_ref()


class NumbersState(LateState):
    """Numbers, such as the hyper-parameters, which every step reads and hardly anybody writes.

    Its value is a vector of JAX's precision; the host remembers the Python floats that it was made
    of, so that numbers read back as they were given.
    """

    value: Any

    def __init__(self, numbers: list, *others: Any):
        super().__init__(None)
        self.replace(numbers, *others)

    def make(self, numbers: list, *others: Any) -> Any:
        """Return numbers as JAX would convert them, which costs it five times as much."""
        vector = np.array(numbers, np.float64 if x64_enabled() else np.float32)
        self.__dict__['_made_of'] = vector, numbers
        return self._with(vector, *others)

    def _with(self, vector: Any) -> Any:
        """Return the value that holds this vector."""
        return vector

    def _vector(self, value: Any) -> Any:
        """Return the vector that a value holds."""
        return value

    def duplicate(self) -> NumbersState:
        """Return a State of its own with the same numbers."""
        return type(self)(self.entries())

    def entries(self) -> list:
        """Return the numbers in a new list: floats, or tracers where they are traced."""
        numbers = self.on_host()
        if numbers is not None:
            return numbers.copy()
        return weak_scalars(self._vector(self.value))

    def replace(self, numbers: list, *others: Any) -> None:
        """Write new numbers, which may be traced; the list must not be changed any more."""
        plain = _FLOAT.issuperset(map(type, numbers))  # by far the most frequent
        if not plain and any(map(is_tracer, numbers)):
            wide = jnp.result_type(float)
            # Not stacked: under a vmap that would put the axis of the map behind, and brainstate
            # wants it where the rest of a State has it.
            vector = jnp.concatenate([jnp.full(1, x, wide) for x in numbers])
            self.value = self._with(vector, *others)
        elif in_foreign_trace(self):
            raise TraceContextError(
                'a number of an optimizer, such as its learning rate, is assigned in a program of '
                'plain JAX (jax.jit, jax.vmap ...), which would do so once, while it is traced: '
                'use brainstate.transform.jit, or assign it outside.'
            )
        elif not plain and any(isinstance(x, np.ndarray) for x in numbers):
            raise ValueError(
                'these are the numbers of several optimizers, which a vmap made: assign them, and '
                'step their schedulers, in the function that is mapped.'
            )
        elif unobserved(self):  # a third of the cost of the public property
            self.put_parts(numbers, *others)
        else:
            self.value = self.make(numbers, *others)

    def on_host(self) -> list | None:
        """Return the numbers in double precision, not to be changed, or None if they are traced.

        Those of several optimizers, which a vmap made, are arrays with an entry for each.
        """
        cell = self.__dict__
        if recorded():
            vector = self._vector(self.value)
        elif (parts := cell.get('_parts')) is not None:
            return parts[0]
        else:
            vector = self._vector(cell['_value'])
        if is_tracer(vector):
            return None
        known, numbers = cell.get('_made_of', (None, None))
        if known is vector:
            return numbers
        host = np.asarray(vector)
        if recorded() and type(vector) is np.ndarray:
            host = self._of_first_lane(host)
        if host.ndim > 1:  # of several optimizers, which a vmap made, with its axis in front
            return [host[..., i] for i in range(host.shape[-1])]
        # The shortest decimal that is this float32: people gave 0.1, not 0.10000000149.
        numbers = host.tolist() if host.dtype == np.float64 else [float(str(x)) for x in host]
        cell['_made_of'] = vector, numbers
        return numbers

    def _of_first_lane(self, stand_in: np.ndarray) -> np.ndarray:
        """Return the numbers of the first of several optimizers over which brainstate maps.

        It tries a mapped function on zeros before it maps it. They are no numbers to compute with:
        a formula may divide by one.
        """
        before = self._vector(outside_of_traces(self))
        fits = [i for i in range(np.ndim(before)) if _without(before.shape, i) == stand_in.shape]
        if not fits or is_tracer(before):
            return stand_in
        return np.take(np.asarray(before), 0, axis=fits[0])

    def given_out(self) -> Any:
        """Return the value, which moves to the device once it has stayed for a step.

        Until then it is as wide as JAX's floats are now.
        """
        value = self._value
        if type(value) is np.ndarray and not traced():
            cell = self.__dict__
            known, numbers = cell.get('_made_of', (None, None))
            if known is value and (value.dtype == np.float64) is not x64_enabled():
                cell['_value'] = value = known = self.make(numbers)
            if cell.get('_seen') is value or transfers_are_guarded():
                cell['_value'] = on_device = jax.device_put(value)  # explicitly, as guards allow
                cell['_made_of'] = on_device if known is value else known, numbers
                return on_device
            cell['_seen'] = value
        return value

    def restore_value(self, v: Any) -> None:
        """Put a value back, as jitted functions do with all that they only read, too."""
        if v is not self._value:
            super().restore_value(v)
        else:
            self.given_out()


class ProgressState(NumbersState):
    """All that a scheduler writes in a step: ``(numbers, epoch)``.

    It is one State, since each one costs time in every jitted call.
    """

    def _with(self, vector: Any, epoch: Any = None) -> Any:
        if is_tracer(vector):
            # The epoch, but mapped where the numbers are, as brainstate wants it: XLA drops this.
            epoch = jnp.where(jnp.isnan(vector[0]), epoch, epoch)
        return vector, epoch

    def _vector(self, value: Any) -> Any:
        return value[0]

    def given_out(self) -> Any:
        """Return the value, which changes too often to be moved over."""
        return self._value

    def duplicate(self) -> ProgressState:
        """Return a State of its own with the same numbers and epoch."""
        return type(self)(self.entries(), apart(self.epoch))

    @property
    def epoch(self) -> Any:
        """The epoch."""
        parts = self.__dict__.get('_parts') if unobserved(self) else None
        return self.value[1] if parts is None else parts[1]
