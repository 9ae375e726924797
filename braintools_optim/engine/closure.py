"""A step that evaluates functions of the user's as often as it needs, as torch's ``step(closure)``.

Inside a trace it is inlined. Outside it is one compiled program, for every function and what it
refers to, over the values of all States that are read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import brainstate
import jax
import jax.numpy as jnp
from brainstate.transform import StatefulFunction

from .clip import clipped
from .compiled import CONFIG, matmul_precision, split_extra
from .computation import StepInput, own_copies
from .finite import all_finite, where_true
from .gradient import refuse_non_arrays
from .leaf import regrouped, without_unit
from .loss import noted
from .meaning import Meaning, Place
from .objective import ClosureObjective
from .observe import traced
from .own_state import next_step_count
from .view import GroupView
from .writing import write_all

if TYPE_CHECKING:
    from .step import Stepper

__all__ = ['ClosureSteps', 'step_by_closure', 'step_with_functions']

_REMEMBERED = 16  # closures, each with the arrays that it encloses, and compiled programs


class ClosureSteps:
    """What an optimizer has compiled of such steps."""

    def __init__(self) -> None:
        self.compiled: dict[Any, CompiledStep] = {}  # by what closures mean
        self.alike: dict[bytes, Any] = {}  # by what XLA is told: the programs of these

    def apart(self) -> dict[Place, Any]:
        """Return the places into which closures write, with the objects that they are in."""
        return {k: x for step in self.compiled.values() for k, x in step.meaning.met.items()}


Descend = Callable[..., tuple[Any, Any]]
"""``(h, chain, value_fn, params, state, value, grads)`` to new parameters and a new state."""


def step_by_closure(stepper: Stepper, closure: Callable[[], Any], descend: Descend) -> Any:
    """Take one step on what a closure computes; return its loss where the step begins."""

    computed = noted(f'the closure given to {type(stepper.optimizer).__name__}.step', closure)

    def take() -> Any:
        return _take(stepper, computed, descend)

    return take() if traced() else _compiled_once(stepper, take, closure)


def step_with_functions(stepper: Stepper, grads: Any, extra: dict[str, Any]) -> None:
    """Take one step on gradients whose chain evaluates functions that are among ``extra``."""
    refuse_non_arrays(grads)
    arrays, static = split_extra(extra)

    def take(grads: Any, arrays: dict[str, Any]) -> None:
        stepper.run(grads, {**arrays, **dict(static)})

    _compiled_once(stepper, take, static, grads, arrays)


def _compiled_once(stepper: Stepper, take: Callable[..., Any], means: Any, *args: Any) -> Any:
    """Run ``take`` in a program, the one of before if the same was meant then."""
    settings = sorted(brainstate.environ.all().items(), key=itemgetter(0))
    means = means, matmul_precision(), *settings
    known = stepper.closures
    apart = known.apart()
    meaning = Meaning(means, apart)
    program = known.compiled.pop(meaning.key, None)
    if program is None:
        program = CompiledStep(stepper, take)
        result = program(*args)
        traced_once = Meaning(means, apart)
        if traced_once.key != meaning.key:  # what it writes into, such as a list of losses
            meaning = Meaning(means, apart | traced_once.written_since(meaning))
        program.meaning = meaning  # kept alive, since objects are known by their addresses
    else:
        result = program(*args)
    _remember(known.compiled, meaning.key, program)
    return result


_OF_PYTHON = 'callback', 'host_transfer'
"""Words in XLA's language for functions of Python that a program calls."""


class CompiledStep:
    """A step as a compiled program, which is made anew when States or arguments change type."""

    meaning: Meaning

    def __init__(self, stepper: Stepper, take: Callable[..., Any]):
        self.stepper = stepper
        self.function = StatefulFunction(take)
        self.jaxpr: Any = None

    def __call__(self, *args: Any) -> Any:
        values = [param.value for param in self.stepper.params]
        self.stepper.computation.check_shapes(values)
        function = self.function.make_jaxpr(*args)
        jaxpr = function.get_jaxpr(*args)
        if jaxpr is not self.jaxpr:
            self.states = function.get_states(*args)
            written = function.get_write_states(*args)
            self.written = [any(s is w for w in written) for s in self.states]
            self.out_tree: Any = jax.tree.structure(function.get_out_shapes(*args))
            self.program = None
            self.jaxpr = jaxpr
        values = [state.value for state in self.states]
        if CONFIG.jax_disable_jit:
            new, loss = function.jaxpr_call(values, *args)
        else:
            leaves = jax.tree.leaves((args, values))
            if self.program is None:
                self.program = _program_of(jaxpr, leaves, self.stepper.closures.alike)
                # NumPy's arrays are copied: they are known by what is in them now.
                self.constants = [
                    x if isinstance(x, jax.Array) else jnp.array(x) for x in jaxpr.consts
                ]
            loss, new = self.out_tree.unflatten(self.program(self.constants, *leaves))
        given = zip(self.states, new, self.written, strict=True)
        write_all([(state, value) for state, value, written in given if written])
        return loss


def _program_of(jaxpr: Any, leaves: list, known: dict[bytes, Any]) -> Any:
    """Return a compiled function of a jaxpr's constants and arguments.

    That is the one of before if both are the same in XLA's language: a closure over the next batch
    computes the same of other constants.
    """
    program = jax.jit(partial(jax.core.eval_jaxpr, jaxpr.jaxpr), keep_unused=True)
    text = program.lower(jaxpr.consts, *leaves).as_text()
    several = jax.device_count() > 1
    if any(word in text for word in _OF_PYTHON) or (several and 'sharding' in text):
        return program  # it does not say which functions, or devices, it is for
    types = [*map(jax.typeof, jaxpr.consts), *jaxpr.in_avals, *jaxpr.out_avals]  # of random keys
    key = hashlib.blake2b(f'{types} {text}'.encode()).digest()
    program = known.pop(key, program)
    _remember(known, key, program)
    return program


def _remember(known: dict, key: Any, value: Any) -> None:
    """Put a value last, and forget those that were not needed for long."""
    known[key] = value
    while len(known) > _REMEMBERED:
        del known[next(iter(known))]


def _take(stepper: Stepper, closure: Callable[[], Any], descend: Descend) -> Any:
    objective = ClosureObjective(closure, stepper)
    values = [param.value for param in stepper.params]
    others = [state.value for state in objective.others]
    (packed,), count = stepper.core.value
    loss, written, chain, moved = _compute(stepper, objective, descend, values, others, packed.tree)
    targets = [s for s, writes in zip(objective.others, objective.writes, strict=True) if writes]
    write_all(
        [
            *((p, v) for p, v in zip(stepper.params, moved, strict=True) if v is not None),
            *zip(targets, written, strict=True),
            (stepper.core, ((packed.like(chain),), next_step_count(count))),
        ]
    )
    return loss


@jax.numpy_dtype_promotion('standard')
def _compute(
    stepper: Stepper,
    objective: ClosureObjective,
    descend: Descend,
    values: list,
    others: list,
    state: Any,
) -> tuple[Any, list, Any, list]:
    """Return the first loss, what its evaluation wrote, the chain's state and new parameters.

    All later evaluations see the States as the first one found them: random numbers are the same
    in all, so that the step minimizes one function, and running means count the step once.
    """
    optimizer, computation = stepper.optimizer, stepper.computation
    leaves, (plan,) = computation.leaves, computation.plans
    numbers = optimizer._table.unpack(stepper.numbers.value)
    view = GroupView(computation, plan, values, numbers)
    old = computation.leaf_values(values)
    read = [objective.reads(stepper.params[leaf.state]) for leaf in leaves]

    def evaluate(arrays: list) -> tuple[Any, Any]:
        given = [
            old_value if x is None else leaf.decode(x, old_value)
            for leaf, x, old_value in zip(leaves, arrays, old, strict=True)
        ]
        loss, written = objective(regrouped(values, given), others)
        return view.sign * without_unit(loss), (loss, written)

    arrays = [
        leaf.encode(v) if seen else None for leaf, v, seen in zip(leaves, old, read, strict=True)
    ]
    (value, (loss, written)), grads = jax.value_and_grad(evaluate, has_aux=True)(arrays)
    finite = all_finite([value, *grads]) if optimizer.skip_nonfinite else None
    gradients = clipped(grads, numbers[0])
    value_fn = view.objective(lambda given: objective(given, others)[0])
    h = plan.group.hyper(numbers[plan.group.index])

    def run(chain: Any, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        return descend(h, chain, value_fn, params, state, value, grads)

    after, next_state = computation.run_chain(
        StepInput(old, numbers), plan, h, state, gradients, run
    )
    state = own_copies(
        where_true(finite, next_state, state), [*old, *jax.tree.leaves((others, loss, written))]
    )
    new = list(old)
    for i, x in zip(plan.leaves, after, strict=True):
        if gradients[i] is not None:
            new[i] = leaves[i].moved(x, old[i])
    return loss, written, state, regrouped(values, where_true(finite, new, old), gradients)
