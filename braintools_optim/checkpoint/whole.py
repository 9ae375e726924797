"""A whole training state in one file: optimizers, models, data of the user's own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import jax
from brainstate import State

from ..check import is_tracer
from ..engine.writing import undone_on_error
from ..errors import CheckpointError, IncompatibleCheckpoint
from ..plain import alike, plainly, shaped_like
from ..schedulers import Scheduler
from ..schedulers.construction import is_optimizer
from ..schedulers.snapshot import resized
from . import file
from .background import Saving, free_path, write_or_start
from .export import export, refuse_unloadable
from .judge import Judge, LoadReport
from .nested import LEAVES, encoded, entries, restored
from .restore import Restoration, Saved, examine
from .single import state_dict_of

if TYPE_CHECKING:
    from ..optimizer import OptaxOptimizer

__all__ = ['load', 'restore', 'save', 'write']

KIND = 'training state'


def save(path: str | os.PathLike, tree: Any, *, background: bool = False) -> Saving | None:
    """Write a training state into one file; at every instant the whole old or new one is there.

    Parameters
    ----------
    path : str
        The file; it is replaced.
    tree : nested dict or list
        Optimizers, schedulers, States (those of a model: ``model.states(ParamState)``), and data:
        numbers, text, arrays.
    background : bool
        Take a snapshot, and write it while the training goes on: call ``wait()`` on what is
        returned before you rely on the file.

    Examples
    --------
    >>> import brainstate, jax.numpy as jnp
    >>> import braintools_optim as bo
    >>> w = brainstate.ParamState(jnp.ones(3))
    >>> opt = bo.Adam(1e-3).register_trainable_weights({'w': w})
    >>> run = {'opt': opt, 'model': {'w': w}, 'epoch': 3}
    >>> bo.save('run.ckpt', run)
    >>> bo.restore('run.ckpt', run).extra['epoch']
    3
    """
    return write(path, tree, background)


def write(
    path: str | os.PathLike,
    tree: Any,
    background: bool = False,
    *,
    more: Mapping[str, Any] | None = None,
    then: Callable[[], Any] | None = None,
) -> Saving | None:
    """Write a training state, with ``more`` about it in the header, and ``then`` do something."""
    path = free_path(path)
    contents: dict[str, Any] = {}  # what describes them, readable without the arrays
    states: list[str] = []  # where the States are
    others: list[str] = []  # where data is

    def live(node: Any, where: str) -> Any:
        if isinstance(node, LEAVES):
            others.append(where)
        if isinstance(node, State):
            states.append(where)
        if is_optimizer(node):
            state = export(node, copied=False)
            contents[where] = {k: v for k, v in state.items() if k != 'opt_state'}
            return state
        if isinstance(node, Scheduler):
            contents[where] = plainly(node.state_dict())
            refuse_unloadable(type(node).__name__, node.differences(contents[where]))
            return contents[where]
        return None

    data = encoded(tree, 'tree', live)
    _refuse_ambiguous([*contents, *states], others)
    meta = {'contents': contents, 'states': states, **(more or {})}

    def finish(data: Any) -> None:
        file.write(path, data, kind=KIND, meta=meta)
        if then is not None:
            then()

    return write_or_start(path, finish, data, background)


def _refuse_ambiguous(live: list[str], data: list[str]) -> None:
    """Raise where data would be taken for what a State, optimizer or scheduler was saved as."""
    around = {where[:i]: where for where in live for i in [*_ends(where), len(where)]}
    for where in data:
        if where in around:
            raise ValueError(
                f'{where} is data, and {around[where]} is to be restored, which the names do not '
                f'tell apart: give one of them a name without a dot.'
            )


def _ends(where: str) -> Iterator[int]:
    """Yield where the names of what is around a place end in its own."""
    return (i for i, c in enumerate(where) if c in '.[')


def load(path: str | os.PathLike) -> Any:
    """Return what is in a file as nested plain data: optimizers as their ``state_dict()``."""
    return _read(path)[0]


def _read(path: str | os.PathLike) -> tuple[Any, list[str]]:
    """Return what is in a file, and where it was saved from States, optimizers and schedulers."""
    meta, tree = file.read(free_path(path))
    if isinstance(meta.get('state'), dict) and isinstance(tree, dict) and 'opt_state' in tree:
        return {**tree, 'opt': state_dict_of(meta, tree)}, []
    contents, states = meta.get('contents'), meta.get('states')
    known = contents if isinstance(contents, Mapping) else {}
    places = states if isinstance(states, list) else []
    return tree, [place for place in [*known, *places] if isinstance(place, str)]


def restore(
    path: str | os.PathLike,
    tree: Any,
    *,
    strict: bool = True,
    cast: bool = False,
    rename: Mapping[str, str] | None = None,
) -> LoadReport:
    """Put a file back into the objects that it was saved from: all of it, or nothing.

    Parameters
    ----------
    path : str
        A file that :func:`save` wrote.
    tree : nested dict or list
        The tree that was saved, with the live objects. Its optimizers, schedulers and States are
        restored; data that was saved with them is in the report, as ``extra``.
    strict : bool
        With False what is missing or unexpected is left alone and reported.
    cast : bool
        Take over arrays of another precision, too.
    rename : dict of str
        New names of the optimizers' parameters, or of all under a name.
    """
    judge, (saved, live) = Judge(strict, cast, rename), _read(path)
    if isinstance(saved, Mapping) and isinstance(tree, Mapping):
        if {'opt', 'opt_state'} <= set(saved) and 'opt_state' not in tree:
            judge.unexpected('the file holds one optimizer, as opt.save writes it: use opt.load')
    walk = _Walk(judge, live)
    data = walk.visit(tree, saved, 'tree')
    judge.check_rename()
    report = judge.conclude()
    with ExitStack() as stack:
        for found in walk.optimizers:
            stack.enter_context(found.undone_on_error())
        for scheduler, _ in walk.schedulers:
            stack.enter_context(scheduler._undone_on_error())
        stack.enter_context(undone_on_error(*(state for state, _ in walk.states)))
        for found in walk.optimizers:
            found.write()
        done = {id(s) for found in walk.optimizers for s, _ in found.schedulers}
        for scheduler, state in walk.schedulers:
            if id(scheduler) not in done:  # with the optimizer that it drives
                scheduler._restore(state)
        for holder, value in walk.states:
            holder.value = value
    report.extra = None if data is _LIVE else data
    return report


_LIVE = object()  # stands in the data for what is restored in place


class _Walk:
    """Compares what was saved with what is live, and remembers what is to be written."""

    def __init__(self, judge: Judge, live: list[str]):
        self.judge = judge
        self.live = live  # where the file has what was saved from States and other live objects
        self.optimizers: list[Restoration] = []
        self.schedulers: list[tuple[Scheduler, Mapping[str, Any]]] = []
        self.states: list[tuple[State, Any]] = []
        self.seen: dict[int, tuple[str, Any]] = {}  # where each live object stands first

    def visit(self, node: Any, saved: Any, where: str) -> Any:
        """Return what was saved of a node that is data; nothing is written yet."""
        if _is_object(node):
            first, before = self.seen.setdefault(id(node), (where, saved))
            if first != where:
                if not alike(before, saved):
                    self.judge.refuse(
                        f'{where} and {first} are one object here; what was saved of them differs'
                    )
                return _LIVE
        if is_optimizer(node):
            self._visit_optimizer(node, saved, where)
        elif isinstance(node, Scheduler):
            mine = node.state_dict()
            saved = shaped_like(plainly(saved), mine)
            if not self.judge.strict:
                saved = resized(saved, mine)
            self.judge.scheduler(node, saved, where)
            self.schedulers.append((node, saved))
        elif isinstance(node, State):
            if any(map(is_tracer, jax.tree.leaves(node.value))):
                raise TypeError(f'{where} is being traced; restore it outside of jit.')
            self.states.append((node, restored(node.value, saved, where, self.judge)))
        elif isinstance(node, Mapping):
            if not _is_live(node):
                return self._data(node, saved, where)
            return self._visit_dict(node, saved, where)
        elif isinstance(node, list | tuple) and _is_live(node):
            if not isinstance(saved, list) or len(saved) != len(node):
                self.judge.refuse(f'{where} must be a list of {len(node)}, got {saved!r:.60}')
                return _LIVE
            pairs = enumerate(zip(node, saved, strict=True))
            parts = [self.visit(n, s, f'{where}[{i}]') for i, (n, s) in pairs]
            return [x for x in parts if x is not _LIVE] or _LIVE
        else:
            return self._data(node, saved, where)
        return _LIVE

    def _data(self, node: Any, saved: Any, where: str) -> Any:
        """Return what was saved of data; refuse data that stands for what must be restored."""
        encoded(node, where)  # raises for what cannot have been saved, such as a Module
        if any(x == where or x.startswith((f'{where}.', f'{where}[')) for x in self.live):
            self.judge.refuse(
                f'{where} was saved from States, optimizers or schedulers: give those, to be '
                f'restored, in place of this {type(node).__name__}'
            )
        return saved

    def _visit_optimizer(self, node: OptaxOptimizer, saved: Any, where: str) -> None:
        if not len(node.param_states):
            raise CheckpointError(
                f'{where}: this {type(node).__name__} has no parameters yet; call '
                f'register_trainable_weights before restore.'
            )
        judge = self.judge.of_part()
        try:
            self.optimizers.append(examine(node, Saved(saved), judge))
            judge.conclude()
        except IncompatibleCheckpoint as error:
            self.judge.refuse_all(error.differences, where)
        mine, theirs = self.judge.report, judge.report
        for name in ('missing', 'unexpected', 'cast'):
            getattr(mine, name).extend(f'{where}: {line}' for line in getattr(theirs, name))

    def _visit_dict(self, node: Mapping, saved: Any, where: str) -> Any:
        if not isinstance(saved, Mapping):
            self.judge.refuse(f'{where} must be a dict, got {type(saved).__name__}')
            return _LIVE
        if all(isinstance(x, State) for x in node.values()):
            saved = self.judge.renamed(saved, where)
        here, data = dict(entries(node, where)), {}
        for name, value in here.items():
            if name in saved:
                data[name] = self.visit(value, saved[name], f'{where}.{name}')
            else:
                self.judge.missing(f'{where}.{name} is missing')
        for name in sorted(set(saved) - set(here)):
            self.judge.unexpected(f'{where}.{name} is in the file and not here')
        return {name: x for name, x in data.items() if x is not _LIVE} or _LIVE


def _is_live(node: Any) -> bool:
    """Whether there is anything in it that is restored in place."""
    inner = node.values() if isinstance(node, Mapping) else node
    if isinstance(node, Mapping | list | tuple):
        return any(map(_is_live, inner))
    return _is_object(node)


def _is_object(node: Any) -> bool:
    """Whether it is restored in place, as a whole."""
    return is_optimizer(node) or isinstance(node, Scheduler | State)
