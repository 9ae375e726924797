"""AdEMAMix: Adam with a second, much slower average of the gradient, and its warm-ups."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.tree_utils import (
    tree_bias_correction,
    tree_cast,
    tree_update_moment,
    tree_update_moment_per_elem_norm,
    tree_zeros_like,
)

from . import moments
from .absent import flat_like, is_absent
from .count import one_minus_power
from .infinite import decayed_weights
from .wide import widened

__all__ = [
    'ScaleByAdemamixState',
    'ademamix',
    'alpha_scheduler',
    'beta3_scheduler',
    'scale_by_ademamix',
    'tree_bias_correction',
    'tree_cast',
    'tree_update_moment',
    'tree_update_moment_per_elem_norm',
    'tree_zeros_like',
]

Schedule = Callable[[Any], Any]


class ScaleByAdemamixState(NamedTuple):
    """Counts of updates, for the bias corrections and for the schedules; the three averages.

    ``m1`` is None for ``b1 = 0``. With ``leaf_counts`` the counts are `LeafCounts`.
    """

    count: Any
    count_m2: Any
    m1: optax.Updates | None
    m2: optax.Updates
    nu: optax.Updates


def scale_by_ademamix(
    b1: Any,
    b2: Any,
    b3: Any,
    alpha: Any,
    b3_scheduler: Schedule | None = None,
    alpha_scheduler: Schedule | None = None,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    *,
    step_offset: int = 0,
    leaf_counts: bool = False,
) -> optax.GradientTransformation:
    r"""Add a slow average of the gradient to Adam's.

    .. math:: u_t = \frac{m_t / (1-\beta_1^t) + \alpha_t n_t}
              {\sqrt{v_t / (1-\beta_2^t) + \epsilon_r} + \epsilon}, \quad
              n_t = \beta_{3,t} n_{t-1} + (1-\beta_{3,t}) g_t

    with Adam's averages :math:`m, v`. The slow average is not bias-corrected.

    Parameters
    ----------
    b1, b2, eps, eps_root : float
        :math:`\beta_1, \beta_2, \epsilon, \epsilon_r`.
    b3, alpha : float or callable
        :math:`\beta_3, \alpha`: numbers or schedules; ``b3_scheduler`` and ``alpha_scheduler`` are
        other names for a schedule.
    mu_dtype : dtype, optional
        What both averages of the gradient are kept in; each parameter's dtype by default.
    step_offset : int
        Added to the number of earlier updates, it is the step that schedules see: 0 as in JAX, 1 as
        in the authors' torch version.
    leaf_counts : bool
        Count the updates of every leaf.

    A ``b1`` that is known to be zero needs no fast average. Everything is computed in at least
    float32, :math:`v` is kept in that, and all state in the dtypes it began with. A leaf without
    gradient (None, `optax.MaskedNode`) rests.
    """
    b3 = b3 if b3_scheduler is None else b3_scheduler
    alpha = alpha if alpha_scheduler is None else alpha_scheduler
    one_average = moments.is_known_zero(b1)

    def init(params: optax.Params) -> ScaleByAdemamixState:
        return ScaleByAdemamixState(
            moments.first_count(params, leaf_counts),
            moments.first_count(params, leaf_counts),
            None if one_average else moments.zeros_in(params, mu_dtype),
            moments.zeros_in(params, mu_dtype),
            jax.tree.map(moments.real_zeros, params),
        )

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        leaves, treedef = flat_like(updates, state.m2)
        size = len(leaves)

        def at_step(f: Any) -> list[Any]:
            if not callable(f):
                return [f] * size
            return moments.by_leaf(lambda t: jnp.asarray(f(t + step_offset)), state.count_m2, size)

        count, count_m2 = (moments.next_count(c, leaves) for c in (state.count, state.count_m2))
        if state.m1 is not None:
            scales = moments.by_leaf(lambda t: 1.0 / one_minus_power(b1, t), count, size)
        roots = moments.root_by_leaf(b2, eps, eps_root, count, size)
        shares, weights = at_step(_complement(b3)), at_step(alpha)
        fast = None if state.m1 is None else treedef.flatten_up_to(state.m1)
        slow, nus = treedef.flatten_up_to(state.m2), treedef.flatten_up_to(state.nu)
        for i, g in enumerate(leaves):
            if is_absent(g):
                continue
            wide = widened(g)
            m = wide
            if fast is not None:
                m = moments.averaged(fast[i], wide, b1)
                fast[i] = m.astype(fast[i].dtype)
                m = m * moments.real_like(scales[i], wide)
            old = slow[i].astype(wide.dtype)
            # Of the decay only what it lacks to one is used: near one nothing else is precise. The
            # old part is taken away by itself: near zero a large one would swallow the gradient.
            share = moments.real_like(shares[i], wide)
            n = (old - share * old) + share * wide
            nu = moments.averaged(nus[i], (wide * wide.conj()).real, b2)
            slow[i], nus[i] = n.astype(slow[i].dtype), nu.astype(nus[i].dtype)
            mixed = m + moments.real_like(weights[i], wide) * n
            kind = jnp.promote_types(g.dtype, slow[i].dtype)
            leaves[i] = (mixed / roots[i](nu)).astype(kind)
        return treedef.unflatten(leaves), ScaleByAdemamixState(
            count,
            count_m2,
            None if fast is None else treedef.unflatten(fast),
            treedef.unflatten(slow),
            treedef.unflatten(nus),
        )

    return optax.GradientTransformation(init, update)


def ademamix(
    lr: Any = None,
    b1: Any = 0.9,
    b2: Any = 0.999,
    b3: Any = 0.9999,
    alpha: Any = 5.0,
    b3_scheduler: Schedule | None = None,
    alpha_scheduler: Schedule | None = None,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    weight_decay: Any = 0.0,
    mu_dtype: Any = None,
    mask: Any = None,
    *,
    learning_rate: Any = None,
    step_offset: int = 0,
) -> optax.GradientTransformation:
    """Descend by `scale_by_ademamix`, with decoupled weight decay where ``mask`` says.

    Parameters
    ----------
    lr, learning_rate : float or callable
        A number, or a schedule of the step; give it by one of the two names.
    weight_decay : float
        Decay of the parameters.
    mask : tree of bool or callable, optional
        Which parameters decay, as :func:`optax.add_decayed_weights` takes it.

    All others are those of :func:`scale_by_ademamix`.
    """
    if (lr is None) == (learning_rate is None):
        came = 'neither' if lr is None else 'both'
        raise TypeError(f'ademamix needs lr or learning_rate, got {came}; they are one number.')
    direction = scale_by_ademamix(
        b1,
        b2,
        b3,
        alpha,
        b3_scheduler=b3_scheduler,
        alpha_scheduler=alpha_scheduler,
        eps=eps,
        eps_root=eps_root,
        mu_dtype=mu_dtype,
        step_offset=step_offset,
    )
    return optax.chain(
        direction,
        decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate if lr is None else lr),
    )


def alpha_scheduler(alpha: Any, alpha_start: Any = 0.0, warmup: Any = 0) -> Schedule:
    r"""Return the schedule that goes to ``alpha`` on a straight line in ``warmup`` steps.

    .. math:: \alpha_s = (1 - r) \alpha_{start} + r \alpha, \quad r = \min(s / T, 1)
    """

    def schedule(step: Any) -> jax.Array:
        done = _fraction_done(step, warmup)
        return (1.0 - done) * alpha_start + done * alpha

    return schedule


def beta3_scheduler(beta_end: Any, beta_start: Any = 0.0, warmup: Any = 0) -> Beta3Schedule:
    r"""Return the schedule whose memory grows to that of ``beta_end`` in ``warmup`` steps.

    .. math:: -1 / \ln \beta_s = -(1 - r) / \ln \beta_{start} - r / \ln \beta_{end},
              \quad r = \min(s / T, 1)
    """
    return Beta3Schedule(beta_end, beta_start, warmup)


@dataclass(frozen=True)
class Beta3Schedule:
    """The decay of the slow average by step; `complement` is one less it, with nothing lost."""

    beta_end: Any
    beta_start: Any
    warmup: Any

    def __call__(self, step: Any) -> jax.Array:
        """Return the decay at a step."""
        length, some, ended = self._memory(step)
        return jnp.where(ended, self.beta_end, jnp.where(some, jnp.exp(-1.0 / length), 0.0))

    def complement(self, step: Any) -> jax.Array:
        """Return one less the decay at a step."""
        length, some, ended = self._memory(step)
        missing = jnp.where(some, -jnp.expm1(-1.0 / length), 1.0)
        return jnp.where(ended, 1.0 - self.beta_end, missing)

    def _memory(self, step: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return for how many steps the average remembers, if for any, and if it is the end.

        Where there is no memory a one stands in, since derivatives look at what is not chosen.
        """
        done = _fraction_done(step, self.warmup)
        length = (1.0 - done) * _memory_of(self.beta_start) + done * _memory_of(self.beta_end)
        some = length > 0
        return jnp.where(some, length, 1.0), some, done >= 1


_FOREVER = 1e30  # the memory of a decay of one: times zero it is zero, which infinity is not


def _memory_of(beta: Any) -> Any:
    """Return the number of steps in which an average of a decay fades by 1/e."""
    if isinstance(beta, int | float):  # in double precision
        return 0.0 if beta <= 0 else _FOREVER if beta >= 1 else -1.0 / math.log(beta)
    between = (beta > 0) & (beta < 1)
    fades = -1.0 / jnp.log1p(jnp.where(between, beta, 0.5) - 1.0)
    return jnp.where(between, fades, jnp.where(beta > 0, _FOREVER, 0.0))


def _fraction_done(step: Any, warmup: Any) -> jax.Array:
    """Return how much of the warm-up is over; all, if it takes no steps."""
    step = jnp.asarray(float(step) if isinstance(step, int) else step)
    some = jnp.asarray(warmup) > 0
    return jnp.where(some, jnp.clip(step / jnp.where(some, warmup, 1.0), 0.0, 1.0), 1.0)


def _complement(b3: Any) -> Any:
    """Return one less a decay, or the schedule of that."""
    if not callable(b3):
        return 1.0 - b3
    return getattr(b3, 'complement', lambda step: 1.0 - b3(step))
