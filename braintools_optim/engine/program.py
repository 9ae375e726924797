"""A function of States as compiled programs that take over the buffers of what it writes.

``brainstate.transform.jit`` keeps the old values until the new ones are there, so memory doubles,
and looks at every State through its public property. Here the values of the written States are
donated, and read and written directly where nobody watches.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import starmap
from typing import Any

import jax
import jax.numpy as jnp
from brainstate import State
from brainstate.transform import StatefulFunction

from ..paths import path_name
from ..sharding import copies
from .buffers import (
    held_leaves,
    held_trees,
    is_deleted,
    placed_whole,
    refuse_deleted,
    without_shared_buffers,
)
from .compiled import (
    CONFIG,
    NUMBERS,
    computes_twice,
    entry_of,
    matmul_precision,
    modes,
    signature_of,
)
from .late_state import LateState, NumbersState
from .layout import laid_out_like
from .observe import any_hooks, is_plain, outside_of_traces
from .own_state import CoreState
from .shield import ShieldedCall
from .writing import undone_on_error, write_all

__all__ = ['StatefulProgram']

_REMEMBERED = 4  # programs for the same arguments, for States of other types


class StatefulProgram:
    """A function with a program for each type of its arguments and of the States it touches."""

    def __init__(self, function: Callable[..., Any], donate: bool, prepared: Callable[[], list]):
        self.function = function
        self.donate = donate
        self.prepared = prepared  # gives States that a trace which is interrupted must not change
        self.programs: dict[Any, list[Program]] = {}  # by the types of arguments
        self.latest: dict[Any, Program] = {}  # by what is quickly told of them
        self.recent: Program | None = None

    def __call__(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Run it: by a road of few checks, if such a call has been made before."""
        program = self.recent
        if len(self.latest) > 1:
            program = self.latest.get(_outline(args, kwargs))
        if program is None or program.watched():
            return self._run_checked(args, kwargs)
        leaves, treedef, trees = program.gathered(args, kwargs)
        if (
            treedef != program.treedef
            or trees != program.trees
            or program.kinds(leaves) not in program.met
            or program.precision != matmul_precision()
            or program.modes != modes()
        ):
            return self._run_checked(args, kwargs)
        split = program.donated_count
        program.spare(leaves)
        result: list = []
        try:
            try:
                # The results are in the list before Python can look for an interrupt.
                result.extend(starmap(program.entry, ((leaves[:split], leaves[split:]),)))
            except (TypeError, ValueError):  # made for other types: nothing has run
                pass
            except RuntimeError as error:  # nor if a buffer stands there twice, or is gone
                if 'donate' not in str(error) and not any(map(is_deleted, leaves)):
                    raise
            if result:
                return program.store(result[0])
        except BaseException:
            if result:  # the old values were donated: the only whole ones are the new
                program.store(result[0])
            raise
        return self._run_checked(args, kwargs)

    def compiled(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Return JAX's compiled program for arguments, without running it."""
        program = self._find(args, kwargs)
        return program.compiled(program.gathered(args, kwargs)[0])

    def _run_checked(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        program = self._find(args, kwargs)
        if program.watched():
            return program.run_watched(args, kwargs)
        out = program.run_checked(args, kwargs)
        self.recent = self.latest[_outline(args, kwargs)] = program
        return out

    def _find(self, args: tuple, kwargs: dict[str, Any]) -> Program:
        """Return the program for the present types, traced if it is new."""
        _refuse_others(args, kwargs)
        key = (*signature_of((args, kwargs)), modes())
        known = self.programs.get(key, [])
        for program in known:
            if program.fits(args, kwargs):
                return program
        with undone_on_error(*self.prepared()):  # a trace puts tracers into States for a while
            program = Program(self.function, self.donate, args, kwargs)
        self.programs[key] = [program, *known][:_REMEMBERED]
        return program


class Program:
    """The function for one type of arguments and States."""

    def __init__(self, function: Callable, donate: bool, args: tuple, kwargs: dict[str, Any]):
        traced = StatefulFunction(function, name='train_step', return_only_write=True)
        traced.make_jaxpr(*args, **kwargs)
        traced.make_jaxpr(*args, **kwargs)  # again if a look at a State changed its type: new seeds
        trace = traced.get_state_trace(*args, **kwargs)
        out_shapes, new_shapes = traced.get_out_shapes(*args, **kwargs)
        self.function = traced
        self.states: list[State] = list(trace.states)
        self.writes: list[bool] = list(trace.been_writen)
        self.hooks = [state.hooks for state in self.states]
        self.plain = all(isinstance(s, LateState) or is_plain(type(s)) for s in self.states)
        self.out_tree = jax.tree.structure(out_shapes)
        # Python that a program calls back may stop it, when what it was given is gone.
        self.calls_back = bool(traced.get_jaxpr(*args, **kwargs).effects)
        self._sort(donate and not self.calls_back, new_shapes)
        self.keeping = jax.jit(traced.jaxpr_call)
        leaves, self.treedef, self.trees = self.gathered(args, kwargs)
        self.signature = signature_of(tuple(leaves))
        self.precision, self.modes = matmul_precision(), modes()
        self.trees_of_cells = _leaves_of_trees(self.donated_cells)
        *donated, copied, _ = self._values()
        self.new_tree, self.copied_tree = map(jax.tree.structure, (tuple(donated), copied))
        self.donated_count = len(jax.tree.leaves(donated))
        self.donated_in_cells = len(jax.tree.leaves(donated[0]))
        self.keys = list(map(_key_kind, jax.tree.leaves(copied)))
        self.program: Any = None
        self.entry: Any = None
        self.met: set[tuple] = set()  # kinds of leaves for which the entry needs no Python

    def _sort(self, donate: bool, new_shapes: Any) -> None:
        """Part the States by what becomes of them, and by how they are read and written."""
        donated: list[State] = []
        copied: list[State] = []
        only_read: list[State] = []
        for state, writes, new in zip(self.states, self.writes, new_shapes, strict=True):
            if not writes:
                only_read.append(state)
            elif donate and _can_take_over(state._value, new):
                donated.append(state)
            else:
                copied.append(state)
        late = [s for s in donated if isinstance(s, LateState)]
        self.donated_cores = [s for s in late if isinstance(s, CoreState)]
        self.donated_late = [s for s in late if not isinstance(s, CoreState)]
        self.donated_plain = [s for s in donated if not isinstance(s, LateState)]
        self.donated_cells = [s.__dict__ for s in self.donated_plain]  # where their values are
        self.copied = copied  # written, but their old values stay
        self.only_read = only_read
        parted = (self.donated_plain, self.donated_cores, self.donated_late, copied, only_read)
        self.order = [state for part in parted for state in part]

    # ---- what the States hold ------------------------------------------------------------

    def _values(self) -> tuple[list, list, list, list, list]:
        """Return what is donated, in the order in which it comes back; then the rest."""
        return (
            [cell['_value'] for cell in self.donated_cells],
            [core.given_out() for core in self.donated_cores],
            [state._value for state in self.donated_late],
            [state._value for state in self.copied],
            [s.given_out() if type(s) is NumbersState else s._value for s in self.only_read],
        )

    def gathered(self, args: tuple, kwargs: dict[str, Any]) -> tuple[list, Any, list]:
        """Return all leaves that the program takes, and the trees that they form."""
        leaves, treedef = jax.tree.flatten((self._values(), args, kwargs))
        return leaves, treedef, [core.parts()[1] for core in self.donated_cores]

    def fits(self, args: tuple, kwargs: dict[str, Any]) -> bool:
        """Whether the program is for States as they are now."""
        for state in self.states:
            if not isinstance(state, LateState):
                state._read_value()  # a random State makes its key from a seed when it is read
        leaves, treedef, trees = self.gathered(args, kwargs)
        same = treedef == self.treedef and trees == self.trees
        return same and signature_of(tuple(leaves)) == self.signature

    def watched(self) -> bool:
        """Whether somebody looks at the values, or JAX may run the program twice on them."""
        return not self.plain or any_hooks(self.hooks) or computes_twice()

    # ---- running -------------------------------------------------------------------------

    def spare(self, leaves: list, met: bool = True) -> None:
        """Put copies in place of leaves that would be donated, and that somebody else holds.

        Those of the first call were not made by a step, which shares nothing.
        """
        held = held_leaves(leaves, self.donated_count)
        if not met:
            held = held | placed_whole(leaves[: self.donated_in_cells])
        cells = self.trees_of_cells
        for (_, part), is_held in zip(cells, held_trees([cell for cell, _ in cells]), strict=True):
            held = held.union(part) if is_held else held
        for i, own in zip(held, copies([leaves[i] for i in held]), strict=True):
            leaves[i] = own

    def kinds(self, leaves: list) -> tuple[tuple, tuple]:
        """Return what JAX's entry does not look at, unlike shapes and dtypes: types, and weak ones.

        The chains' states are left out: nobody but a step makes them.
        """
        others = leaves[: self.donated_in_cells] + leaves[self.donated_count :]
        return tuple(map(type, leaves)), tuple([getattr(x, 'weak_type', None) for x in others])

    def compiled(self, leaves: list) -> Any:
        """Return the compiled program, which takes what is donated and all else, as lists."""
        if self.program is None:
            split = self.donated_count
            jitted = jax.jit(self._flat, donate_argnums=0, keep_unused=True)
            self.program = jitted.lower(leaves[:split], leaves[split:]).compile()
        return self.program

    def _flat(self, donated: list, rest: list) -> tuple[list, list, list]:
        """Compute on leaves. The new values come in the order of those that are donated.

        JAX hands each donated buffer to the first output of its shape and dtype.
        """
        values, args, kwargs = jax.tree.unflatten(self.treedef, [*donated, *rest])
        plain, cores, late, copied, only_read = values
        cores = [
            (jax.tree.unflatten(tree, leaves), count)
            for tree, (leaves, count) in zip(self.trees, cores, strict=True)
        ]
        old = dict(
            zip(map(id, self.order), [*plain, *cores, *late, *copied, *only_read], strict=True)
        )
        new, out = self.function.jaxpr_call([old[id(s)] for s in self.states], *args, **kwargs)
        # Loops within leave it to the compiler where their variables are.
        at = {
            id(state): laid_out_like(value, partial(outside_of_traces, state))
            for state, value in zip(self.states, new, strict=True)
        }
        moved = [at[id(s)] for s in (*self.donated_plain, *self.donated_cores, *self.donated_late)]
        left = jax.tree.leaves([at[id(s)] for s in self.copied])
        return jax.tree.leaves(moved), list(map(_without_key, left)), jax.tree.leaves(out)

    def run_checked(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Run it where JAX may not have met such arguments."""
        refuse_deleted((s.name or type(s).__name__, s._value) for s in self.order)
        leaves, *_ = self.gathered(args, kwargs)
        self.spare(leaves, met=False)
        kinds, split = self.kinds(leaves), self.donated_count
        program = self.compiled(leaves)
        leaves = without_shared_buffers(leaves, split)
        call = ShieldedCall(entry_of(program) or program, (leaves[:split], leaves[split:]))
        del leaves
        try:
            if split:
                call.run()
            else:
                call.result.append(self._finished(*call.args))
            out = self.store(call.result[0])
        except BaseException:
            call.finish()
            if call.result:
                self.store(call.result[0])
            raise
        for state, writes in zip(self.states, self.writes, strict=True):
            if writes:
                state.__dict__['_been_writen'] = True
        entry = self._finished if self.calls_back else entry_of(program)
        if entry is not None:
            self.entry = entry
            self.met.add(kinds)
        return out

    def _finished(self, donated: list, rest: list) -> Any:
        """Return the results when all is done that the program calls back."""
        result = self.program(donated, rest)
        if self.calls_back:
            jax.block_until_ready(result)
            jax.effects_barrier()
        return result

    def store(self, result: tuple[list, list, list]) -> Any:
        """Put new values into the States; return what the function returned."""
        moved, left, out = result
        plain, cores, late = jax.tree.unflatten(self.new_tree, moved)
        for cell, value in zip(self.donated_cells, plain, strict=True):
            cell['_value'] = value
        for core, tree, (leaves, count) in zip(self.donated_cores, self.trees, cores, strict=True):
            core.put_parts(leaves, tree, count)
        for state, value in zip(self.donated_late, late, strict=True):
            state._value = value
        if left:
            self._store_copied(left)
        return jax.tree.unflatten(self.out_tree, out)

    def _store_copied(self, left: list) -> None:
        new = [
            x if kind is None else jax.random.wrap_key_data(x, impl=kind)
            for x, kind in zip(left, self.keys, strict=True)
        ]
        for state, value in zip(
            self.copied, jax.tree.unflatten(self.copied_tree, new), strict=True
        ):
            state._value = value

    def run_watched(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Run it with nothing donated, and write through the States' public property."""
        if CONFIG.jax_disable_jit:
            with undone_on_error(*self.states):
                return self.function.fun(*args, **kwargs)
        values = [state.value for state in self.states]
        new, out = self.keeping(values, *args, **kwargs)
        pairs = zip(self.states, new, self.writes, strict=True)
        write_all([(state, value) for state, value, writes in pairs if writes])
        return out


def _leaves_of_trees(cells: list[dict]) -> list[tuple[dict, range]]:
    """Return the cells whose value is a tree, with the places of its leaves among those of all."""
    found, start = [], 0
    for cell in cells:
        stop = start + len(jax.tree.leaves(cell['_value']))
        if not jax.tree_util.all_leaves([cell['_value']]):
            found.append((cell, range(start, stop)))
        start = stop
    return found


def _can_take_over(old: Any, new: Any) -> bool:
    """Whether a new value can take over the buffers of the old one, and should.

    Numbers and random keys are small, and who keeps one must find it alive.
    """
    tree: Any = jax.tree.structure(old)
    types = list(zip(map(jax.typeof, jax.tree.leaves(old)), jax.tree.leaves(new), strict=False))
    return (
        tree == jax.tree.structure(new)
        and any(y.shape for _, y in types)
        and all(
            x.shape == y.shape
            and x.dtype == y.dtype
            and not jnp.issubdtype(y.dtype, jax.dtypes.extended)
            for x, y in types
        )
    )


def _key_kind(x: Any) -> Any:
    """Return the kind of generator a random key is for, None if it is no key."""
    return (
        jax.random.key_impl(x) if jnp.issubdtype(jax.typeof(x).dtype, jax.dtypes.prng_key) else None
    )


def _without_key(x: Any) -> Any:
    """Return a random key as its numbers: JAX makes keys by Python code, which interrupts reach."""
    return x if _key_kind(x) is None else jax.random.key_data(x)


def _outline(args: tuple, kwargs: dict[str, Any]) -> tuple:
    """Return what is quickly told of arguments."""
    leaves, treedef = jax.tree.flatten((args, kwargs))
    return treedef, tuple((type(x), getattr(x, 'shape', ())) for x in leaves)


def _refuse_others(args: tuple, kwargs: dict[str, Any]) -> None:
    """Raise if an argument is not made of arrays and numbers."""
    for path, x in jax.tree_util.tree_flatten_with_path((args, kwargs))[0]:
        if not isinstance(x, NUMBERS):
            which = path_name(path[1:])
            if hasattr(x, 'numpy') and hasattr(x, 'detach'):
                raise TypeError(
                    f'a training step takes arrays and numbers, got a torch.Tensor for argument '
                    f'{which}; give tensor.numpy().'
                )
            raise TypeError(
                f'a training step takes arrays and numbers, got {type(x).__name__} for argument '
                f'{which}; bind all else beforehand, as in lambda x: loss_fn(x, ...).'
            )
