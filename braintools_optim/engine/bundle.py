"""What a step does to some leaves of an optimizer, whichever they are.

Inside of a bundle leaves bear numbers for names, so that one program serves all of their kinds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..paths import Keys
from ..slot import Slot, rebuild, slots_of
from ..transforms.absent import is_masked
from .computation import Computation, StepInput
from .gradient import gradient_of
from .plan import GroupPlan

__all__ = ['BySort', 'StatePositions', 'Bundle', 'vectors_in_order']


class StatePositions(NamedTuple):
    """Where a group's chain state has its leaves: positions among those of all chains."""

    own: dict[Keys, dict[str, int]]  # by parameter and slot
    vectors: dict[str, int]  # with an entry for each leaf, by slot
    common: dict[str, int]  # those that belong to all leaves, by slot
    places: dict[int, int]  # of the leaves in the vectors

    @classmethod
    def of(cls, computation: Computation, index: int, state: Any) -> StatePositions:
        """Sort a group's state, whose leaves are their positions."""
        leaves = computation.plans[index].leaves
        kept = cls({}, {}, {}, {leaf: i for i, leaf in enumerate(leaves)})
        for slot in slots_of(state, [computation.leaves[i].path for i in leaves]):
            if is_masked(slot.value):  # the chain keeps nothing there
                continue
            if slot.parameter is not None:
                kept.own.setdefault(slot.parameter, {})[slot.name] = slot.value
            else:
                (kept.vectors if slot.per_leaf else kept.common)[slot.name] = slot.value
        return kept

    def places_of(self, members: list[int]) -> np.ndarray:
        """Return the places in the vectors of those leaves that are in this group."""
        return np.array([self.places[i] for i in members if i in self.places], np.int32)


class BySort(NamedTuple):
    """Something for each leaf of chain states, by what these belong to."""

    own: Any  # to one of the parameters
    vectors: Any  # entries of vectors with one for each
    common: Any  # to all


class Bundle:
    """The computation of a step for some leaves."""

    def __init__(self, computation: Computation, members: list[int], old: list, shares: list[list]):
        """Prepare it for leaves like ``members``, which are in the order of their groups.

        ``old`` are the values of all leaves, ``shares`` the structures of all shares of their
        gradients.
        """
        self.kinds: list[tuple[Any, list]] = [
            (jax.tree.structure(old[i]), shares[i]) for i in members
        ]
        self.indices = [
            index
            for index, plan in enumerate(computation.plans)
            if not set(members).isdisjoint(plan.leaves)
        ]
        leaves = [
            replace(computation.leaves[m], path=(f'{i:06d}',), depth=1)
            for i, m in enumerate(members)
        ]
        plans = []
        for index in self.indices:
            in_group = set(computation.plans[index].leaves)
            numbered = {leaves[i].path[0]: i for i, m in enumerate(members) if m in in_group}
            plans.append(GroupPlan(*jax.tree.flatten(numbered), computation.plans[index].group))
        self.computation = computation.part(leaves, plans)
        self.skeletons = self._skeletons([old[i] for i in members])
        self.slots: list[list[Slot]] = [
            slots_of(skeleton, plan.paths(leaves))
            for skeleton, plan in zip(self.skeletons, plans, strict=True)
        ]
        # Those of which there is anything: a chain masks what it leaves to another one.
        self.kept_slots = [[s for s in slots if not is_masked(s.value)] for slots in self.slots]

    def _skeletons(self, values: list) -> list[Any]:
        """Return the states of the chains as they are built for leaves of these values."""
        optimizer = self.computation.optimizer

        def init(values: list) -> list[Any]:
            arrays = [x.encode(v) for x, v in zip(self.computation.leaves, values, strict=True)]
            return [
                optimizer._chain(plan.group, plan.group.hyper()).init(plan.tree(arrays))
                for plan in self.computation.plans
            ]

        return jax.eval_shape(init, values)

    def fits(self, kept: list[StatePositions], paths: Sequence[Keys]) -> bool:
        """Whether the state has the slots that it has for leaves of other names."""
        for index, slots in zip(self.indices, self.kept_slots, strict=True):
            named: dict[Any, set[str]] = {}
            for slot in slots:
                owner = paths[_number(slot)] if slot.parameter else slot.per_leaf
                named.setdefault(owner, set()).add(slot.name)
            there = {owner: kept[index].own.get(owner, {}).keys() for owner in named}
            there |= {True: kept[index].vectors.keys(), False: kept[index].common.keys()}
            if any(named.get(owner, set()) != names for owner, names in there.items()):
                return False
        return True

    def positions(self, kept: list[StatePositions], paths: Sequence[Keys]) -> BySort:
        """Return where the state of the leaves under these paths stands."""
        found = BySort([], [], [])
        for index, slots in zip(self.indices, self.kept_slots, strict=True):
            one = kept[index]
            for slot in slots:
                own = one.own[paths[_number(slot)]] if slot.parameter else {}
                there = BySort(own, one.vectors, one.common)
                getattr(found, _sort(slot)).append(getattr(there, _sort(slot))[slot.name])
        return found

    @jax.numpy_dtype_promotion('standard')
    def advance(
        self,
        own: Sequence[Any],
        vectors: Sequence[Any],
        common: Sequence[Any],
        places: Sequence[Any],
        arrays: Sequence[Any],
        grads: Sequence[Any],
        vector: Any,
    ) -> tuple[list, list, list, list]:
        """Return the leaves' new state (own, entries of vectors, common) and their new values.

        The state comes first because JAX hands donated buffers to outputs in order.
        """
        pieces = iter(grads)
        old: list[Any] = []
        gradients: list[Any] = []
        for leaf, array, (kind, shares) in zip(
            self.computation.leaves, arrays, self.kinds, strict=True
        ):
            old.append(kind.unflatten([array]))
            leaf.check_shape(old[-1])
            given = [s.unflatten([next(pieces) for _ in range(s.num_leaves)]) for s in shares]
            gradients.append(gradient_of(leaf, given, old[-1]))
        sources = BySort(iter(own), iter(vectors), iter(common))
        chains = []
        for skeleton, slots, place in zip(self.skeletons, self.slots, places, strict=True):
            values = []
            for slot in slots:
                if is_masked(slot.value):
                    values.append(slot.value)
                else:
                    x = next(getattr(sources, _sort(slot)))
                    values.append(x[place] if _sort(slot) == 'vectors' else x)
            chains.append(rebuild(skeleton, values))
        numbers = self.computation.optimizer._table.unpack(vector)
        step = StepInput(old, numbers, borrowed=[*arrays, *grads, *common])
        states, new = self.computation.advance(step, gradients, chains)
        made = BySort([], [], [])
        for slots, state in zip(self.slots, states, strict=True):
            for slot, x in zip(slots, jax.tree.leaves(state, is_leaf=is_masked), strict=True):
                if not is_masked(x):
                    getattr(made, _sort(slot)).append(x)
        return *made, jax.tree.leaves(new)


def vectors_in_order(
    entries: Sequence[Sequence[Any]], old: Sequence[Any], order: Sequence[Any]
) -> list:
    """Return each vector with the entries that the calls computed in their places; others stay."""
    return [
        jnp.concatenate([*made, whole])[places]
        for made, whole, places in zip(entries, old, order, strict=True)
    ]


def _sort(slot: Slot) -> str:
    """Return the sort of a slot, a field of `BySort`."""
    return 'own' if slot.parameter else 'vectors' if slot.per_leaf else 'common'


def _number(slot: Slot) -> int:
    assert slot.parameter is not None
    return int(str(slot.parameter[0]))
