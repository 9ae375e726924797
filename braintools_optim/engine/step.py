"""Taking a step: compute everything, then write everything.

Outside any trace a :class:`Computation` runs as one compiled program that reuses the buffers of the
optimizer state; inside a trace it is inlined.
"""

from __future__ import annotations

from functools import partial
from itertools import starmap
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from brainstate import State

from ..sharding import own_buffers, replicated_beside
from ..transforms.mesh import mesh_of, named_sharding
from .accumulate import TURN, turn_of
from .buffers import refuse_deleted
from .chunks import Chunks, are_many
from .compiled import NUMBERS, computes_twice, entry_of, matmul_precision, signature_of
from .computation import Computation
from .gradient import refuse_non_arrays
from .observe import any_hooks, is_plain, traced
from .own_state import next_step_count
from .writing import write_all

if TYPE_CHECKING:
    from ..optimizer import OptaxOptimizer

__all__ = ['Stepper', 'split_extra']

_CONTAINERS = frozenset([dict, list, tuple])


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
        # The kind of arguments is what is found out of them in no time; their signature is all that
        # a program depends on.
        self.programs: dict[Any, Any] = {}  # by signature: compiled, donating the chain states
        self.entries: dict[Any, Any] = {}  # by kind: the entry of the program that ran last
        self.last_entry: Any = None  # that of the last step
        self.last_kind: Any = None  # the kind of its arguments
        self.met: set[Any] = set()  # signatures for which an entry needs no Python any more
        self.chunked: dict[Any, Chunks | None] = {}  # by signature: the calls, None where not cut
        self.chunks: dict[Any, Chunks] = {}  # by kind: those that ran last
        self.keeping: dict[Any, Any] = {}  # by extra arguments: jitted, donating nothing
        self.closures: dict[Any, Any] = {}  # by what closures mean: compiled steps on them
        self.alike: dict[bytes, Any] = {}  # by what XLA is told: the programs of these
        self.written: dict[int, Any] = {}  # by id: objects into which closures write

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
        vector = self.numbers.given_out()
        args = (values, leaves, vector, grads, arrays)
        count = next_step_count(count)
        result: list = []
        try:
            kind = static, treedef, type(vector), _first_leaf_type(grads), matmul_precision()
            if self.chunks and not extra and (chunks := self.chunks.get(kind)) is not None:
                chunks.run(args, result)
            entry = self.last_entry if kind == self.last_kind else self.entries.get(kind)
            if entry is not None and not result:
                self.last_entry, self.last_kind = entry, kind
                try:
                    # The results are in the list before Python can look for an interrupt.
                    result.extend(starmap(entry, (args,)))
                except (TypeError, ValueError):  # made for other gradients: nothing has run
                    pass
                except RuntimeError:
                    self._refuse_deleted(args)
                    raise
            if not result:
                if self.follow_parameters():
                    self._run_donating(grads, extra)
                    return
                self._run_checked(kind, args, held, result)
            self._store(treedef, count, *result[0])
        except BaseException:
            if result:  # the old state was donated: the only whole state is the new one
                self._store(treedef, count, *result[0])
            raise

    def follow_parameters(self) -> bool:
        """Bring the state onto the mesh on which parameters were put after they were registered.

        Return whether it moved.
        """
        values = [param.value for param in self.params]
        packed, count = self.core.value
        there = map(named_sharding, jax.tree.leaves(packed))
        if mesh_of(jax.tree.leaves(values)) is None or all(there):
            return False
        leaves, old = self.computation.leaves, self.computation.leaf_values(values)
        arrays = {x.path: x.encode(value) for x, value in zip(leaves, old, strict=True)}
        moved = []
        for one, plan in zip(packed, self.computation.plans, strict=True):
            members = {leaves[i].path: arrays[leaves[i].path] for i in plan.leaves}
            moved.append(one.unpacked(own_buffers(one.tree, members)))
        self.core.value = tuple(moved), replicated_beside(count, list(arrays.values()))
        return all(map(named_sharding, jax.tree.leaves(moved)))

    def _run_checked(self, kind: tuple, args: tuple, held: bool, result: list) -> None:
        """Run where no entry is known for these arguments, and keep that for the next.

        ``held`` says that somebody may hold the state, so that what is donated are copies.
        """
        refuse_non_arrays(args[3])
        self._refuse_deleted(args)
        self.computation.leaf_values(args[0])  # raises if a parameter is another tree now
        signature = (kind, *signature_of(args))
        if self._run_chunks(signature, args, result):
            return
        program = self._program(signature, args)
        entry = entry_of(program)
        if entry is None or signature not in self.met:
            # A call through Python code, where an interrupt could lose the results after the
            # donated buffers are gone: donate copies.
            values, leaves, *others = args
            args = (values, leaves if held else list(map(jnp.copy, leaves)), *others)
            result.append(program(*args))
            self.met.add(signature)
        else:
            result.extend(starmap(entry, (args,)))
        if (entry := entry_of(program)) is not None:
            self.entries[kind] = self.last_entry = entry
            self.last_kind = kind

    def _run_chunks(self, signature: tuple, args: tuple, result: list) -> bool:
        """Run in several calls if the step is cut for these arguments; return whether it is."""
        kind, *types = signature
        static, treedef, *_ = kind
        if static or args[4] or not are_many(self.computation.leaves):
            return False
        known = tuple(types)
        if known not in self.chunked:
            self.chunked[known] = Chunks.of(self.computation, treedef, args)
        if (chunks := self.chunked[known]) is None or not chunks.run(args, result):
            return False
        self.chunks[kind] = chunks
        return True

    def _program(self, signature: tuple, args: tuple) -> Any:
        """Return the compiled program for these arguments."""
        (static, treedef, *_), *types = signature
        key = (static, *types)
        if key not in self.programs:
            jitted = jax.jit(partial(self._flat, treedef, static), donate_argnums=1)
            self.programs[key] = jitted.lower(*args).compile()
        return self.programs[key]

    def _copied(self, leaves: list) -> list:
        refuse_deleted([(f'the state of {type(self.optimizer).__name__}', leaves)])
        return list(map(jnp.copy, leaves))

    def _refuse_deleted(self, args: tuple) -> None:
        values, _, _, grads, arrays = args
        names = [f'parameter {name!r}' for name in self.computation.manager.names]
        owner = type(self.optimizer).__name__
        given = [('the tree of gradients', grads), (f'an argument of {owner}.step', arrays)]
        refuse_deleted([*zip(names, values, strict=True), *given])

    def _flat(
        self, treedef: Any, static: tuple, values: list, leaves: list, vector: Any, *rest: Any
    ) -> tuple[list, list]:
        grads, arrays = rest
        packed = jax.tree.unflatten(treedef, leaves)
        new, moved = self._computed(values, packed, vector, grads, {**arrays, **dict(static)})
        return jax.tree.leaves(new), moved

    def _computed(self, values: list, *args: Any) -> tuple[tuple, list]:
        """Compute where nothing maps over States, so that they have the shapes they came with."""
        self.computation.check_shapes(values)
        return self.computation.compute(values, *args)

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
                lambda v, c, n, g, a: self._computed(v, c, n, g, {**a, **dict(static)})
            )
        return self.keeping[static](values, packed, vector, grads, arrays)

    def _run_observed(self, compute: Any, grads: Any, extra: dict[str, Any]) -> None:
        values = [param.value for param in self.params]
        packed, count = self.core.value
        packed, moved = compute(values, packed, self.numbers.value, grads, extra)
        changes = [(p, v) for p, v in zip(self.params, moved, strict=True) if v is not None]
        write_all([*changes, (self.core, (packed, next_step_count(count)))])


def _first_leaf_type(tree: Any) -> type:
    """Return the type of a tree's first leaf: programs take NumPy's arrays in another way."""
    while (kind := type(tree)) in _CONTAINERS and tree:
        tree = next(iter(tree.values() if kind is dict else tree))
    return kind


def split_extra(extra: dict[str, Any]) -> tuple[dict[str, Any], tuple]:
    """Part extra arguments into arrays, which are traced, and all else, which is static."""
    arrays = {
        k: v for k, v in extra.items() if all(isinstance(x, NUMBERS) for x in jax.tree.leaves(v))
    }
    static = tuple((k, v) for k, v in extra.items() if k not in arrays)
    for name, value in static:
        try:
            hash(value)
        except TypeError:
            raise TypeError(
                f'step takes arrays and what has a hash besides gradients, got {name}={value!r}.'
            ) from None
    return arrays, static
