"""A closure without arguments, which reads States, as a function of their values."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from brainstate.transform import StatefulFunction

from .loss import check_loss

if TYPE_CHECKING:
    from .step import Stepper

__all__ = ['ClosureObjective']


class ClosureObjective:
    """A closure, which reads States, as a pure function of their values."""

    def __init__(self, closure: Callable[[], Any], stepper: Stepper):
        self.owner = type(stepper.optimizer).__name__
        self.function = StatefulFunction(closure, name='closure').make_jaxpr()
        self.states = self.function.get_states()
        written = set(map(id, self.function.get_write_states()))
        check_loss(f'the closure given to {self.owner}.step', self.function.get_out_shapes()[0])
        names = stepper.computation.manager.names
        self.parameters = {id(s): i for i, s in enumerate(stepper.params)}
        self.others = [s for s in self.states if id(s) not in self.parameters]
        self.writes = [id(s) in written for s in self.others]
        if not any(id(s) in self.parameters for s in self.states):
            raise ValueError(
                f'the closure given to {self.owner}.step reads none of its parameters; it must '
                f'compute the loss from them: {", ".join(names)}.'
            )
        own = {id(stepper.core): 'the state of the optimizer itself'}
        own |= {id(s): n for s, n in zip(stepper.params, names, strict=True)}
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
