"""Schedulers made of schedulers."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

import jax
import jax.numpy as jnp
import numpy as np

from ..check import check_number
from ..observe import is_tracer
from ..state import OptimState
from .base import Progress, Scheduler
from .present import PresentRate
from .rate import LRScheduler
from .row import agree

if TYPE_CHECKING:
    from ..groups import ParamGroup
    from ..optimizer import OptaxOptimizer

__all__ = ['ChainedScheduler', 'SequentialLR']


class Composite(PresentRate):
    """What schedulers made of others share: they remember what their children do."""

    __module__ = 'braintools_optim'

    def __init__(self, schedulers: Sequence[LRScheduler], last_epoch: int = 0):
        Scheduler.__init__(self, last_epoch)
        owner = type(self).__name__
        children: list[Any] = (
            list(schedulers) if isinstance(schedulers, list | tuple) else [schedulers]
        )
        if not children:
            raise ValueError(f'{owner} needs at least one scheduler, got an empty list.')
        for child in children:
            if not isinstance(child, LRScheduler):
                raise TypeError(f'{owner} is made of LRSchedulers, got {child!r}.')
        if len({id(child) for child in children}) < len(children):
            raise ValueError(
                f'{owner} was given a scheduler twice; each one counts its own epochs.'
            )
        self._children: list[LRScheduler] = children
        optimizers = {id(c.optimizer): c.optimizer for c in children}
        if len(optimizers) > 1:
            raise ValueError(
                f'the schedulers of one {owner} must drive one optimizer, or none yet.'
            )
        (optimizer,) = optimizers.values()
        if optimizer is None:
            bases = self._source()._bases()
            self._given_bases(bases)
            self._adopt(bases, bases)
        else:
            for child in children:
                optimizer._release(child)
            lrs = self._take_over(optimizer)
            optimizer._enlist(self)
            self._set_optimizer(optimizer)
            self._drive(self._progress(), lrs)

    @property
    def schedulers(self) -> list[LRScheduler]:
        """The schedulers it is made of."""
        return list(self._children)

    def _take_over(self, optimizer: OptaxOptimizer) -> list:
        """Return the learning rates that follow, of children that drive the optimizer already."""
        raise NotImplementedError

    def _set_lrs(self, lrs: Sequence) -> None:
        if self.optimizer is None:
            raise ValueError(
                f'this {type(self).__name__} drives no optimizer, and so has no learning rate to '
                f'replace: give it to one, or change the schedulers that it is made of.'
            )
        super()._set_lrs(lrs)

    def _bases(self) -> list:
        return self._source()._bases()

    def _rebase(self, bases: list) -> None:
        before = self._bases()
        for child in self._children:
            if agree(child._bases(), before):
                child._rebase(bases)

    def _source(self) -> LRScheduler:
        """Return the child whose base is that of all that keep none of their own."""
        common = self._givers()
        if not common and self._children[0].optimizer is not None:
            common = [child for child in self._children if not child._keeps_base()]
        given = [child for child in self._children if child._gives_base()]
        return [*common, *given, *self._children][0]

    def _givers(self) -> list[LRScheduler]:
        """Return the children that were given the base of all that keep none of their own."""
        given = [child for child in self._children if child._gives_base()]
        common = [child for child in given if not child._keeps_base()]
        return common or [child for child in reversed(given) if child.shares_base][:1]

    @property
    def shares_base(self) -> bool:  # type: ignore[override]
        """Whether what starts later starts from its base, too."""
        return self._source().shares_base

    def _gives_base(self) -> bool:
        return any(child._gives_base() for child in self._children)

    def _keeps_base(self) -> bool:
        givers = [child for child in self._children if child._gives_base()]
        return bool(givers) and all(child._keeps_base() for child in givers)

    def _fit(self, optimizer: OptaxOptimizer) -> None:
        for child in self._children:
            child._fit(optimizer)

    def _given_bases(self, lrs: list) -> list | None:
        all_given = (child._given_bases(lrs) for child in self._givers())
        given = [bases for bases in all_given if bases is not None]
        self._check_given(given)
        return given[0] if given else None

    def _check_given(self, given: list[list]) -> None:
        """Raise if the bases that its children were given do not go together."""

    def _own_base(self, group: int) -> Any:
        bases = [child._own_base(group) for child in self._children]
        return next((base for base in bases if base is not None), None)

    def _adopt(self, bases: list, lrs: list) -> list:
        for child in self._children:
            child._adopt(bases, lrs)
        return self._started(lrs)

    def _check_groups(self, count: int) -> None:
        for child in self._children:
            child._check_groups(count)

    def _progress(self) -> Progress:
        return Progress(self._epoch(), [child._progress() for child in self._children])

    def _put(self, progress: Progress) -> None:
        for child, part in zip(self._children, progress.memory, strict=True):
            child._put(part)
        Scheduler._put(self, progress)

    def _settings(self, progress: Progress) -> dict[tuple[int, str], Any]:
        parts = zip(self._children, progress.memory, strict=True)
        return {k: v for child, part in parts for k, v in child._settings(part).items()}

    def _states(self) -> list[OptimState]:
        return [self.last_epoch, *(s for child in self._children for s in child._states())]

    def _parts(self) -> list[Any]:
        return [self, self.last_epoch, *(x for child in self._children for x in child._parts())]

    def _set_optimizer(self, optimizer: OptaxOptimizer | None) -> None:
        super()._set_optimizer(optimizer)
        for child in self._children:
            child._set_optimizer(optimizer)

    def step(self, *args: Any, epoch: Any = None, metric: Any = None, metrics: Any = None) -> None:
        """Go on to the next epoch; give the metric if a ReduceLROnPlateau is among them."""
        if len(args) > 1:
            raise TypeError(f'{type(self).__name__}.step takes one argument, got {len(args)}.')
        metric = metrics if metric is None else metric
        if args and self._wants_metric():
            metric = args[0]
        elif args:
            epoch = args[0]
        if epoch is not None:
            epoch = self._checked_epoch(epoch)
        then = self._epoch() + 1 if epoch is None else epoch
        if metric is None and self._wants_metric() and self._watches(then):
            raise TypeError(
                f'{type(self).__name__}.step needs the metric that a ReduceLROnPlateau in it '
                f'watches, got None: call step(loss).'
            )
        self._step(epoch, metric)

    def _watches(self, epoch: Any) -> bool:
        return any(child._watches(epoch) for child in self._children)

    def _wants_metric(self) -> bool:
        return any(child._wants_metric() for child in self._children)

    def state_dict(self) -> dict[str, Any]:
        """Return a snapshot as plain data."""
        return Scheduler.state_dict(self) | {
            'base_lrs': self._bases(),
            'current_lrs': list(self._lrs()),
            'schedulers': [child.state_dict() for child in self._children],
        }

    def _differences(self, saved: Mapping[str, Any]) -> list[str]:
        wrong = Scheduler._differences(self, saved)
        owner, parts = type(self).__name__, saved.get('schedulers')
        now, count = saved.get('current_lrs'), len(self._lrs())
        try:
            check_number(owner, 'lr', now, (0.0,) * count)
        except (TypeError, ValueError) as error:
            wrong.append(f'current_lrs: {error}')
        if not isinstance(parts, list | tuple) or len(parts) != len(self._children):
            return [*wrong, f'{owner}: it is made of {len(self._children)} schedulers, got {parts}']
        for child, part in zip(self._children, parts, strict=True):
            wrong += child.differences(part)
        return wrong

    def _restore(self, saved: Mapping[str, Any]) -> None:
        for child, part in zip(self._children, saved['schedulers'], strict=True):
            child._restore(part)
        Scheduler._put(self, Progress(saved['last_epoch']))
        self._drive(self._progress(), list(saved['current_lrs']))

    def _copy_into(self, new: Any, memo: dict[int, Any]) -> None:
        for child in self._children:
            memo[id(child)] = object.__new__(type(child))
            child._copy_into(memo[id(child)], memo)
        super()._copy_into(new, memo)

    def __repr__(self) -> str:
        inner = ', '.join(map(repr, self._children))
        return f'{type(self).__name__}([{inner}], epoch={self._epoch()})'


class ChainedScheduler(Composite):
    """Step several schedulers together: their effects multiply.

    Parameters
    ----------
    schedulers : list of LRScheduler
        In the order in which they act. The base learning rate is given in one of them (or the
        same in all).
    """

    __module__ = 'braintools_optim'

    def __init__(self, schedulers: Sequence[LRScheduler]):
        super().__init__(schedulers)

    def _check_given(self, given: list[list]) -> None:
        if not all(agree(other, given[0]) for other in given[1:]):
            raise ValueError(
                f'the schedulers of {type(self).__name__} start from different base_lr, {given}: '
                f'leave it out in all but one, or give the same.'
            )

    def _check_step(self, epoch: Any) -> None:
        for child in self._children:
            child._check_step(epoch)

    def _take_over(self, optimizer: OptaxOptimizer) -> list:
        return optimizer.get_last_lr()

    def _adopt(self, bases: list, lrs: list) -> list:
        for child in self._children:
            lrs = child._adopt(bases, lrs)
        return lrs

    def _started(self, lrs: list) -> list:
        for child in self._children:
            lrs = child._started(lrs)
        return lrs

    def _join(self, group: ParamGroup, base: Any, lr: Any) -> Any:
        for child in self._children:
            lr = child._join(group, base, lr)
        return lr

    def _advanced(
        self, progress: Progress, lrs: list, epoch: Any = None, metric: Any = None
    ) -> tuple[Progress, list]:
        parts: list[Progress] = []
        for child, part in zip(self._children, progress.memory, strict=True):
            if epoch is None or not parts:
                part, lrs = child._advanced(part, lrs, epoch, metric)
            else:  # where it jumps to an epoch, what follows goes from what the first gives there
                part, lrs = child._entered(part, lrs, epoch, metric)
            parts.append(part)
        return Progress(progress.epoch + 1 if epoch is None else epoch, parts), lrs

    def _entered(
        self, progress: Progress, lrs: list, epoch: Any, metric: Any = None
    ) -> tuple[Progress, list]:
        parts = []
        for child, part in zip(self._children, progress.memory, strict=True):
            part, lrs = child._entered(part, lrs, epoch, metric)
            parts.append(part)
        return Progress(epoch, parts), lrs

    def _written(self, progress: Progress) -> list:
        return self._children[-1]._written(progress.memory[-1])


class SequentialLR(Composite):
    """Follow one scheduler after the other, each from its own first epoch on.

    Parameters
    ----------
    schedulers : list of LRScheduler
        In the order in which they run. Each goes from the base that it was given; those that were
        given none go from that of the first.
    milestones : list of int
        The epochs at which the second, third, ... takes over.
    last_epoch : int
        The epoch to start from.

    Notes
    -----
    A SequentialLR among them runs as it would alone; torch's is one epoch early there.
    """

    __module__ = 'braintools_optim'

    @overload  # the metaclass takes the optimizer off
    def __init__(self, optimizer: OptaxOptimizer, *args: Any, **options: Any) -> None: ...

    @overload
    def __init__(
        self, schedulers: Sequence[LRScheduler], milestones: Sequence[int], last_epoch: int = ...
    ) -> None: ...

    def __init__(  # type: ignore[misc]
        self, schedulers: Sequence[LRScheduler], milestones: Sequence[int], last_epoch: int = 0
    ):
        at: list[Any] = list(milestones) if isinstance(milestones, list | tuple) else [milestones]
        if not all(_is_count(m) and m >= 1 for m in at) or (
            any(b <= a for a, b in zip(at, at[1:], strict=False))
        ):
            raise ValueError(
                f'SequentialLR needs ascending integers >= 1 for milestones, got {milestones!r}.'
            )
        self.milestones: list[int] = list(map(int, at))
        if isinstance(schedulers, list | tuple) and len(schedulers) != len(at) + 1:
            raise ValueError(
                f'SequentialLR needs one scheduler more than milestones, got {len(schedulers)} '
                f'and {len(at)}.'
            )
        super().__init__(schedulers, last_epoch)

    @property
    def current_scheduler_idx(self) -> Any:
        """The place of the scheduler that runs at present."""
        return sum(self._epoch() >= m for m in self.milestones)

    @property
    def n_schedulers(self) -> int:
        """The number of schedulers."""
        return len(self._children)

    def _check_step(self, epoch: Any) -> None:
        then = self._epoch() + 1 if epoch is None else epoch
        if is_tracer(then):
            return
        i, begin = self._running(then)
        follows = epoch is None and not (i and then == begin)
        self._children[i]._check_step(None if follows else then - begin)

    def _watches(self, epoch: Any) -> bool:
        if is_tracer(epoch):
            return super()._watches(epoch)
        i, begin = self._running(epoch)
        return self._children[i]._watches(epoch - begin)

    def _take_over(self, optimizer: OptaxOptimizer) -> list:
        for child in self._children:
            child._put(child._progress()._replace(epoch=0))
        bases, count = self._bases(), len(self._children)
        return self._adopt_each([child._bases() for child in self._children], [bases] * count)

    def _adopt(self, bases: list, lrs: list) -> list:
        each = [child._given_bases(lrs) or bases for child in self._children]
        # What runs from a base of its own does not start from the rates before.
        return self._adopt_each(each, [lrs if agree(own, bases) else own for own in each])

    def _adopt_each(self, bases: list[list], lrs: list[list]) -> list:
        first, begin = self._running(self._epoch())
        child = self._children[first]
        if self._epoch() > begin:
            child._put(child._progress()._replace(epoch=self._epoch() - begin))
        parts = zip(self._children, bases, lrs, strict=True)
        return [child._adopt(*part) for child, *part in parts][first]

    def _running(self, epoch: Any) -> tuple[int, int]:
        """Return which scheduler runs at an epoch, and since when."""
        i = bisect_right(self.milestones, epoch)
        return i, self.milestones[i - 1] if i else 0

    def _started(self, lrs: list) -> list:
        child = self._children[self._running(self._epoch())[0]]
        own = child._bases()
        return child._started(lrs if agree(own, self._bases()) else own)

    def _join(self, group: ParamGroup, base: Any, lr: Any) -> Any:
        shared, joined = self._bases()[:1], []
        for child in self._children:
            own = child._own_base(group.index)
            if own is None:
                own = child._bases()[0] if agree([base], shared) else base
            joined.append(child._join(group, own, lr if agree([own], [base]) else own))
        return joined[self._running(self._epoch())[0]]

    def _advanced(
        self, progress: Progress, lrs: list, epoch: Any = None, metric: Any = None
    ) -> tuple[Progress, list]:
        def follow(i: int, part: Progress, then: Any) -> tuple[Progress, list]:
            child, begins = self._children[i], (then == 0) & (i > 0)
            if not is_tracer(then) and not begins:
                return child._advanced(part, lrs, None, metric)
            # torch starts a scheduler with step(0)
            anew = (child._entered if child.starts_from_present else child._advanced)(
                part, lrs, 0, metric
            )
            if not is_tracer(then):
                return anew
            # Both are pure, and the program takes one.
            return _chosen(begins, anew, child._advanced(part, lrs, None, metric))

        def jump(i: int, part: Progress, then: Any) -> tuple[Progress, list]:
            return self._children[i]._advanced(part, lrs, then, metric)

        if epoch is None:
            return self._where_it_runs(progress, lrs, progress.epoch + 1, follow)
        return self._where_it_runs(progress, lrs, epoch, jump)

    def _entered(
        self, progress: Progress, lrs: list, epoch: Any, metric: Any = None
    ) -> tuple[Progress, list]:
        bases = self._bases()

        def enter(i: int, part: Progress, then: Any) -> tuple[Progress, list]:
            own = self._children[i]._bases()
            start = lrs if agree(own, bases) else own[: len(lrs)]
            return self._children[i]._entered(part, start, then, metric)

        return self._where_it_runs(progress, lrs, epoch, enter)

    def _where_it_runs(
        self, progress: Progress, lrs: list, then: Any, go: Callable
    ) -> tuple[Progress, list]:
        """Return what follows if the scheduler that runs at ``then`` goes, the others rest.

        ``go(i, part, epoch)`` is what the scheduler at i makes of its part, at an epoch of its own.
        """
        parts, new = list(progress.memory), lrs
        for i, begin in enumerate([0, *self.milestones]):
            end = self.milestones[i] if i < len(self.milestones) else None
            runs = then >= begin if end is None else (then >= begin) & (then < end)
            if not is_tracer(then) and not runs:
                continue
            after = go(i, parts[i], then - begin)
            if is_tracer(then):
                after = _chosen(runs, after, (parts[i], new))
            parts[i], new = after
        return Progress(then, parts), new

    def _written(self, progress: Progress) -> list:
        def written(i: int, part: Progress, then: Any) -> tuple[Progress, list]:
            return part, self._children[i]._written(part)

        _, first = written(0, progress.memory[0], 0)
        return self._where_it_runs(progress, first, progress.epoch, written)[1]

    def state_dict(self) -> dict[str, Any]:
        """Return a snapshot as plain data; which scheduler runs follows from the epoch."""
        running = {'current_scheduler_idx': self.current_scheduler_idx}
        return super().state_dict() | {'milestones': list(self.milestones)} | running

    def _differences(self, saved: Mapping[str, Any]) -> list[str]:
        wrong = super()._differences(saved)
        theirs = saved.get('milestones', self.milestones)  # the first files lack them
        if theirs != self.milestones:
            wrong.append(
                f'SequentialLR: it was built with milestones {theirs}, here with {self.milestones}'
            )
        return wrong

    def __repr__(self) -> str:
        return super().__repr__().replace('], epoch=', f'], milestones={self.milestones}, epoch=')


def _is_count(x: Any) -> bool:
    return isinstance(x, int | np.integer) and not isinstance(x, bool)


def _chosen(condition: Any, yes: Any, no: Any) -> Any:
    """Choose between two results in a traced program; their leaves match."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
