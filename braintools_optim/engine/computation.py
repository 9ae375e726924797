"""What one optimization step computes over all groups: a pure function of values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import jax
import jax.numpy as jnp
import optax
from brainstate.util import StateJaxTracer

from ..slot import with_common, with_masked
from ..state import UniqueStateManager
from ..transforms.absent import is_masked
from .accumulate import TURN, accumulated
from .clip import signed_and_bounded
from .extra import more_given, run_given_chain
from .finite import all_finite, where_true
from .gradient import match_gradients
from .layout import laid_out_like
from .leaf import Leaf, flat_values, regrouped
from .observe import outside_of_traces
from .packs import Packed
from .plan import GroupPlan
from .view import GroupView

if TYPE_CHECKING:
    from ..hyper import Hyper
    from ..optimizer import OptaxOptimizer

__all__ = ['Computation', 'StepInput', 'own_copies']

Run = Callable[[optax.GradientTransformation, Any, Any, Any], tuple[Any, Any]]
"""What is done with a chain, gradients, its state and parameters: it returns two new trees."""


@dataclass(frozen=True)
class StepInput:
    """What one step reads besides gradients and the states of chains."""

    old: list  # the leaves of the parameters
    numbers: list[dict[str, Any]]  # of every group
    borrowed: Sequence = ()  # the arrays that must not become part of a state
    given: Callable[[GroupPlan], dict] = lambda plan: {}  # what a group's chain takes besides


@dataclass(frozen=True)
class Computation:
    """The step of one optimizer, for its present parameters and groups, or for some of them."""

    optimizer: OptaxOptimizer
    manager: UniqueStateManager
    leaves: list[Leaf]
    plans: list[GroupPlan]  # of each group

    @classmethod
    def of(cls, optimizer: OptaxOptimizer) -> Self:
        """Return the step of an optimizer."""
        manager, leaves = optimizer.param_states, optimizer._leaves
        plans = GroupPlan.of_each(manager, leaves, optimizer._groups)
        return cls(optimizer, manager, leaves, plans)

    def part(self, leaves: list[Leaf], plans: list[GroupPlan]) -> Self:
        """Return the same computation for some of the leaves, under these plans."""
        return replace(self, leaves=leaves, plans=plans)

    @jax.numpy_dtype_promotion('standard')
    def compute(
        self, values: list, packed: tuple[Packed, ...], vector: Any, grads: Any, extra: dict
    ) -> tuple[tuple[Packed, ...], list]:
        """Return the new chain states, and the new parameters or None where they stay.

        The states come first because JAX hands donated buffers to outputs in order.
        """
        turn = extra.get(TURN)
        extra = {name: value for name, value in extra.items() if name != TURN}
        old = self.leaf_values(values)
        for leaf, value in zip(self.leaves, old, strict=True):
            leaf.check(value)
            leaf.check_axes(value)
        gradients = match_gradients(grads, old, self.manager, self.leaves)
        numbers = self.optimizer._table.unpack(vector)

        def given(plan: GroupPlan) -> dict:
            view = GroupView(self, plan, values, numbers)
            return self.optimizer._chain_extra(extra, view)

        step = StepInput(old, numbers, [*old, *jax.tree.leaves((grads, extra))], given)

        def update(gradients: list, chains: list) -> tuple[tuple, list]:
            finite = None
            if self.optimizer.skip_nonfinite:
                besides = more_given(self.optimizer, extra)
                finite = all_finite([*gradients, *jax.tree.leaves(besides)])
            return self.advance(step, gradients, chains, finite)

        chains = [one.tree for one in packed]
        if self.optimizer.accumulate_steps == 1:
            states, new = update(gradients, chains)
            moved = regrouped(values, new, gradients)
        else:
            states, all_new = accumulated(self, old, gradients, chains, update, turn)
            moved = [None] * len(values) if all_new is None else regrouped(values, all_new)
        made = tuple(one.like(state) for one, state in zip(packed, states, strict=True))
        moved = [
            laid_out_like(value, partial(outside_of_traces, state))
            for value, state in zip(moved, self.manager, strict=True)
        ]
        return laid_out_like(made, self.optimizer._core.outside_of_traces), moved

    def compute_alone(self, values: list, *args: Any) -> tuple[tuple[Packed, ...], list]:
        """Compute where nothing maps over States, so that they have the shapes they came with."""
        self.check_shapes(values)
        return self.compute(values, *args)

    def advance(
        self, step: StepInput, gradients: list, chains: Sequence[Any], finite: Any = None
    ) -> tuple[tuple, list]:
        """Return the new chain states, and the new value of each leaf.

        All stays as it is where ``finite`` is given and does not hold.
        """
        old, numbers = step.old, step.numbers
        gradients = signed_and_bounded(gradients, self.climbing(), numbers[0])

        new = list(old)
        new_states: list[Any] = []
        for plan, state in zip(self.plans, chains, strict=True):
            if all(gradients[i] is None for i in plan.leaves):
                new_states.append(state)  # a group without gradients rests
                continue
            h = plan.group.hyper(numbers[plan.group.index])
            run = partial(run_given_chain, self.optimizer, step.given(plan))
            before, paths = state, plan.paths(self.leaves)
            for own, share in self._runs_by_decay(h, plan, gradients):
                state = with_common(state, before, paths)
                updates, state = self.run_chain(
                    step, plan, own, state, share, run, self._keep(step, plan)
                )
                masters = [None] * len(plan.leaves)
                if self.optimizer.master_dtype is not None:
                    masters = masters_in(state, plan)
                with self.optimizer._running.group(h, numbers):  # constraints read them, too
                    for i, update, master in zip(plan.leaves, updates, masters, strict=True):
                        if share[i] is None:
                            continue
                        leaf = self.leaves[i]
                        if master is None:
                            new[i] = leaf.moved_by(update, old[i])
                        else:
                            new[i] = leaf.rounded(master, old[i])
            new_states.append(own_copies(state, step.borrowed))
        states = where_true(finite, tuple(new_states), tuple(chains))
        return states, where_true(finite, new, old)

    def _keep(self, step: StepInput, plan: GroupPlan) -> Callable[[int, Any], Any]:
        """Return what constrains the masters of a group, by the place of a leaf in its tree."""

        def keep(place: int, array: Any) -> Any:
            i = plan.leaves[place]
            return self.leaves[i].kept(array, step.old[i])

        return keep

    def run_chain(
        self,
        step: StepInput,
        plan: GroupPlan,
        h: Hyper,
        state: Any,
        gradients: list,
        run: Run,
        keep: Callable[[int, Any], Any] | None = None,
    ) -> tuple[list, Any]:
        """Run the group's chain on gradients, its state and parameters, without absent ones.

        ``keep`` constrains masters. Return what ``run`` makes of each of the plan's leaves, and the
        chain's new state.
        """
        optimizer = self.optimizer
        shown: list[Any] = [None] * len(self.leaves)
        for i in plan.leaves:
            if gradients[i] is not None:
                shown[i] = self.leaves[i].encode(step.old[i])
        paths = plan.paths(self.leaves)
        absent = {self.leaves[i].path for i in plan.leaves if gradients[i] is None}
        seen = with_masked(state, paths, absent) if absent else state
        optimizer._core.busy_in(StateJaxTracer())
        with optimizer._running.group(h, step.numbers):
            made, new = run(
                optimizer._chain(plan.group, h, keep), plan.tree(gradients), seen, plan.tree(shown)
            )
        if absent:
            new = jax.tree.map(lambda n, o: o if is_masked(n) else n, new, state, is_leaf=is_masked)
        owner = type(optimizer).__name__
        return _flat_updates(plan, made, owner), _in_old_dtypes(new, state, owner)

    def climbing(self) -> set[int]:
        """Return the leaves of the groups that maximize."""
        return {i for plan in self.plans if plan.group.flags['maximize'] for i in plan.leaves}

    def _runs_by_decay(
        self, h: Hyper, plan: GroupPlan, gradients: list
    ) -> list[tuple[Hyper, list]]:
        """Return the values and gradients of each run of a chain: without decay it is another."""
        bare = {i for i in plan.leaves if not self.leaves[i].decays}
        if not bare:
            return [(h, gradients)]
        without = h.replaced(**dict.fromkeys(self.optimizer.weight_decays, 0.0))
        shares = [
            (h, [None if i in bare else g for i, g in enumerate(gradients)]),
            (without, [g if i in bare else None for i, g in enumerate(gradients)]),
        ]
        return [(h, share) for h, share in shares if any(share[i] is not None for i in plan.leaves)]

    # ---- the parameters' values ----------------------------------------------------------

    def leaf_values(self, values: list) -> list:
        """Return the leaves of the parameters' values, which form the trees that they formed."""
        flat: list = []
        for name, value in zip(self.manager.names, values, strict=True):
            leaves, tree = flat_values(value)
            was = self.leaves[len(flat)].tree if len(flat) < len(self.leaves) else None
            if tree != was:
                raise TypeError(
                    f'parameter {name!r} was registered as the tree {was} and is {tree} now; its '
                    f'moments no longer fit.'
                )
            flat += leaves
        return flat

    def checked_values(self, values: list) -> list:
        """Return those leaves, or raise if they are not of the kind that was registered."""
        flat = self.leaf_values(values)
        for leaf, value in zip(self.leaves, flat, strict=True):
            leaf.check_dtype(value)
            leaf.check_shape(value)
            leaf.check_unit(value)
        return flat

    def check_shapes(self, values: list) -> None:
        """Raise if they have other shapes than they came with, where nothing maps over them."""
        for leaf, value in zip(self.leaves, self.leaf_values(values), strict=True):
            leaf.check_shape(value)


def masters_in(state: Any, plan: GroupPlan) -> list:
    """Return the masters in the state of a group's chain, None for leaves that need none."""
    masters = plan.flat(state[-1].master)
    return [master if master.size else None for master in masters]


def own_copies(state: Any, borrowed: Sequence) -> Any:
    """Return a chain's state without the very arrays that are somebody else's."""
    known = set(map(id, borrowed))
    return jax.tree.map(lambda x: jnp.copy(x) if id(x) in known else x, state)


def _flat_updates(plan: GroupPlan, made: Any, owner: str) -> list:
    """Return what a chain made of each leaf; raise if it returned another tree."""
    try:
        return plan.flat(made)
    except ValueError:
        raise TypeError(
            f'the chain of {owner} returned updates of another structure than its gradients: '
            f'{plan.treedef} became {jax.tree.structure(made)}.'
        ) from None


def _in_old_dtypes(new: Any, old: Any, owner: str) -> Any:
    """Return a chain's new state with the dtypes of the old one; raise if its shape changed."""
    leaves, treedef = jax.tree.flatten(new)
    old_leaves = jax.tree.leaves(old)
    old_treedef: Any = jax.tree.structure(old)
    shapes, old_shapes = [jnp.shape(x) for x in leaves], [jnp.shape(x) for x in old_leaves]
    if old_treedef != treedef or shapes != old_shapes:
        raise TypeError(
            f'the chain of {owner} returned a state of another structure than it was given: '
            f'{old_treedef} with shapes {old_shapes} became {treedef} with shapes {shapes}.'
        )
    return jax.tree.unflatten(
        treedef,
        [
            n if n is o else jax.lax.convert_element_type(n, jnp.result_type(o))
            for n, o in zip(leaves, old_leaves, strict=True)
        ],
    )
