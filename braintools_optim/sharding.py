"""Where optimizer state lives on a mesh: with the parameter it belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from .check import is_tracer
from .paths import Keys
from .slot import rebuild, slots_of
from .transforms.mesh import named_sharding

__all__ = ['beside', 'copies', 'on_one_device', 'own_buffers', 'placed_alike', 'replicated_beside']


def copies(arrays: Sequence[jax.Array | np.ndarray]) -> list[jax.Array]:
    """Return the same arrays in buffers of their own, where they are.

    For ``jnp.copy`` JAX compiles a program for each shape. The runtime copies without one, but
    neither what is traced nor what other processes have a part of.
    """
    if any(is_tracer(x) or not getattr(x, 'is_fully_addressable', True) for x in arrays):
        return list(map(jnp.copy, arrays))
    own = [x.copy() if isinstance(x, np.ndarray) else x for x in arrays]  # JAX may use its memory
    with jax.transfer_guard_device_to_device('allow'):  # nothing moves
        return jax.device_put(own, may_alias=False)


def own_buffers(
    state: Any, params: Mapping[Keys, jax.Array], others: Iterable[jax.Array] = ()
) -> Any:
    """Return a fresh chain state in buffers of its own, each placed like its parameter.

    A step donates its state, so no leaf may be somebody else's array, or stand there twice. What
    the chain itself has distributed over the mesh stays there. What has the shape of its parameter,
    perhaps behind one more axis, or with axes of one in place of some, is sharded like it;
    everything else is replicated over the mesh of the parameters, or else of ``others``.
    """
    paths = list(params)
    mesh = _mesh([*params.values(), *others])
    seen = {id(p) for p in params.values()}
    replicated = None if mesh is None else NamedSharding(mesh, PartitionSpec())

    def own(leaf: Any, like: jax.Array | None) -> Any:
        array = jnp.asarray(leaf)
        if not jnp.issubdtype(array.dtype, jax.dtypes.extended):
            array = jax.lax.convert_element_type(array, array.dtype)  # never weakly typed
        if id(array) in seen:
            array = jnp.copy(array)
        seen.add(id(array))
        if mesh is None or is_tracer(array):
            return array
        chosen = _sharding(array)
        if chosen is not None and chosen.mesh == mesh and not chosen.is_fully_replicated:
            return array
        return jax.device_put(array, _sharding_like(array, like) or replicated)

    return rebuild(
        state,
        [
            jax.tree.map(lambda x, s=slot: own(x, params.get(s.parameter)), slot.value)
            for slot in slots_of(state, paths)
        ],
    )


def beside(state: Any, params: Mapping[Keys, jax.Array], everything: Sequence[jax.Array]) -> Any:
    """Return a state where its parameters are, or ``everything`` that is trained together.

    That is their mesh, or the one device of all.
    """
    if _mesh(everything) is not None:
        return own_buffers(state, params, everything)
    devices = _devices(everything)
    return jax.device_put(state, *devices) if len(devices) == 1 else state


def on_one_device(tree: Any) -> bool:
    """Whether all arrays are on the same single device, and on no mesh."""
    return len(_devices(tree)) <= 1 and _mesh(jax.tree.leaves(tree)) is None


def placed_alike(tree: Any, other: Any) -> bool:
    """Whether the arrays of two trees of one structure are in the same places, on a mesh or not."""
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True)
    return all(
        a.sharding.is_equivalent_to(b.sharding, a.ndim)
        and (_sharding(a) is None) == (_sharding(b) is None)
        for a, b in pairs
    )


def _devices(tree: Any) -> set:
    arrays = [x for x in jax.tree.leaves(tree) if isinstance(x, jax.Array)]
    return {device for x in arrays for device in x.sharding.device_set}


def replicated_beside(value: Any, arrays: Sequence[jax.Array]) -> Any:
    """Return a value replicated over the mesh on which arrays are sharded, if they are."""
    mesh = _mesh(arrays)
    if mesh is None or is_tracer(value):
        return value
    return jax.device_put(value, NamedSharding(mesh, PartitionSpec()))


def _sharding_like(array: jax.Array, like: jax.Array | None) -> NamedSharding | None:
    sharding = _sharding(like)
    if like is None or sharding is None:
        return None
    if array.shape == like.shape:
        return sharding
    if array.ndim == like.ndim + 1 and array.shape[1:] == like.shape:
        return NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec))
    if array.ndim != like.ndim:
        return None
    sizes = list(zip(array.shape, like.shape, strict=True))
    if not all(mine in (1, its) for mine, its in sizes):
        return None
    axes = zip(sharding.spec, sizes, strict=False)  # a spec may be shorter
    spec = PartitionSpec(*(axis if mine == its else None for axis, (mine, its) in axes))
    return NamedSharding(sharding.mesh, spec)


def _mesh(arrays: Iterable[Any]) -> Any:
    return next((s.mesh for s in map(_sharding, arrays) if s is not None), None)


def _sharding(array: Any) -> NamedSharding | None:
    """Return where an array is on a mesh; what is traced is nowhere yet."""
    return None if is_tracer(array) else named_sharding(array)
