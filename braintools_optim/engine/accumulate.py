"""Adding up gradients over several calls of a step, of which the last one updates parameters.

The state of a group's chain stands beside a :class:`GradientSum` then. Which call is the last one
follows from the step count, which counts calls.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from ..check import is_tracer
from ..slot import rebuild, slots_of
from ..transforms.absent import is_masked
from .finite import where_true
from .own_state import count_of_one

if TYPE_CHECKING:
    from ..optimizer import OptaxOptimizer
    from .computation import Computation
    from .leaf import Leaf
    from .plan import GroupPlan

__all__ = ['TURN', 'GradientSum', 'Turn', 'accumulated', 'check_accumulation', 'turn_of']

TURN = '<turn>'
"""The key of a call's turn among the extra arguments: no argument of a chain can be named so."""

Update = Callable[[list, list], tuple[tuple, list]]
"""From the gradients of all leaves and the chains' states to new states and new leaves."""


class Turn(enum.Enum):
    """What a call does besides adding up, where that is known before it runs."""

    ADDS = enum.auto()
    UPDATES = enum.auto()


def turn_of(count: Any, steps: int) -> Any:
    """Return the turn of the call that follows so many; where they are traced, if it updates."""
    if is_tracer(count):
        return (count + 1) % steps == 0
    return Turn.ADDS if (count_of_one(count) + 1) % steps else Turn.UPDATES


def check_accumulation(optimizer: OptaxOptimizer) -> None:
    """Raise if its gradients cannot be added up."""
    if optimizer.no_accumulation:
        raise ValueError(
            f'{type(optimizer).__name__} takes no accumulate_steps: {optimizer.no_accumulation}. '
            f'Give step the mean of the gradients.'
        )


class GradientSum(NamedTuple):
    """What a group remembers of the gradients since its last update."""

    gradients: Any  # the sum of each leaf's, in float32 at least
    leaf_added: Any  # of how many calls it is: none, where a gradient was always absent

    @classmethod
    def zeros(cls, leaves: Sequence[Leaf], plan: GroupPlan, arrays: Sequence[jax.Array]) -> Self:
        """Return the sum of nothing; ``arrays`` are what the chain sees, in the places of all."""
        empty: list[Any] = [None] * len(leaves)
        for i in plan.leaves:
            dtype = leaves[i].gradient_dtype(arrays[i].dtype)
            empty[i] = jnp.zeros_like(arrays[i], jnp.promote_types(dtype, jnp.float32))
        return cls(plan.tree(empty), jnp.zeros(len(plan.leaves), jnp.int32))

    def plus(self, plan: GroupPlan, gradients: list) -> GradientSum:
        """Return the sum with one more gradient of each leaf, where there is one."""
        sums = zip(plan.leaves, plan.flat(self.gradients), strict=True)
        new = [s if gradients[i] is None else s + gradients[i].astype(s.dtype) for i, s in sums]
        here = np.array([gradients[i] is not None for i in plan.leaves], np.int32)
        return GradientSum(plan.treedef.unflatten(new), self.leaf_added + here)

    def cleared(self) -> GradientSum:
        """Return the sum of nothing again, laid out over a mesh as the sum was.

        XLA lays constants out as it likes, but not what it believes to be one of two arrays.
        """
        never = jnp.any(self.leaf_added < 0)
        return jax.tree.map(lambda x: jax.lax.select(never, x, jnp.zeros_like(x)), self)


def accumulated(
    computation: Computation,
    old: list,
    gradients: list,
    chains: Sequence[Any],
    update: Update,
    turn: Any,
) -> tuple[tuple, list | None]:
    """Return new states, and new leaves or None where none can have changed.

    ``update`` is done on the mean of the gradients of all calls. A leaf all of whose gradients were
    absent stays as it is, and so do its moments.
    """
    leaves, plans = computation.leaves, computation.plans
    steps = computation.optimizer.accumulate_steps
    inner = [state for state, _ in chains]
    sums = [one.plus(plan, gradients) for plan, (_, one) in zip(plans, chains, strict=True)]

    def add() -> tuple[tuple, list]:
        return tuple(zip(inner, sums, strict=True)), old

    def take() -> tuple[tuple, list]:
        means: list[Any] = [None] * len(leaves)
        added: list[Any] = [None] * len(leaves)
        for plan, one in zip(plans, sums, strict=True):
            for place, (i, s) in enumerate(zip(plan.leaves, plan.flat(one.gradients), strict=True)):
                dtype = leaves[i].gradient_dtype(leaves[i].encode(old[i]).dtype)
                means[i] = (s / steps).astype(dtype)
                added[i] = True if gradients[i] is not None else one.leaf_added[place] > 0
        states, new = update(means, inner)
        new = [where_true(here, n, o) for here, n, o in zip(added, new, old, strict=True)]
        kept = [
            _state_where([added[i] for i in plan.leaves], plan.paths(leaves), *pair)
            for plan, *pair in zip(plans, states, inner, strict=True)
        ]
        return tuple((state, one.cleared()) for state, one in zip(kept, sums, strict=True)), new

    if turn is Turn.ADDS:
        return add()[0], None
    return take() if turn is Turn.UPDATES else jax.lax.cond(turn, take, add)


def _state_where(added: list, paths: list, new: Any, old: Any) -> Any:
    """Return a chain's state with what belongs to leaves without gradients as it was."""
    if all(here is True for here in added):
        return new
    of = dict(zip(paths, added, strict=True))
    each = jnp.stack([jnp.asarray(here) for here in added])
    some = True if any(here is True for here in added) else each.any()

    def chosen(n: Any, o: Any) -> Any:
        if is_masked(n.value):
            return n.value
        if n.per_leaf:
            return jnp.where(each, n.value, o.value)
        return where_true(some if n.parameter is None else of[n.parameter], n.value, o.value)

    pairs = zip(slots_of(new, paths), slots_of(old, paths), strict=True)
    return rebuild(new, [chosen(n, o) for n, o in pairs])
