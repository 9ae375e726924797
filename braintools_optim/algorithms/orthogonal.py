"""Muon, which makes the updates of matrices orthogonal."""

from __future__ import annotations

from typing import Any, Unpack

import jax
import optax

from ..check import check_choice, is_count
from ..hyper import Hyper
from ..leafwise import leafwise
from ..optimizer import OptaxOptimizer
from ..ranges import DECAY, FINITE, NON_NEGATIVE
from ..schedulers import LRScheduler
from ..signature import CommonOptions
from ..transforms import Reshape, scale_by_adam, scale_by_muon
from ..transforms.orthogonal import (
    FACTORS,
    NS_COEFFICIENTS,
    NS_EPS,
    NS_STEPS,
    OUTPUTS,
    RESHAPES,
    is_matrix,
    muon_or_adam,
)
from .arguments import FLOATS, dtype_name
from .chain import descent, descent_by_kind

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
    outputs : {'rows', 'columns'}
        What counts as rows in :math:`\kappa`: torch's layers have their outputs there, those of
        brainstate and flax in the columns.
    ns_dtype : dtype, optional
        Precision of the iteration, the parameter's of at least float32 by default.
    adamw : {None, 'rest', 'all'}
        What :class:`AdamW` updates: nothing (then all but matrices is refused); the rest, that is
        vectors and all else that is no matrix; or, for a group of embeddings, everything.
    adamw_lr_ratio, adamw_betas, adamw_eps, adamw_weight_decay
        AdamW's learning rate as a multiple of :math:`\eta`, and its other numbers.

    For the matrices of hidden layers; biases and embeddings need AdamW. Jordan et al. (2024),
    kellerjordan.github.io/posts/muon; Liu et al., arXiv:2502.16982. torch iterates in bfloat16:
    ``ns_dtype='bfloat16'``.
    """

    state_schema = 2
    added_options = {
        2: {
            **{'outputs': 'rows', 'adamw': None, 'adamw_lr_ratio': 1.0, 'adamw_eps': 1e-8},
            **{'adamw_betas': (0.9, 0.95), 'adamw_weight_decay': 0.0},
        }
    }
    static = ('ns_steps',)
    ranges = {
        'ns_coefficients': FINITE,
        'adamw_lr_ratio': NON_NEGATIVE,
        'adamw_betas': DECAY,
        'adamw_eps': NON_NEGATIVE,
        'adamw_weight_decay': NON_NEGATIVE,
    }
    weight_decays = ('weight_decay', 'adamw_weight_decay')
    never_negative = ('nu',)
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
        outputs: str = 'rows',
        ns_dtype: Any = None,
        adamw: str | None = None,
        adamw_lr_ratio: float = 1.0,
        adamw_betas: tuple[float, float] = (0.9, 0.95),
        adamw_eps: float = 1e-8,
        adamw_weight_decay: float = 0.0,
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
            outputs=outputs,
            ns_dtype=dtype_name(ns_dtype),
            adamw=adamw,
            adamw_lr_ratio=adamw_lr_ratio,
            adamw_betas=adamw_betas,
            adamw_eps=adamw_eps,
            adamw_weight_decay=adamw_weight_decay,
            **common,
        )

    def validate(self, h: Hyper) -> None:
        """Raise if an option has an unknown value."""
        owner, steps = type(self).__name__, h.ns_steps
        if not is_count(steps) or steps >= 100:
            raise ValueError(f'{owner} needs an integer in [0, 100) for ns_steps, got {steps!r}.')
        check_choice(owner, 'adjust_lr_fn', h.adjust_lr_fn, FACTORS)
        if not callable(h.reshape) and h.reshape not in RESHAPES:
            allowed = "None, 'last', 'first' or a function"
            raise ValueError(f'{owner} needs {allowed} for reshape, got {h.reshape!r}.')
        check_choice(owner, 'outputs', h.outputs, OUTPUTS)
        check_choice(owner, 'ns_dtype', h.ns_dtype, FLOATS)
        check_choice(owner, 'adamw', h.adamw, (None, 'rest', 'all'))

    @leafwise
    def transform(self, h: Hyper) -> optax.GradientTransformation:
        """The directions of matrices and of all else, each with its decay, then the step."""
        direction = scale_by_muon(
            h.momentum,
            nesterov=h.nesterov,
            ns_coefficients=h.ns_coefficients,
            eps=h.eps,
            ns_steps=h.ns_steps,
            adjust_lr_fn=h.adjust_lr_fn,
            reshape=h.reshape,
            outputs=h.outputs,
            ns_dtype=h.ns_dtype,
        )
        if h.adamw is None:
            return descent(h, direction, decoupled=True)

        def for_muon(p: jax.Array) -> bool:
            return h.adamw != 'all' and p.ndim > 1 and is_matrix(p, h.reshape)

        b1, b2 = h.adamw_betas
        both = muon_or_adam(direction, scale_by_adam(b1, b2, h.adamw_eps), for_muon)
        return descent_by_kind(h, both, for_muon, h.adamw_weight_decay, h.adamw_lr_ratio)
