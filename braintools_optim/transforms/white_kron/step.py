"""One step over all leaves.

Leaves of one shape are averaged and bounded together, blocks of one shape learn together: what is
compiled grows with the number of shapes more than of leaves. Next to products of matrices it costs
little to bring them together.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..count import advanced, one_minus_power
from ..entry import entry, places
from ..moments import is_known_zero
from ..wide import root, widened
from .draw import seeds_of
from .factor import Blocks, Factor, Rule, precondition
from .layout import LEFT, ONE_D_PATH, RIGHT, Layout
from .options import Options
from .place import Placement

__all__ = ['Step']

# As in eformer's quad and skew.
_MAX_RMS = 1.1  # of an update
_ADAM_SHARE = 5.0  # by which an update is divided to be about as large as Adam's
_BALANCE_EVERY = 100  # updates
_LR_STEPS = 10000.0  # in which the rate of the factors falls to 0.7 of itself


class Flock(NamedTuple):
    """Leaves of one shape, which go together; each has its place in the tree."""

    leaves: list[int]
    layout: Layout  # of one of them
    shape: tuple[int, ...]
    dtype: Any  # of their gradients

    @property
    def whole(self) -> Layout:
        """The layout of all of them as layers of one leaf."""
        return dataclasses.replace(self.layout, layers=len(self.leaves) * self.layout.layers)


class Average(NamedTuple):
    """The average of a flock's gradients, divided by the scale of each."""

    grads: jax.Array  # (layers of all, rows, cols)
    seen: jax.Array
    scale: jax.Array
    finite: jax.Array


class Part(NamedTuple):
    """The blocks of one class of one flock."""

    flock: int
    number: int  # of its class
    left: Factor
    right: Factor | None

    @property
    def width(self) -> int:
        """How many blocks each shard has."""
        return self.left.bound.shape[1]


@dataclass
class Step:
    """A step with what it is told: layouts, paths and specs are those of the leaves in order."""

    style: str
    options: Options
    numbers: dict[str, Any]
    place: Placement
    layouts: list[Layout | None]
    paths: list[str]
    specs: list[Any]

    def run(
        self, grads: list[Any], old_counts: jax.Array, rows: list[dict[str, Any]]
    ) -> tuple[list[Any], jax.Array]:
        """Return the updates and counts; the leaves' states are changed in their rows."""
        made = list(grads)
        flocks = self.flocks(grads, rows)
        stacks = [jnp.stack([grads[i] for i in flock.leaves]) for flock in flocks]
        finite = [jnp.isfinite(_tops(g)) for g in stacks]
        there = [
            g if layout else optax.MaskedNode()
            for g, layout in zip(grads, self.layouts, strict=True)
        ]
        counts = advanced(old_counts, there)
        if flocks:
            members = np.concatenate([flock.leaves for flock in flocks])
            alive = jnp.ones(len(grads), bool).at[members].set(jnp.concatenate(finite))
            counts = jnp.where(alive, counts, old_counts)

        at = places(max((len(flock.leaves) for flock in flocks), default=0), counts)
        averages = [
            self.averaged(*given, counts, at, rows)
            for given in zip(flocks, stacks, finite, strict=True)
        ]
        buckets: dict[Any, list[Part]] = {}
        for number, flock in enumerate(flocks):
            for part in self.parts(number, flock, rows):
                buckets.setdefault(_bucket_of(part), []).append(part)
        done: dict[tuple[int, int], tuple] = {}
        for parts in buckets.values():
            results = self.preconditioned(parts, flocks, averages, counts)
            done |= {(p.flock, p.number): r for p, r in zip(parts, results, strict=True)}
        for number, flock in enumerate(flocks):
            own = [done[number, k] for k in range(len(flock.layout.classes))]
            self.store(flock, own, at, rows)
            outs = [out for out, _, _ in own]
            updates = self.finished(flock, outs, averages[number], at)
            for i, update in zip(flock.leaves, updates, strict=True):
                made[i] = self.place.constrained(update, self.specs[i])
        return made, counts

    def flocks(self, grads: list[Any], rows: list[dict[str, Any]]) -> list[Flock]:
        """Return which leaves go together."""
        found: dict[Any, list[int]] = {}
        for i, layout in enumerate(self.layouts):
            if layout is not None and grads[i].size:  # there is nothing to do for an empty one
                state = tuple((name, x.dtype) for name, x in rows[i].items())
                # What is distributed over devices stays where it is.
                alone = i if layout.shards > 1 or self.place != Placement(None, None) else None
                key = (layout, grads[i].shape, grads[i].dtype, state, alone)
                found.setdefault(key, []).append(i)
        return [
            Flock(leaves, layout, shape, dtype)
            for (layout, shape, dtype, _, _), leaves in found.items()
        ]

    # Each leaf before and after its blocks.

    def averaged(
        self,
        flock: Flock,
        grads: jax.Array,
        finite: jax.Array,
        counts: jax.Array,
        at: list[jax.Array],
        rows: list[dict[str, Any]],
    ) -> Average:
        """Return the averages of gradients, scaled, and move them on in the leaves' states."""
        first = rows[flock.leaves[0]]
        wide = first['Ll'].dtype
        g = jnp.where(_over(finite, grads), grads, 0).astype(wide)
        m, unbiased = g, jnp.ones((), wide)
        if 'mu' in first:
            b1 = self.numbers['b1']
            old = jnp.stack([rows[i]['mu'] for i in flock.leaves]).astype(wide)
            m = (b1 * old + (1.0 - b1) * g).astype(wide)
            m = jnp.where(_over(finite, m), m, old)
            for mine, i in zip(split_leaves(m, at), flock.leaves, strict=True):
                kept = mine.astype(rows[i]['mu'].dtype)
                rows[i]['mu'] = self.place.constrained(kept, self.specs[i])
            count = jnp.maximum(counts[np.array(flock.leaves)], 1)
            unbiased = one_minus_power(b1, count).astype(wide)
        top = _tops(m)
        scale = jnp.where(top > 0, top, 1.0)
        m = (m / _over(scale, m)).reshape(-1, flock.layout.layers, *flock.layout.merged)
        scale = scale / unbiased
        if self.options.normalize_grads:
            norm = root(jnp.sum(jnp.square(m), axis=self.axes, keepdims=True))
            m = m / (norm + 1e-6 / _over(scale, m))
            scale = jnp.ones_like(scale)
        m = m.reshape(-1, *flock.layout.merged)
        return Average(m, g.reshape(m.shape) != 0, scale, finite)

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of (leaves, layers, rows, cols) over which one is normalized and bounded."""
        return (2, 3) if self.options.per_layer else (1, 2, 3)

    def finished(
        self, flock: Flock, outs: list[jax.Array], average: Average, at: list[jax.Array]
    ) -> list[jax.Array]:
        """Return the updates of leaves from their blocks."""
        out = flock.whole.join(outs).reshape(-1, flock.layout.layers, *flock.layout.merged)
        # With its largest entry divided out no square leaves the range.
        top = jnp.max(jnp.abs(out), axis=self.axes, keepdims=True)
        out = out / jnp.where(top > 0, top, 1.0)
        rms = root(jnp.mean(jnp.square(out), axis=self.axes, keepdims=True))
        bound = _MAX_RMS / jnp.where(rms > 0, rms, 1.0)
        out = out * jnp.minimum(top * _over(average.scale, out), bound)
        if self.options.lr_style == 'adam':
            out = out / _ADAM_SHARE
        out = jnp.where(_over(average.finite, out), out, 0.0).astype(flock.dtype)
        return [x.reshape(flock.shape) for x in split_leaves(out, at)]

    # Between leaves' states and their blocks.

    def parts(self, number: int, flock: Flock, rows: list[dict[str, Any]]) -> list[Part]:
        """Return the classes of a flock's blocks with their factors."""
        layout = flock.layout

        def field(name: str, start: int, width: int) -> jax.Array:
            own = []
            for i in flock.leaves:
                x = rows[i][name]
                x = x.reshape(layout.shards, -1, *x.shape[1:])
                own.append(x if width == x.shape[1] else x[:, start : start + width])
            return together(own)

        if layout.kind == ONE_D_PATH:
            flat = [rows[i]['Ql'].reshape(1, layout.layers, -1) for i in flock.leaves]
            bound = field('Ll', 0, layout.layers)
            return [Part(number, 0, Factor(widened(together(flat)), bound, True), None)]
        used: Counter[str] = Counter()
        before, parts = 0, []
        for index, part in enumerate(layout.classes):
            width = layout.width(part)
            factors = []
            for side, last, cut in (
                (LEFT, part.last_row, layout.rows),
                (RIGHT, part.last_col, layout.cols),
            ):
                name = side.factors(last)
                q = widened(field(name, used[name], width))
                factors.append(Factor(q, field(side.bound, before, width), cut.diagonal))
                used[name] += width
            before += width
            parts.append(Part(number, index, *factors))
        return parts

    def store(
        self, flock: Flock, done: list[tuple], at: list[jax.Array], rows: list[dict[str, Any]]
    ) -> None:
        """Put new factors back into the leaves' states."""
        columns: dict[str, list] = {}
        for part, (_, left, right) in zip(flock.layout.classes, done, strict=True):
            for side, last, factor in (
                (LEFT, part.last_row, left),
                (RIGHT, part.last_col, right),
            ):
                if factor is not None:
                    columns.setdefault(side.factors(last), []).append(factor.q)
                    columns.setdefault(side.bound, []).append(factor.bound)
        shards, leaves = flock.layout.shards, len(flock.leaves)
        for name, stacks in columns.items():
            split = [x.reshape(shards, leaves, -1, *x.shape[2:]) for x in stacks]
            new = jnp.concatenate(split, 2) if len(split) > 1 else split[0]
            for mine, i in zip(split_leaves(new, at, 1), flock.leaves, strict=True):
                old = rows[i][name]
                mine = mine.reshape(old.shape).astype(old.dtype)
                one_d = flock.layout.kind == ONE_D_PATH
                rows[i][name] = mine if one_d else self.place.blocks(mine, mine)

    # The blocks of one shape, of all leaves.

    def preconditioned(
        self, parts: list[Part], flocks: list[Flock], averages: list[Average], counts: jax.Array
    ) -> list[tuple]:
        """Return (updates, left factor, right factor) of each part."""
        wide = parts[0].left.q.dtype
        matmul = functools.partial(
            jnp.matmul, precision=self.options.accuracy(self.options.dtype or wide)
        )
        # XLA fuses what is computed into all that it is cut into, and compiles it that often.
        several = sum(len(flocks[part.flock].leaves) for part in parts) > 1
        branch = self.options.update_every > 1 or several
        rule = Rule(self.style, self.options.norm_estimator, matmul, branch)
        left = _joined([part.left for part in parts])
        right = None if parts[0].right is None else _joined([part.right for part in parts])
        blocks = self.blocks(parts, flocks, averages, counts)
        out, left, right = precondition(blocks, left, right, rule)
        results, start = [], 0
        for part in parts:
            own = slice(start, start + part.width)
            factors = [None if f is None else _slice(f, own) for f in (left, right)]
            results.append((out[:, own], *factors))
            start += part.width
        return results

    def blocks(
        self, parts: list[Part], flocks: list[Flock], averages: list[Average], counts: jax.Array
    ) -> Blocks:
        """Return the gradients of all parts' blocks, and the numbers of each block."""
        options, wide = self.options, parts[0].left.q.dtype
        shards, _ = parts[0].left.bound.shape
        # For each block the place of its leaf among those of all flocks here in a row.
        sizes = [len(flocks[part.flock].leaves) for part in parts]
        starts = np.cumsum([0, *sizes[:-1]])
        row = np.concatenate(
            [
                np.repeat(np.arange(n), part.width // n) + start
                for n, part, start in zip(sizes, parts, starts, strict=True)
            ]
        )
        leaf = np.concatenate([flocks[part.flock].leaves for part in parts])[row]
        scales = jnp.concatenate([averages[part.flock].scale for part in parts])[row]
        finite = jnp.concatenate([averages[part.flock].finite for part in parts])[row]
        count = counts[leaf]

        def each(x: jax.Array) -> jax.Array:
            return jnp.broadcast_to(x, (shards, len(row)))

        def cut(field: str, part: Part) -> jax.Array:
            layout = flocks[part.flock].whole
            stack = layout.cut(getattr(averages[part.flock], field), field == 'seen')[part.number]
            return stack if part.right is None else self.place.blocks(stack, stack)

        lr = self.numbers['preconditioner_lr'] / jnp.sqrt(1.0 + count / _LR_STEPS)
        lr = jnp.maximum(lr, self.numbers['preconditioner_lr_min']).astype(wide)
        noise = None if is_known_zero(self.numbers['noise_scale']) else self.numbers['noise_scale']
        seeds = None
        if options.norm_estimator == 'random' or noise is not None:
            seeds = self.seeds(parts, flocks, leaf, count)
        since = (count + 1) % _BALANCE_EVERY  # the first update that is due then has to wait for it
        return Blocks(
            together([cut('grads', part) for part in parts]),
            together([cut('seen', part) for part in parts]),
            each(scales.astype(wide)),
            each(lr),
            each(finite & ((count - 1) % options.update_every == 0)),
            each(finite & (count + 1 >= _BALANCE_EVERY) & (since < options.update_every)),
            noise,
            seeds,
        )

    def seeds(
        self, parts: list[Part], flocks: list[Flock], leaf: np.ndarray, count: jax.Array
    ) -> jax.Array:
        """Return a seed for each block, by its leaf's path and count and its own number there."""
        names = np.array([zlib.crc32(path.encode()) for path in self.paths], np.uint32)
        drawn = np.concatenate([_numbers(flocks[part.flock], part) for part in parts], 1)
        zero = np.zeros((len(drawn), 1), np.uint32)
        return seeds_of(zero, self.options.seed, names[None, leaf], count[None], drawn)


def _bucket_of(part: Part) -> tuple:
    """Return what parts that can be computed together have in common."""
    sides = (part.left, part.right)
    return tuple(None if f is None else (f.q.shape[2:], f.q.dtype, f.diagonal) for f in sides)


def _numbers(flock: Flock, part: Part) -> np.ndarray:
    """Return for each block of a part its number in its leaf."""
    layout = flock.layout
    order = layout.order()[part.number]
    filled = np.full(layout.shards * layout.width(layout.classes[part.number]), 2**31 - 1)
    filled[: len(order)] = order
    return np.tile(filled.reshape(layout.shards, -1), len(flock.leaves)).astype(np.uint32)


def together(stacks: list[jax.Array]) -> jax.Array:
    """Return stacks of blocks as one."""
    return jnp.concatenate(stacks, 1) if len(stacks) > 1 else stacks[0]


def split_leaves(stack: jax.Array, at: list[jax.Array], axis: int = 0) -> list[jax.Array]:
    """Return what is each leaf's along an axis of leaves, given their places in memory."""
    count = stack.shape[axis]
    return [stack.squeeze(axis)] if count == 1 else [entry(stack, i, axis) for i in at[:count]]


def _joined(factors: list[Any]) -> Factor:
    first = factors[0]
    return first._replace(
        q=together([f.q for f in factors]), bound=together([f.bound for f in factors])
    )


def _slice(factor: Factor, own: slice) -> Factor:
    return factor._replace(q=factor.q[:, own], bound=factor.bound[:, own])


def _tops(x: jax.Array) -> jax.Array:
    """Return the largest absolute value of each leaf."""
    return jnp.max(jnp.abs(x), axis=tuple(range(1, x.ndim)), initial=0.0)


def _over(per_leaf: jax.Array, like: jax.Array) -> jax.Array:
    """Return a number for each leaf with axes to be multiplied with the leaves."""
    return per_leaf.reshape(-1, *(1,) * (like.ndim - 1))
