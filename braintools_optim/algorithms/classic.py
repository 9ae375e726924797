"""Older algorithms with step rules of their own: averaged descent, resilient propagation."""

from __future__ import annotations

import math
from typing import Unpack

import optax

from ..check import any_traced, check_range
from ..hyper import Hyper
from ..leafwise import leafwise
from ..optimizer import OptaxOptimizer
from ..ranges import NON_NEGATIVE, Range
from ..schedulers import LRScheduler
from ..signature import CommonOptions
from ..transforms import decayed_weights, step_by_asgd, step_by_rprop

__all__ = ['ASGD', 'Rprop']


class ASGD(OptaxOptimizer):
    r"""Averaged stochastic gradient descent, as ``torch.optim.ASGD``.

    .. math:: \eta_t = \frac{\eta}{(1 + \lambda \eta (t-1))^\alpha}, \quad
              \theta \leftarrow (1 - \lambda \eta_t) \theta - \eta_t g_t

    Its state ``ax`` is the average of the parameters since update :math:`t_0`, read by
    ``optax.tree.get(opt.opt_state.value, 'ax')``.

    Parameters
    ----------
    lr : float or LRScheduler
        Learning rate :math:`\eta`.
    lambd : float
        Decay :math:`\lambda`, of the rate and of the parameters.
    alpha : float
        Power of the decay of the rate.
    t0 : float
        After how many updates averaging starts.
    weight_decay : float
        L2 decay, added to the gradient.

    For convex problems with noisy gradients, where the average is the answer. Polyak & Juditsky,
    SIAM J. Control Optim. 30 (1992). A changed lr, lambd, alpha or t0 acts in the next update; in
    torch, one update later.
    """

    ranges = {'lambd': NON_NEGATIVE, 'alpha': NON_NEGATIVE, 't0': NON_NEGATIVE}
    first_moments = ()

    def __init__(
        self,
        lr: float | LRScheduler = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0.0,
        **common: Unpack[CommonOptions],
    ):
        super().__init__(
            lr=lr, lambd=lambd, alpha=alpha, t0=t0, weight_decay=weight_decay, **common
        )

    @leafwise
    def transform(self, h: Hyper) -> optax.GradientTransformation:
        """Decay, then the step, then the average."""
        return optax.chain(
            decayed_weights(h.weight_decay),
            step_by_asgd(h.lr, h.lambd, h.alpha, h.t0),
        )


class Rprop(OptaxOptimizer):
    r"""Resilient propagation, which sees only signs of gradients, as ``torch.optim.Rprop``.

    .. math:: \Delta_t = \mathrm{clip}(\eta_{\pm} \Delta_{t-1}), \quad
              \theta \leftarrow \theta - \Delta_t \operatorname{sign}(g_t)

    with :math:`\eta_+` where the sign stays and :math:`\eta_-` where it flips; there
    :math:`g_t` counts as zero.

    Parameters
    ----------
    lr : float or LRScheduler
        The first step size :math:`\Delta_0`.
    etas : tuple of float
        The factors :math:`\eta_-` and :math:`\eta_+`.
    step_sizes : tuple of float
        The smallest and the largest step size.

    For whole batches, not for noisy gradients. Riedmiller & Braun, ICNN 1993. When lr changes,
    all steps are scaled by its ratio to the first one; torch reads it only once.
    """

    ranges = {'etas': NON_NEGATIVE, 'step_sizes': NON_NEGATIVE}
    first_moments = ()

    def __init__(
        self,
        lr: float | LRScheduler = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50.0),
        **common: Unpack[CommonOptions],
    ):
        super().__init__(lr=lr, etas=etas, step_sizes=step_sizes, **common)

    def validate(self, h: Hyper) -> None:
        """Raise where the factors do not shrink and grow, or no step size is allowed."""
        owner, (low, high) = type(self).__name__, h.step_sizes
        check_range(owner, 'etas[0]', h.etas[0], Range(0.0, 1.0, True, True))
        check_range(owner, 'etas[1]', h.etas[1], Range(1.0, math.inf, True, True))
        if not any_traced(low):
            check_range(owner, 'step_sizes[1]', high, Range(low, open_high=True))

    @leafwise
    def transform(self, h: Hyper) -> optax.GradientTransformation:
        """Step by the signs."""
        return optax.with_extra_args_support(step_by_rprop(h.lr, h.etas, h.step_sizes))
