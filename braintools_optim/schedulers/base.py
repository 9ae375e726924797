"""What all learning-rate schedulers share: attaching, stepping, reporting, saving."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from ..hyper import check_number
from ..state import OptimState

if TYPE_CHECKING:
    from ..groups import ParamGroup
    from ..optimizer import OptaxOptimizer

__all__ = ['LRScheduler']


class LRScheduler:
    """Base class of the schedulers: it drives the learning rate of every group.

    A scheduler is affine in the base learning rate, ``lr(t) = a(t) + b(t) * base``, and a
    subclass gives the pair ``(a, b)`` in :meth:`affine` (or, as in braintools, all learning rates
    in :meth:`get_lr`). A learning rate that was changed by hand is carried on: it is what the
    schedule would give from another base.

    Parameters
    ----------
    base_lr : float or list of float
        The learning rate before any schedule; a list has one for each group.
    last_epoch : int
        The epoch to start from.

    Examples
    --------
    >>> import braintools_optim as bo
    >>> class HalveOnce(bo.LRScheduler):
    ...     def affine(self, epoch, group):
    ...         return 0.0, 1.0 if epoch < 1 else 0.5
    >>> opt = bo.SGD(lr=HalveOnce(0.1))
    >>> opt.lr.step()
    >>> opt.current_lr
    0.05
    """

    __module__ = 'braintools_optim'

    def __init__(self, base_lr: float | Sequence[float] = 1e-3, last_epoch: int = 0):
        owner = type(self).__name__
        given = list(base_lr) if isinstance(base_lr, list | tuple) else [base_lr]
        if not given:
            raise ValueError(f'{owner} needs at least one base_lr, got an empty list.')
        self.optimizer: OptaxOptimizer | None = None
        self.base_lrs = [check_number(owner, 'base_lr', lr) for lr in given]
        self.last_epoch = OptimState(last_epoch)
        # What the schedule starts from now: the base, or what manual changes made of it ...
        self._bases = OptimState(list(self.base_lrs))
        self._written = OptimState(list(self.base_lrs))  # ... and what it wrote last.

    def affine(self, epoch: Any, group: int) -> tuple[Any, Any]:
        """Return ``(a, b)`` of ``lr = a + b * base`` at an epoch, for one group."""
        raise NotImplementedError(f'{type(self).__name__} must define affine or get_lr.')

    def get_lr(self) -> list:
        """Return the learning rate of each group at the present epoch."""
        pairs = (self.affine(self.last_epoch.value, i) for i in range(len(self._bases.value)))
        return [a + b * base for (a, b), base in zip(pairs, self._bases.value, strict=True)]

    def attach_optimizer(self, optimizer: OptaxOptimizer) -> None:
        """Drive the learning rates of an optimizer from now on."""
        from ..optimizer import OptaxOptimizer

        if not isinstance(optimizer, OptaxOptimizer):
            raise TypeError(
                f'{type(self).__name__} drives an OptaxOptimizer, got {type(optimizer).__name__}.'
            )
        if self.optimizer is not None and self.optimizer is not optimizer:
            raise ValueError(
                f'this {type(self).__name__} already drives an optimizer; give each optimizer a '
                f'scheduler of its own.'
            )
        self.optimizer = optimizer
        for group in optimizer._groups[len(self.base_lrs) :]:
            self._add_base(group.number('lr'))
        self._push(self.get_lr())

    def group_added(self, group: ParamGroup, base: Any = None) -> None:
        """Take a new group in, at the present epoch; ``base`` is its own learning rate."""
        if group.index < len(self.base_lrs) and base is not None:
            self.base_lrs = _with(self.base_lrs, group.index, base)
            self._bases.value = _with(self._bases.value, group.index, base)
        elif group.index >= len(self.base_lrs):
            self._add_base(self.base_lrs[0] if base is None else base)
        self._push(self.get_lr())

    def _add_base(self, base: Any) -> None:
        self.base_lrs = [*self.base_lrs, base]
        self._bases.value = [*self._bases.value, base]
        self._written.value = [*self._written.value, base]

    def step(self, epoch: int | None = None) -> None:
        """Go on to the next epoch, or to the one given."""
        self._adopt_manual_changes()
        last = self.last_epoch.value
        self.last_epoch.value = last + 1 if epoch is None else epoch
        self._push(self.get_lr())

    def step_epoch(self) -> None:
        """Go on to the next epoch."""
        self.step()

    def apply(self, apply_fn: Callable[[Any], Any]) -> None:
        """Replace the present learning rate of every group by a function of it."""
        self._push([apply_fn(lr) for lr in self.current_lrs.value])
        self._adopt_manual_changes(force=True)

    def _adopt_manual_changes(self, force: bool = False) -> None:
        """Where a learning rate is not what this schedule wrote, start from what gives it."""
        present = self.current_lrs.value
        bases = list(self._bases.value)
        for i, (lr, written) in enumerate(zip(present, self._written.value, strict=False)):
            a, b = self.affine(self.last_epoch.value, i) if self._is_affine() else (0.0, 0.0)
            bases[i] = _rebased(bases[i], lr, written, a, b, force)
        self._bases.value = bases

    def _is_affine(self) -> bool:
        return type(self).affine is not LRScheduler.affine

    def _push(self, lrs: Any) -> None:
        lrs = list(lrs) if isinstance(lrs, list | tuple) else [lrs]
        if self.optimizer is not None:
            groups = self.optimizer._groups
            self.optimizer._assign({(i, 'lr'): lr for i, lr in enumerate(lrs[: len(groups)])})
            # What the optimizer holds may be rounded: compare with that next time.
            lrs[: len(groups)] = self.optimizer.get_last_lr()
        self._written.value = lrs

    @property
    def current_lrs(self) -> Any:
        """The learning rates that the next step applies, with ``.value``."""
        return _CurrentRates(self)

    def get_last_lr(self) -> list:
        """Return the learning rates that the next step applies, one for each group."""
        return self.current_lrs.value

    def __call__(self, count: Any = None) -> Any:
        """Return the learning rate; given a count, minus it, for ``optax.scale_by_schedule``."""
        if count is None:
            return self.current_lrs.value[0]
        running = self.optimizer._running_hyper() if self.optimizer is not None else None
        return -(running.lr if running is not None else self.current_lrs.value[0])

    def state_dict(self) -> dict[str, Any]:
        """Return a snapshot as plain data."""
        return {
            'scheduler': type(self).__name__,
            'last_epoch': _plain(self.last_epoch.value),
            'base_lrs': list(map(_plain, self.base_lrs)),
            'bases': list(map(_plain, self._bases.value)),
            'written': list(map(_plain, self._written.value)),
            'current_lrs': list(map(_plain, self.current_lrs.value)),
        }

    def differences(self, state_dict: Mapping[str, Any]) -> list[str]:
        """Return what keeps a snapshot from being loaded."""
        owner, wrong = type(self).__name__, []
        epoch = state_dict.get('last_epoch')
        if isinstance(epoch, bool) or not isinstance(epoch, int | float):
            wrong.append(f'{owner}: last_epoch must be a number, got {epoch!r}')
        for key in ('base_lrs', 'bases', 'written', 'current_lrs'):
            rates = state_dict.get(key)
            if not isinstance(rates, list | tuple) or len(rates) != len(self.base_lrs):
                wrong.append(f'{owner}: {key} must be {len(self.base_lrs)} numbers, got {rates!r}')
                continue
            for rate in rates:
                try:
                    check_number(owner, 'lr', rate)
                except (TypeError, ValueError) as error:
                    wrong.append(f'{key}: {error}')
        return wrong

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a snapshot."""
        self.last_epoch.value = state_dict['last_epoch']
        self.base_lrs = list(state_dict['base_lrs'])
        self._bases.value = list(state_dict.get('bases', self.base_lrs))
        self._push(list(state_dict.get('current_lrs', self.get_lr())))
        if 'written' in state_dict:
            self._written.value = list(state_dict['written'])

    def copy(self, optimizer: OptaxOptimizer) -> LRScheduler:
        """Return the same scheduler for a copy of its optimizer."""
        new = object.__new__(type(self))
        for name, value in vars(self).items():
            vars(new)[name] = OptimState(value.value) if isinstance(value, OptimState) else value
        new.base_lrs = list(self.base_lrs)
        new.optimizer = optimizer
        return new

    def __repr__(self) -> str:
        return f'{type(self).__name__}(base_lrs={self.base_lrs}, epoch={self.last_epoch.value})'


class _CurrentRates:
    """The learning rates of a scheduler's groups as an object with ``.value``."""

    def __init__(self, scheduler: LRScheduler):
        self._scheduler = scheduler

    @property
    def value(self) -> list:
        optimizer = self._scheduler.optimizer
        rates = list(self._scheduler.get_lr())
        if optimizer is not None:
            applied = optimizer.get_last_lr()
            rates[: len(applied)] = applied
        return rates

    def __repr__(self) -> str:
        return repr(self.value)


def _with(rates: list, index: int, rate: Any) -> list:
    return [*rates[:index], rate, *rates[index + 1 :]]


def _rebased(base: Any, lr: Any, written: Any, a: Any, b: Any, force: bool) -> Any:
    if any(isinstance(x, jax.core.Tracer) for x in (lr, written, a, b)):
        changed = jnp.logical_and(jnp.not_equal(lr, written) | force, jnp.not_equal(b, 0.0))
        return jnp.where(changed, (lr - a) / jnp.where(changed, b, 1.0), base)
    return (lr - a) / b if b != 0.0 and (force or lr != written) else base


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float) else jnp.asarray(value).item()
