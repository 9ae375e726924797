"""Taking a step: compute everything, then write everything.

Outside any trace a :class:`Computation` runs as one compiled program that reuses the buffers of the
optimizer state; inside a trace it is inlined.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
from brainstate import State

from ..sharding import beside, copies, on_one_device, placed_alike
from .accumulate import TURN, turn_of
from .buffers import refuse_deleted
from .closure import ClosureSteps
from .compiled import computes_twice, split_extra
from .computation import Computation
from .donating import StepArguments, StepPrograms, call_kind
from .gradient import refuse_non_arrays
from .observe import any_hooks, is_plain, traced
from .own_state import next_step_count
from .writing import write_all

if TYPE_CHECKING:
    from ..optimizer import OptaxOptimizer

__all__ = ['Stepper']


class Stepper:
    """The step of one optimizer, for its present parameters and groups."""

    def __init__(self, optimizer: OptaxOptimizer):
        self.optimizer = optimizer
        self.computation = Computation.of(optimizer)
        self.params: list[State] = optimizer.param_states.unique_states
        self.core = optimizer._core
        self.numbers = optimizer._table.state
        states = [*self.params, self.core, self.numbers]
        self.hooks = [s.hooks for s in states]
        self.accumulate_steps = optimizer.accumulate_steps
        self.plain = all(is_plain(type(s)) for s in self.params)
        # Where States keep their values: writing there costs a tenth of setting an attribute.
        self.param_vars = [s.__dict__ for s in self.params]
        for param in self.param_vars:
            param['_been_writen'] = True
        self.donating = StepPrograms(self.computation)
        self.keeping: dict[Any, Any] = {}  # by extra arguments: jitted, donating nothing
        self.closures = ClosureSteps()

    def run(self, grads: Any, extra: dict[str, Any]) -> None:
        """Take one step, by the fastest road on which nobody misses a read or write.

        Nothing is donated under settings with which JAX runs a computation again on its arguments.
        """
        if self.accumulate_steps > 1:
            extra = {TURN: turn_of(self.core.count, self.accumulate_steps)}
        if traced():
            self._run_observed(self.computation.compute, grads, extra)
        elif self.plain and not any_hooks(self.hooks) and not computes_twice():
            self._run_donating(grads, extra)
        else:
            self._run_observed(self._keep, grads, extra)

    def _run_donating(self, grads: Any, extra: dict[str, Any]) -> None:
        held = self.core.may_be_held
        leaves, treedef, count = self.core.parts()
        if held:  # whoever holds arrays of the state keeps them
            leaves = self._copied(leaves)
        arrays, static = split_extra(extra) if extra else (extra, ())
        values = [param['_value'] for param in self.param_vars]
        args = StepArguments(values, leaves, self.numbers.given_out(), grads, arrays)
        count = next_step_count(count)
        result: list = []
        try:
            kind = call_kind(static, treedef, args)
            self.donating.run_known(kind, args, result)
            if not result:
                if self.follow_parameters():
                    self._run_donating(grads, extra)
                    return
                self.donating.run(kind, args, held, result)
            self._store(treedef, count, *result[0])
        except BaseException:
            # The old state was donated, so the only whole state is the new one. An interrupt may
            # come while it is stored, too.
            if result:
                self._store(treedef, count, *result[0])
            raise

    def follow_parameters(self) -> bool:
        """Bring the state to where parameters were put after they were registered.

        Return whether it moved.
        """
        values = [param.value for param in self.params]
        packed, count = self.core.value
        if on_one_device((values, packed)):
            return False
        leaves, old = self.computation.leaves, self.computation.leaf_values(values)
        arrays = {x.path: x.encode(value) for x, value in zip(leaves, old, strict=True)}
        before, everything = [one.tree for one in packed], list(arrays.values())
        after = [
            beside(tree, {leaves[i].path: arrays[leaves[i].path] for i in plan.leaves}, everything)
            for tree, plan in zip(before, self.computation.plans, strict=True)
        ]
        if placed_alike(before, after):
            return False
        moved = tuple(one.unpacked(tree) for one, tree in zip(packed, after, strict=True))
        self.core.value = moved, beside(count, arrays, everything)
        return True

    def _copied(self, leaves: list) -> list:
        refuse_deleted([(f'the state of {type(self.optimizer).__name__}', leaves)])
        return copies(leaves)

    def _store(self, treedef: Any, count: Any, leaves: list, values: list) -> None:
        for param, value in zip(self.param_vars, values, strict=True):
            if value is not None:
                param['_value'] = value
        self.core.put_parts(leaves, treedef, count)

    def _keep(self, values: list, packed: tuple, vector: Any, grads: Any, extra: dict) -> Any:
        """Compute in one program without donating: somebody may look at the old values."""
        refuse_non_arrays(grads)
        arrays, static = split_extra(extra)
        if static not in self.keeping:
            self.keeping[static] = jax.jit(
                lambda v, c, n, g, a: self.computation.compute_alone(
                    v, c, n, g, {**a, **dict(static)}
                )
            )
        return self.keeping[static](values, packed, vector, grads, arrays)

    def _run_observed(self, compute: Any, grads: Any, extra: dict[str, Any]) -> None:
        self.core.refuse_several()
        values = [param.value for param in self.params]
        packed, count = self.core.value
        packed, moved = compute(values, packed, self.numbers.value, grads, extra)
        changes = [(p, v) for p, v in zip(self.params, moved, strict=True) if v is not None]
        write_all([*changes, (self.core, (packed, next_step_count(count)))])
