"""Muon, which makes the updates of matrices orthogonal."""

from __future__ import annotations

from typing import Unpack

import optax

from ..check import check_choice, is_count
from ..hyper import Hyper
from ..leafwise import leafwise
from ..optimizer import OptaxOptimizer
from ..ranges import FINITE
from ..schedulers import LRScheduler
from ..signature import CommonOptions
from ..transforms import Reshape, scale_by_muon
from ..transforms.orthogonal import NS_COEFFICIENTS, NS_EPS, NS_STEPS
from .arguments import FLOATS
from .chain import descent

__all__ = ['Muon']


class Muon(OptaxOptimizer):
    r"""Momentum orthogonalized by Newton-Schulz iterations, as ``torch.optim.Muon``.

    .. math:: m_t = \mu m_{t-1} + (1 - \mu) g_t, \quad \theta \leftarrow \theta - \eta \lambda
              \theta - \eta \kappa\, NS\big(\mu m_t + (1 - \mu) g_t\big)

    with :math:`\kappa = \sqrt{\max(1, rows/columns)}`, and :math:`NS(m_t)` without ``nesterov``.

    Parameters
    ----------
    lr : float or LRScheduler
        Learning rate :math:`\eta`.
    weight_decay : float
        Decoupled decay :math:`\lambda`.
    momentum : float
        :math:`\mu`.
    nesterov : bool
        Look ahead along the momentum.
    ns_coefficients, eps, ns_steps
        Coefficients of the iteration, the least norm it divides by, and how often it runs.
    adjust_lr_fn : {None, 'original', 'match_rms_adamw'}
        The latter makes :math:`\kappa = 0.2 \sqrt{\max(rows, columns)}`.
    reshape : {None, 'last', 'first'} or callable
        The matrix that a parameter is: itself; its last or first axis against all others; or
        the shape that a function of its shape returns.
    ns_dtype : str, optional
        Precision of the iteration, the parameter's of at least float32 by default.

    For hidden layers' matrices; biases and embeddings want AdamW. Jordan et al. (2024),
    kellerjordan.github.io/posts/muon; Liu et al., arXiv:2502.16982. torch iterates in bfloat16:
    ``ns_dtype='bfloat16'``. Rows are outputs for torch; where they are inputs, :math:`\kappa`
    differs.
    """

    static = ('ns_steps',)
    ranges = {'ns_coefficients': FINITE}
    complex_as_real = False

    def __init__(
        self,
        lr: float | LRScheduler = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = NS_COEFFICIENTS,
        eps: float = NS_EPS,
        ns_steps: int = NS_STEPS,
        adjust_lr_fn: str | None = None,
        *,
        reshape: Reshape = None,
        ns_dtype: str | None = None,
        **common: Unpack[CommonOptions],
    ):
        super().__init__(
            lr=lr,
            weight_decay=weight_decay,
            momentum=momentum,
            nesterov=nesterov,
            ns_coefficients=ns_coefficients,
            eps=eps,
            ns_steps=ns_steps,
            adjust_lr_fn=adjust_lr_fn,
            reshape=reshape,
            ns_dtype=ns_dtype,
            **common,
        )

    def validate(self, h: Hyper) -> None:
        """Raise where an option is none that there is."""
        owner, steps = type(self).__name__, h.ns_steps
        if not is_count(steps) or steps >= 100:
            raise ValueError(f'{owner} needs an integer in [0, 100) for ns_steps, got {steps!r}.')
        check_choice(owner, 'adjust_lr_fn', h.adjust_lr_fn, (None, 'original', 'match_rms_adamw'))
        if not callable(h.reshape) and h.reshape not in (None, 'last', 'first'):
            allowed = "None, 'last', 'first' or a function"
            raise ValueError(f'{owner} needs {allowed} for reshape, got {h.reshape!r}.')
        check_choice(owner, 'ns_dtype', h.ns_dtype, FLOATS)

    @leafwise
    def transform(self, h: Hyper) -> optax.GradientTransformation:
        """The orthogonal direction, then decay, then the step."""
        direction = scale_by_muon(
            h.momentum,
            nesterov=h.nesterov,
            ns_coefficients=h.ns_coefficients,
            eps=h.eps,
            ns_steps=h.ns_steps,
            adjust_lr_fn=h.adjust_lr_fn,
            reshape=h.reshape,
            ns_dtype=h.ns_dtype,
        )
        return descent(h, direction, decoupled=True)
