"""The States of optimizers and schedulers, written as cheaply as can be.

Where nobody observes them, they are written past their public property, and in parts from which
the value is made only when somebody looks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from brainstate import State, TraceContextError
from brainstate.util import StateJaxTracer

from ..sharding import replicated_beside
from ..state import OptimState
from .leaf import weakly_typed
from .observe import (
    in_foreign_trace,
    is_tracer,
    outside_of_traces,
    recorded,
    traced,
    transfers_are_guarded,
    unobserved,
    x64_enabled,
)
from .packs import Packed

__all__ = [
    *('ChainState', 'CoreState', 'CountState', 'EpochState', 'LateState', 'NumbersState'),
    *('PartState', 'ProgressState', 'count_of_one', 'next_step_count', 'weak_scalars'),
]

_FLOAT = frozenset([float])
_MAX_COUNT = int(np.iinfo(np.int32).max)


def weak_scalars(vector: Any) -> list:
    """Return the entries of a vector, weakly typed as Python's floats are: they widen nothing."""
    weak = weakly_typed(vector)
    return [weak[i] for i in range(weak.shape[0])]


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[:axis] + shape[axis + 1 :]


def _apart(number: Any) -> Any:
    """Return a number that shares no memory with another one, which may be donated."""
    return jnp.copy(number) if isinstance(number, jax.Array) and not is_tracer(number) else number


def next_step_count(count: Any) -> Any:
    """Return the count of one more step, which stops at the largest integer."""
    if is_tracer(count):
        return optax.safe_increment(count)
    count = count_of_one(count)
    return np.int32(count if count == _MAX_COUNT else count + 1)


def count_of_one(count: Any) -> int:
    """Return a known step count; raise if it is that of several optimizers."""
    try:
        return int(count)
    except TypeError:
        raise _several() from None


def _several() -> ValueError:
    return ValueError(
        'this optimizer stands for several, which a vmap made: use it in the function that is '
        'mapped.'
    )


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


class CoreState(LateState):
    """All that a step of an optimizer writes besides parameters: ``(chain states, step count)``.

    It is one State, since each one costs time in every jitted call. Its value holds the state of
    each group's chain as a :class:`Packed`. A compiled step leaves them as mere buffers, with their
    tree and the count: that is all that the next one needs.
    """

    value: Any

    def __init__(self) -> None:
        super().__init__(((), np.int32(0)))

    def make(self, buffers: list, treedef: Any, count: Any) -> tuple[tuple[Packed, ...], Any]:
        """Return the chain states, and the count."""
        return jax.tree.unflatten(treedef, buffers), count

    def duplicate(self) -> CoreState:
        """Return a State of its own with copies of the same arrays."""
        new = type(self)()
        buffers, treedef, count = self.parts()
        new.value = self.make(list(map(jnp.array, buffers)), treedef, jnp.array(count))
        return new

    def busy_in(self, trace: StateJaxTracer) -> None:
        """Note that a chain whose state is here is being traced."""
        self.__dict__['_busy'] = trace

    def check_readable(self, what: str) -> None:
        """Raise where a chain reads what would stay in its program as it is now."""
        busy = self.__dict__.get('_busy')
        # An interrupt may leave it behind: it means nothing outside of its trace.
        if busy is not None and busy.is_valid() and traced() and not recorded():
            raise ValueError(
                f'a chain reads the {what} of its optimizer, whose present value would stay in the '
                f'compiled step: take the step in brainstate.transform.jit, which knows of States, '
                f'or keep what changes in the state of the chain.'
            )

    @property
    def may_be_held(self) -> bool:
        """Whether somebody may hold the arrays of the present value: it was looked at, or given."""
        return '_parts' not in self.__dict__

    def peek(self) -> tuple[Packed, ...]:
        """Return the chain states for a look in passing, which keeps none of their arrays."""
        packed, _ = self.make(*self.parts()) if unobserved(self) else self.value
        return packed

    def outside_of_traces(self) -> tuple[Packed, ...]:
        """Return the chain states as they are, or were before brainstate began to trace."""
        return outside_of_traces(self)[0] if recorded() else self.peek()

    def chain(self, index: int) -> Any:
        """Return the state of one group's chain, a tree, for a look in passing."""
        return self.peek()[index].tree

    def put_group(
        self, index: int, chain: Any, together: list[bool] | None, arrays: Sequence[jax.Array]
    ) -> None:
        """Put the chain state of one group, which may be new, in place of its old one.

        ``together`` says which of its arrays may lie with others; None that no array of any group
        may. The count goes to where ``arrays`` are, the parameters of the group.
        """
        groups, count = self.value
        new = Packed.of(chain, together, len(arrays))
        groups = (*groups[:index], new, *groups[index + 1 :])
        if together is None:
            groups = tuple(one.unpacked(one.tree) for one in groups)
        self.value = (groups, replicated_beside(count, arrays))

    def replace(self, chains: tuple, count: Any) -> None:
        """Write other chain states and a count."""
        pairs = zip(self.value[0], chains, strict=True)
        self.value = (tuple(packed.replaced(chain) for packed, chain in pairs), count)

    @property
    def count(self) -> Any:
        """The step count."""
        return self.parts()[2] if unobserved(self) else self.value[1]

    def refuse_several(self) -> None:
        """Raise if it is the state of several optimizers."""
        if np.ndim(self.count):
            raise _several()

    def refuse_to_grow(self, method: str) -> None:
        """Raise where what a method adds to it would be gone once a trace is over."""
        self.refuse_several()
        if not self._trace_state.is_valid():
            raise ValueError(
                f'{method} was called in a function that is being traced, and the State of an '
                f'optimizer from outside is put back where that ends: call it before, or build the '
                f'optimizer there, too.'
            )

    def parts(self) -> tuple[list, Any, Any]:
        """Return the buffers and tree of the chain states, and the count."""
        cell = self.__dict__
        if (parts := cell.get('_parts')) is not None:
            return parts
        packed, count = cell['_value']
        return *jax.tree.flatten(packed), count

    def given_out(self) -> tuple[list, Any]:
        """Return the buffers of the chain states, and the count, as a program takes them."""
        buffers, _, count = self.parts()
        if type(count) is np.int32 and transfers_are_guarded():
            count = jax.device_put(count)
        return buffers, count


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
        """Return the value, which moves to the device once it has stayed for a step."""
        value = self._value
        if type(value) is np.ndarray and not traced():
            cell = self.__dict__
            if cell.get('_seen') is value or transfers_are_guarded():
                known, numbers = cell['_made_of']
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

    def duplicate(self) -> ProgressState:
        """Return a State of its own with the same numbers and epoch."""
        return type(self)(self.entries(), _apart(self.epoch))

    @property
    def epoch(self) -> Any:
        """The epoch."""
        parts = self.__dict__.get('_parts') if unobserved(self) else None
        return self.value[1] if parts is None else parts[1]


def _check_counter(name: str, new: Any, kind: Any = np.number) -> None:
    """Raise for what is no count; what a vmap made has one for each."""
    found = new if isinstance(new, jax.Array) else np.asarray(new)
    if not jnp.issubdtype(found.dtype, kind) or jnp.issubdtype(found.dtype, np.complexfloating):
        raise TypeError(f'{name} needs a count, got {new!r} of type {type(new).__name__}.')
    if not is_tracer(new) and not np.all((0 <= found) & (found <= _MAX_COUNT)):
        raise ValueError(f'{name} needs a count in [0, 2**31), got {new!r}.')


class PartState(OptimState):
    """A part of another State under a name of its own: reading and writing go to the whole."""

    _whole: Any

    def __init__(self, whole: LateState, **own: Any):
        # Not a State in its own right: nobody but the whole is traced, saved or mapped.
        self.__dict__.update(State.copy(whole).__dict__, _whole=whole, **own)
        self.__dict__['_hooks_manager'] = whole.hooks  # who watches the part is told of the whole

    value: Any

    @property
    def _value(self) -> Any:
        return self.value

    def duplicate(self) -> OptimState:
        """Return a State of its own with a copy of the value."""
        return OptimState(_apart(self.value))

    def __repr__(self) -> str:
        return f'{type(self).__name__}(value={self.value!r})'


class EpochState(PartState):
    """The epoch of a scheduler."""

    _whole: ProgressState

    @property
    def value(self) -> Any:
        """The epoch: 0 at the beginning."""
        return self._whole.epoch

    @value.setter
    def value(self, new: Any) -> None:
        _check_counter('last_epoch', new)
        vector, _ = self._whole.value
        self._whole.value = (vector, new)


class CountState(PartState):
    """The step count, of which each ``cycle`` are one update."""

    _whole: CoreState
    _cycle: int

    def __init__(self, whole: CoreState, cycle: int):
        super().__init__(whole, _cycle=cycle)

    @property
    def value(self) -> Any:
        """The number of steps taken, which outlives the next step."""
        self._whole.check_readable('step_count')
        return _apart(self._whole.count)

    @value.setter
    def value(self, new: Any) -> None:
        _check_counter('step_count', new, np.integer)
        if self._cycle > 1:
            self._check_phase(new)
        packed, _ = self._whole.value
        self._whole.value = (packed, new)

    def _check_phase(self, new: Any) -> None:
        """Raise if other gradients would be added up than those that the next update divides by."""
        now, steps = self._whole.count, f'accumulate_steps={self._cycle}'
        if is_tracer(now) or is_tracer(new):
            raise ValueError(
                f'step_count is assigned in a function that is being traced, where nobody knows '
                f'how many of the gradients of {steps} are added up: assign it outside.'
            )
        if np.any((np.asarray(new) - np.asarray(now)) % self._cycle):
            raise ValueError(
                f'step_count is {now}, and so many gradients are added up; with {steps} it needs '
                f'a count with the remainder {now % self._cycle}, got {new!r}.'
            )


class ChainState(PartState):
    """The state of the chain of one group."""

    _whole: CoreState
    _group: int

    def __init__(self, whole: CoreState, group: int):
        super().__init__(whole, _group=group)

    @property
    def value(self) -> Any:
        """The chain's state, a tree."""
        self._whole.check_readable('opt_state')
        return self._whole.value[0][self._group].tree

    @value.setter
    def value(self, new: Any) -> None:
        packed, count = self._whole.value
        here, given = packed[self._group].packing.treedef, jax.tree.structure(new)
        if given != here:
            raise TypeError(
                f'the state of group {self._group} is the tree {here}, it cannot become {given}.'
            )
        own = packed[self._group].replaced(new)
        self._whole.value = ((*packed[: self._group], own, *packed[self._group + 1 :]), count)
