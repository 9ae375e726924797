"""A step that evaluates the objective as often as it needs, as torch's ``step(closure)``.

Inside a trace it is inlined. Outside it is one compiled program, for every closure and what it
refers to, over the values of all States that are read.
"""

from __future__ import annotations

import dis
from collections.abc import Callable, Hashable
from functools import cache
from types import CellType, CodeType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any

import jax
from brainstate.transform import StatefulFunction

from .hyper import Hyper
from .objective import ClosureObjective, GroupView, number_of
from .observe import traced
from .step import flattened, next_count, own_copies, regrouped, write_all

if TYPE_CHECKING:
    from .step import Stepper

__all__ = ['step_by_closure']

_CONSTANTS = frozenset([int, float, bool, str, bytes, type(None)])
_REMEMBERED = 16  # compiled programs: a closure over new arrays in each call needs a new one


def step_by_closure(stepper: Stepper, closure: Callable[[], Any]) -> Any:
    """Take one step on what a closure computes; return its loss where the step begins."""
    if traced():
        return _take(stepper, closure)
    meaning: list[Any] = []
    key = _meaning(closure, meaning)
    program = stepper.closures.pop(key, None) or CompiledStep(stepper, closure, meaning)
    loss = program()
    stepper.closures[key] = program  # the latest is the last
    while len(stepper.closures) > _REMEMBERED:
        del stepper.closures[next(iter(stepper.closures))]
    return loss


class CompiledStep:
    """The step on one closure as a compiled program, which is made anew when States change type."""

    def __init__(self, stepper: Stepper, closure: Callable[[], Any], meaning: list[Any]):
        self.stepper = stepper
        self.meaning = meaning  # kept alive, since it is known by its address
        self.function = StatefulFunction(lambda: _take(stepper, closure))
        self.jaxpr: Any = None

    def __call__(self) -> Any:
        values = [param.value for param in self.stepper.params]
        for leaf, value in zip(self.stepper.leaves, flattened(values), strict=True):
            leaf.check_shape(value)
        function = self.function.make_jaxpr()
        jaxpr = function.get_jaxpr()
        if jaxpr is not self.jaxpr:
            self.states, written = function.get_states(), function.get_write_states()
            self.written = [any(s is w for w in written) for s in self.states]
            self.compiled = jax.jit(function.jaxpr_call)
            self.jaxpr = jaxpr
        new, loss = self.compiled([state.value for state in self.states])
        given = zip(self.states, new, self.written, strict=True)
        write_all([(state, value) for state, value, written in given if written])
        return loss


def _take(stepper: Stepper, closure: Callable[[], Any]) -> Any:
    objective = ClosureObjective(closure, stepper)
    values = [param.value for param in stepper.params]
    others = [state.value for state in objective.others]
    chains, count = stepper.core.value
    loss, written, chain, moved = _compute(stepper, objective, values, others, chains[0])
    targets = [s for s, writes in zip(objective.others, objective.writes, strict=True) if writes]
    write_all(
        [
            *((p, v) for p, v in zip(stepper.params, moved, strict=True) if v is not None),
            *zip(targets, written, strict=True),
            (stepper.core, ((chain,), next_count(count))),
        ]
    )
    return loss


def _compute(
    stepper: Stepper, objective: ClosureObjective, values: list, others: list, state: Any
) -> tuple[Any, list, Any, list]:
    """Return the first loss, what its evaluation wrote, the chain's state and new parameters.

    All later evaluations see the States as the first one found them: random numbers are the same
    in all, so that the step minimizes one function, and running means count the step once.
    """
    optimizer, leaves = stepper.optimizer, stepper.leaves
    ((group,), (plan,)) = stepper.groups, stepper.plans
    numbers = optimizer._table.unpack(stepper.numbers.value)
    view = GroupView(stepper, group, plan, values, numbers)
    old = flattened(values)
    read = [objective.reads(stepper.params[leaf.state]) for leaf in leaves]

    def evaluate(arrays: list) -> tuple[Any, Any]:
        given = [
            old_value if x is None else leaf.decode(x, old_value)
            for leaf, x, old_value in zip(leaves, arrays, old, strict=True)
        ]
        loss, written = objective(regrouped(values, given), others)
        return view.sign * number_of(loss), (loss, written)

    arrays = [
        leaf.encode(v) if seen else None for leaf, v, seen in zip(leaves, old, read, strict=True)
    ]
    (value, (loss, written)), grads = jax.value_and_grad(evaluate, has_aux=True)(arrays)
    found = stepper._clipped(grads, numbers[0])
    value_fn = view.objective(lambda held: objective(held, others)[0])
    own = {name: numbers[group.index][name] for name in optimizer._numbers}
    h = Hyper(own, group.flags, group.unused)

    def run(chain: Any, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        return optimizer._descend(h, chain, value_fn, params, state, value, grads)

    after, state = stepper.run_chain(group, plan, h, state, found, old, run)
    state = own_copies(state, [*old, *jax.tree.leaves((others, loss, written))])
    new = list(old)
    for i, x in zip(plan.leaves, after, strict=True):
        if found[i] is not None:
            new[i] = leaves[i].decode(x, old[i])
    return loss, written, state, regrouped(values, new, found)


def _meaning(x: Any, kept: list[Any]) -> Hashable:
    """Return a key that two closures share if they are one code that refers to the same objects.

    What it refers to, by names that it encloses or global ones, and so on through the functions of
    its module, is kept for the addresses to last. What it assigns to itself, as a counter, is no
    part of its meaning.
    """
    if type(x) in _CONSTANTS:
        return type(x), x
    known = any(x is y for y in kept)
    kept.append(x)
    if isinstance(x, MethodType) and not known:
        return id(x.__self__), _meaning(x.__func__, kept)
    if not isinstance(x, FunctionType) or known:
        return id(x)
    read, assigned = _names(x.__code__)
    known_names = [name for name in read if name in x.__globals__ and name not in assigned]
    parts = [x.__globals__[name] for name in known_names]
    parts += [*(x.__defaults__ or ()), *(x.__kwdefaults__ or {}).values()]
    cells = zip(x.__code__.co_freevars, x.__closure__ or (), strict=True)
    parts += [c.cell_contents for n, c in cells if n not in assigned and c != CellType()]
    keys = []
    for part in parts:
        foreign = isinstance(part, FunctionType) and part.__globals__ is not x.__globals__
        keys.append(id(part) if foreign else _meaning(part, kept))
        kept.append(part)
    return x.__code__, *keys


@cache
def _names(code: CodeType) -> tuple[dict[str, None], set[str]]:
    """Return the names that code reads beyond its own, in order, and those that it assigns."""
    read, assigned = dict.fromkeys(code.co_names), set()
    for instruction in dis.get_instructions(code):
        if instruction.opname in ('STORE_GLOBAL', 'STORE_DEREF'):
            assigned.add(str(instruction.argval))
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            more, stored = _names(inner)
            read |= more
            assigned |= stored
    return read, assigned
