"""Small arrays that lie together in a few buffers.

Every array that a program takes or gives costs about a microsecond of the host's time, more than it
takes to compute a small one. With four in a buffer a small step takes three quarters of the time;
more of them, or larger ones, save little and take long to compile (`python -m benchmarks.packs`).
That is so on the CPU. Elsewhere a program's kernels cost more than its arrays, and packs need more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

from ..transforms.mesh import in_auto_axes
from .buffers import is_deleted
from .observe import is_tracer

__all__ = ['Packed']

_TOGETHER = 4  # arrays in a buffer
_SMALL = 1024  # numbers in an array, at most, that lies in a buffer with others
_PLATFORM = 'cpu'  # where they do


class Packing:
    """Which leaves of a tree lie in which buffer. Equal packings are one to compiled programs.

    So they tell of how many parameters the tree is the state, which may hold nothing of them.
    """

    __slots__ = ('_hash', '_parts')

    def __init__(
        self, treedef: Any, shapes: tuple, members: tuple[tuple[int, ...], ...], parameters: int
    ):
        self._parts = treedef, shapes, members, parameters
        self._hash = hash(self._parts)

    treedef = property(lambda self: self._parts[0])
    """The structure of the tree."""
    shapes = property(lambda self: self._parts[1])
    """The shapes of those leaves that lie with others, by position; None of the others."""
    members = property(lambda self: self._parts[2])
    """The positions of the leaves in each buffer."""
    parameters = property(lambda self: self._parts[3])
    """The number of arrays whose state the tree is."""

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Packing) and self._parts == other._parts)


@jax.tree_util.register_pytree_node_class
class Packed:
    """A tree of arrays in buffers, each of which holds one array or a few small ones.

    To JAX it is a tree of the buffers.
    """

    __slots__ = ('buffers', 'packing')

    def __init__(self, buffers: Sequence[Any], packing: Packing):
        self.buffers = buffers
        self.packing = packing

    @classmethod
    def of(cls, tree: Any, together: Sequence[bool] | None = None, parameters: int = 0) -> Packed:
        """Pack a tree. Leaves for which ``together`` says so lie with others, if they are small.

        Those in a buffer are of one dtype and on one device. What is traced lies alone. The tree
        is the state of so many ``parameters``.
        """
        leaves, treedef = jax.tree.flatten(tree)
        wanted = together or [False] * len(leaves)
        alike: dict[Any, list[int]] = {}
        for i, (x, may) in enumerate(zip(leaves, wanted, strict=True)):
            kind = (x.dtype, x.sharding, x.committed) if may and _is_small(x) else i
            alike.setdefault(kind, []).append(i)
        members = sorted(
            tuple(found[k : k + _TOGETHER])
            for found in alike.values()
            for k in range(0, len(found), _TOGETHER)
        )
        packed = {i for several in members if len(several) > 1 for i in several}
        shapes = tuple(jnp.shape(x) if i in packed else None for i, x in enumerate(leaves))
        buffers = [_in_one_buffer([leaves[i] for i in several]) for several in members]
        return cls(buffers, Packing(treedef, shapes, tuple(members), parameters))

    def tree_flatten(self) -> tuple[Sequence[Any], Packing]:
        """Return the buffers and their packing, for JAX."""
        return self.buffers, self.packing

    @classmethod
    def tree_unflatten(cls, packing: Packing, buffers: Sequence[Any]) -> Packed:
        """Return buffers of this packing, for JAX."""
        return cls(buffers, packing)

    @property
    def tree(self) -> Any:
        """The tree of the arrays."""
        packing = self.packing
        leaves: list[Any] = [None] * len(packing.shapes)
        for buffer, members in zip(self.buffers, packing.members, strict=True):
            if isinstance(buffer, np.ndarray):  # where brainstate tries a function that is mapped
                buffer = jnp.asarray(buffer)
            if len(members) == 1:
                leaves[members[0]] = buffer
                continue
            shapes = [packing.shapes[i] for i in members]
            for i, piece in zip(members, _pieces(buffer, shapes), strict=True):
                leaves[i] = piece
        return jax.tree.unflatten(packing.treedef, leaves)

    def like(self, tree: Any) -> Packed:
        """Return a tree of the same structure, shapes and dtypes in the same packing."""
        leaves = jax.tree.leaves(tree)
        new = [
            _refilled(buffer, [leaves[i] for i in members])
            for buffer, members in zip(self.buffers, self.packing.members, strict=True)
        ]
        return Packed(new, self.packing)

    def replaced(self, tree: Any) -> Packed:
        """Return any tree, in the same packing if it fits."""
        packing = self.packing
        leaves, treedef = jax.tree.flatten(tree)
        leaves = [jnp.asarray(x) if isinstance(x, np.ndarray) else x for x in leaves]
        tree = jax.tree.unflatten(treedef, leaves)
        fits = treedef == packing.treedef and all(
            shape is None or _fits(leaves[i], shape, buffer)
            for buffer, members in zip(self.buffers, packing.members, strict=True)
            for i, shape in ((i, packing.shapes[i]) for i in members)
        )
        return self.like(tree) if fits else self.unpacked(tree)

    def unpacked(self, tree: Any) -> Packed:
        """Return any tree of as many parameters' state, each array in its own buffer."""
        return self.of(tree, parameters=self.packing.parameters)


def _is_small(x: Any) -> bool:
    """Whether an array is known and small enough. A scalar is not: XLA rounds it otherwise then."""
    return (
        isinstance(x, jax.Array)
        and not is_tracer(x)
        and 1 < x.size <= _SMALL
        and jnp.issubdtype(x.dtype, jnp.inexact)
        and not x.weak_type
        and isinstance(x.sharding, SingleDeviceSharding)
        and all(device.platform == _PLATFORM for device in x.devices())
    )


def _fits(x: Any, shape: tuple, buffer: Any) -> bool:
    """Whether an array is of this shape, and has the dtype and place of a buffer."""
    if jnp.shape(x) != shape or jnp.result_type(x) != buffer.dtype:
        return False
    if is_tracer(x) or is_tracer(buffer):
        return True
    return not is_deleted(x) and x.sharding == buffer.sharding


def _in_one_buffer(arrays: list) -> Any:
    """Return known arrays in one buffer."""
    if len(arrays) == 1:
        return arrays[0]
    return _moved(np.concatenate([np.asarray(x).reshape(-1) for x in arrays]), arrays[0])


def _refilled(buffer: Any, arrays: list) -> Any:
    """Return a buffer with other arrays in it."""
    if len(arrays) == 1 or not any(map(is_tracer, (buffer, *arrays))):
        return _in_one_buffer(arrays)
    return in_auto_axes(_overwritten, buffer, buffer, arrays)


def _overwritten(buffer: Any, arrays: list) -> Any:
    # One by one: XLA computes each then by itself, and rounds it as if it lay alone.
    start = 0
    for x in arrays:
        buffer = jax.lax.dynamic_update_slice(buffer, x.reshape(-1), (start,))
        start += x.size
    return buffer


def _pieces(buffer: Any, shapes: list[tuple]) -> list:
    """Return the arrays of these shapes that lie in a buffer, perhaps behind axes of a batch."""
    *batch, _ = buffer.shape
    axis, sizes = len(batch), list(map(math.prod, shapes))
    if is_tracer(buffer) or not isinstance(buffer.sharding, SingleDeviceSharding):
        pieces = jax.lax.split(buffer, sizes, axis)
        return [x.reshape((*batch, *shape)) for x, shape in zip(pieces, shapes, strict=True)]
    # By NumPy: XLA would compile a program for each place in a buffer.
    parts = np.split(np.asarray(buffer), np.cumsum(sizes)[:-1], axis)
    return [
        _moved(x.reshape((*batch, *shape)), buffer) for x, shape in zip(parts, shapes, strict=True)
    ]


def _moved(x: np.ndarray, like: jax.Array) -> jax.Array:
    """Return a copy of an array of the host in the place of another one."""
    (device,) = like.devices()
    with jax.default_device(device):
        array = jnp.array(x)
    return jax.device_put(array, like.sharding) if like.committed else array
