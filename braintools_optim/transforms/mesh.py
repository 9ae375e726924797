"""Computing on arrays that are divided over a mesh of devices, whatever its axes are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import NamedSharding

__all__ = ['in_auto_axes', 'mesh_of', 'named_sharding', 'resharded']


def in_auto_axes(compute: Callable[..., Any], like: Any, *args: Any) -> Any:
    """Return ``compute(*args)``, whose result is laid out as the tree ``like``.

    Where axes of the mesh are explicit, they are automatic inside: so it may reshape, cut and
    multiply arrays, which moves data between shards as nobody wants to spell out.
    """
    mesh = mesh_of(jax.tree.leaves((like, args)))
    explicit = () if mesh is None else mesh.explicit_axes
    if not explicit:
        return compute(*args)

    def placed(x: Any) -> Any:
        return NamedSharding(mesh, jax.typeof(x).sharding.spec)

    inside = jax.sharding.auto_axes(compute, axes=explicit, out_sharding=jax.tree.map(placed, like))
    return inside(*args)


def resharded(array: Any, like: Any) -> Any:
    """Return an array laid out as one of its shape, where the axes of their mesh are explicit."""
    sharding = named_sharding(like) if isinstance(like, jax.core.Tracer) else None
    if sharding is None or not sharding.mesh.explicit_axes:
        return array
    return jax.sharding.reshard(array, sharding)


def mesh_of(arrays: Any) -> Any:
    """Return the mesh that arrays are on, an abstract one in traces; None if there is none."""
    for x in arrays:
        sharding = named_sharding(x) if isinstance(x, jax.Array) else None
        if sharding is not None:
            return sharding.mesh
    return None


def named_sharding(x: Any) -> Any:
    """Return the sharding of an array, or of what stands for one, on a mesh."""
    if isinstance(x, jax.core.Tracer):
        sharding = jax.typeof(x).sharding
        return None if sharding.mesh.empty else sharding
    sharding = getattr(x, 'sharding', None)
    return sharding if isinstance(sharding, NamedSharding) else None
