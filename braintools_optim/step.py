"""One optimization step over all groups: compute everything, then write everything.

``Stepper.compute`` is a pure function of values. Outside any trace it runs as one compiled
program that reuses the buffers of the optimizer state; inside a trace it is inlined.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Sequence
from functools import partial
from itertools import starmap
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from brainstate import State

from .buffers import refuse_deleted
from .chunks import Chunks, are_many
from .clip import clipped
from .compiled import entry_of, matmul_precision, signature_of
from .finite import all_finite, held
from .gradient import match_gradients, refuse_non_arrays
from .hyper import Hyper
from .leaf import Leaf, flat_values, over_entries
from .observe import any_hooks, is_plain, traced
from .packs import Packed
from .slot import is_masked, with_common, with_masked
from .state import UniqueStateManager, nest

if TYPE_CHECKING:
    from .optimizer import OptaxOptimizer

__all__ = [
    'GroupPlan',
    'Stepper',
    'next_count',
    'own_copies',
    'regrouped',
    'split_extra',
    'write_all',
]

_CONFIG: Any = jax.config  # its attributes are set dynamically
_CONTAINERS = frozenset([dict, list, tuple])
_MAX_COUNT = int(np.iinfo(np.int32).max)


class GroupPlan(NamedTuple):
    """How the leaves of a group's parameters form the tree that its chain sees."""

    leaves: list[int]  # positions in the optimizer's list of leaves, in the tree's order
    treedef: Any

    @classmethod
    def of(cls, manager: UniqueStateManager, leaves: Sequence[Leaf], members: list[int]) -> Any:
        """Plan for the States at positions ``members``."""
        numbered: dict[int, list[int]] = {}
        for i, leaf in enumerate(leaves):
            numbered.setdefault(leaf.state, []).append(i)
        pairs = manager.get_flattened()
        trees = [jax.tree.unflatten(leaves[numbered[m][0]].tree, numbered[m]) for m in members]
        order, treedef = jax.tree.flatten(nest([pairs[m][0] for m in members], trees))
        return cls(order, treedef)

    def tree(self, per_leaf: Sequence[Any]) -> Any:
        """Return the group's tree, given something for each of the optimizer's leaves."""
        return jax.tree.unflatten(self.treedef, [per_leaf[i] for i in self.leaves])


class Stepper:
    """The step of one optimizer, for its present parameters and groups."""

    def __init__(self, optimizer: OptaxOptimizer):
        self.optimizer = optimizer
        self.manager = optimizer.param_states
        self.leaves = optimizer._leaves
        self.params: list[State] = self.manager.unique_states
        self.groups = list(optimizer._groups)
        self.plans = [GroupPlan.of(self.manager, self.leaves, g.members) for g in self.groups]
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

    # ---- the three roads -----------------------------------------------------------------

    def run(self, grads: Any, extra: dict[str, Any]) -> None:
        """Take one step, by the fastest road on which nobody misses a read or write.

        Nothing is donated under settings with which JAX runs a computation again on its arguments.
        """
        if traced():
            self._run_observed(self.compute, grads, extra)
        elif (
            self.plain
            and not any_hooks(self.hooks)
            and not (_CONFIG.jax_debug_nans or _CONFIG.jax_debug_infs or _CONFIG.jax_disable_jit)
        ):
            self._run_donating(grads, extra)
        else:
            self._run_observed(self._keep, grads, extra)

    def _run_donating(self, grads: Any, extra: dict[str, Any]) -> None:
        shown = self.core.shown
        leaves, treedef, count = self.core.take()
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
        self.leaf_values(args[0])
        static, treedef, *_ = key
        signature = (key, *signature_of(args))
        if are_many(self.leaves) and not (args[4] or static):
            known = signature[1:]
            if known not in self.cuts:
                self.cuts[known] = Chunks.of(self, treedef, args)
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
        names = [f'parameter {name!r}' for name in self.manager.names]
        owner = type(self.optimizer).__name__
        given = [('the tree of gradients', grads), (f'an argument of {owner}.step', arrays)]
        refuse_deleted([*zip(names, values, strict=True), *given])

    def _flat(
        self, treedef: Any, static: tuple, values: list, leaves: list, vector: Any, *rest: Any
    ) -> tuple[list, list]:
        grads, arrays = rest
        packed = jax.tree.unflatten(treedef, leaves)
        new, moved = self._eager(values, packed, vector, grads, {**arrays, **dict(static)})
        return jax.tree.leaves(new), moved

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
                lambda v, c, n, g, a: self._eager(v, c, n, g, {**a, **dict(static)})
            )
        return self.keeping[static](values, packed, vector, grads, arrays)

    def _run_observed(self, compute: Any, grads: Any, extra: dict[str, Any]) -> None:
        values = [param.value for param in self.params]
        packed, count = self.core.value
        packed, moved = compute(values, packed, self.numbers.value, grads, extra)
        changes = [(p, v) for p, v in zip(self.params, moved, strict=True) if v is not None]
        write_all([*changes, (self.core, (packed, next_count(count)))])

    def _eager(self, values: list, *args: Any) -> tuple[tuple, list]:
        """Compute where nothing maps over States, so that they have the shapes they came with."""
        for leaf, value in zip(self.leaves, self.leaf_values(values), strict=True):
            leaf.check_shape(value)
        return self.compute(values, *args)

    def leaf_values(self, values: list) -> list:
        """Return the leaves of the parameters' values, which form the trees that they formed."""
        found: list = []
        for name, value in zip(self.manager.names, values, strict=True):
            leaves, tree = flat_values(value)
            was = self.leaves[len(found)].tree if len(found) < len(self.leaves) else None
            if tree != was:
                raise TypeError(
                    f'parameter {name!r} was registered as the tree {was} and is {tree} now; its '
                    f'moments no longer fit.'
                )
            found += leaves
        return found

    # ---- the computation -----------------------------------------------------------------

    def compute(
        self, values: list, packed: tuple[Packed, ...], vector: Any, grads: Any, extra: dict
    ) -> tuple[tuple[Packed, ...], list]:
        """Return the new chain states, and the new parameters or None where they stay.

        The states come first because JAX hands donated buffers to outputs in order.
        """
        old = self.leaf_values(values)
        for leaf, value in zip(self.leaves, old, strict=True):
            leaf.check_axes(value)
        found = match_gradients(grads, old, self.manager, self.leaves)
        finite = None
        if self.optimizer.skip_nonfinite:
            besides = [extra.get(name) for name in self.optimizer.more_gradients]
            finite = all_finite([*found, *jax.tree.leaves(besides)])
        foreign = [*old, *jax.tree.leaves((grads, extra))]

        def given(group: Any, plan: GroupPlan, numbers: list) -> dict:
            return self.optimizer._for_chain(extra, self, group, plan, values, numbers)

        chains = [one.tree for one in packed]
        states, new = self.advance(old, found, chains, vector, foreign, given, finite)
        made = tuple(one.like(state) for one, state in zip(packed, states, strict=True))
        return made, regrouped(values, new, found)

    def advance(
        self,
        old: list,
        found: list,
        chains: Sequence[Any],
        vector: Any,
        foreign: list,
        given: Callable[[Any, GroupPlan, list], dict],
        finite: Any = None,
    ) -> tuple[tuple, list]:
        """Return the new chain states, and the new value of each leaf.

        ``found`` are the leaves' gradients, ``given`` tells what a group's chain takes besides,
        and ``foreign`` are the arrays that must not become part of a state. All stays as it is
        where ``finite`` is given and does not hold.
        """
        optimizer = self.optimizer
        numbers = optimizer._table.unpack(vector)
        for group, plan in zip(self.groups, self.plans, strict=True):
            if group.flags['maximize']:
                for i in plan.leaves:
                    found[i] = over_entries(operator.neg, found[i])
        found = clipped(found, numbers[0])

        new = list(old)
        new_states: list[Any] = []
        for group, plan, state in zip(self.groups, self.plans, chains, strict=True):
            if all(found[i] is None for i in plan.leaves):
                new_states.append(state)  # a group without gradients rests
                continue
            h = group.hyper(numbers[group.index])
            run = partial(_update, given(group, plan, numbers), type(optimizer).__name__)
            before = state
            for values, share in self._by_decay(h, plan, found):
                state = with_common(state, before, [self.leaves[i].path for i in plan.leaves])
                updates, state = self.run_chain(
                    group, plan, values, state, share, old, run, numbers
                )
                for i, update in zip(plan.leaves, updates, strict=True):
                    if share[i] is not None:
                        p = self.leaves[i].encode(old[i])
                        if jnp.shape(update) != p.shape:
                            raise self.leaves[i].misfit(old[i])
                        new[i] = self.leaves[i].decode((p + update).astype(p.dtype), old[i])
            new_states.append(own_copies(state, foreign))
        states = held(finite, tuple(new_states), tuple(chains))
        return states, held(finite, new, old)

    def _by_decay(self, h: Hyper, plan: GroupPlan, found: list) -> list[tuple[Hyper, list]]:
        """Return the values and gradients of each run of a chain: without decay it is another."""
        bare = {i for i in plan.leaves if not self.leaves[i].decays}
        if not bare:
            return [(h, found)]
        shares = [
            (h, [None if i in bare else g for i, g in enumerate(found)]),
            (h.replaced(weight_decay=0.0), [g if i in bare else None for i, g in enumerate(found)]),
        ]
        return [(h, share) for h, share in shares if any(share[i] is not None for i in plan.leaves)]

    def part(self, leaves: list[Leaf], groups: list, plans: list[GroupPlan]) -> Stepper:
        """Return what advances some of the leaves alone."""
        new = copy.copy(self)
        new.leaves, new.groups, new.plans = leaves, groups, plans
        return new

    def run_chain(
        self,
        group: Any,
        plan: GroupPlan,
        h: Hyper,
        state: Any,
        found: list,
        old: list,
        run: Callable[[Any, Any, Any, Any], tuple[Any, Any]],
        numbers: list[dict[str, Any]],
    ) -> tuple[list, Any]:
        """Run the group's chain on gradients, its state and parameters, without absent ones.

        ``numbers`` are those of all groups. Return what ``run`` makes of each of the plan's
        leaves, and the chain's new state.
        """
        optimizer = self.optimizer
        gone = optax.MaskedNode()
        grads = plan.tree([gone if g is None else g for g in found])
        params = plan.tree(
            [
                gone if g is None else leaf.encode(value)
                for leaf, g, value in zip(self.leaves, found, old, strict=True)
            ]
        )
        paths = [self.leaves[i].path for i in plan.leaves]
        absent = {self.leaves[i].path for i in plan.leaves if found[i] is None}
        seen = with_masked(state, paths, absent) if absent else state
        optimizer._run_as(h, numbers)
        try:
            made, new = run(optimizer._chain(group, h), grads, seen, params)
        finally:
            optimizer._run_as(None)
        if absent:
            new = jax.tree.map(lambda n, o: o if is_masked(n) else n, new, state, is_leaf=is_masked)
        return plan.treedef.flatten_up_to(made), _alike(new, state, type(optimizer).__name__)


def _update(
    extra: dict[str, Any], owner: str, chain: Any, grads: Any, state: Any, params: Any
) -> tuple[Any, Any]:
    """Return what a chain returns; of extra arguments it ignores what it has no use for."""
    if extra and not isinstance(chain, optax.GradientTransformationExtraArgs):
        raise TypeError(
            f'{owner}.step got {", ".join(extra)}, but its chain takes no extra arguments.'
        )
    return chain.update(grads, state, params, **extra)


def regrouped(values: list, new: list, found: list | None = None) -> list:
    """Return leaves in the place of those of State values.

    Given the gradients, None stands for a State none of whose leaves has one.
    """
    made, start = [], 0
    for value in values:
        leaves, treedef = flat_values(value)
        stop = start + len(leaves)
        moved = found is None or any(g is not None for g in found[start:stop])
        made.append(treedef.unflatten(new[start:stop]) if moved else None)
        start = stop
    return made


def own_copies(state: Any, foreign: list) -> Any:
    """Return a chain's state without the very arrays that are somebody else's."""
    known = set(map(id, foreign))
    return jax.tree.map(lambda x: jnp.copy(x) if id(x) in known else x, state)


def next_count(count: Any) -> Any:
    """Return the count of one more step, which stops at the largest integer."""
    if isinstance(count, jax.core.Tracer):
        return optax.safe_increment(count)
    count = int(count)
    return np.int32(count if count == _MAX_COUNT else count + 1)


def write_all(changes: list[tuple[State, Any]]) -> None:
    """Write several States through their public property: all of them, or none."""
    before = [(state, state._value, state._been_writen) for state, _ in changes]
    try:
        for state, value in changes:
            state.value = value
    except BaseException:
        for state, value, written in before:
            state.__dict__.update(_value=value, _been_writen=written)
        raise


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


def _alike(new: Any, old: Any, owner: str) -> Any:
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
