"""Following one scheduler after the other."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

from ..check import is_count, is_tracer
from .composite import Composite
from .rate import LRScheduler
from .row import either, same
from .scheduler import Progress, following

if TYPE_CHECKING:
    from ..groups import ParamGroup
    from ..optimizer import OptaxOptimizer

__all__ = ['SequentialLR']


class SequentialLR(Composite):
    """Follow one scheduler after the other, each from its own first epoch on.

    An optimizer may come first, as in torch: ``SequentialLR(opt, [...], milestones=[5])``.

    Parameters
    ----------
    schedulers : list of LRScheduler
        In the order in which they run. Each starts from the base that it was given, or else from
        that of the first; `SWALR`, `MultiplicativeLR` and `ReduceLROnPlateau` go on from the
        learning rate that they find.
    milestones : list of int
        The epochs at which the second, third, ... takes over.
    last_epoch : int
        The epoch to start from.

    Notes
    -----
    A SequentialLR among them runs as it would alone; torch's is one epoch early there. A warm-up of
    5 epochs comes to its end in the epoch 5: what goes on from there takes over at the milestone 6.
    """

    @overload  # the metaclass takes the optimizer off
    def __init__(self, optimizer: OptaxOptimizer, *args: Any, **options: Any) -> None: ...

    @overload
    def __init__(
        self, schedulers: Sequence[LRScheduler], milestones: Sequence[int], last_epoch: int = ...
    ) -> None: ...

    def __init__(  # type: ignore[misc]  # the overloads say less
        self, schedulers: Sequence[LRScheduler], milestones: Sequence[int], last_epoch: int = 0
    ):
        owner = type(self).__name__
        at: list[Any] = list(milestones) if isinstance(milestones, list | tuple) else [milestones]
        at = [int(m) if isinstance(m, float) and m.is_integer() else m for m in at]
        if not all(is_count(m) and m >= 1 for m in at) or (
            any(b <= a for a, b in zip(at, at[1:], strict=False))
        ):
            raise ValueError(
                f'{owner} needs ascending integers >= 1 for milestones, got {milestones!r}.'
            )
        self._fixed = {'milestones': list(map(int, at))}
        given = [schedulers] if isinstance(schedulers, LRScheduler) else schedulers
        if isinstance(given, list | tuple) and len(given) != len(at) + 1:
            raise ValueError(
                f'{owner} needs one scheduler more than milestones, got {len(given)} and {len(at)}.'
            )
        super().__init__(given, last_epoch)

    @property
    def current_scheduler_idx(self) -> Any:
        """The place of the scheduler that runs at present."""
        return sum(self._epoch() >= m for m in self.milestones)

    @property
    def n_schedulers(self) -> int:
        """The number of schedulers."""
        return len(self._children)

    def _check_step(self, epoch: Any) -> None:
        then = following(self._epoch(), epoch)
        if is_tracer(then):
            return
        i, begin = self._part_at(then)
        follows = epoch is None and not (i and then - begin < 1)
        self._children[i]._check_step(None if follows else then - begin)

    def _watches(self, epoch: Any) -> bool:
        if is_tracer(epoch):
            return super()._watches(epoch)
        i, begin = self._part_at(epoch)
        return self._children[i]._watches(epoch - begin)

    def _take_over(self, optimizer: OptaxOptimizer) -> list:
        for child in self._children:
            child._put(child._progress()._replace(epoch=0))
        bases, count = self._bases(), len(self._children)
        return self._adopt_each([child._bases() for child in self._children], [bases] * count)

    def _adopt(self, bases: list, lrs: list) -> list:
        each = [child._bases_given_for(bases) or bases for child in self._children]
        # What runs from a base of its own does not start from the rates before.
        return self._adopt_each(each, [either(same(own, bases), lrs, own) for own in each])

    def _adopt_each(self, bases: list[list], lrs: list[list]) -> list:
        first, begin = self._part_at(self._epoch())
        child = self._children[first]
        if self._epoch() > begin:
            child._put(child._progress()._replace(epoch=self._epoch() - begin))
        parts = zip(self._children, bases, lrs, strict=True)
        return [child._adopt(*part) for child, *part in parts][first]

    def _part_at(self, epoch: Any) -> tuple[int, int]:
        """Return which scheduler runs at an epoch, and since when."""
        if is_tracer(epoch):
            raise ValueError(
                f'{type(self).__name__} must know its epoch to begin or to change its base_lrs: do '
                f'so outside of the compiled function.'
            )
        i = bisect_right(self.milestones, epoch)
        return i, self.milestones[i - 1] if i else 0

    def _started(self, lrs: list) -> list:
        child = self._children[self._part_at(self._epoch())[0]]
        own = child._bases()
        return child._started(either(same(own, self._bases()), lrs, own[: len(lrs)]))

    def _join(self, group: ParamGroup, base: Any, lr: Any) -> Any:
        shared, joined = self._bases()[:1], []
        for child in self._children:
            own = child._own_base(group.index)
            if own is None:
                own = either(same([base], shared), child._bases()[0], base)
            joined.append(child._join(group, own, either(same([own], [base]), lr, own)))
        return joined[self._part_at(self._epoch())[0]]

    def _advanced(
        self, progress: Progress, lrs: list, epoch: Any = None, metric: Any = None
    ) -> tuple[Progress, list]:
        def follow(i: int, part: Progress, then: Any) -> tuple[Progress, list]:
            child, begins = self._children[i], (then < 1) & (i > 0)  # at a fraction, too
            if not is_tracer(then) and not begins:
                return child._advanced(part, lrs, None, metric)
            # torch starts a scheduler with step(0)
            anew = (child._entered if child.starts_from_present else child._advanced)(
                part, lrs, then, metric
            )
            if not is_tracer(then):
                return anew
            # Both are pure, and the program takes one.
            return either(begins, anew, child._advanced(part, lrs, None, metric))

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
            start = either(same(own, bases), lrs, own[: len(lrs)])
            return self._children[i]._entered(part, start, then, metric)

        return self._where_it_runs(progress, lrs, epoch, enter)

    def _where_it_runs(
        self, progress: Progress, lrs: list, then: Any, go: Callable
    ) -> tuple[Progress, list]:
        """Return what follows if the scheduler that runs at ``then`` goes, the others rest.

        ``go(i, part, epoch)`` is what the scheduler at i makes of its part, at an epoch of its own.
        """
        parts, new = list(progress.memory), lrs
        for i, begin, runs in self._running(then):
            parts[i], new = either(runs, go(i, parts[i], then - begin), (parts[i], new))
        return Progress(then, parts), new

    def _running(self, epoch: Any) -> Iterator[tuple[int, int, Any]]:
        """Return which scheduler may run at an epoch, since when, and whether it does."""
        for i, begin in enumerate([0, *self.milestones]):
            end = self.milestones[i] if i < len(self.milestones) else None
            runs = epoch >= begin if end is None else (epoch >= begin) & (epoch < end)
            if is_tracer(epoch) or runs:
                yield i, begin, runs

    def _settings(self, progress: Progress) -> dict[tuple[int, str], Any]:
        """Return those of the scheduler that runs; what it does not set stays as it is."""
        found: dict[tuple[int, str], Any] = {}
        for i, _, runs in self._running(progress.epoch):
            for key, value in self._children[i]._settings(progress.memory[i]).items():
                before = found[key] if key in found else self._present_number(*key)
                found[key] = either(runs, value, before)
        return found

    def _first_settings(self, progress: Progress) -> dict[tuple[int, str], Any]:
        # What is still to come leaves its mark where nothing that has run does.
        runs, _ = self._part_at(progress.epoch)
        parts = list(zip(self._children, progress.memory, strict=True))
        order = [*parts[runs + 1 :], *parts[: runs + 1]]
        each = [child._first_settings(part) for child, part in order]
        return {k: v for one in each for k, v in one.items()}

    def _present_number(self, group: int, name: str) -> Any:
        assert self.optimizer is not None  # whose numbers they are
        return self.optimizer._groups[group].number(name)

    def _written(self, progress: Progress) -> list:
        def given(i: int, part: Progress, then: Any) -> tuple[Progress, list]:
            return part, self._children[i]._written(part)

        _, first = given(0, progress.memory[0], 0)
        return self._where_it_runs(progress, first, progress.epoch, given)[1]

    def _saved_written(self, saved: Mapping[str, Any]) -> list:
        i, _ = self._part_at(saved['last_epoch'])
        return self._children[i]._saved_written(saved['schedulers'][i])

    def state_dict(self) -> dict[str, Any]:
        """Return a snapshot as plain data; which scheduler runs follows from the epoch."""
        running = {'current_scheduler_idx': self.current_scheduler_idx}
        return super().state_dict() | {'milestones': list(self.milestones)} | running

    def _differences(self, saved: Mapping[str, Any]) -> list[str]:
        owner, wrong = type(self).__name__, super()._differences(saved)
        theirs = saved.get('milestones', self.milestones)  # files from before it was saved
        if theirs != self.milestones:
            wrong.append(
                f'{owner}: it was built with milestones {theirs}, here with {self.milestones}'
            )
        if not wrong:
            runs, _ = self._part_at(saved['last_epoch'])
            if (told := saved.get('current_scheduler_idx', runs)) != runs:
                wrong.append(f'{owner}: current_scheduler_idx must be {runs}, got {told!r}')
        return wrong
