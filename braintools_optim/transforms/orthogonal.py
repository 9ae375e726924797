"""Muon's direction: momentum, made orthogonal."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from .mesh import in_auto_axes
from .refuse import leaf_name, refuse_complex

__all__ = [
    'NS_COEFFICIENTS',
    'NS_EPS',
    'NS_STEPS',
    'Reshape',
    'ScaleByMuonState',
    'newton_schulz',
    'scale_by_muon',
]

# Keller Jordan's, 2024: the polynomial that lifts small singular values fastest.
NS_COEFFICIENTS = (3.4445, -4.775, 2.0315)
NS_STEPS = 5
NS_EPS = 1e-7

Shape = tuple[int, ...]
Reshape = str | Callable[[Shape], Shape] | None
"""Which matrix an array is: itself, by its last or first axis, or what a function of shape says."""


class ScaleByMuonState(NamedTuple):
    """The averaged gradient."""

    mu: optax.Updates


def newton_schulz(
    matrix: jax.Array,
    coefficients: Any,
    steps: int,
    eps: Any,
    dtype: Any = None,
    add_eps: bool = False,
) -> jax.Array:
    r"""Move the singular values of a matrix towards one.

    .. math:: X_0 = G / \max(\|G\|_F, \epsilon), \quad
              X_{k+1} = a X_k + (b A + c A^2) X_k, \quad A = X_k X_k^T

    Parameters
    ----------
    matrix : array
        :math:`G`, of two axes.
    coefficients : tuple of float
        :math:`a, b, c`.
    steps : int
        How often it runs.
    eps : float
        :math:`\epsilon`, the least norm that is divided by.
    dtype : dtype, optional
        What it runs in; the matrix' own, of at least float32, by default.
    add_eps : bool
        Begin with :math:`G / (\|G\|_F + \epsilon)` instead.
    """
    a, b, c = coefficients
    x = matrix.astype(dtype or jnp.promote_types(matrix.dtype, jnp.float32))
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    norm = jnp.linalg.norm(x)
    x = x / (norm + eps if add_eps else jnp.maximum(norm, eps))

    wide = jnp.promote_types(x.dtype, jnp.float32)

    def product(x: jax.Array, y: jax.Array) -> jax.Array:
        # Accelerators would take shorter numbers by default.
        highest = jax.lax.Precision.HIGHEST
        return jnp.matmul(x, y, precision=highest, preferred_element_type=wide)

    def iterate(_: Any, x: jax.Array) -> jax.Array:
        # Each line is rounded once, as in torch's fused multiply and add.
        gram = product(x, x.T).astype(x.dtype)
        change = (b * gram.astype(wide) + c * product(gram, gram)).astype(x.dtype)
        return (a * x.astype(wide) + product(change, x)).astype(x.dtype)

    x = jax.lax.fori_loop(0, steps, iterate, x)
    return (x.T if tall else x).astype(matrix.dtype)


def scale_by_muon(
    momentum: Any = 0.95,
    nesterov: bool = True,
    ns_coefficients: Any = NS_COEFFICIENTS,
    eps: Any = NS_EPS,
    ns_steps: int = NS_STEPS,
    adjust_lr_fn: str | None = None,
    reshape: Reshape = None,
    ns_dtype: Any = None,
) -> optax.GradientTransformation:
    r"""Orthogonalize the averaged gradient of every matrix by :func:`newton_schulz`.

    .. math:: m_t = \mu m_{t-1} + (1 - \mu) g_t, \quad
              u_t = \kappa\, NS\big(\mu m_t + (1 - \mu) g_t \text{ (nesterov)}
              \text{ or } m_t\big)

    for a matrix of :math:`r` rows and :math:`c` columns with :math:`\kappa =
    \sqrt{\max(1, r/c)}`, or :math:`0.2 \sqrt{\max(r, c)}` ('match_rms_adamw'). Unlike
    :func:`optax.contrib.scale_by_muon` the average is torch's, without a bias correction.

    Parameters
    ----------
    momentum : float
        Decay :math:`\mu` of the average.
    nesterov : bool
        Look ahead along the average.
    ns_coefficients, eps, ns_steps, ns_dtype
        What :func:`newton_schulz` is given.
    adjust_lr_fn : {None, 'original', 'match_rms_adamw'}
        Which :math:`\kappa`; None is the original.
    reshape : {None, 'last', 'first'} or callable
        Which matrix an array is, as in :class:`Muon`.
    """

    def init(params: optax.Params) -> ScaleByMuonState:
        refuse_complex(params)
        for path, p in jax.tree_util.tree_flatten_with_path(params)[0]:
            shape = _matrix_shape(p.shape, reshape)
            if len(shape) != 2 or math.prod(shape) != p.size:
                made = f', of which reshape made {shape}' if reshape else ''
                raise ValueError(
                    f'Muon takes matrices, but parameter {leaf_name(path)!r} has the shape '
                    f'{p.shape}{made}; give it to another optimizer (where a layer has it in one '
                    f'State with its matrix, build it without, b_init=None), or say by '
                    f"reshape='last', reshape='first' or a function of the shape which matrix it "
                    f'is.'
                )
        return ScaleByMuonState(optax.tree.zeros_like(params))

    def direction(update: jax.Array) -> jax.Array:
        return in_auto_axes(orthogonal, update, update, ns_coefficients, eps)

    def orthogonal(update: jax.Array, ns_coefficients: Any, eps: Any) -> jax.Array:
        rows, cols = _matrix_shape(update.shape, reshape)
        matrix = update.reshape(rows, cols)
        ortho = newton_schulz(matrix, ns_coefficients, ns_steps, eps, ns_dtype)
        if adjust_lr_fn == 'match_rms_adamw':
            factor = 0.2 * math.sqrt(max(rows, cols))
        else:
            factor = math.sqrt(max(1.0, rows / max(cols, 1)))
        return factor * ortho.reshape(update.shape)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params

        def mixed(m: Any, g: Any) -> Any:
            return momentum * m + (1.0 - momentum) * g

        mu = jax.tree.map(mixed, state.mu, updates)
        updates = jax.tree.map(mixed, mu, updates) if nesterov else mu
        return jax.tree.map(direction, updates), ScaleByMuonState(mu)

    return optax.GradientTransformation(init, update)


def _matrix_shape(shape: Shape, reshape: Reshape) -> Shape:
    if callable(reshape):
        return tuple(reshape(shape))
    if reshape == 'last':
        return math.prod(shape[:-1]), math.prod(shape[-1:])
    if reshape == 'first':
        return math.prod(shape[:1]), math.prod(shape[1:])
    return shape
