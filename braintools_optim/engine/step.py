"""The roads that a step may take: compute everything, then write everything.

Outside any trace a :class:`Computation` runs as one compiled program that reuses the buffers of the
optimizer state; inside a trace it is inlined.
"""

from __future__ import annotations

from functools import partial
from itertools import starmap
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from brainstate import State

from .buffers import refuse_deleted
from .chunks import Chunks, are_many
from .compiled import entry_of, matmul_precision, signature_of
from .computation import Computation
from .gradient import refuse_non_arrays
from .observe import any_hooks, is_plain, traced
from .own_state import next_count
from .writing import write_all

if TYPE_CHECKING:
    from ..optimizer import OptaxOptimizer

__all__ = ['Stepper', 'split_extra']

_CONFIG: Any = jax.config  # its attributes are set dynamically
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
        self.plain = all(is_plain(type(s)) for s in self.params)
        # Where States keep their values: writing there costs a tenth of setting an attribute.
        self.param_vars = [s.__dict__ for s in self.params]
        for param in self.param_vars:
            param['_been_writen'] = True
        self.programs: dict[Any, Any] = {}  # compiled, donating the chain states, by arguments
        self.cuts: dict[Any, Chunks | None] = {}  # in which calls many leaves go, by arguments
        self.chunks: dict[Any, Chunks] = {}  # those used last for each kind of arguments
        self.called: set[Any] = set()  # arguments which they have met, of which kinds
        self.calls: dict[Any, Any] = {}  # the entry used last for each kind of arguments ...
        self.call: Any = None  # ... and of all ...
        self.key: Any = None  # ... and its kind
        self.keeping: dict[Any, Any] = {}  # jitted, donating nothing, by extra arguments
        self.closures: dict[Any, Any] = {}  # compiled steps on closures, by what these mean
        self.written: dict[int, Any] = {}  # objects into which closures write, by their ids

    def run(self, grads: Any, extra: dict[str, Any]) -> None:
        """Take one step, by the fastest road on which nobody misses a read or write.

        Nothing is donated under settings with which JAX runs a computation again on its arguments.
        """
        if traced():
            self._run_observed(self.computation.compute, grads, extra)
        elif (
            self.plain
            and not any_hooks(self.hooks)
            and not (_CONFIG.jax_debug_nans or _CONFIG.jax_debug_infs or _CONFIG.jax_disable_jit)
        ):
            self._run_donating(grads, extra)
        else:
            self._run_observed(self._keep, grads, extra)

    def _run_donating(self, grads: Any, extra: dict[str, Any]) -> None:
        shown = self.core.may_be_held
        leaves, treedef, count = self.core.parts()
        if shown:  # whoever holds arrays of the state keeps them
            leaves = self._copied(leaves)
        arrays, static = split_extra(extra) if extra else (extra, ())
        values = [param['_value'] for param in self.param_vars]
        vector = self.numbers.given_out()
        args = (values, leaves, vector, grads, arrays)
        count = next_count(count)
        result: list = []
        try:
            key = static, treedef, type(vector), _kind(grads), matmul_precision()
            if self.chunks and not extra and (chunks := self.chunks.get(key)) is not None:
                chunks.run(args, result)
            call = self.call if key == self.key else self.calls.get(key)
            if call is not None and not result:
                self.call, self.key = call, key
                try:
                    # The results are in the list before Python can look for an interrupt.
                    result.extend(starmap(call, (args,)))
                except (TypeError, ValueError):  # made for other gradients: nothing has run
                    pass
                except RuntimeError:
                    self._refuse_deleted(args)
                    raise
            if not result:
                self._switch_program(key, args, shown, result)
            self._store(treedef, count, *result[0])
        except BaseException:
            if result:  # the old state was donated: the only whole state is the new one
                self._store(treedef, count, *result[0])
            raise

    def _switch_program(self, key: tuple, args: tuple, copied: bool, result: list) -> None:
        """Call the program for these arguments, compiled if it is new, and keep it for the next.

        ``copied`` says whether what is donated are copies.
        """
        refuse_non_arrays(args[3])
        self._refuse_deleted(args)
        self.computation.leaf_values(args[0])
        static, treedef, *_ = key
        signature = (key, *signature_of(args))
        if are_many(self.computation.leaves) and not (args[4] or static):
            known = signature[1:]
            if known not in self.cuts:
                self.cuts[known] = Chunks.of(self.computation, treedef, args)
            if (chunks := self.cuts[known]) is not None and chunks.run(args, result):
                self.chunks[key] = chunks
                return
        program = self.programs.get((static, *signature[1:]))
        if program is None:
            jitted = jax.jit(partial(self._flat, treedef, static), donate_argnums=1)
            program = self.programs[static, *signature[1:]] = jitted.lower(*args).compile()
        entry = entry_of(program)
        if entry is None or signature not in self.called:
            # A call through Python code, where an interrupt could lose the results after the
            # donated buffers are gone: donate copies.
            values, leaves, *others = args
            args = (values, leaves if copied else list(map(jnp.copy, leaves)), *others)
            result.append(program(*args))
            self.called.add(signature)
        else:
            result.extend(starmap(entry, (args,)))
        if (entry := entry_of(program)) is not None:
            self.calls[key] = self.call = entry
            self.key = key

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
        new, moved = self._checked(values, packed, vector, grads, {**arrays, **dict(static)})
        return jax.tree.leaves(new), moved

    def _checked(self, values: list, *args: Any) -> tuple[tuple, list]:
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
                lambda v, c, n, g, a: self._checked(v, c, n, g, {**a, **dict(static)})
            )
        return self.keeping[static](values, packed, vector, grads, arrays)

    def _run_observed(self, compute: Any, grads: Any, extra: dict[str, Any]) -> None:
        values = [param.value for param in self.params]
        packed, count = self.core.value
        packed, moved = compute(values, packed, self.numbers.value, grads, extra)
        changes = [(p, v) for p, v in zip(self.params, moved, strict=True) if v is not None]
        write_all([*changes, (self.core, (packed, next_count(count)))])


def _kind(tree: Any) -> type:
    """Return the type of a leaf: arrays of the host go another way into a program than JAX's."""
    while (kind := type(tree)) in _CONTAINERS and tree:
        tree = next(iter(tree.values() if kind is dict else tree))
    return kind


def split_extra(extra: dict[str, Any]) -> tuple[dict[str, Any], tuple]:
    """Part extra arguments into arrays, which are traced, and all else, which is static."""
    arrays = {k: v for k, v in extra.items() if all(map(_is_array, jax.tree.leaves(v)))}
    return arrays, tuple((k, v) for k, v in extra.items() if k not in arrays)


def _is_array(x: Any) -> bool:
    return isinstance(x, jax.Array | np.ndarray | np.generic | bool | int | float | complex)
