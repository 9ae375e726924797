"""The two update rules, on stacks of blocks of one shape.

A block ``G`` has a left factor and, if it is no vector, a right one. With ``P = Q^T Q`` of either,
or ``q^2`` entry by entry where a factor is diagonal, ``A = P_l G P_r`` should have white rows and
columns: ``E[A A^T] = columns * I`` and ``E[A^T A] = rows * I``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..wide import root
from .draw import draws_like
from .norm import ROWS, Matmul, exact_norm, iterated_norm

__all__ = ['Blocks', 'Factor', 'Rule', 'precondition']

_LARGEST_ENTRY = 1e17
"""Gradients are taken for smaller where entries of A might come out larger: their squares stay in
float32, and the factors learn the same from such numbers."""
_LARGEST_GAIN = 1e28
"""No product of factors becomes larger: where gradients are that small there is nothing to see."""
_TURN = 1 / 8
"""The largest step towards a symmetric factor, in radians."""


class Factor(NamedTuple):
    """A side of a stack of blocks: factors, dense or diagonal, and the averaged norm bounds."""

    q: jax.Array
    bound: jax.Array
    diagonal: bool


class Blocks(NamedTuple):
    """A stack of blocks; but for the gradients there is one entry for each of them.

    The gradients are divided by ``scale``. ``seen`` says where the raw gradient is not zero.
    """

    grads: jax.Array
    seen: jax.Array
    scale: jax.Array
    lr: jax.Array
    due: jax.Array
    balance: jax.Array
    noise_scale: Any
    seeds: Any  # None where nothing is drawn


@dataclass(frozen=True)
class Rule:
    """Which factors are learnt, how their norms are estimated, and what multiplies matrices."""

    style: str
    estimator: str
    matmul: Matmul
    in_branch: bool  # whether factors are learnt in a branch, left out where none is due

    def norm(self, matrices: jax.Array, draws: jax.Array | None) -> jax.Array:
        """Return the spectral norm of each matrix."""
        if self.estimator == 'exact':
            return exact_norm(matrices)
        return iterated_norm(matrices, draws, self.estimator, self.matmul)

    @property
    def symmetric(self) -> bool:
        """Whether its factors are exactly symmetric."""
        return self.style == 'quad'


def precondition(
    blocks: Blocks, left: Factor, right: Factor | None, rule: Rule
) -> tuple[jax.Array, Factor, Factor | None]:
    """Return ``P_l G P_r``, computed with the new factors, and the new left and right factor.

    The factors of a block rest where its raw gradient is zero, or anything is not finite; an entry
    of a diagonal factor rests where the raw gradient of its row or column is zero.
    """

    def learnt(left: Factor, right: Factor | None) -> tuple[Factor, Factor | None]:
        return _learnt(blocks, left, right, rule)

    if rule.in_branch:
        left, right = _switch(jnp.any(blocks.due), learnt, _resting, left, right)
    else:
        left, right = learnt(left, right)
    return _whitened(blocks.grads, left, right, rule), left, right


def _resting(left: Factor, right: Factor | None) -> tuple[Factor, Factor | None]:
    return left, right


def _switch(when: jax.Array, yes: Callable, no: Callable, *factors: Factor | None) -> tuple:
    """Do ``lax.cond`` on factors, whose kinds are static."""
    kinds = [None if f is None else f.diagonal for f in factors]

    def arrays(fs: Any) -> list:
        return [None if f is None else (f.q, f.bound) for f in fs]

    def back(xs: Any) -> list:
        return [
            None if x is None else Factor(x[0], x[1], kind is True)
            for x, kind in zip(xs, kinds, strict=True)
        ]

    made = jax.lax.cond(
        when, lambda xs: arrays(yes(*back(xs))), lambda xs: arrays(no(*back(xs))), arrays(factors)
    )
    return tuple(back(made))


# ---- the matrices ------------------------------------------------------------------------


def _whitened(x: jax.Array, left: Factor, right: Factor | None, rule: Rule) -> jax.Array:
    """Return ``P_l X P_r``."""
    q = left.q
    if left.diagonal:
        x = jnp.square(q)[..., :, None] * x
    else:
        x = rule.matmul(_transposed(q, rule), rule.matmul(q, x))
    if right is None:
        return x
    q = right.q
    if right.diagonal:
        return x * jnp.square(q)[..., None, :]
    return rule.matmul(rule.matmul(x, _transposed(q, rule)), q)


def _transposed(q: jax.Array, rule: Rule) -> jax.Array:
    return q if rule.symmetric else jnp.swapaxes(q, -1, -2)


def _learnt(
    blocks: Blocks, left: Factor, right: Factor | None, rule: Rule
) -> tuple[Factor, Factor | None]:
    rows, cols = blocks.grads.shape[-2:]
    size = jnp.minimum(blocks.scale, _LARGEST_ENTRY / _gain(left, right, rows, cols))
    grads = blocks.grads * _over(size, blocks.grads)
    draws = _drawn(blocks, left, right, rule)
    if 'noise' in draws:
        noise = blocks.noise_scale * (size / blocks.scale)
        grads = grads + draws['noise'] * _over(noise, grads)
    a = _whitened(grads, left, right, rule)
    seen = jnp.any(blocks.seen, axis=(-2, -1))
    awake = blocks.due & seen
    limit = _LARGEST_GAIN ** (0.5 if right is None else 0.25)
    sides = [_updated(left, a, cols, 'left', blocks, draws, rule, limit)]
    if right is not None:
        turned = jnp.swapaxes(a, -1, -2)
        sides.append(_updated(right, turned, rows, 'right', blocks, draws, rule, limit))
    tops = [top for _, top in sides]
    balanced = _balances(tops) if right is not None else [jnp.ones_like(tops[0])]
    made = []
    for old, (new, top), even in zip((left, right), sides, balanced, strict=False):
        good = awake & jnp.isfinite(new.bound) & jnp.isfinite(top)
        # One pass: what is too large is made smaller, and both sides even once in a while.
        smaller = jnp.minimum(1.0, limit / jnp.where(top > 0, top, 1.0))
        change = smaller * jnp.where(blocks.balance, even, 1.0)
        assert old is not None
        q = jnp.where(_over(good, new.q), new.q * _over(change, new.q), old.q)
        made.append(Factor(q, jnp.where(good, new.bound, old.bound), old.diagonal))
    return made[0], made[1] if right is not None else None


def _updated(
    old: Factor,
    a: jax.Array,
    target: int,
    side: str,
    blocks: Blocks,
    draws: dict[str, jax.Array],
    rule: Rule,
    limit: float,
) -> tuple[Factor, jax.Array]:
    """Return a factor moved towards ``T = A A^T`` being ``target`` times one, and its top."""
    if old.diagonal:
        gram = jnp.sum(jnp.square(a), axis=-1)
        norm = jnp.max(gram, axis=-1)
    else:
        gram = rule.matmul(a, jnp.swapaxes(a, -1, -2))
        norm = rule.norm(gram, draws.get(side))
    now = norm + target
    bound = jnp.maximum(0.95 * old.bound + 0.05 * now, now)
    # Written so that no rounding is made of 1 / bound, which may be tiny.
    if old.diagonal:
        rate = (blocks.lr / (2.0 * bound) if rule.symmetric else blocks.lr / bound)[..., None]
        gain = 1.0 - rate * (gram - target)
        q = old.q * (jnp.square(gain) if rule.symmetric else gain)
        seen = jnp.any(blocks.seen, axis=-1 if side == 'left' else -2)
        q = jnp.where(seen, q, old.q)
        q = jnp.minimum(q, limit)
    elif rule.symmetric:
        rate = _over(blocks.lr / (2.0 * bound), gram)
        q = old.q - rate * (rule.matmul(gram, old.q) - target * old.q)
        q = q - rate * (rule.matmul(q, gram) - target * q)
        q = (q + jnp.swapaxes(q, -1, -2)) / 2.0
    else:
        rate = _over(blocks.lr / bound, gram)
        q = old.q - rate * (rule.matmul(gram, old.q) - target * old.q)
        q = _turned(q, draws.get(side + ' turn'), rule)
    return Factor(q, bound, old.diagonal), _tops(q)


def _turned(q: jax.Array, draws: jax.Array | None, rule: Rule) -> jax.Array:
    """Return the factor a rotation nearer to a symmetric one: ``Q^T Q`` stays, to third order.

    It maximizes the trace along the skew-symmetric direction ``R = Q^T - Q``.
    """
    skew = jnp.swapaxes(q, -1, -2) - q
    size = jnp.max(jnp.abs(skew), axis=(-2, -1))
    skew = skew / _over(jnp.where(size > 0, size, 1.0), skew)
    once = rule.matmul(skew, q)
    twice = rule.matmul(skew, once)
    first = jnp.trace(once, axis1=-2, axis2=-1)
    second = jnp.trace(twice, axis1=-2, axis2=-1)
    norm = rule.norm(skew, draws)
    angle = _TURN / jnp.where(norm > 0, norm, 1.0)
    best = -first / jnp.where(second < 0, second, -1.0)
    angle = jnp.where(second < 0, jnp.minimum(angle, best), angle)
    # Differences that rounding makes turn nothing.
    turns = (size > jnp.finfo(q.dtype).tiny) & (first > 0)
    angle = _over(jnp.where(turns, angle, 0.0), q)
    return q + angle * (once + 0.5 * angle * twice)


def _balances(tops: list[jax.Array]) -> list[jax.Array]:
    """Return what makes the largest entries of both factors the same."""
    mean = root(tops[0]) * root(tops[1])
    return [mean / jnp.where(top > 0, top, 1.0) for top in tops]


def _gain(left: Factor, right: Factor | None, rows: int, cols: int) -> jax.Array:
    """Return a bound of the entries of ``P_l X P_r`` for entries of at most one."""
    gain = jnp.square(_tops(left.q)) * (1.0 if left.diagonal else float(rows) ** 2)
    if right is not None:
        gain = gain * jnp.square(_tops(right.q)) * (1.0 if right.diagonal else float(cols) ** 2)
    return jnp.maximum(gain, 1.0)


def _tops(q: jax.Array) -> jax.Array:
    return jnp.max(jnp.abs(q), axis=tuple(range(2, q.ndim)))


def _over(per_block: Any, like: jax.Array) -> Any:
    """Return an entry for each block with axes to be multiplied with the blocks."""
    return jnp.expand_dims(per_block, tuple(range(2, like.ndim)))


def _drawn(blocks: Blocks, left: Factor, right: Factor | None, rule: Rule) -> dict[str, jax.Array]:
    """Return all draws of a step by what they are for."""
    rows, cols = blocks.grads.shape[2:]
    wanted: dict[str, tuple[int, int]] = {}
    if blocks.noise_scale is not None:
        wanted['noise'] = (rows, cols)
    for side, factor, size in (('left', left, rows), ('right', right, cols)):
        if factor is not None and not factor.diagonal and rule.estimator == 'random':
            wanted[side] = (ROWS, size)
            if not rule.symmetric:
                wanted[side + ' turn'] = (ROWS, size)
    return {
        name: draws_like(blocks.seeds, purpose, shape, blocks.grads.dtype)
        for purpose, (name, shape) in enumerate(wanted.items())
    }
