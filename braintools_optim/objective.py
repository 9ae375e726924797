"""The function that an optimizer minimizes, from what users write to what a chain can evaluate.

Users write a function of the parameters' values, or a closure without arguments that reads States.
A chain sees real arrays in the tree of its group, and minimizes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from brainstate.transform import StatefulFunction
from saiunit import Quantity

from .clip import clipped
from .leaf import flat_values
from .slot import is_masked
from .step import regrouped

if TYPE_CHECKING:
    from .groups import ParamGroup
    from .step import GroupPlan, Stepper

__all__ = ['ClosureObjective', 'GroupView', 'number_of']


@dataclass(frozen=True)
class GroupView:
    """What the chain of one group sees in one step."""

    stepper: Stepper
    group: ParamGroup
    plan: GroupPlan
    values: list[Any]  # of the States, as users hold them
    numbers: list[dict[str, Any]]  # of every group

    def held(self, tree: Any) -> list[Any]:
        """Return the values of the States with the arrays of a chain's tree in their places."""
        new = [x for value in self.values for x in flat_values(value)[0]]
        arrays = self.plan.treedef.flatten_up_to(tree)
        for i, array in zip(self.plan.leaves, arrays, strict=True):
            if not is_masked(array):
                new[i] = self.stepper.leaves[i].decode(array, new[i])
        return regrouped(self.values, new)

    @property
    def sign(self) -> float:
        """One, or minus one where the group climbs."""
        return -1.0 if self.group.flags['maximize'] else 1.0

    def objective(self, f: Callable[[list[Any]], Any]) -> Callable[[Any], Any]:
        """Return a function of the States' values as one to minimize of the chain's tree.

        Its gradients are clipped as those are that users give.
        """

        def value_fn(tree: Any) -> Any:
            return self.sign * number_of(f(self.held(tree)))

        if not {'grad_clip_norm', 'grad_clip_value'} & set(self.numbers[0]):
            return value_fn
        bounded = jax.custom_vjp(value_fn)

        def forward(tree: Any) -> tuple[Any, Any]:
            value, grads = jax.value_and_grad(value_fn)(tree)
            found: list[Any] = [None] * len(self.stepper.leaves)
            for i, g in zip(self.plan.leaves, self.plan.treedef.flatten_up_to(grads), strict=True):
                found[i] = None if is_masked(g) else g
            found = clipped(found, self.numbers[0])
            return value, jax.tree.unflatten(jax.tree.structure(grads), self._present(found))

        def backward(grads: Any, factor: Any) -> tuple[Any]:
            return (jax.tree.map(lambda g: (factor * g).astype(g.dtype), grads),)

        bounded.defvjp(forward, backward)
        return bounded

    def _present(self, found: Sequence[Any]) -> list[Any]:
        return [found[i] for i in self.plan.leaves if found[i] is not None]


class ClosureObjective:
    """A closure, which reads States, as a pure function of their values."""

    def __init__(self, closure: Callable[[], Any], stepper: Stepper):
        self.owner = type(stepper.optimizer).__name__
        self.function = StatefulFunction(closure, name='closure').make_jaxpr()
        self.states = self.function.get_states()
        written = set(map(id, self.function.get_write_states()))
        self._check_loss(self.function.get_out_shapes()[0])
        self.parameters = {id(s): i for i, s in enumerate(stepper.params)}
        self.others = [s for s in self.states if id(s) not in self.parameters]
        self.writes = [id(s) in written for s in self.others]
        if not any(id(s) in self.parameters for s in self.states):
            raise ValueError(
                f'the closure given to {self.owner}.step reads none of its parameters; it must '
                f'compute the loss from them: {", ".join(stepper.manager.names)}.'
            )
        own = {id(stepper.core): 'the state of the optimizer itself'}
        own |= {id(s): n for s, n in zip(stepper.params, stepper.manager.names, strict=True)}
        for state in self.states:
            if id(state) in written and id(state) in own:
                raise ValueError(
                    f'the closure given to {self.owner}.step writes {own[id(state)]}; it may only '
                    f'compute the loss, the step updates the parameters.'
                )

    def reads(self, state: Any) -> bool:
        """Whether the loss may depend on a State."""
        return any(s is state for s in self.states)

    def __call__(self, params: list[Any], others: list[Any]) -> tuple[Any, list[Any]]:
        """Return the loss, and the new values of the other States that the closure writes."""
        rest = iter(others)
        given = [
            params[self.parameters[id(s)]] if id(s) in self.parameters else next(rest)
            for s in self.states
        ]
        after, loss = self.function.jaxpr_call(given)
        there = [v for s, v in zip(self.states, after, strict=True) if id(s) not in self.parameters]
        return loss, [v for v, written in zip(there, self.writes, strict=True) if written]

    def _check_loss(self, loss: Any) -> None:
        number = number_of(loss)
        shape = getattr(number, 'shape', None)
        if shape != () or not jnp.issubdtype(number.dtype, jnp.floating):
            came = type(loss).__name__ if shape is None else f'{number.dtype}{list(shape)}'
            raise TypeError(
                f'the closure given to {self.owner}.step must return the loss, a real scalar, '
                f'got {came}.'
            )


def number_of(loss: Any) -> Any:
    """Return a loss without its unit."""
    return loss.mantissa if isinstance(loss, Quantity) else loss
