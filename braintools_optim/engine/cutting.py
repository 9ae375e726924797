"""How a step is cut into calls: which leaves each one serves, and what it takes.

The leaves are cut into bundles, each with as many leaves of every kind as the others; one program
serves them all, and a second one the leaves that are left over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..sharding import copies
from .bundle import Bundle, BySort, StatePositions
from .compiled import entry_of
from .gradient import assigned
from .leaf import all_leaves

if TYPE_CHECKING:
    from .computation import Computation
    from .donating import StepArguments

__all__ = ['Call', 'Given', 'are_on_device', 'cut', 'kinds_of', 'on_device', 'reader']

# By `python -m benchmarks.compile`.
_MOST_CALLS = 64
_CALL = 5  # leaves that it is worth to compile for one call less in every step
_MOST_COMPILED = 0.5  # of the leaves; a step of which more would be compiled is not cut

_aval, _committed, _sharding = map(attrgetter, ('aval', 'committed', 'sharding'))


class Given(NamedTuple):
    """What a step is given, as lists of arrays."""

    flat: list[jax.Array]  # values, gradients, numbers
    treedef: Any
    state: list[jax.Array]  # of all chains

    @classmethod
    def of(cls, args: StepArguments) -> Given:
        """Flatten the arguments of a step; what the host has goes to the device."""
        flat, treedef = jax.tree.flatten((args.values, args.grads, args.numbers))
        return cls(on_device(flat), treedef, on_device(args.leaves))

    @property
    def on_one_device(self) -> bool:
        """Whether all arrays are there."""
        placed = {*map(_sharding, self.flat), *map(_sharding, self.state)}
        return len({d for sharding in placed for d in sharding.device_set}) == 1


class Call(NamedTuple):
    """A call of a program, and what it takes out of what a step is given."""

    entry: Any  # of the program, in C++
    members: list[int]  # its leaves
    state: BySort  # the positions of their state ...
    read_state: BySort  # ... and what reads it
    read_values: Callable
    read_grads: Callable
    places: list[jax.Array]

    def arguments(self, flat: list, state: list) -> tuple:
        """Return what the program takes."""
        own, vectors, common = (read(state) for read in self.read_state)
        values, grads = self.read_values(flat), self.read_grads(flat)
        return own, vectors, common, self.places, values, grads, flat[-1]


def cut(
    computation: Computation, kept: list[StatePositions], args: StepArguments, given: Given
) -> list[Call] | None:
    """Compile the programs, and return their calls; None where a step cannot be cut, or need not.

    ``kept`` says where each group has its state.
    """
    old = all_leaves(args.values)
    if len(jax.tree.leaves(args.values)) != len(old):  # values of several arrays
        return None
    shares, owned = assigned(args.grads, computation.manager, computation.leaves)
    kinds: list[Any] = list(map(jax.tree.structure, shares))
    starts = np.cumsum([len(old), *(kind.num_leaves for kind in kinds)]).tolist()
    whole = _Whole(
        computation,
        kept,
        given,
        old,
        shares=[[kinds[i] for i in own] for own in owned],
        pieces=[[p for i in own for p in range(starts[i], starts[i + 1])] for own in owned],
    )
    if (bundles := _bundled(whole.classes())) is None:
        return None
    calls: list[Call] = []
    for alike in bundles:
        if (served := whole.calls(alike)) is None:
            return None
        calls += served
    return calls


@dataclass(frozen=True)
class _Whole:
    """A step over many leaves, for arguments of one signature."""

    computation: Computation
    kept: list[StatePositions]  # of each group
    given: Given
    old: list[Any]  # the values of all leaves
    shares: list[list[Any]]  # of each leaf the structures of the shares of its gradient ...
    pieces: list[list[int]]  # ... and where their arrays are

    def classes(self) -> list[list[int]]:
        """Return the leaves that have gradients, those that one program can serve together."""
        flat, _, state = self.given
        alike: dict[Any, list[int]] = {}
        for index, (plan, kept) in enumerate(zip(self.computation.plans, self.kept, strict=True)):
            for i in plan.leaves:
                if not self.pieces[i]:
                    continue
                leaf, tree = self.computation.leaves[i], jax.tree.structure(self.old[i])
                slots = sorted(kept.own.get(leaf.path, {}).items())
                places = [i, *self.pieces[i]]
                arrays = [*(flat[p] for p in places), *(state[p] for _, p in slots)]
                names = tuple(name for name, _ in slots)
                alike_in = (leaf.shape, leaf.unit, leaf.decays, id(leaf.constraint), tree)
                kind = (index, *alike_in, *self.shares[i], names)
                alike.setdefault((*kind, *map(_kind_of, arrays)), []).append(i)
        return list(alike.values())

    def calls(self, bundles: list[list[int]]) -> list[Call] | None:
        """Return the calls of one program that serves each of these bundles; None if none does."""
        bundle = Bundle(self.computation, bundles[0], self.old, self.shares)
        if not bundle.fits(self.kept, self._paths(bundles[0])):
            return None
        calls = [self._call(bundle, members) for members in bundles]
        entry = _compiled(bundle, calls[0].arguments(self.given.flat, self.given.state))
        return None if entry is None else [call._replace(entry=entry) for call in calls]

    def _paths(self, members: list[int]) -> list[Any]:
        return [self.computation.leaves[i].path for i in members]

    def _call(self, bundle: Bundle, members: list[int]) -> Call:
        state = bundle.positions(self.kept, self._paths(members))
        return Call(
            entry=None,
            members=members,
            state=state,
            read_state=BySort(*map(reader, state)),
            read_values=reader(members),
            read_grads=reader([p for i in members for p in self.pieces[i]]),
            places=[jnp.asarray(self.kept[i].places_of(members)) for i in bundle.indices],
        )


def _compiled(bundle: Bundle, args: tuple) -> Any:
    """Compile the program of a bundle; return its entry in C++, None if there is none.

    It runs once on copies: a first call goes through Python code, where an interrupt could lose the
    results after the donated buffers are gone.
    """
    program = jax.jit(bundle.advance, donate_argnums=0).lower(*args).compile()
    own, *others = args
    program(tuple(copies(own)), *others)
    return entry_of(program)


def _bundled(classes: list[list[int]]) -> list[list[list[int]]] | None:
    """Return bundles with as many leaves of each class as one another, and one of what is left.

    None where compiling one bundle and those that are left does not pay.
    """
    count = _best_count(list(map(len, classes)))
    shared = [(c, len(c) // count) for c in classes]
    bundles = [[i for c, n in shared for i in c[k * n : (k + 1) * n]] for k in range(count)]
    rest = [i for c, n in shared for i in c[count * n :]]
    compiled = len(bundles[0]) + len(rest)
    if compiled > _MOST_COMPILED * sum(map(len, classes)):
        return None
    return [bundles, [rest]] if rest else [bundles]


def _best_count(sizes: list[int]) -> int:
    """Return into how many bundles to cut classes of these sizes."""

    def cost(count: int) -> int:
        return sum(n // count + n % count for n in sizes) + _CALL * count

    return min(range(2, _MOST_CALLS + 1), key=cost)


def reader(positions: list[int]) -> Callable[[Any], tuple]:
    """Return what reads these positions of a list."""
    if len(positions) > 1:
        return itemgetter(*positions)
    return lambda found: tuple(found[p] for p in positions)


def are_on_device(flat: list) -> bool:
    """Whether all of these are arrays of JAX."""
    return all(issubclass(kind, jax.Array) for kind in set(map(type, flat)))


def on_device(flat: list) -> list:
    """Return arrays and numbers as arrays of JAX."""
    if are_on_device(flat):
        return flat
    return [x if isinstance(x, jax.Array) else jnp.asarray(x) for x in flat]


def _kind_of(x: jax.Array) -> tuple:
    return x.aval, x.committed and x.sharding


def kinds_of(arrays: list) -> tuple[list, list, list]:
    """Return everything about these arrays on which a compiled program depends."""
    fixed = list(map(_committed, arrays))
    return list(map(_aval, arrays)), fixed, list(map(_sharding, arrays)) if any(fixed) else []
