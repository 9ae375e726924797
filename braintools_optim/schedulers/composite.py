"""Schedulers made of schedulers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..check import check_number
from ..ranges import FINITE
from ..state import OptimState
from .present import PresentRate
from .rate import LRScheduler
from .row import either, same
from .scheduler import Progress, Scheduler, following
from .shown import Parts

if TYPE_CHECKING:
    from ..optimizer import OptaxOptimizer

__all__ = ['Composite']


class Composite(PresentRate):
    """What schedulers made of others share.

    It has no rows of its own: what it remembers is what its children do.
    """

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
            bases = self._child_with_the_base()._bases()
            self._bases_given_for(bases)
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
        return Parts(self._children)

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
        return self._child_with_the_base()._bases()

    def _rebase(self, bases: list) -> None:
        before = self._bases()
        for child in self._children:
            own = child._bases()
            if (shared := same(own, before)) is not False:
                child._rebase(either(shared, bases, own))

    def _child_with_the_base(self) -> LRScheduler:
        """Return the child whose base is that of all that keep none of their own."""
        common = self._children_with_common_base()
        if not common and self._children[0].optimizer is not None:
            common = [child for child in self._children if not child._has_private_base()]
        return [*common, *self._children_given_a_base(), *self._children][0]

    def _children_with_common_base(self) -> list[LRScheduler]:
        """Return the children that were given the base of all that were given none.

        That is one that nobody keeps for itself; or else that of the first child, from which the
        others would start if each drove an optimizer by itself.
        """
        given = self._children_given_a_base()
        common = [child for child in given if not child._has_private_base()]
        first = [child for child in given if child is self._children[0]]
        return common or first or [child for child in reversed(given) if child.shares_base][:1]

    @property
    def shares_base(self) -> bool:  # type: ignore[override]  # it is that of its parts
        """Whether what starts later starts from its base, too."""
        return self._child_with_the_base().shares_base

    def _children_given_a_base(self) -> list[LRScheduler]:
        return [child for child in self._children if child._was_given_base()]

    def _was_given_base(self) -> bool:
        return bool(self._children_given_a_base())

    def _has_private_base(self) -> bool:
        given = self._children_given_a_base()
        return bool(given) and all(child._has_private_base() for child in given)

    def _fit(self, optimizer: OptaxOptimizer) -> None:
        for child in self._children:
            child._fit(optimizer)

    def _bases_given_for(self, lrs: list) -> list | None:
        all_given = (child._bases_given_for(lrs) for child in self._children_with_common_base())
        given = [bases for bases in all_given if bases is not None]
        self._check_given(given)
        return given[0] if given else None

    def _going_on_with(self, count: int) -> list:
        return self._lrs()[:count]  # its parts were told theirs when it was built

    def _check_given(self, given: list[list]) -> None:
        """Raise if the bases that its children were given do not go together."""

    def _own_base(self, group: int) -> Any:
        bases = [child._own_base(group) for child in self._children]
        return next((base for base in bases if base is not None), None)

    def _adopt(self, bases: list, lrs: list) -> list:
        for child in self._children:
            child._adopt(bases, lrs)
        return self._started(lrs)

    def _awaited(self, group: int, base: Any, lr: Any) -> Any:
        there = self._awaits(group, base, lr)
        return self._written(self._progress())[group] if there else None

    def _check_groups(self, count: int) -> None:
        for child in self._children:
            child._check_groups(count)

    def _progress(self) -> Progress:
        return Progress(self._epoch(), [child._progress() for child in self._children])

    def _put(self, progress: Progress) -> None:
        for child, part in zip(self._children, progress.memory, strict=True):
            child._put(part)
        self._put_epoch(progress.epoch)

    def _settings(self, progress: Progress) -> dict[tuple[int, str], Any]:
        parts = zip(self._children, progress.memory, strict=True)
        return {k: v for child, part in parts for k, v in child._settings(part).items()}

    def _first_settings(self, progress: Progress) -> dict[tuple[int, str], Any]:
        parts = zip(self._children, progress.memory, strict=True)
        return {k: v for child, part in parts for k, v in child._first_settings(part).items()}

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
        first = args[0] if args else None
        watches = self._wants_metric()
        metric = self._given_once('metric', first if watches else None, metric, metrics)
        epoch = self._given_once('epoch', None if watches else first, epoch)
        if epoch is not None:
            epoch = self._checked_epoch(epoch)
        then = following(self._epoch(), epoch)
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

    def _memory_snapshot(self) -> dict[str, Any]:
        return {
            'base_lrs': self._bases(),
            'current_lrs': list(self._lrs()),
            'schedulers': [child.state_dict() for child in self._children],
        }

    def _memory_differences(self, saved: Mapping[str, Any]) -> list[str]:
        wrong: list[str] = []
        owner, parts = type(self).__name__, saved.get('schedulers')
        now, count = saved.get('current_lrs'), len(self._lrs())
        try:
            check_number(owner, 'lr', now, (0.0,) * count, FINITE)
        except (TypeError, ValueError) as error:
            wrong.append(f'current_lrs: {error}')
        if not isinstance(parts, list | tuple) or len(parts) != len(self._children):
            return [*wrong, f'{owner}: it is made of {len(self._children)} schedulers, got {parts}']
        for child, part in zip(self._children, parts, strict=True):
            if not isinstance(part, Mapping):
                wrong.append(f'{owner}: the state of a part must be a dict, got {part!r:.80}')
                continue
            wrong += child._differences(part)
        bases = [part.get('base_lrs') for part in parts if isinstance(part, Mapping)]
        if (mine := saved.get('base_lrs')) not in bases:
            wrong.append(f'{owner}: base_lrs must be those of a part, {bases}, got {mine!r:.80}')
        return wrong

    def _differences_of_whole(self, saved: Mapping[str, Any]) -> list[str]:
        if self.optimizer is not None or not self._was_changed(saved):
            return []
        return [
            f'{type(self).__name__}: its learning rates were changed to {saved["current_lrs"]} '
            f'after it had given {self._saved_written(saved)}: let it drive an optimizer first'
        ]

    def _other_arguments(self, saved: Any) -> list[str]:
        return []

    def peculiar(self, state_dict: Any) -> list[str]:
        """Return in what a snapshot is of another one, or of another part."""
        found, parts = super().peculiar(state_dict), []
        if isinstance(state_dict, Mapping) and isinstance(state_dict.get('schedulers'), list):
            parts = state_dict['schedulers']
        for child, part in zip(self._children, parts, strict=False):
            found += child.peculiar(part)
        return found

    def _put_back(self, saved: Mapping[str, Any]) -> None:
        for child, part in zip(self._children, saved['schedulers'], strict=True):
            child._put_back(part)
        self._put_epoch(saved['last_epoch'])
        self._drive(self._progress(), list(saved['current_lrs']))

    def _copy_into(self, new: Any, memo: dict[int, Any]) -> None:
        for child in self._children:
            memo[id(child)] = object.__new__(type(child))
            child._copy_into(memo[id(child)], memo)
        super()._copy_into(new, memo)

    def __repr__(self) -> str:
        inner = ', '.join(map(repr, self._children))
        fixed = ''.join(f', {k}={v!r}' for k, v in self._fixed.items())
        return f'{type(self).__name__}([{inner}]{fixed}, epoch={self._epoch()})'
