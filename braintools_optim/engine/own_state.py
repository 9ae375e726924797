"""What a step of an optimizer writes besides parameters, and the parts of it that users see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from brainstate import State
from brainstate.util import StateJaxTracer

from ..check import is_tracer
from ..sharding import copies, replicated_beside
from ..state import OptimState
from .late_state import LateState, ProgressState, apart
from .observe import (
    asked_for,
    outside_of_traces,
    recorded,
    traced,
    unobserved,
)
from .packs import Packed

__all__ = [
    *('ChainState', 'CoreState', 'CountState', 'EpochState', 'PartState'),
    *('count_of_one', 'next_step_count'),
]

_MAX_COUNT = int(np.iinfo(np.int32).max)


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
        new.value = self.make(copies(buffers), treedef, jnp.array(count))
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
            groups = tuple(one.apart() for one in groups)
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
        return buffers, asked_for(count)


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
        return OptimState(apart(self.value))

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
        return apart(self._whole.count)

    @value.setter
    def value(self, new: Any) -> None:
        _check_counter('step_count', new, np.integer)
        if self._cycle > 1:
            self._check_phase(new)
        packed, _ = self._whole.value
        self._whole.value = (packed, new)

    def _check_phase(self, new: Any) -> None:
        """Raise if other gradients would be added up than those that the next update divides by."""
        now, cycle = self._whole.count, self._cycle
        if is_tracer(now) or is_tracer(new):
            raise ValueError(
                f'step_count is assigned in a function that is being traced, where nobody knows '
                f'how many of the gradients of accumulate_steps={cycle} are added up: assign it '
                f'outside.'
            )
        if np.any((np.asarray(new) - np.asarray(now)) % cycle):
            raise ValueError(
                f'step_count is {now}, where {now % cycle} of accumulate_steps={cycle} gradients '
                f'are added up, and stays so: it needs a count with the remainder {now % cycle}, '
                f'got {new!r}.'
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
