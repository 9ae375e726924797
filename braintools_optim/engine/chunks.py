"""Many leaves in several calls of few programs, where one program would take long to compile.

XLA's time grows with the number of leaves in a program, and what a step does to one leaf it does
to all of its kind.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from itertools import chain, starmap
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from .buffers import is_deleted
from .bundle import StatePositions, vectors_in_order
from .cutting import Call, Given, are_on_device, cut, kinds_of, on_device, reader
from .gradient import refuse_non_arrays

if TYPE_CHECKING:
    from .computation import Computation
    from .donating import StepArguments

__all__ = ['Chunks', 'are_many']

_MANY = 1000  # leaves from which on a step is cut (by `python -m benchmarks.compile`)


def are_many(leaves: Sequence[Any]) -> bool:
    """Whether a step over so many leaves is cut, where that can be done."""
    return len(leaves) >= _MANY


class Chunks:
    """A step in several calls, for arguments of one signature."""

    @classmethod
    def of(cls, computation: Computation, treedef: Any, args: StepArguments) -> Chunks | None:
        """Compile the calls for these arguments; None where the step cannot be cut, or need not.

        Arrays on several devices are left to XLA in one program.
        """
        optimizer = computation.optimizer
        if (
            not optimizer._is_leafwise()
            or 'grad_clip_norm' in optimizer._bounded_by
            or optimizer.skip_nonfinite
        ):
            return None
        given = Given.of(args)
        if not given.on_one_device:
            return None
        chains = jax.tree.unflatten(treedef, range(len(given.state)))
        kept = [StatePositions.of(computation, i, packed.tree) for i, packed in enumerate(chains)]
        calls = cut(computation, kept, args, given)
        if calls is None:
            return None
        served = {computation.leaves[i].state for call in calls for i in call.members}
        resting = [i for i in range(len(computation.manager)) if i not in served]
        return cls(calls, kept, given, jax.tree.structure(args.values), resting)

    def __init__(
        self,
        calls: list[Call],
        kept: list[StatePositions],
        given: Given,
        values: Any,
        resting: list[int],
    ):
        """Work out from which place of one flat list each new leaf is read.

        The list is: old state; values, gradients and numbers; joined vectors; then the outputs of
        each call, its own state, common state and values. ``values`` is the structure of the
        parameters, ``resting`` are the States that no call changes.
        """
        self.calls, self.values, self.resting = calls, values, resting
        self.treedef = given.treedef
        self.kinds, self.state_kinds = kinds_of(given.flat), kinds_of(given.state)
        count = len(given.state)
        leaves, new = list(range(count)), list(range(count, count + values.num_leaves))
        vectors: dict[int, list[tuple[int, int]]] = {}  # position -> the calls with entries of it
        start = count + len(given.flat)
        for position in sorted({p for call in calls for p in call.state.vectors}):
            vectors[position] = [
                (k, call.state.vectors.index(position))
                for k, call in enumerate(calls)
                if position in call.state.vectors
            ]
            leaves[position] = start
            start += 1
        for call in calls:
            own, _, common = call.state
            for position in (*own, *common):
                leaves[position] = start
                start += 1
            for leaf in call.members:
                new[leaf] = start
                start += 1
        self.read_new_leaves, self.read_new_values = reader(leaves), reader(new)
        self.vectors = vectors
        self.order = [self._order(kept, position) for position in vectors]
        self.join = jax.jit(vectors_in_order)

    def _order(self, kept: list[StatePositions], position: int) -> jax.Array:
        """Return where each entry of a vector is among those of all calls and the old ones."""
        owner = next(x for x in kept if position in x.vectors.values())
        places = np.concatenate(
            [owner.places_of(self.calls[k].members) for k, _ in self.vectors[position]]
        )
        order = len(places) + np.arange(len(owner.places))
        order[places] = np.arange(len(places))
        return jnp.asarray(order, np.int32)

    def run(self, args: StepArguments, result: list) -> bool:
        """Append the new leaves of the chains' states and the new values to ``result``.

        Return whether these arguments are those that it was cut for; nothing has run otherwise.
        """
        flat, treedef = jax.tree.flatten((args.values, args.grads, args.numbers))
        if treedef != self.treedef:
            return False
        if not are_on_device(flat):
            refuse_non_arrays(args.grads)
        arrays = on_device(flat)
        if kinds_of(arrays) != self.kinds:
            return False
        state = on_device(args.leaves)
        if kinds_of(state) != self.state_kinds or len(set(map(id, state))) < len(state):
            return False
        if any(map(is_deleted, (*arrays, *state))):  # the others must not be donated then
            return False
        calls = [(call.entry, *call.arguments(arrays, state)) for call in self.calls]
        done: list[tuple] = []
        try:
            # One expression in C: no interrupt gets between a donation and what comes of it.
            done.extend(starmap(operator.call, calls))
            result.append(self._whole(done, arrays, state))
        except BaseException:
            if done and not result:  # old state was donated: the step has to be finished
                done.extend(starmap(operator.call, calls[len(done) :]))
                result.append(self._whole(done, arrays, state))
            raise
        return True

    def _whole(self, done: list[tuple], flat: list, state: list) -> tuple[list, list]:
        """Return the new leaves of the chains' states, and the values of States or None."""
        vectors = []
        if self.vectors:
            entries = [[done[k][1][j] for k, j in calls] for calls in self.vectors.values()]
            vectors = self.join(entries, [state[p] for p in self.vectors], self.order)
        made = chain.from_iterable((*own, *common, *new) for own, _, common, new in done)
        found = [*state, *flat, *vectors, *made]
        values = jax.tree.unflatten(self.values, self.read_new_values(found))
        for i in self.resting:
            values[i] = None
        return list(self.read_new_leaves(found)), values
