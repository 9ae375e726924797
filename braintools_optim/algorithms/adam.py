"""Adam and AdamW."""

from __future__ import annotations

import warnings
from typing import Unpack

import optax

from ..hyper import Hyper
from ..leafwise import leafwise
from ..optimizer import OptaxOptimizer
from ..schedulers import LRScheduler
from ..signature import CommonOptions
from ..transforms import scale_by_adam
from .chain import descent

__all__ = ['Adam', 'AdamW']


class Adam(OptaxOptimizer):
    r"""Adam, as ``torch.optim.Adam``.

    .. math:: \theta \leftarrow \theta - \eta \frac{\hat m_t}{\sqrt{\hat v_t} + \epsilon}

    with bias-corrected averages :math:`\hat m` of the gradient and :math:`\hat v` of its square.

    Parameters
    ----------
    lr : float or LRScheduler
        Learning rate :math:`\eta`.
    betas : tuple of float
        Decay rates of the two averages.
    eps : float
        :math:`\epsilon`.
    weight_decay : float
        L2 decay added to the gradient, or decoupled from it.
    amsgrad : bool
        Divide by the largest second moment so far.
    decoupled_weight_decay : bool
        Decay the parameters themselves, as :class:`AdamW`.
    beta1, beta2 : float, optional
        Deprecated spelling of ``betas``.

    The usual first choice. Kingma & Ba, arXiv:1412.6980.
    """

    never_negative = ('nu', 'nu_max')

    def __init__(
        self,
        lr: float | LRScheduler = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        decoupled_weight_decay: bool = False,
        beta1: float | None = None,
        beta2: float | None = None,
        **common: Unpack[CommonOptions],
    ):
        if beta1 is not None or beta2 is not None:
            warnings.warn(
                'beta1 and beta2 are deprecated; use betas=(beta1, beta2).',
                DeprecationWarning,
                stacklevel=3,
            )
            betas = (
                betas[0] if beta1 is None else beta1,
                betas[1] if beta2 is None else beta2,
            )
        super().__init__(
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            decoupled_weight_decay=decoupled_weight_decay,
            **common,
        )

    @leafwise
    def transform(self, h: Hyper) -> optax.GradientTransformation:
        """Decay before (L2) or after (decoupled) Adam's direction."""
        b1, b2 = h.betas
        direction = scale_by_adam(b1, b2, h.eps, h.amsgrad)
        return descent(h, direction, h.decoupled_weight_decay)


class AdamW(OptaxOptimizer):
    r"""Adam with decoupled weight decay, as ``torch.optim.AdamW``.

    .. math:: \theta \leftarrow \theta - \eta \left(\frac{\hat m_t}{\sqrt{\hat v_t} + \epsilon}
              + \lambda \theta\right)

    with the bias-corrected averages of :class:`Adam`.

    Parameters
    ----------
    lr : float or LRScheduler
        Learning rate :math:`\eta`.
    betas : tuple of float
        Decay rates of the averages.
    eps : float
        :math:`\epsilon`.
    weight_decay : float
        Decay :math:`\lambda` of the parameters.
    amsgrad : bool
        Divide by the largest second moment so far.

    The usual choice for transformers. Loshchilov & Hutter, arXiv:1711.05101.
    """

    never_negative = ('nu', 'nu_max')

    def __init__(
        self,
        lr: float | LRScheduler = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        *,
        amsgrad: bool = False,
        **common: Unpack[CommonOptions],
    ):
        super().__init__(
            lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, **common
        )

    @leafwise
    def transform(self, h: Hyper) -> optax.GradientTransformation:
        """Adam's direction, then decay, then the step."""
        b1, b2 = h.betas
        return descent(h, scale_by_adam(b1, b2, h.eps, h.amsgrad), decoupled=True)
