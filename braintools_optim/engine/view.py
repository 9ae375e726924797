"""What the chain of one group sees in one step, in place of what users hold.

Users write functions of the parameters' values, and give gradients under the parameters' keys. A
chain sees real arrays in the tree of its group, and minimizes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

import jax

from ..paths import nest
from ..transforms.absent import is_masked
from .clip import clipped, signed_and_bounded
from .gradient import match_gradients
from .leaf import all_leaves, regrouped, without_unit

if TYPE_CHECKING:
    from .computation import Computation
    from .plan import GroupPlan

__all__ = ['GroupView']


@dataclass(frozen=True)
class GroupView:
    """What the chain of one group sees in one step."""

    computation: Computation
    plan: GroupPlan
    values: list[Any]  # of the States, as users hold them
    numbers: list[dict[str, Any]]  # of every group

    @property
    def sign(self) -> float:
        """One, or minus one where the group climbs."""
        return -1.0 if self.plan.group.flags['maximize'] else 1.0

    @property
    def differs(self) -> bool:
        """Whether the loss or the parameters look other to the chain than to users."""
        return self.sign < 0 or any(self.computation.leaves[i].differs for i in self.plan.leaves)

    def of_loss(self, extra: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a step is given of the loss, by optax's names, as the chain sees it."""
        seen: dict[str, Any] = {}
        if extra.get('value') is not None:
            seen['value'] = self.sign * without_unit(extra['value'])
        if extra.get('grad') is not None:
            seen['grad'] = self.gradients(extra['grad'])
        several = len(self.numbers) > 1  # of which each has a part of what the loss is made of
        if not several and callable(value_fn := extra.get('value_fn')):
            paths = self.computation.manager.unique_paths

            @wraps(value_fn, updated=())  # whose arguments it takes
            def objective(tree: Any, **more: Any) -> Any:
                return self.objective(lambda held: value_fn(nest(paths, held), **more))(tree)

            seen['value_fn'] = objective
        return seen

    def gradients(self, grads: Any) -> Any:
        """Return gradients that users give as the chain sees those that it is run on."""
        computation = self.computation
        old = computation.leaf_values(self.values)
        gradients = match_gradients(grads, old, computation.manager, computation.leaves)
        return self.plan.tree(
            signed_and_bounded(gradients, computation.climbing(), self.numbers[0])
        )

    def objective(self, f: Callable[[list[Any]], Any]) -> Callable[[Any], Any]:
        """Return a function of the States' values as one to minimize of the chain's tree.

        Its gradients are clipped as those are that users give.
        """

        def value_fn(tree: Any) -> Any:
            return self.sign * without_unit(f(self._values_with(tree)))

        if not {'grad_clip_norm', 'grad_clip_value'} & set(self.numbers[0]):
            return value_fn
        bounded = jax.custom_vjp(value_fn)

        def forward(tree: Any) -> tuple[Any, Any]:
            value, grads = jax.value_and_grad(value_fn)(tree)
            gradients: list[Any] = [None] * len(self.computation.leaves)
            for i, g in zip(self.plan.leaves, self.plan.flat(grads), strict=True):
                gradients[i] = None if is_masked(g) else g
            return value, self.plan.tree(clipped(gradients, self.numbers[0]))

        def backward(grads: Any, factor: Any) -> tuple[Any]:
            return (jax.tree.map(lambda g: (factor * g).astype(g.dtype), grads),)

        bounded.defvjp(forward, backward)
        return bounded

    def _values_with(self, tree: Any) -> list[Any]:
        """Return the values of the States with the arrays of a chain's tree in their places."""
        new = all_leaves(self.values)
        for i, array in zip(self.plan.leaves, self.plan.flat(tree), strict=True):
            if not is_masked(array):
                new[i] = self.computation.leaves[i].decode(array, new[i])
        return regrouped(self.values, new)
