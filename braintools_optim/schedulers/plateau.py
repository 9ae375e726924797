"""A scheduler that watches a metric."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..check import (
    check_choice,
    check_count,
    check_metric,
    check_number,
    is_count,
    is_plain_number,
    is_tracer,
)
from ..ranges import DECAY, NON_NEGATIVE, Range
from .present import PresentRate
from .rate import OPTIMIZER_RATE, BaseRateArgument, PerGroup
from .row import Row
from .scheduler import Progress, following
from .shown import live_count

__all__ = ['ReduceLROnPlateau']

REMEMBERED = ('best', 'num_bad_epochs', 'cooldown_counter')


def _remembered(name: str, doc: str) -> property:
    """Return an attribute for what a ReduceLROnPlateau remembers."""
    place = REMEMBERED.index(name)

    def write(self: ReduceLROnPlateau, value: Any) -> None:
        progress, owner = self._progress(), type(self).__name__
        extra = list(progress.extra)
        if name == 'best':
            extra[place] = check_number(owner, name, value, allowed=Range())
        else:
            extra[place] = float(check_count(owner, name, value))
        self._put(progress._replace(extra=tuple(extra)))

    def read(self: ReduceLROnPlateau) -> Any:
        return live_count(lambda: self._seen()[place], lambda new: write(self, new))

    return property(read, write, doc=doc)


class ReduceLROnPlateau(PresentRate):
    r"""Multiply the learning rate by a factor whenever a metric has stopped improving.

    Parameters
    ----------
    base_lr : float or list of float, or the optimizer to drive, as in torch
        The learning rate, or one for each group; left out, that of the optimizer.
    mode : {'min', 'max'}
        Whether the metric is to fall or to rise.
    factor : float
        What the learning rate is multiplied by.
    patience : int
        How many epochs without improvement are tolerated.
    threshold, threshold_mode : float, {'rel', 'abs'}
        How much better than the best, relatively or absolutely, counts as an improvement.
    cooldown : int
        How many epochs after a reduction are not counted as bad.
    min_lr : float or list of float
        The lower bound of the learning rate, or one for each group.
    eps : float
        Reductions by no more than this are skipped.
    last_epoch : int
        The epoch to start from.

    Notes
    -----
    As in torch, a metric that is nan is no improvement.
    """

    ranges = {'factor': DECAY, 'threshold': NON_NEGATIVE, 'min_lr': NON_NEGATIVE}
    of_all_groups = ('threshold',)  # there is one metric
    remembered = REMEMBERED

    gives_base = False  # torch's sets no initial_lr

    def __init__(
        self,
        base_lr: BaseRateArgument = OPTIMIZER_RATE,
        mode: str = 'min',
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = 'rel',
        cooldown: int = 0,
        min_lr: PerGroup = 0.0,
        eps: float = 1e-8,
        last_epoch: int = 0,
    ):
        numbers = {'factor': factor, 'threshold': threshold, 'min_lr': min_lr, 'eps': eps}
        owner = type(self).__name__
        fixed = {
            'mode': check_choice(owner, 'mode', mode, ('min', 'max')),
            'patience': check_count(owner, 'patience', patience),
            'threshold_mode': check_choice(owner, 'threshold_mode', threshold_mode, ('rel', 'abs')),
            'cooldown': check_count(owner, 'cooldown', cooldown),
        }
        super().__init__(base_lr, last_epoch, numbers=numbers, fixed=fixed)

    def _first_remembered(self) -> list[float]:
        return [self.mode_worse, 0.0, 0.0]

    best = _remembered('best', 'The best metric so far.')
    num_bad_epochs = _remembered('num_bad_epochs', 'How many epochs went by without improvement.')
    cooldown_counter = _remembered('cooldown_counter', 'How many epochs still do not count.')

    @property
    def in_cooldown(self) -> Any:
        """Whether this epoch does not count."""
        return self.cooldown_counter > 0

    @property
    def mode_worse(self) -> float:
        """What any metric is better than: ``best`` at the beginning."""
        return math.inf if self.mode == 'min' else -math.inf

    @property
    def min_lrs(self) -> list:
        """The lower bound of the learning rate, for each group."""
        return self._each('min_lr')

    @min_lrs.setter
    def min_lrs(self, values: Sequence) -> None:
        self._set_number('min_lr', values)

    def _wants_metric(self) -> bool:
        return True

    def step(  # type: ignore[override]  # torch gives the metric first
        self, metric: Any = None, epoch: Any = None, *, metrics: Any = None
    ) -> None:
        """Go on to the next epoch, with what the metric (torch's ``metrics``) was in this one."""
        metric = self._given_once('metric', metric, metrics)
        if metric is None:
            raise TypeError(
                f'{type(self).__name__}.step needs the metric that it watches, got None: '
                f'call step(loss).'
            )
        if not is_tracer(metric):
            metric = check_metric(type(self).__name__, 'metric', metric)
        self._step(epoch, metric)

    def _advanced(
        self, progress: Progress, lrs: list, epoch: Any = None, metric: Any = None
    ) -> tuple[Progress, list]:
        then = following(progress.epoch, epoch)
        if metric is None:  # previewed: as long as the metric improves
            return progress._replace(epoch=then), lrs
        xp = jnp if any(map(is_tracer, (metric, *progress.extra, *lrs))) else np
        best, bad, cooling = progress.extra
        better = self._is_better(progress.memory[0], metric, best)
        best, bad = xp.where(better, metric, best), xp.where(better, 0, bad + 1)
        bad, cooling = xp.where(cooling > 0, 0, bad), xp.maximum(cooling - 1, 0)
        reduce = bad > self.patience
        cooling, bad = xp.where(reduce, self.cooldown, cooling), xp.where(reduce, 0, bad)
        rows, new = [], []
        for row, lr in zip(progress.memory, lrs, strict=True):
            own = self._numbers_of(row)
            lower = xp.maximum(lr * own['factor'], own['min_lr'])
            lr = xp.where(reduce & (lr - lower > own['eps']), lower, lr)
            new.append(lr if xp is jnp else float(lr))
            rows.append(row._replace(written=new[-1]))
        extra = tuple(x if is_tracer(x) else float(x) for x in (best, bad, cooling))
        return Progress(then, rows, extra), new

    def _is_better(self, row: Row, metric: Any, best: Any) -> Any:
        threshold = self._numbers_of(row)['threshold']
        if self.threshold_mode == 'abs':
            bound = best - threshold if self.mode == 'min' else best + threshold
        else:
            bound = best * (1.0 - threshold if self.mode == 'min' else 1.0 + threshold)
        return metric < bound if self.mode == 'min' else metric > bound

    def _seen(self) -> list:
        """Return what it remembers of the metric, the counts as integers."""
        best, *counts = self._progress().extra
        return [best, *(x.astype(jnp.int32) if is_tracer(x) else int(x) for x in counts)]

    def state_dict(self) -> dict[str, Any]:
        """Return a snapshot as plain data."""
        return super().state_dict() | dict(zip(REMEMBERED, self._seen(), strict=True))

    def _differences(self, saved: Mapping[str, Any]) -> list[str]:
        wrong = super()._differences(saved)
        owner, best = type(self).__name__, saved.get('best')
        if not is_plain_number(best) or best not in Range():
            wrong.append(f'{owner}: best must be a number, not nan, got {best!r}')
        for key in REMEMBERED[1:]:
            if not is_count(saved.get(key)):
                wrong.append(f'{owner}: {key} must be a count, got {saved.get(key)!r}')
        return wrong

    def _put_back(self, saved: Mapping[str, Any]) -> None:
        super()._put_back(saved)
        extra = tuple(float(saved[k]) for k in REMEMBERED)
        self._put(self._progress()._replace(extra=extra))
