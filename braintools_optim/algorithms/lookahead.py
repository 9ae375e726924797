"""Lookahead, over any other optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import optax

from ..check import check_count
from ..engine.given_chain import check_chain
from ..engine.view import GroupView
from ..hyper import Hyper
from ..leafwise import leafwise
from ..optimizer import OptaxOptimizer
from ..ranges import UNIT, Range
from ..schedulers import LRScheduler, ParamScheduler
from ..signature import CommonOptions
from ..transforms import decayed_weights, lookahead

__all__ = ['Lookahead']

_PASSED_ON = (
    *('first_moments', 'more_gradients', 'gradient_layouts', 'no_accumulation', 'state_schema'),
    *('weight_decays', 'never_negative'),
)
"""What a chain is like, as the class of the base optimizer says."""


class Lookahead(OptaxOptimizer):
    r"""Lookahead, as its authors have it: every so often go only part of the way.

    .. math:: \phi \leftarrow \phi + \alpha (\theta - \phi), \quad \theta \leftarrow \phi
              \quad \text{after every } k \text{ steps of the base optimizer}

    All numbers and flags of a base optimizer of this library become this one's, live and with
    groups: ``Lookahead(Adam(1e-3))`` has ``betas``. One named like an argument below gets the
    prefix ``base_``. The base optimizer itself is not used afterwards.

    Parameters
    ----------
    base_optimizer : OptaxOptimizer or optax.GradientTransformation
        An optimizer without parameters, or a complete chain, as ``optax.adam(1e-3)``.
    sync_period : int
        :math:`k`, counted for each parameter.
    alpha : float
        :math:`\alpha`; with 1 there is no looking ahead.
    lr : float or LRScheduler, optional
        Replaces the base optimizer's. For a chain it multiplies what that returns; 1 by default.
    weight_decay : float, optional
        Replaces the base optimizer's. For a chain it is L2 decay, added to the gradient before it.

    For a steadier run of an optimizer that oscillates. Zhang et al., arXiv:1907.08610. Where
    braintools ignores ``lr``, here a chain's own learning rate is multiplied by it.
    """

    static: tuple[str, ...] = ('sync_period',)
    ranges: Mapping[str, Range] = {'alpha': UNIT}

    def __init__(
        self,
        base_optimizer: OptaxOptimizer | optax.GradientTransformation,
        sync_period: int = 5,
        alpha: float = 0.5,
        lr: float | LRScheduler | None = None,
        weight_decay: float | None = None,
        **common: Unpack[CommonOptions],
    ):
        own: dict[str, Any] = {'sync_period': sync_period, 'alpha': alpha, **common}
        given = {'lr': lr, 'weight_decay': weight_decay}
        own |= {name: value for name, value in given.items() if value is not None}
        self.base_optimizer = base_optimizer
        if not isinstance(base_optimizer, OptaxOptimizer):
            owner, hint = type(self).__name__, 'give one, such as Adam(1e-3)'
            check_chain(owner, 'base_optimizer', base_optimizer, hint, 'an optimizer')
            base_optimizer = _Chain(base_optimizer)
        self._base = base_optimizer
        if 'weight_decay' in own and 'weight_decay' not in base_optimizer._numbers:
            raise TypeError(
                f'{type(self).__name__} over {type(base_optimizer).__name__} has no weight_decay.'
            )
        self._adopt(base_optimizer)
        arguments = {**self._arguments_of(base_optimizer), **own}
        with base_optimizer._undone_on_error():
            for scheduler in base_optimizer._all_schedulers():
                scheduler._set_optimizer(None)
            super().__init__(**arguments)
            if 'lr' not in own:  # it may have been changed since its scheduler wrote it
                self.current_lr = base_optimizer.current_lr
            for scheduler in base_optimizer.schedulers:
                if scheduler.optimizer is None:
                    if isinstance(scheduler, ParamScheduler):
                        scheduler._rename(self._names)
                    self.add_scheduler(scheduler)

    def _adopt(self, base: OptaxOptimizer) -> None:
        """Take on what the base optimizer is like; raise if it is in use."""
        name = type(base).__name__
        if len(base.param_states) or base.lr.optimizer is not base:
            raise ValueError(
                f'{type(self).__name__} needs a base optimizer of its own, and this {name} '
                f'{"has parameters" if len(base.param_states) else "is in use"}; build another.'
            )
        inner = [k for k in (*base._numbers, *base._flags) if k != 'lr']
        self._names = {k: _outer_name(k) for k in ('lr', *inner)}
        self.structural = tuple(map(_outer_name, base.structural))
        self.none_is_zero = tuple(map(_outer_name, base.none_is_zero))
        self.static = (*Lookahead.static, *(self._names[k] for k in base._flags))
        theirs = {self._names[k]: v for k, v in base.ranges.items() if k in self._names}
        self.ranges = {**theirs, **type(self).ranges}
        self.complex_as_real = base.complex_as_real and base._tx is None
        for passed_on in _PASSED_ON:
            setattr(self, passed_on, getattr(base, passed_on))
        self.added_options = {
            version: {_outer_name(k): value for k, value in options.items()}
            for version, options in base.added_options.items()
        }

    def _arguments_of(self, base: OptaxOptimizer) -> dict[str, Any]:
        """Return the constructor's arguments that are the base optimizer's."""
        inner = {own: getattr(base, k) for k, own in self._names.items() if k != 'lr'}
        options = {k: getattr(base, k) for k in base._bounded_by}
        fixed = CommonOptions.__annotations__.keys() - {*base._bounds, *base._flags}
        options |= {k: getattr(base, k) for k in fixed}
        return {'lr': base.current_lr if base._lr_is_free else base.lr, **inner, **options}

    def _constructor_defaults(self) -> dict[str, Any]:
        named, base = super()._constructor_defaults(), self._base
        if 'weight_decay' not in base._numbers:
            del named['weight_decay']
        return named | {self._names[k]: v for k, v in {**base._numbers, **base._flags}.items()}

    def _default_rate(self) -> Any:
        return self._base.current_lr

    def _base_values(self, h: Hyper) -> Hyper:
        """Return the values of the base optimizer, under the names it has for them."""
        structural = self._base.structural
        unused = frozenset(k for k in structural if not h.uses(_outer_name(k)))
        return h.renamed(self._names, unused, structural)

    def _algorithm(self) -> str:
        inner = self._base._algorithm()
        return f'{type(self).__name__}({inner})' if inner else type(self).__name__

    def validate(self, h: Hyper) -> None:
        """Raise where there is nothing to count to, or the base optimizer would."""
        owner = type(self).__name__
        check_count(owner, 'sync_period', h.sync_period, 1)
        self._base.validate(self._base_values(h))

    @leafwise  # where the base optimizer's chain is
    def transform(self, h: Hyper) -> optax.GradientTransformation:
        """Look ahead with the base optimizer's chain."""
        return lookahead(self._base.transform(self._base_values(h)), h.sync_period, h.alpha)

    def _checked_extra(self, extra: dict[str, Any]) -> dict[str, Any]:
        return self._base._checked_extra(extra)

    def _chain_extra(self, extra: dict, view: GroupView) -> dict:
        return self._base._chain_extra(extra, view)

    def _is_leafwise(self) -> bool:
        return super()._is_leafwise() and self._base._is_leafwise()

    def _is_known(self) -> bool:
        return super()._is_known() and self._base._is_known()

    def _searches(self) -> bool:
        return self._base._searches()

    def _fixed_chain(self, h: Hyper) -> optax.GradientTransformation | None:
        base = self._base
        base._lr_scheduler = self._lr_scheduler  # which the chain may read
        chain = base._fixed_chain(self._base_values(h))
        return None if chain is None else lookahead(chain, h.sync_period, h.alpha)


class _Chain(OptaxOptimizer):
    """A chain as the base of a Lookahead: weight decay before it, the learning rate behind it."""

    complex_as_real = False

    def __init__(
        self, chain: optax.GradientTransformation, lr: float = 1.0, weight_decay: float = 0.0
    ):
        self._given = chain
        super().__init__(lr=lr, weight_decay=weight_decay)

    def transform(self, h: Hyper) -> optax.GradientTransformation:
        """The decay, the chain, the learning rate."""
        return optax.chain(decayed_weights(h.weight_decay), self._given, optax.scale(h.lr))

    def _algorithm(self) -> str:
        return ''

    def _is_known(self) -> bool:
        return False


def _outer_name(name: str) -> str:
    """Return what a number of the base optimizer, or an entry of a tuple, is called outside."""
    inmost = name
    while inmost.startswith('base_'):  # of a Lookahead over a Lookahead
        inmost = inmost.removeprefix('base_')
    return f'base_{name}' if inmost.partition('[')[0] in ('sync_period', 'alpha') else name
