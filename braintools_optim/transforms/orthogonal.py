"""Muon's direction: momentum, made orthogonal."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from .absent import is_masked
from .adam import ScaleByAdamState
from .mesh import in_auto_axes
from .names import path_name
from .refuse import refuse_complex

__all__ = [
    'NS_COEFFICIENTS',
    'NS_EPS',
    'NS_STEPS',
    'FACTORS',
    'OUTPUTS',
    'RESHAPES',
    'Reshape',
    'ScaleByMuonState',
    'is_matrix',
    'muon_or_adam',
    'newton_schulz',
    'scale_by_muon',
]

# Keller Jordan's, 2024: the polynomial that lifts small singular values fastest.
NS_COEFFICIENTS = (3.4445, -4.775, 2.0315)
NS_STEPS = 5
NS_EPS = 1e-7

OUTPUTS = ('rows', 'columns')
FACTORS = (None, 'original', 'match_rms_adamw')
RESHAPES = (None, 'last', 'first')

Shape = tuple[int, ...]
Reshape = str | Callable[[Shape], Shape] | None
"""Which matrix an array is: itself, by its last or first axis, or what a function of shape says."""


class ScaleByMuonState(NamedTuple):
    """The averaged gradient."""

    mu: optax.Updates


class MuonOrAdamState(NamedTuple):
    """The averaged gradient of all, and of what is no matrix Adam's square and counts."""

    leaf_counts: jax.Array
    mu: optax.Updates
    nu: optax.Updates


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
    outputs: str = 'rows',
) -> optax.GradientTransformation:
    r"""Orthogonalize the averaged gradient of every matrix by :func:`newton_schulz`.

    .. math:: m_t = \mu m_{t-1} + (1 - \mu) g_t, \quad
              u_t = \kappa\, NS\big(\mu m_t + (1 - \mu) g_t \text{ (nesterov)}
              \text{ or } m_t\big)

    for a matrix of :math:`r` rows and :math:`c` columns (or the other way round, with the outputs
    in its columns) with :math:`\kappa = \sqrt{\max(1, r/c)}`, or :math:`0.2 \sqrt{\max(r, c)}`
    ('match_rms_adamw'). Unlike :func:`optax.contrib.scale_by_muon` the average is torch's, without
    a bias correction.

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
    outputs : {'rows', 'columns'}
        What the factor counts as rows.
    """
    known = {'adjust_lr_fn': (adjust_lr_fn, FACTORS), 'outputs': (outputs, OUTPUTS)}
    if not callable(reshape):
        known['reshape'] = reshape, RESHAPES
    for name, (given, allowed) in known.items():
        if given not in allowed:
            raise ValueError(f'scale_by_muon needs one of {allowed} for {name}, got {given!r}.')

    def init(params: optax.Params) -> ScaleByMuonState:
        refuse_complex(params)
        for path, p in jax.tree_util.tree_flatten_with_path(params)[0]:
            shape = _matrix_shape(p.shape, reshape)
            if len(shape) != 2 or math.prod(shape) != p.size:
                made = f', of which reshape made {shape}' if reshape else ''
                raise ValueError(
                    f'Muon takes matrices, but parameter {path_name(path)!r} has the shape '
                    f"{p.shape}{made}; leave it to AdamW by adamw='rest', or "
                    f"say by reshape='last', reshape='first' or a function of the shape which "
                    f'matrix it is.'
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
            ends = (rows, cols) if outputs == 'rows' else (cols, rows)
            factor = math.sqrt(max(1.0, ends[0] / max(ends[1], 1)))
        return factor * ortho.reshape(update.shape)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params

        def mixed(m: Any, g: Any) -> Any:
            return momentum * m + (1.0 - momentum) * g

        mu = jax.tree.map(mixed, state.mu, updates)
        updates = jax.tree.map(mixed, mu, updates) if nesterov else mu
        return jax.tree.map(direction, updates), ScaleByMuonState(mu)

    return optax.GradientTransformation(init, update)


def muon_or_adam(
    muon: optax.GradientTransformation,
    adam: optax.GradientTransformation,
    for_muon: Callable[[jax.Array], bool],
) -> optax.GradientTransformation:
    """Return Muon's direction for some arrays and Adam's for the others, with one state."""

    def parts(tree: Any) -> tuple[Any, Any]:
        def part(wanted: bool) -> Any:
            masked = optax.MaskedNode()
            return jax.tree.map(lambda x: x if for_muon(x) is wanted else masked, tree)

        return part(True), part(False)

    def whole(one: Any, other: Any) -> Any:
        return jax.tree.map(lambda a, b: b if is_masked(a) else a, one, other, is_leaf=is_masked)

    def init(params: optax.Params) -> MuonOrAdamState:
        matrices, rest = parts(params)
        by_adam = adam.init(rest)
        mu = whole(muon.init(matrices).mu, by_adam.mu)
        return MuonOrAdamState(by_adam.leaf_counts, mu, by_adam.nu)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        (matrices, rest), (mu, rest_mu) = parts(updates), parts(state.mu)
        matrices, by_muon = muon.update(matrices, ScaleByMuonState(mu))
        adams = ScaleByAdamState(state.leaf_counts, rest_mu, state.nu, None)
        rest, by_adam = adam.update(rest, adams)
        mu = whole(by_muon.mu, by_adam.mu)
        return whole(matrices, rest), MuonOrAdamState(by_adam.leaf_counts, mu, by_adam.nu)

    return optax.GradientTransformation(init, update)


def is_matrix(p: jax.Array, reshape: Reshape) -> bool:
    """Whether an array is a matrix, or is to be made one."""
    return len(_matrix_shape(p.shape, reshape)) == 2


def _matrix_shape(shape: Shape, reshape: Reshape) -> Shape:
    if callable(reshape):
        return tuple(reshape(shape))
    if reshape == 'last':
        return math.prod(shape[:-1]), math.prod(shape[-1:])
    if reshape == 'first':
        return math.prod(shape[:1]), math.prod(shape[1:])
    return shape
