"""Momentum whitened by Kronecker-factored preconditioners."""

from __future__ import annotations

from typing import Any, Unpack

import optax

from ..check import check_mask
from ..hyper import Hyper
from ..optimizer import OptaxOptimizer
from ..ranges import DECAY, NON_NEGATIVE, POSITIVE
from ..schedulers import LRScheduler
from ..signature import CommonOptions
from ..transforms import scale_by_quad, scale_by_skew
from ..transforms.white_kron.options import Options
from .arguments import dtype_name
from .chain import descent, users_mask

__all__ = ['Quad', 'Skew']


class Quad(OptaxOptimizer):
    r"""PSGD-QUAD, as eformer has it: the momentum, whitened from both sides block by block.

    .. math:: A = P_l \hat m P_r, \quad Q \leftarrow (I - z (T - n I))\, Q\, (I - z (T - n I)),
              \quad \theta \leftarrow \theta - \eta \left(\tfrac15 P_l \hat m P_r + \lambda \theta
              \right)

    with the bias-corrected momentum :math:`\hat m`, and for each of the two factors :math:`Q` of a
    block :math:`P = Q^T Q` and a step size :math:`z`. On the left :math:`T = A A^T`, and :math:`n`
    counts the block's columns; on the right :math:`A^T A`, and its rows. More is in
    :func:`transforms.scale_by_quad`.

    Parameters
    ----------
    lr : float or LRScheduler
        Learning rate :math:`\eta`.
    b1 : float
        Decay of the momentum; built with 0 it keeps none.
    weight_decay : float
        Decoupled decay :math:`\lambda`.
    preconditioner_lr, preconditioner_lr_min, preconditioner_init_scale, noise_scale : float
        Step size of the factors and its least value, their initial scale, and the noise that they
        learn from; with 0 at construction none is drawn.
    weight_decay_mask : tree or callable, optional
        Which parameters decay, as optax takes it.
    lr_style, normalize_grads, max_size_dense, block_size, dtype, scanned_layers, norm_estimator,
    update_every, seed, per_layer, precision, pipeline_axis_name, pipeline_axis_size,
    params_partition_specs
        As in :func:`transforms.scale_by_quad`; fixed.

    For matrices whose gradients are ill-conditioned, with learning rates of Adam's size and no
    clipping. Li, arXiv:2402.11858. Edges of blocks are no larger than the matrix, and factors rest
    where gradients are zero or not finite.
    """

    structural = ('b1', 'noise_scale')
    static = (
        *('max_size_dense', 'block_size', 'pipeline_axis_size', 'update_every', 'seed'),
        'precision',
    )
    ranges = {
        'b1': DECAY,
        'preconditioner_lr': DECAY,
        'preconditioner_lr_min': DECAY,
        'preconditioner_init_scale': POSITIVE,
        'noise_scale': NON_NEGATIVE,
    }
    never_negative = ('Ll', 'Lr')
    complex_as_real = False
    scale = staticmethod(scale_by_quad)

    def __init__(
        self,
        lr: float | LRScheduler = 1e-3,
        b1: float = 0.95,
        weight_decay: float = 0.1,
        *,
        preconditioner_lr: float = 0.7,
        preconditioner_lr_min: float = 0.4,
        preconditioner_init_scale: float = 1.0,
        noise_scale: float = 1e-9,
        weight_decay_mask: Any = None,
        lr_style: str | None = 'adam',
        normalize_grads: bool = False,
        max_size_dense: int = 16384,
        block_size: int = 256,
        dtype: Any = 'bfloat16',
        scanned_layers: Any = None,
        norm_estimator: str = 'random',
        update_every: int = 1,
        seed: int = 0,
        per_layer: bool = False,
        precision: Any = None,
        pipeline_axis_name: str | None = None,
        pipeline_axis_size: int = 1,
        params_partition_specs: Any = None,
        **common: Unpack[CommonOptions],
    ):
        super().__init__(
            lr=lr,
            b1=b1,
            weight_decay=weight_decay,
            preconditioner_lr=preconditioner_lr,
            preconditioner_lr_min=preconditioner_lr_min,
            preconditioner_init_scale=preconditioner_init_scale,
            noise_scale=noise_scale,
            weight_decay_mask=weight_decay_mask,
            lr_style=lr_style,
            normalize_grads=normalize_grads,
            max_size_dense=max_size_dense,
            block_size=block_size,
            dtype=dtype_name(dtype),
            scanned_layers=scanned_layers,
            norm_estimator=norm_estimator,
            update_every=update_every,
            seed=seed,
            per_layer=per_layer,
            precision=precision,
            pipeline_axis_name=pipeline_axis_name,
            pipeline_axis_size=pipeline_axis_size,
            params_partition_specs=params_partition_specs,
            **common,
        )

    def validate(self, h: Hyper) -> None:
        """Raise if an option has an unknown value."""
        check_mask(type(self).__name__, 'weight_decay_mask', h.weight_decay_mask)
        _options(h).checked(type(self).__name__)

    # Not leafwise: blocks of several leaves are computed together, and draws go by path.
    def transform(self, h: Hyper) -> optax.GradientTransformation:
        """The whitened direction, then decay, then the step."""
        mask = users_mask(self, 'weight_decay_mask', h.weight_decay_mask)
        return descent(h, self.scale(**_options(h)._asdict()), decoupled=True, mask=mask)


class Skew(Quad):
    r"""PSGD with factors that are steered to symmetry (Q0.5EQ1.5), as eformer has it.

    .. math:: Q \leftarrow \operatorname{turn}\big(Q - z (T - n I)\, Q\big)

    where the turn is a rotation towards the nearest symmetric matrix; all else, and the parameters,
    are those of :class:`Quad`. A little slower, it ends better where gradients have low rank.
    """

    scale = staticmethod(scale_by_skew)


def _options(h: Hyper) -> Options:
    """Return what the direction is told."""
    return Options(**{name: getattr(h, name) for name in Options._fields})
