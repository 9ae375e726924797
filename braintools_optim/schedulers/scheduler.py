"""What all schedulers share: attaching, stepping, previewing, saving."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from brainstate import State

from ..check import check_count, check_number, is_plain_number, is_real, is_tracer
from ..engine.attributes import refuse_unseen
from ..engine.observe import in_loop, recorded
from ..engine.own_state import PartState
from ..engine.writing import put_value, undone_on_error
from ..errors import IncompatibleCheckpoint
from ..other_libraries import (
    is_ours,
    refuse_class_attribute,
    refuse_stray,
)
from ..plain import plainly, shaped_like
from ..ranges import Range
from ..state import OptimState
from .construction import SchedulerType, is_optimizer

if TYPE_CHECKING:
    from ..groups import ParamGroup
    from ..optimizer import OptaxOptimizer

__all__ = ['Progress', 'Scheduler', 'following']

_EPOCHS = Range(0.0, 2.0**31, open_high=True)
_PROMOTING = jax.numpy_dtype_promotion('standard')  # of traced epochs, too, which are integers


class Progress(NamedTuple):
    """All that a scheduler remembers, as plain values: what a step computes anew."""

    epoch: Any
    memory: Any = ()  # what there is for each group, or for each scheduler of a composite
    extra: Any = ()  # what there is besides


def following(present: Any, epoch: Any) -> Any:
    """Return the epoch that was given, or the next one."""
    return present + 1 if epoch is None else epoch


class Scheduler(metaclass=SchedulerType):
    """Base class of what changes hyper-parameters of an optimizer from epoch to epoch.

    A step is a pure function of what the scheduler remembers and of the present learning rates;
    only then States are written. So the same rule runs eagerly on Python numbers, inside jit on
    traced ones, and in :meth:`preview` without touching any State.
    """

    _settled: tuple[str, ...] = ()  # attributes that are fixed once it is built
    torch_gives_base = False  # whether torch's constructor, too, takes a base_lr
    _built_with: Mapping[str, Any] = MappingProxyType({})  # attributes of a class of the user's
    _traced = False  # whether a function that steps it has been traced

    def __init__(self, last_epoch: int = 0):
        self.optimizer: OptaxOptimizer | None = None
        first: Any = last_epoch
        if not is_tracer(last_epoch):  # torch's -1 is the epoch before the first
            first = np.int32(max(check_count(type(self).__name__, 'last_epoch', last_epoch, -1), 0))
        self.last_epoch = OptimState(first)

    # ---- what a kind of scheduler defines ------------------------------------------------

    def _advanced(
        self, progress: Progress, lrs: list, epoch: Any = None, metric: Any = None
    ) -> tuple[Progress, list]:
        """Return what follows ``progress``, and the learning rates, at the next epoch or ``epoch``.

        It must not touch any State.
        """
        raise NotImplementedError

    def _settings(self, progress: Progress) -> dict[tuple[int, str], Any]:
        """Return the hyper-parameters besides the learning rates, by group and name."""
        return {}

    def _first_settings(self, progress: Progress) -> dict[tuple[int, str], Any]:
        """Return those that it gives an optimizer, or group, which it begins to drive."""
        return self._settings(progress)

    def _fit(self, optimizer: OptaxOptimizer) -> None:
        """Raise if it cannot drive an optimizer."""

    def _begin(self, optimizer: OptaxOptimizer) -> list:
        """Adopt the groups of an optimizer; return their learning rates at the first epoch."""
        return optimizer.get_last_lr()

    def _join(self, group: ParamGroup, base: Any, lr: Any) -> Any:
        """Adopt a group that is added; return its learning rate at the present epoch."""
        return lr

    def _awaited(self, group: int, base: Any, lr: Any) -> Any:
        """Return the learning rate to which it has come in a group before that is added, or None.

        It was built for more groups than the optimizer had, stepped or restored, and goes on.
        """
        return None

    def _check_groups(self, count: int) -> None:
        """Raise if there is not one value for each of so many groups."""

    # ---- attaching and stepping ----------------------------------------------------------

    def attach_optimizer(self, optimizer: OptaxOptimizer) -> None:
        """Drive an optimizer from now on."""
        owner = type(self).__name__
        if not is_optimizer(optimizer):
            raise TypeError(f'{owner} drives an OptaxOptimizer, got {type(optimizer).__name__}.')
        if self.optimizer is not None:
            if self.optimizer is optimizer:
                return
            raise ValueError(
                f'this {owner} already drives an optimizer; give each optimizer a scheduler of '
                f'its own.'
            )
        optimizer._core.refuse_several()
        mine, theirs = self._states()[0], optimizer._core
        if mine._trace_state.is_valid() and not theirs._trace_state.is_valid():
            raise ValueError(
                f'this {owner} is made in a function that is being traced, and would drive an '
                f'optimizer from outside, where nothing of it is left: make it there, too.'
            )
        self._fit(optimizer)
        if len(optimizer.param_states):
            self._check_groups(len(optimizer._groups))
        with optimizer._undone_on_error(*self._parts()):
            lrs = self._begin(optimizer)
            optimizer._enlist(self)
            self._set_optimizer(optimizer)
            self._drive(self._progress(), lrs, first=True)

    def step(self, epoch: Any = None) -> None:
        """Go on to the next epoch, or to the one given."""
        self._step(epoch)

    def _step(self, epoch: Any = None, metric: Any = None) -> None:
        if epoch is not None:
            epoch = self._checked_epoch(epoch)
        if self.optimizer is not None:
            self._check_groups(len(self.optimizer._groups))
        self._check_step(epoch)
        advanced = self._advanced
        if recorded():
            vars(self)['_traced'] = True
            advanced = _PROMOTING(advanced)
        progress, lrs = advanced(self._progress_of_one(), self._lrs(), epoch, metric)
        with self._undone_on_error():
            self._drive(progress, lrs)
            self._put(progress)

    def _given_once(self, name: str, *given: Any) -> Any:
        """Return what a step was given under a name, in one of several ways, or None."""
        there = [x for x in given if x is not None]
        if len(there) > 1:
            raise TypeError(f'{type(self).__name__}.step takes one {name}, got {len(there)}.')
        return there[0] if there else None

    def _checked_epoch(self, epoch: Any) -> Any:
        owner = type(self).__name__
        if not is_tracer(epoch):
            is_array = isinstance(epoch, jax.Array) and not epoch.shape
            if is_array and jnp.issubdtype(epoch.dtype, jnp.floating):
                raise TypeError(
                    f'{owner}.step takes an epoch, got an array of {epoch.dtype}, such as a loss '
                    f'is: ReduceLROnPlateau takes one. Give the fraction of an epoch as a float.'
                )
            number = check_number(owner, 'epoch', epoch, allowed=_EPOCHS)
            return int(number) if number.is_integer() else number
        if epoch.shape != () or not is_real(epoch.dtype):
            raise TypeError(f'{owner} needs a real scalar for epoch, got {epoch}.')
        return epoch

    def _wants_metric(self) -> bool:
        """Whether a step needs a metric."""
        return False

    def _check_step(self, epoch: Any) -> None:
        """Raise if it has no next epoch, or none like the one given."""

    def step_epoch(self) -> None:
        """Go on to the next epoch."""
        self.step()

    def _drive(
        self, progress: Progress, lrs: list, by_hand: bool = False, first: bool = False
    ) -> None:
        """Give the optimizer its hyper-parameters."""
        if self.optimizer is not None:
            settings = (self._first_settings if first else self._settings)(progress)
            changes: dict[tuple[int, str], Any] = {
                (i, 'lr'): lr for i, lr in enumerate(lrs[: len(self.optimizer._groups)])
            }
            self.optimizer._assign(changes | settings, by_hand)

    def _lrs(self) -> list:
        """Return the present learning rates."""
        return [] if self.optimizer is None else self.optimizer.get_last_lr()

    # ---- what it remembers ---------------------------------------------------------------

    def _progress(self) -> Progress:
        return Progress(self._epoch())

    def _progress_of_one(self) -> Progress:
        """Return what it remembers; raise outside of a vmap for what that made."""
        progress = self._progress()
        if type(progress.epoch) is list:
            raise ValueError(
                f'this {type(self).__name__} stands for several, which a vmap made: use it in the '
                f'function that is mapped.'
            )
        return progress

    def _epoch(self) -> Any:
        """Return the epoch, a Python number, or an array as wide as JAX's integers if traced.

        A function of one's own may divide by it: narrower, it would get float32 even where JAX
        computes in float64.
        """
        epoch = self.last_epoch.value
        if not is_tracer(epoch):
            return np.asarray(epoch).tolist()  # of several schedulers, if a vmap made them
        return epoch.astype(int) if jnp.issubdtype(epoch.dtype, jnp.integer) else epoch

    def _put(self, progress: Progress) -> None:
        """Remember what a step computed."""
        self._put_epoch(progress.epoch)

    def _put_epoch(self, epoch: Any) -> None:
        put_value(self.last_epoch, self._as_held(epoch))

    def _as_held(self, epoch: Any) -> Any:
        """Return an epoch as it is kept: an integer of 32 bits, or a fraction."""
        if recorded():
            epoch = self._as_before(epoch)
        if is_tracer(epoch) and jnp.issubdtype(epoch.dtype, jnp.integer):
            return epoch.astype(jnp.int32)
        return np.int32(epoch) if isinstance(epoch, int) else epoch

    def _as_before(self, epoch: Any) -> Any:
        """Return an epoch as a fraction if the last one is, so that the dtype stays."""
        held = self.last_epoch.value
        if not jnp.issubdtype(jnp.result_type(held), jnp.integer):
            return jnp.asarray(epoch, jnp.result_type(held))
        if in_loop() and not jnp.issubdtype(jnp.result_type(epoch), jnp.integer):
            raise TypeError(
                f'{type(self).__name__} came to a fraction of an epoch in a loop, where last_epoch '
                f'keeps its dtype, {jnp.result_type(held)}: before the loop, assign '
                f'scheduler.last_epoch.value = float(scheduler.last_epoch.value).'
            )
        return epoch

    def _undone_on_error(self) -> AbstractContextManager[None]:
        """Take back what it remembers, and what it drives, if a change does not end well."""
        numbers = [] if self.optimizer is None else [self.optimizer._table.state]
        return undone_on_error(*self._states(), *numbers)

    def _states(self) -> list[OptimState]:
        """Return the States that hold what it remembers."""
        return [self.last_epoch]

    def _parts(self) -> list[Any]:
        """Return all objects that attaching changes: itself, its children, their States."""
        return [self, *self._states()]

    def _set_optimizer(self, optimizer: OptaxOptimizer | None) -> None:
        vars(self)['optimizer'] = optimizer

    # ---- showing -------------------------------------------------------------------------

    def preview(self, n: int) -> np.ndarray | jax.Array:
        """Return what it will give in the next ``n`` epochs, a row for each, touching nothing.

        The first row is the present. There is a column for each group. In a program that is traced
        it is an array of JAX.
        """
        n = check_count(type(self).__name__, 'n', n)
        progress, lrs = self._progress_of_one(), self._lrs()
        rows = [self._shown(progress, lrs)]
        for _ in range(n - 1):
            progress, lrs = _PROMOTING(self._advanced)(progress, lrs)
            rows.append(self._shown(progress, lrs))
        rows = rows[:n]
        return jnp.array(rows) if any(map(is_tracer, jax.tree.leaves(rows))) else np.array(rows)

    def _shown(self, progress: Progress, lrs: list) -> list:
        return lrs

    def plot(self, n: int, ax: Any = None) -> Any:
        """Plot the next ``n`` epochs with matplotlib; return the axes."""
        values = self.preview(n)
        if ax is None:
            try:
                from matplotlib import pyplot
            except ImportError as error:
                raise ImportError('plotting a scheduler needs matplotlib; install it.') from error
            ax = pyplot.figure(layout='constrained').gca()
        values = values.reshape(n, -1 if n else 0)
        start = self._epoch()
        for i, line in enumerate(values.T):
            ax.plot(np.arange(start, start + n), line, label=f'group {i}')
        ax.set(xlabel='epoch', ylabel=self._quantity(), title=type(self).__name__)
        if values.shape[1] > 1:
            ax.legend()
        return ax

    def _quantity(self) -> str:
        return 'learning rate'

    # ---- saving and copying --------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return a snapshot as plain data."""
        return {'scheduler': type(self).__name__, 'last_epoch': self._epoch()}

    def differences(self, state_dict: Mapping[str, Any]) -> list[str]:
        """Return what keeps a snapshot from being loaded."""
        if not isinstance(state_dict, Mapping):
            owner = type(self).__name__
            return [f'{owner}: its state must be a dict, got {type(state_dict).__name__}']
        return self._differences(state_dict) or self._differences_of_whole(state_dict)

    def peculiar(self, state_dict: Any) -> list[str]:
        """Return what a snapshot has of another scheduler, which need not stop it from loading."""
        theirs = set(state_dict) if isinstance(state_dict, Mapping) else set()
        names = sorted(theirs - set(self.state_dict()), key=str)
        return [f'{type(self).__name__}: {name!r} is unknown here' for name in names]

    def _differences(self, saved: Mapping[str, Any]) -> list[str]:
        """Return what keeps a dict from being loaded."""
        owner, wrong = type(self).__name__, []
        if saved.get('scheduler', owner) != owner:
            wrong.append(f'it was saved by {saved["scheduler"]}, this is {owner}')
        epoch: Any = saved.get('last_epoch')
        if not is_plain_number(epoch) or not 0 <= epoch < 2**31:
            wrong.append(f'{owner}: last_epoch must be a number in [0, 2**31), got {epoch!r}')
        return wrong

    def _differences_of_whole(self, saved: Mapping[str, Any]) -> list[str]:
        """Return what else keeps a dict from being loaded, where it is not that of a part."""
        return []

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a snapshot, or raise with every difference, having changed nothing."""
        if isinstance(state_dict, Mapping) and '_step_count' in state_dict:
            raise IncompatibleCheckpoint(
                [f'it comes from torch: step(epoch) takes a new {type(self).__name__} to its epoch']
            )
        state_dict = shaped_like(plainly(state_dict), self.state_dict())
        if wrong := [*self.peculiar(state_dict), *self.differences(state_dict)]:
            raise IncompatibleCheckpoint(wrong)
        with self._undone_on_error():
            self._restore(state_dict)

    def _restore(self, saved: Mapping[str, Any]) -> None:
        """Take over a snapshot that fits."""
        self._put_back(saved)

    def _put_back(self, saved: Mapping[str, Any]) -> None:
        """Take over a snapshot that fits, perhaps one of a part."""
        self._put(Progress(saved['last_epoch']))

    def copy(self, optimizer: OptaxOptimizer | None, memo: dict[int, Any]) -> Any:
        """Return the same scheduler for a copy of its optimizer.

        ``memo`` gets to know it, and those that it is made of, as in :func:`copy.deepcopy`.
        """
        new = memo[id(self)] = object.__new__(type(self))
        self._copy_into(new, memo)
        new._set_optimizer(optimizer)
        return new

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Return it with a copy of the optimizer that it drives, if it drives one."""
        if self.optimizer is None:
            return self.copy(None, memo)
        copy.deepcopy(self.optimizer, memo)  # copies its schedulers, too
        return memo[id(self)]

    def __copy__(self) -> Any:
        raise TypeError(
            f'two {type(self).__name__} cannot share their state; copy.deepcopy gives an '
            f'independent one, with a copy of the optimizer that it drives.'
        )

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(
            f'{type(self).__name__} cannot be pickled; pickle scheduler.state_dict(), build the '
            f'scheduler anew and call load_state_dict.'
        )

    def _copy_into(self, new: Any, memo: dict[int, Any]) -> None:
        """Give a copy its attributes; ``memo`` has what is copied already, by identity."""
        own = {name: value for name, value in vars(self).items() if name != '_traced'}
        vars(new).update({name: _copied(value, memo) for name, value in own.items()})

    # ---- its attributes ------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        known = vars(self)
        if name == 'last_epoch' and not isinstance(value, State):
            raise AttributeError(
                f'last_epoch of {type(self).__name__} is a State; step(epoch={value!r}) goes there.'
            )
        if isinstance(known.get(name), PartState):  # which stays one
            known[name].value = value.value
            return
        if '_built' in known and name in self._settled:
            self._refuse_fixed(name)
        if '_built' in known and name == 'optimizer':
            raise AttributeError(
                f'optimizer of {type(self).__name__} is what it drives: call attach_optimizer; '
                f'none can be taken away.'
            )
        if '_built' in known:
            refuse_class_attribute(self, name)
        if self._traced:
            way = f'super().__init__(..., numbers={{{name!r}: {name}}}) makes it live'
            refuse_unseen(self, name, value, ('affine', 'get_lr'), way)
        if '_built' in known and name not in known:
            arguments = inspect.signature(type(self)).parameters
            if is_ours(self) and name in arguments:
                self._refuse_fixed(name)
            refuse_stray(self, name, self._assignable(), arguments)
        object.__setattr__(self, name, value)

    def _assignable(self) -> list[str]:
        """Return the names of the numbers that may be assigned."""
        return []

    def _refuse_fixed(self, name: str) -> NoReturn:
        raise AttributeError(
            f'{name} of {type(self).__name__} is fixed at construction; build a new scheduler.'
        )


def _copied(x: Any, memo: Mapping[int, Any]) -> Any:
    """Return a copy of a State of a scheduler or a container; all else is shared."""
    if id(x) in memo:
        return memo[id(x)]
    if isinstance(x, OptimState):
        return x.duplicate()
    if isinstance(x, np.ndarray):
        return x.copy()
    if type(x) is dict:
        return {k: _copied(v, memo) for k, v in x.items()}
    return type(x)(_copied(v, memo) for v in x) if type(x) in (list, tuple, set) else x
