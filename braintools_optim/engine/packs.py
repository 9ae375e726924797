"""Small arrays that lie together in a few buffers.

Every array that a program takes or gives costs about a microsecond of the host's time, more than it
takes to compute a small one. With four in a buffer a small step takes three quarters of the time;
more of them, or larger ones, save little and take long to compile (`python -m benchmarks.packs`).
Integers, as counts are, go along with them, each as two numbers: an array for themselves costs as
much. Their bits would not do: as floats they are so small that XLA's arithmetic, to which
collectives belong, makes zeros of them.
Where the parameters of a model are large on the average, computing them takes so long that buffers
save nothing, and their kernels still have to be compiled.
That is so on the CPU. Elsewhere a program's kernels cost more than its arrays, and packs need more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

from ..check import is_tracer
from ..transforms.mesh import in_auto_axes
from .buffers import is_deleted

__all__ = ['Packed', 'are_light']

_TOGETHER = 4  # arrays in a buffer, beside counts
_SMALL = 1024  # numbers in an array, at most, that lies in a buffer with others
_LIGHT = 16 * _SMALL  # numbers that the arrays of a model have on the average, at most, for that
_PLATFORM = 'cpu'  # where they do
_COUNT, _CARRIER = np.dtype('int32'), np.dtype('float32')  # in what buffers counts lie
_HALF = 16  # bits in each of the two numbers that a count lies there as: both are exact


def are_light(shapes: Iterable[tuple[int, ...]]) -> bool:
    """Whether parameters of these shapes are so small, on the average, that buffers save time."""
    sizes = list(map(math.prod, shapes))
    return sum(sizes) <= _LIGHT * len(sizes)


class Packing:
    """Which leaves of a tree lie in which buffer. Equal packings are one to compiled programs.

    So they tell of how many parameters the tree is the state, which may hold nothing of them.
    """

    __slots__ = ('_hash', '_parts')

    def __init__(
        self, treedef: Any, types: tuple, members: tuple[tuple[int, ...], ...], parameters: int
    ):
        self._parts = treedef, types, members, parameters
        self._hash = hash(self._parts)

    treedef = property(lambda self: self._parts[0])
    """The structure of the tree."""
    types = property(lambda self: self._parts[1])
    """The shape and dtype of each leaf that lies with others, by position; None of the others."""
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

        Those in a buffer are of one dtype, counts aside, and on one device. What is traced lies
        alone. The tree is the state of so many ``parameters``.
        """
        leaves, treedef = jax.tree.flatten(tree)
        members = _members(leaves, together or [False] * len(leaves))
        packed = {i for several in members if len(several) > 1 for i in several}
        types = tuple(
            (jnp.shape(x), jnp.result_type(x)) if i in packed else None
            for i, x in enumerate(leaves)
        )
        buffers = [_in_one_buffer([leaves[i] for i in several]) for several in members]
        return cls(buffers, Packing(treedef, types, members, parameters))

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
        leaves: list[Any] = [None] * len(packing.types)
        for buffer, members in zip(self.buffers, packing.members, strict=True):
            if isinstance(buffer, np.ndarray):  # where brainstate tries a function that is mapped
                buffer = jnp.asarray(buffer)
            if len(members) == 1:
                leaves[members[0]] = buffer
                continue
            types = [packing.types[i] for i in members]
            for i, piece in zip(members, _pieces(buffer, types), strict=True):
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
            kind is None or _fits(leaves[i], kind, buffer)
            for buffer, members in zip(self.buffers, packing.members, strict=True)
            for i, kind in ((i, packing.types[i]) for i in members)
        )
        return self.like(tree) if fits else self.unpacked(tree)

    def apart(self) -> Packed:
        """Return the same tree, each array in its own buffer."""
        packing = self.packing
        alone = len(packing.members) == len(packing.types)
        return self if alone else self.unpacked(self.tree)

    def unpacked(self, tree: Any) -> Packed:
        """Return any tree of as many parameters' state, each array in its own buffer."""
        return self.of(tree, parameters=self.packing.parameters)


def _members(leaves: list, wanted: Sequence[bool]) -> tuple[tuple[int, ...], ...]:
    """Return the positions of the leaves in each buffer: of those that are wanted with others."""
    alike: dict[Any, list[int]] = {}
    counts: dict[int, Any] = {}  # by position: the kind of buffer that takes them along
    for i, (x, may) in enumerate(zip(leaves, wanted, strict=True)):
        if not (may and _is_small(x)):
            alike[i] = [i]
        elif x.dtype == _COUNT and _TOGETHER > 1:
            counts[i] = (_CARRIER, x.sharding, x.committed)
        else:
            alike.setdefault((x.dtype, x.sharding, x.committed), []).append(i)
    members = {}
    for kind, found in alike.items():
        found.sort(key=lambda i: jnp.shape(leaves[i]))  # XLA compiles equal buffers once
        members[kind] = [found[k : k + _TOGETHER] for k in range(0, len(found), _TOGETHER)]
    for i, carrier in counts.items():
        members.setdefault(carrier if carrier in members else i, [[]])[-1].append(i)
    return tuple(sorted(tuple(sorted(one)) for several in members.values() for one in several))


def _is_small(x: Any) -> bool:
    """Whether an array is known and small enough.

    A scalar is not, unless it is a count: XLA rounds it otherwise then.
    """
    return (
        isinstance(x, jax.Array)
        and not is_tracer(x)
        and x.size <= _SMALL
        and (x.dtype == _COUNT or (x.size > 1 and jnp.issubdtype(x.dtype, jnp.inexact)))
        and not x.weak_type
        and isinstance(x.sharding, SingleDeviceSharding)
        and all(device.platform == _PLATFORM for device in x.devices())
    )


def _fits(x: Any, kind: tuple[tuple, Any], buffer: Any) -> bool:
    """Whether an array is of this shape and dtype, and can lie in the place of a buffer.

    A step may have put the buffer on a mesh.
    """
    if (jnp.shape(x), jnp.result_type(x)) != kind:
        return False
    if is_tracer(x) or is_tracer(buffer):
        return True
    alone = isinstance(buffer.sharding, SingleDeviceSharding)
    return alone and not is_deleted(x) and x.sharding == buffer.sharding


def _in_one_buffer(arrays: list) -> Any:
    """Return known arrays in one buffer."""
    if len(arrays) == 1:
        return arrays[0]
    dtype = next(x.dtype for x in arrays if x.dtype != _COUNT)
    flat = [piece for x in arrays for piece in _laid_in(np.asarray(x), dtype)]
    return _moved(np.concatenate(flat), arrays[0])


def _refilled(buffer: Any, arrays: list) -> Any:
    """Return a buffer with other arrays in it."""
    if len(arrays) == 1 or not any(map(is_tracer, (buffer, *arrays))):
        return _in_one_buffer(arrays)
    return in_auto_axes(_overwritten, buffer, buffer, arrays)


def _overwritten(buffer: Any, arrays: list) -> Any:
    # One by one: XLA computes each then by itself, and rounds it as if it lay alone.
    start = 0
    for x in arrays:
        for piece in _laid_in(x, buffer.dtype):
            buffer = jax.lax.dynamic_update_slice(buffer, piece, (start,))
            start += piece.size
    return buffer


def _pieces(buffer: Any, types: list[tuple[tuple, Any]]) -> list:
    """Return the arrays of these types that lie in a buffer, perhaps behind axes of a batch."""
    *batch, _ = buffer.shape
    axis = len(batch)
    sizes = [math.prod(shape) for shape, kind in types for _ in range(_count_of_pieces(kind))]
    if is_tracer(buffer) or not isinstance(buffer.sharding, SingleDeviceSharding):
        pieces = iter(jax.lax.split(buffer, sizes, axis))
        return [_taken_out(pieces, (*batch, *shape), kind) for shape, kind in types]
    # By NumPy: XLA would compile a program for each place in a buffer.
    parts = iter(np.split(np.asarray(buffer), np.cumsum(sizes)[:-1], axis))
    return [_moved(_taken_out(parts, (*batch, *shape), kind), buffer) for shape, kind in types]


def _count_of_pieces(kind: Any) -> int:
    """Return in how many pieces an array of a dtype lies in a buffer."""
    return 2 if kind == _COUNT else 1


def _laid_in(x: Any, kind: Any) -> list:
    """Return the pieces, each a vector, as which an array lies in a buffer of a dtype."""
    flat = x.reshape(-1)
    if flat.dtype == kind:
        return [flat]
    return [(flat >> _HALF).astype(kind), (flat & ((1 << _HALF) - 1)).astype(kind)]


def _taken_out(pieces: Iterator[Any], shape: tuple, kind: Any) -> Any:
    """Return the array of this shape and dtype that the next pieces are."""
    if _count_of_pieces(kind) == 1:
        return next(pieces).reshape(shape)
    high, low = (next(pieces).astype(kind).reshape(shape) for _ in range(2))
    return (high << _HALF) | low


def _moved(x: np.ndarray, like: jax.Array) -> jax.Array:
    """Return a copy of an array of the host in the place of another one."""
    (device,) = like.devices()
    with jax.default_device(device):
        array = jax.device_put(x.copy())  # explicitly, as guards allow; it may use that memory
    return jax.device_put(array, like.sharding) if like.committed else array
