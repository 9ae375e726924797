"""Averages in a dtype of their own, and counts of updates for a whole tree or for each leaf."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .absent import is_absent
from .count import advanced_where, one_minus_power, spread, zero_counts
from .wide import root, single_or_wider

__all__ = [
    'LeafCounts',
    'at_least_single',
    'averaged',
    'averaged_square',
    'by_leaf',
    'first_count',
    'is_known_zero',
    'next_count',
    'real_like',
    'real_zeros',
    'root_by_leaf',
    'zeros_in',
]


class LeafCounts(NamedTuple):
    """Each leaf's count of updates, where a state otherwise has one count for all leaves."""

    leaf_counts: jax.Array


def first_count(params: optax.Params, each_leaf: bool) -> Any:
    """Return a count of zero, of all leaves or of each."""
    return LeafCounts(zero_counts(params)) if each_leaf else jnp.zeros((), jnp.int32)


def next_count(count: Any, leaves: list[Any]) -> Any:
    """Return the count after one more update of these leaves, of which some may be absent."""
    if isinstance(count, LeafCounts):
        here = np.array([not is_absent(x) for x in leaves], bool)
        return LeafCounts(advanced_where(here, count.leaf_counts))
    return optax.safe_increment(count)


def by_leaf(f: Callable[[Any], Any], count: Any, leaves: int) -> list[Any]:
    """Return a function of the count, for each of so many leaves."""
    if not isinstance(count, LeafCounts):
        return [f(count)] * leaves
    return spread(jax.vmap(f)(count.leaf_counts), [0.0] * leaves)


def root_by_leaf(b2: Any, eps: Any, eps_root: Any, count: Any, leaves: int) -> list[Callable]:
    """Return for each leaf what makes the denominator of Adam out of its averaged square."""

    def made(scale: Any) -> Callable[[jax.Array], jax.Array]:
        return lambda nu: root(nu * scale.astype(nu.dtype) + eps_root) + eps

    return list(map(made, by_leaf(lambda t: 1.0 / one_minus_power(b2, t), count, leaves)))


def averaged(old: jax.Array, new: jax.Array, decay: Any) -> jax.Array:
    """Return an average moved towards ``new``, in the dtype of the latter.

    What is left of the old one is rounded to the dtype it is kept in, as by all originals.
    """
    return (decay * old).astype(new.dtype) + (1.0 - decay) * new


def averaged_square(old: jax.Array, g: jax.Array, decay: Any) -> jax.Array:
    """Return an averaged square moved towards that of ``g``, in torch's order of factors.

    A square may overflow where its share does not: that of 300 in float16.
    """
    return decay * old + ((1.0 - decay) * g * g.conj()).real


def real_like(number: Any, like: jax.Array) -> jax.Array:
    """Return a real number in the precision of an array."""
    return jnp.asarray(number).astype(jnp.finfo(like.dtype).dtype)


def zeros_in(params: optax.Params, dtype: Any) -> optax.Params:
    """Return zeros in a dtype, or where that is None, or a leaf is complex, in the leaf's own."""

    def zeros(p: jax.Array) -> jax.Array:
        return jnp.zeros_like(p, p.dtype if jnp.iscomplexobj(p) else dtype)

    return jax.tree.map(zeros, params)


def at_least_single(number: jax.Array, like: jax.Array) -> jax.Array:
    """Return a real number in the precision of an array, but no less than that of float32.

    What is multiplied by it leaves float16, where it might overflow or vanish.
    """
    return number.astype(single_or_wider(like))


def real_zeros(p: jax.Array) -> jax.Array:
    """Return zeros for the averaged square of an array, which is real.

    In less than float32 the small steps of such an average would vanish.
    """
    return jnp.zeros(jnp.shape(p), single_or_wider(p))


def is_known_zero(x: Any) -> bool:
    """Whether a number is zero, and no tracer that may become something else."""
    return isinstance(x, int | float) and x == 0
