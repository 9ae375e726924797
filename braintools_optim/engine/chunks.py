"""Many leaves in several calls of few programs, where one program would take long to compile.

XLA's time grows with the number of leaves in a program, and what a step does to one leaf it does
to all of its kind. So the leaves are cut into bundles, each with as many leaves of every kind as
the others; one program serves them all, and a second one the leaves that are left over.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from itertools import chain, starmap
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..paths import Keys
from .buffers import is_deleted
from .compiled import entry_of
from .gradient import assigned, refuse_non_arrays
from .leaf import all_leaves
from .leafwise import is_leafwise
from .part import BySort, Part, StatePositions, vectors_in_order

if TYPE_CHECKING:
    from .computation import Computation

__all__ = ['Chunks', 'are_many']

# By `python -m benchmarks.compile`.
_MANY = 1000  # leaves from which on a step is cut
_MOST_CALLS = 64
_CALL = 5  # leaves that it is worth to compile for one call less in every step
_MOST_COMPILED = 0.5  # of the leaves; a step of which more would be compiled is not cut

_aval, _committed, _sharding = map(attrgetter, ('aval', 'committed', 'sharding'))


def are_many(leaves: Sequence[Any]) -> bool:
    """Whether a step over so many leaves is cut, where that can be done."""
    return len(leaves) >= _MANY


class Call(NamedTuple):
    """A call of a program, and what it takes out of what a step is given."""

    program: int
    members: list[int]  # its leaves
    state: BySort  # the positions of their state ...
    read_state: BySort  # ... and what reads it
    read_values: Callable
    read_grads: Callable
    places: list[jax.Array]


class Chunks:
    """A step in several calls, for arguments of one signature."""

    @classmethod
    def of(cls, computation: Computation, treedef: Any, args: tuple) -> Chunks | None:
        """Compile the calls for these arguments; None where the step cannot be cut, or need not.

        Arrays on several devices are left to XLA in one program.
        """
        optimizer = computation.optimizer
        if (
            not is_leafwise(optimizer.transform)
            or any(group.fixed_chain is not None for group in computation.groups)
            or optimizer._options['grad_clip_norm'] is not None
            or optimizer.skip_nonfinite
        ):
            return None
        values, leaves, numbers, grads, _ = args
        flat, _ = _arrays((values, grads, numbers))
        state, _ = _arrays(leaves)
        old = all_leaves(values)
        placed = {*map(_sharding, flat), *map(_sharding, state)}
        if len({d for sharding in placed for d in sharding.device_set}) > 1:
            return None
        if len(jax.tree.leaves(values)) != len(old):  # values of several arrays
            return None
        new = cls(computation, treedef, args)
        return new if new._cut(old, grads, flat, state) else None

    def __init__(self, computation: Computation, treedef: Any, args: tuple):
        values, leaves, numbers, grads, _ = args
        flat, self.treedef = _arrays((values, grads, numbers))
        state, _ = _arrays(leaves)
        self.computation = computation
        self.values = jax.tree.structure(values)
        self.abstract, self.state_abstract = _abstract(flat), _abstract(state)
        chains = jax.tree.unflatten(treedef, range(len(leaves)))
        self.kept = [
            StatePositions.of(computation, i, packed.tree) for i, packed in enumerate(chains)
        ]
        self.entries: list[Any] = []  # of the programs
        self.calls: list[Call] = []

    # ---- how the step is cut -------------------------------------------------------------

    def _cut(self, old: list, grads: Any, flat: list, state: list) -> bool:
        """Compile the programs, where it pays; return whether it does."""
        given, owned = assigned(grads, self.computation.manager, self.computation.leaves)
        kinds: list[Any] = list(map(jax.tree.structure, given))
        starts = np.cumsum([len(old), *(kind.num_leaves for kind in kinds)]).tolist()
        # Of each leaf the structures of the shares of its gradient, and where their arrays are.
        shares = [[kinds[i] for i in own] for own in owned]
        pieces = [[p for i in own for p in range(starts[i], starts[i + 1])] for own in owned]
        cut = _bundled(self._classes(old, shares, pieces, flat, state))
        if cut is None:
            return False
        bundles, rest = cut
        for number, members in enumerate([bundles, [rest]] if rest else [bundles]):
            part = Part(self.computation, members[0], old, shares)
            if not part.fits(self.kept, self._paths(members[0])):
                return False
            for chosen in members:
                self.calls.append(self._call(number, part, chosen, pieces))
            first = self.calls[-len(members)]
            if not self._compile(part, self._arguments(first, flat, state)):
                return False
        self._plan_results(len(state), len(flat), len(old))
        return True

    def _classes(
        self, old: list, shares: list[list], pieces: list[list[int]], flat: list, state: list
    ) -> list[list[int]]:
        """Return the leaves that have gradients, those that one program can serve together."""
        alike: dict[Any, list[int]] = {}
        for index, (plan, kept) in enumerate(zip(self.computation.plans, self.kept, strict=True)):
            for i in plan.leaves:
                if not pieces[i]:
                    continue
                leaf, tree = self.computation.leaves[i], jax.tree.structure(old[i])
                slots = sorted(kept.own.get(leaf.path, {}).items())
                arrays = [flat[i], *(flat[p] for p in pieces[i]), *(state[p] for _, p in slots)]
                names = tuple(name for name, _ in slots)
                kind = (index, leaf.shape, leaf.unit, leaf.decays, tree, *shares[i], names)
                alike.setdefault((*kind, *map(_abstract_one, arrays)), []).append(i)
        return list(alike.values())

    def _paths(self, members: list[int]) -> list[Keys]:
        return [self.computation.leaves[i].path for i in members]

    def _call(self, number: int, part: Part, members: list[int], pieces: list) -> Call:
        state = part.positions(self.kept, self._paths(members))
        return Call(
            *(number, members, state, BySort(*map(_reader, state)), _reader(members)),
            _reader([p for i in members for p in pieces[i]]),
            [jnp.asarray(self.kept[i].places_of(members)) for i in part.indices],
        )

    def _arguments(self, call: Call, flat: list, state: list) -> tuple:
        own, vectors, common = (read(state) for read in call.read_state)
        values, grads = call.read_values(flat), call.read_grads(flat)
        return own, vectors, common, call.places, values, grads, flat[-1]

    def _compile(self, part: Part, args: tuple) -> bool:
        """Compile a program; return whether it has an entry in C++.

        It runs once on copies: a first call goes through Python code, where an interrupt could
        lose the results after the donated buffers are gone.
        """
        program = jax.jit(part.advance, donate_argnums=0).lower(*args).compile()
        own, *others = args
        program(tuple(map(jnp.copy, own)), *others)
        self.entries.append(entry_of(program))
        return self.entries[-1] is not None

    def _plan_results(self, state: int, flat: int, values: int) -> None:
        """Say where each leaf of the new state and values is found, out of so many old ones.

        They are read from one list: old state, old values and gradients, vectors, then of each
        call its own state, common state and values.
        """
        leaves, new = list(range(state)), list(range(state, state + values))
        vectors: dict[int, list[tuple[int, int]]] = {}  # position -> the calls with entries of it
        start = state + flat
        for position in sorted({p for call in self.calls for p in call.state.vectors}):
            vectors[position] = [
                (k, call.state.vectors.index(position))
                for k, call in enumerate(self.calls)
                if position in call.state.vectors
            ]
            leaves[position] = start
            start += 1
        for call in self.calls:
            own, _, common = call.state
            for position in (*own, *common):
                leaves[position] = start
                start += 1
            for leaf in call.members:
                new[leaf] = start
                start += 1
        self.read_new_leaves, self.read_new_values = _reader(leaves), _reader(new)
        self.vectors = vectors
        self.order = [self._order(position) for position in vectors]
        self.join = jax.jit(vectors_in_order)
        moved = {self.computation.leaves[i].state for call in self.calls for i in call.members}
        self.resting = [i for i in range(len(self.computation.manager)) if i not in moved]

    def _order(self, position: int) -> jax.Array:
        """Return where each entry of a vector is among those of all calls and the old ones."""
        kept = next(x for x in self.kept if position in x.vectors.values())
        places = np.concatenate(
            [kept.places_of(self.calls[k].members) for k, _ in self.vectors[position]]
        )
        order = len(places) + np.arange(len(kept.places))
        order[places] = np.arange(len(places))
        return jnp.asarray(order, np.int32)

    # ---- how it is taken -----------------------------------------------------------------

    def run(self, args: tuple, result: list) -> bool:
        """Append the new leaves of the chains' states and the new values to ``result``.

        Return whether these arguments are those that it was cut for; nothing has run otherwise.
        """
        values, leaves, numbers, grads, _ = args
        flat, treedef = jax.tree.flatten((values, grads, numbers))
        if treedef != self.treedef:
            return False
        if not _on_device(flat):
            refuse_non_arrays(grads)
            flat, _ = _arrays(flat)
        if _abstract(flat) != self.abstract:
            return False
        state, _ = _arrays(leaves)
        if _abstract(state) != self.state_abstract or len(set(map(id, state))) < len(state):
            return False
        if any(map(is_deleted, (*flat, *state))):  # the others must not be donated then
            return False
        calls = [(self.entries[c.program], *self._arguments(c, flat, state)) for c in self.calls]
        done: list[tuple] = []
        try:
            # One expression in C: no interrupt gets between a donation and what comes of it.
            done.extend(starmap(operator.call, calls))
            result.append(self._whole(done, flat, state))
        except BaseException:
            if done and not result:  # old state was donated: the step has to be finished
                done.extend(starmap(operator.call, calls[len(done) :]))
                result.append(self._whole(done, flat, state))
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


def _bundled(classes: list[list[int]]) -> tuple[list[list[int]], list[int]] | None:
    """Return bundles with as many leaves of each class as one another, and the leaves left over.

    None where compiling one bundle and those does not pay.
    """
    count = _best_count(list(map(len, classes)))
    shared = [(c, len(c) // count) for c in classes]
    bundles = [[i for c, n in shared for i in c[k * n : (k + 1) * n]] for k in range(count)]
    rest = [i for c, n in shared for i in c[count * n :]]
    compiled = len(bundles[0]) + len(rest)
    return None if compiled > _MOST_COMPILED * sum(map(len, classes)) else (bundles, rest)


def _best_count(sizes: list[int]) -> int:
    """Return into how many bundles to cut classes of these sizes."""

    def cost(count: int) -> int:
        return sum(n // count + n % count for n in sizes) + _CALL * count

    return min(range(2, _MOST_CALLS + 1), key=cost)


def _reader(positions: list[int]) -> Callable[[Any], tuple]:
    """Return what reads these positions of a list."""
    if len(positions) > 1:
        return itemgetter(*positions)
    return lambda found: tuple(found[p] for p in positions)


def _arrays(tree: Any) -> tuple[list, Any]:
    """Return the leaves of a tree, those of the host as arrays, and its structure."""
    flat, treedef = jax.tree.flatten(tree)
    if not _on_device(flat):
        flat = [x if isinstance(x, jax.Array) else jnp.asarray(x) for x in flat]
    return flat, treedef


def _on_device(flat: list) -> bool:
    return all(issubclass(kind, jax.Array) for kind in set(map(type, flat)))


def _abstract_one(x: jax.Array) -> tuple:
    return x.aval, x.committed and x.sharding


def _abstract(arrays: list) -> tuple[list, list, list]:
    """Return all of arrays that compiled programs depend on."""
    fixed = list(map(_committed, arrays))
    return list(map(_aval, arrays)), fixed, list(map(_sharding, arrays)) if any(fixed) else []
