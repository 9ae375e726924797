"""Adafactor, which keeps rows and columns of the second moment."""

from __future__ import annotations

from typing import Any, Unpack

import optax

from ..check import check_number
from ..hyper import Hyper
from ..leafwise import leafwise
from ..optimizer import OptaxOptimizer
from ..ranges import DECAY, Range
from ..schedulers import LRScheduler
from ..signature import CommonOptions
from ..transforms import decayed_weights, scale_by_adafactor
from .arguments import one_of_two

__all__ = ['Adafactor']


class Adafactor(OptaxOptimizer):
    r"""Adam with only a row and a column of each second moment, as ``torch.optim.Adafactor``.

    .. math:: V_t = R_t C_t / \bar R_t, \quad u_t = \frac{g_t}{\sqrt{\max(V_t, \epsilon_1^2)}},
              \quad \theta \leftarrow \theta - \eta \lambda \theta - \frac{\max(\epsilon_2,
              rms(\theta)) \min(\eta, 1/\sqrt t)}{\max(1, rms(u_t) / d)} u_t

    with averages :math:`R, C` of the rows and columns of :math:`g^2`, of decay
    :math:`1 - t^\tau`.

    Parameters
    ----------
    lr : float or LRScheduler, optional
        Largest relative step :math:`\eta`; None is 0.01.
    beta2_decay : float
        :math:`\tau`.
    eps : tuple of float
        :math:`\epsilon_1, \epsilon_2`; None or 0 for the first is the precision of each dtype.
    d : float
        Bound of the update's root mean square.
    weight_decay : float
        Decoupled decay :math:`\lambda`.
    beta1 : float, optional
        Average the updates with this decay; built with None or 0 it keeps no average.
    factored : bool
        False keeps the second moment of matrices in full.
    original : bool
        The authors' rule: :math:`\epsilon_1`, here 1e-30, is added to :math:`g^2`, without maximum.
    clip_threshold, decay_rate : float, optional
        braintools' names of ``d`` and ``-beta2_decay``; the constructor takes either sign.

    For models whose optimizer state must be small. Shazeer & Stern, arXiv:1804.04235. Where
    :math:`\epsilon_1^2` is too small for the dtype, its smallest number stands in (torch: nan).
    """

    structural = ('beta1',)
    none_is_zero = ('eps[0]', 'beta1')
    ranges = {'beta2_decay': Range(high=0.0, open_low=True), 'd': Range(1.0), 'beta1': DECAY}
    complex_as_real = False
    first_moments = ('ema',)
    never_negative = ('nu', 'row', 'col')

    def __init__(
        self,
        lr: float | LRScheduler | None = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        beta1: float | None = None,
        factored: bool = True,
        original: bool = False,
        clip_threshold: float | None = None,
        decay_rate: float | None = None,
        **common: Unpack[CommonOptions],
    ):
        if isinstance(beta2_decay, tuple | list):
            raise TypeError(
                f'{type(self).__name__} takes a number for beta2_decay, got {beta2_decay!r}: by '
                f"position its arguments are torch's; give braintools' by name, eps=..., "
                f'clip_threshold=..., decay_rate=...'
            )
        if decay_rate is not None:
            decay_rate = -abs(check_number(type(self).__name__, 'decay_rate', decay_rate))
        super().__init__(
            lr=1e-2 if lr is None else lr,
            beta2_decay=one_of_two(
                Adafactor, 'beta2_decay', beta2_decay, '-decay_rate', decay_rate
            ),
            eps=eps,
            d=one_of_two(Adafactor, 'd', d, 'clip_threshold', clip_threshold),
            weight_decay=weight_decay,
            beta1=beta1,
            factored=factored,
            original=original,
            **common,
        )

    @leafwise
    def transform(self, h: Hyper) -> optax.GradientTransformation:
        """Adafactor's own step, averaged, then the decay."""
        return optax.chain(
            scale_by_adafactor(h.lr, h.beta2_decay, h.eps, h.d, h.factored, h.original),
            optax.ema(h.beta1, debias=False) if h.uses('beta1') else optax.identity(),
            decayed_weights(h.lr * h.weight_decay),
            optax.scale(-1.0),
        )

    @property
    def clip_threshold(self) -> Any:
        """braintools' name of ``d``."""
        return self.d

    @property
    def decay_rate(self) -> Any:
        """braintools' ``-beta2_decay``."""
        return -self.beta2_decay
