"""Optimizers of gradients that name the rows they are about."""

from __future__ import annotations

from typing import Unpack

import optax

from ..hyper import Hyper
from ..leafwise import leafwise
from ..optimizer import OptaxOptimizer
from ..ranges import POSITIVE
from ..schedulers import LRScheduler
from ..signature import CommonOptions
from ..transforms import scale_by_sparse_adam

__all__ = ['SparseAdam']


class SparseAdam(OptaxOptimizer):
    r"""Adam for row-sparse gradients, as ``torch.optim.SparseAdam``.

    .. math:: \theta \leftarrow \theta - \eta \frac{\sqrt{1-\beta_2^t}}{1-\beta_1^t}
              \frac{m_t}{\sqrt{v_t} + \epsilon}

    for the rows that the gradient has; other rows and their averages :math:`m, v` of the gradient
    and its square stay. :math:`t` counts the gradients of the whole parameter.

    Parameters
    ----------
    lr : float or LRScheduler
        Learning rate :math:`\eta`.
    betas : tuple of float
        Decay rates of the two averages.
    eps : float
        :math:`\epsilon`.

    For embeddings of which each step sees a few rows. Gradients are
    ``jax.experimental.sparse.BCOO((data, rows), shape=...)``, without batch dimensions; rows may
    repeat, and those out of bounds are padding. Dense gradients are refused, as in torch.
    """

    gradient_layouts = frozenset({'sparse'})
    no_accumulation = 'gradients of other rows have another sparsity'
    ranges = {'eps': POSITIVE}
    never_negative = ('nu',)
    complex_as_real = False

    def __init__(
        self,
        lr: float | LRScheduler = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        **common: Unpack[CommonOptions],
    ):
        super().__init__(lr=lr, betas=betas, eps=eps, **common)

    @leafwise
    def transform(self, h: Hyper) -> optax.GradientTransformation:
        """The direction of the rows that are there, then the step."""
        b1, b2 = h.betas
        return optax.chain(scale_by_sparse_adam(b1, b2, h.eps), optax.scale_by_learning_rate(h.lr))
