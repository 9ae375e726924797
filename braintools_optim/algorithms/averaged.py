"""Optimizers that remember more of past gradients than one average: AdEMAMix, MARS."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Unpack

import optax

from ..check import check_choice, check_count, check_mask, check_number, is_zero
from ..hyper import Hyper
from ..optimizer import OptaxOptimizer
from ..other_libraries import refuse_more
from ..ranges import DECAY, NON_NEGATIVE, UNIT, Range
from ..schedulers import LRScheduler
from ..signature import CommonOptions
from ..transforms import alpha_scheduler, beta3_scheduler, scale_by_ademamix, scale_by_mars
from ..transforms.mars import CLIPS, VARIANTS, is_matrix
from .arguments import FLOATS, dtype_name
from .chain import descent, descent_by_kind, users_mask

__all__ = ['AdEMAMix', 'Mars']

NumberOrSchedule = float | Callable[[Any], Any]


class AdEMAMix(OptaxOptimizer):
    r"""AdamW with a second, slow average of the gradient, as its authors have it.

    .. math:: \theta \leftarrow \theta - \eta \Big(\frac{\hat m_t + \alpha_t n_t}
              {\sqrt{\hat v_t + \epsilon_r} + \epsilon} + \lambda \theta\Big), \quad
              n_t = \beta_{3,t} n_{t-1} + (1 - \beta_{3,t}) g_t

    with Adam's bias-corrected averages :math:`\hat m, \hat v` of the gradient and its square.

    Parameters
    ----------
    lr, eps, eps_root : float
        :math:`\eta` (or an LRScheduler), :math:`\epsilon, \epsilon_r`.
    betas : tuple of float
        Decays of Adam's averages; with a first one of 0 at construction no :math:`m` is kept.
    b3, alpha : float or callable
        :math:`\beta_3, \alpha`, or functions of the number of earlier updates of a parameter.
    weight_decay, mask
        Decoupled decay :math:`\lambda`; a tree of bools, or a function of the parameters that
        returns one, says which of them decay.
    T_alpha, alpha_start, T_b3, b3_start : float
        ``alpha`` and ``b3`` rise from these starts in so many steps; None is the first beta.
    step_offset : int
        Added to the step that schedules see; 1 is the authors' torch version, and matters only in
        short warm-ups.

    For long runs, with ``T_alpha`` and ``T_b3`` set to the number of steps; in short ones b3=0.999.
    :math:`v` is kept in at least float32. Pagliardini et al., arXiv:2409.03137.
    """

    structural = ('betas[0]',)
    static: tuple[str, ...] = ('step_offset',)
    first_moments = ('m1', 'm2')
    never_negative = ('nu',)
    ranges = {
        'alpha': NON_NEGATIVE,
        'alpha_start': NON_NEGATIVE,
        'b3': UNIT,
        'T_alpha': NON_NEGATIVE,
        'T_b3': NON_NEGATIVE,
        'eps_root': NON_NEGATIVE,
    }

    def __init__(
        self,
        lr: float | LRScheduler = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        b3: NumberOrSchedule = 0.9999,
        alpha: NumberOrSchedule = 5.0,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        eps_root: float = 0.0,
        T_alpha: float = 0.0,
        alpha_start: float = 0.0,
        T_b3: float = 0.0,
        b3_start: float | None = None,
        step_offset: int = 0,
        mask: Any = None,
        **common: Unpack[CommonOptions],
    ):
        self.static = (*AdEMAMix.static, *_functions(b3=b3, alpha=alpha))
        super().__init__(
            lr=lr,
            betas=betas,
            b3=b3,
            alpha=alpha,
            eps=eps,
            weight_decay=weight_decay,
            eps_root=eps_root,
            T_alpha=T_alpha,
            alpha_start=alpha_start,
            T_b3=T_b3,
            b3_start=b3_start,
            step_offset=step_offset,
            mask=mask,
            **common,
        )

    def validate(self, h: Hyper) -> None:
        """Raise if an option has an unknown value."""
        owner = type(self).__name__
        _check_schedules(self, b3=h.b3, alpha=h.alpha)
        check_mask(owner, 'mask', h.mask)
        if h.b3_start is not None:
            check_number(owner, 'b3_start', h.b3_start, allowed=UNIT)
        check_choice(owner, 'step_offset', check_count(owner, 'step_offset', h.step_offset), (0, 1))

    # Not leafwise: ``mask`` is for whole trees.
    def transform(self, h: Hyper) -> optax.GradientTransformation:
        """The mixed direction, then decay, then the step."""
        (b1, b2), b3, alpha = h.betas, h.b3, h.alpha
        if not callable(b3):
            b3 = beta3_scheduler(b3, b1 if h.b3_start is None else h.b3_start, h.T_b3)
        if not callable(alpha):
            alpha = alpha_scheduler(alpha, h.alpha_start, h.T_alpha)
        direction = scale_by_ademamix(
            b1,
            b2,
            b3,
            alpha,
            eps=h.eps,
            eps_root=h.eps_root,
            step_offset=h.step_offset,
            leaf_counts=True,
        )
        mask = users_mask(self, 'mask', h.mask)
        return descent(h, direction, decoupled=True, mask=mask)


class Mars(OptaxOptimizer):
    r"""AdamW, Lion or Shampoo on gradients of reduced variance, as its authors have them.

    .. math:: c_t = g_t + \gamma \frac{\beta_1}{1-\beta_1} (g_t - g_{t-1}), \quad
              \theta \leftarrow \theta - \eta \big(u(c_t) + \lambda \theta\big)

    with Adam's direction u, the sign of the average, or the average orthogonalized. What is not a
    matrix is left to AdamW, on :math:`g_t` at ``lr * lr_1d / lr_ref``.

    Parameters
    ----------
    lr, betas, eps, eps_root, weight_decay
        As AdEMAMix's; ``mask`` says whose decay.
    gamma : float or callable
        :math:`\gamma`, or a function of the number of earlier updates of a parameter.
    variant : {'adamw', 'lion', 'shampoo'}
        The direction u; ``ns_dtype='bfloat16'`` is the precision of the authors' Shampoo.
    clip, max_grad_norm : {'per_tensor', 'global', None}, float
        Bound of the norm of :math:`c_t` of each parameter, or of a group's together.
    amsgrad, first_step_correction : bool
        Divide by the largest average; take :math:`g_0 = 0` (else :math:`c_1 = g_1`).
    exact : bool
        Keep no gradient: ``step(grads, previous_point_grads=...)`` gives :math:`g_{t-1}`.
    optimize_1d, higher_rank : bool
        Treat all parameters, or those of more than two axes, as matrices.
    lr_1d, betas_1d, weight_decay_1d, lr_ref
        AdamW's; ``lr_ref`` is the lr at which ``lr_1d`` holds, by default that of construction.

    Use about ten times AdamW's learning rate. Yuan et al., arXiv:2411.10438.
    """

    static: tuple[str, ...] = ()
    first_moments = ('mu', 'mog')
    never_negative = ('nu',)
    ranges = {
        'gamma': NON_NEGATIVE,
        'eps_root': NON_NEGATIVE,
        'max_grad_norm': Range(0.0),  # 0 and infinity are no bound
        'lr_1d': NON_NEGATIVE,
        'lr_ref': NON_NEGATIVE,
        'betas_1d': DECAY,
        'weight_decay_1d': NON_NEGATIVE,
    }
    more_gradients = ('previous_point_grads',)
    complex_as_real = False

    def __init__(
        self,
        lr: float | LRScheduler = 3e-3,
        betas: tuple[float, float] = (0.95, 0.99),
        gamma: NumberOrSchedule = 0.025,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        variant: str = 'adamw',
        clip: str | None = 'per_tensor',
        max_grad_norm: float = 1.0,
        eps_root: float = 0.0,
        amsgrad: bool = False,
        exact: bool = False,
        first_step_correction: bool = True,
        optimize_1d: bool = False,
        higher_rank: bool = False,
        lr_1d: float = 3e-3,
        betas_1d: tuple[float, float] = (0.9, 0.95),
        weight_decay_1d: float = 0.1,
        lr_ref: float | None = None,
        ns_dtype: Any = None,
        mask: Any = None,
        **common: Unpack[CommonOptions],
    ):
        self.static = tuple(_functions(gamma=gamma))
        if exact is True:
            self.no_accumulation = 'built with exact=True it takes two gradients in each step'
        first_lr = self._first_rate(lr)
        super().__init__(
            lr=lr,
            betas=betas,
            gamma=gamma,
            eps=eps,
            weight_decay=weight_decay,
            variant=variant,
            clip=clip,
            max_grad_norm=max_grad_norm,
            eps_root=eps_root,
            amsgrad=amsgrad,
            exact=exact,
            first_step_correction=first_step_correction,
            optimize_1d=optimize_1d,
            higher_rank=higher_rank,
            lr_1d=lr_1d,
            betas_1d=betas_1d,
            weight_decay_1d=weight_decay_1d,
            lr_ref=first_lr if lr_ref is None else lr_ref,
            ns_dtype=dtype_name(ns_dtype),
            mask=mask,
            **common,
        )

    def validate(self, h: Hyper) -> None:
        """Raise if an option has an unknown value."""
        owner = type(self).__name__
        _check_schedules(self, gamma=h.gamma)
        check_mask(owner, 'mask', h.mask)
        for name, allowed in (('variant', VARIANTS), ('clip', CLIPS), ('ns_dtype', FLOATS)):
            check_choice(owner, name, getattr(h, name), allowed)
        if not h.optimize_1d and is_zero(h.lr_ref):
            raise ValueError(
                f'{owner} needs lr_ref > 0, got 0: give the learning rate at which lr_1d holds, '
                f'or optimize_1d=True.'
            )

    # Not leafwise: ``mask`` is for whole trees, and clip='global' couples the leaves.
    def transform(self, h: Hyper) -> optax.GradientTransformation:
        """The directions, then the decays, then the steps of matrices and of all else."""
        b1, b2 = h.betas
        direction = scale_by_mars(
            b1,
            b2,
            h.gamma,
            eps=h.eps,
            eps_root=h.eps_root,
            max_grad_norm=h.max_grad_norm,
            variant=h.variant,
            clip=h.clip,
            amsgrad=h.amsgrad,
            exact=h.exact,
            first_step_correction=h.first_step_correction,
            betas_1d=None if h.optimize_1d else h.betas_1d,
            higher_rank=h.higher_rank,
            ns_dtype=h.ns_dtype,
            leaf_counts=True,
        )
        mask = users_mask(self, 'mask', h.mask)
        if h.optimize_1d:
            return descent(h, direction, decoupled=True, mask=mask)
        of_kind = partial(is_matrix, higher_rank=h.higher_rank)
        return descent_by_kind(h, direction, of_kind, h.weight_decay_1d, h.lr_1d / h.lr_ref, mask)

    def step(self, grads: Any = None, previous_point_grads: Any = ..., **extra: Any) -> None:
        """Update the parameters from their gradients.

        Parameters
        ----------
        grads : pytree
            Gradients under the keys of their parameters.
        previous_point_grads : pytree
            The gradients of the same batch at the parameters before the last step, under the same
            keys; one that is not there is zero. Built with ``exact=True`` it needs them (None in
            the first step); otherwise they stand in for the gradients it remembers.
        """
        if previous_point_grads is not ...:
            extra['previous_point_grads'] = previous_point_grads
        super().step(grads, **extra)

    def update(
        self, grads: Any = None, previous_point_grads: Any = ..., *more: Any, **extra: Any
    ) -> None:
        """Do the same as :meth:`step`."""
        refuse_more(type(self).__name__, more)
        self.step(grads, previous_point_grads, **extra)

    def _checked_extra(self, extra: dict[str, Any]) -> dict[str, Any]:
        if self.exact and 'previous_point_grads' not in extra:
            raise TypeError(
                f'{type(self).__name__}(exact=True).step needs previous_point_grads, the gradients '
                f'of this batch at the parameters before the last step; None in the first step.'
            )
        return {k: v for k, v in extra.items() if k != 'previous_point_grads' or v is not None}


def _functions(**given: Any) -> list[str]:
    """Return the names of schedules, which are fixed where numbers are live."""
    return [name for name, value in given.items() if callable(value)]


def _check_schedules(optimizer: OptaxOptimizer, **given: Any) -> None:
    """Raise for numbers out of their ranges where the optimizer was built with functions."""
    for name, value in given.items():
        if not callable(value):
            owner, allowed = type(optimizer).__name__, optimizer.ranges[name]
            check_number(owner, name, value, allowed=allowed)
