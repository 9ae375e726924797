"""Where state and blocks are on a mesh."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import NamedSharding, PartitionSpec

from ..absent import is_absent
from ..mesh import in_auto_axes, mesh_of, named_sharding

__all__ = ['Placement', 'on_mesh']


class Placement(NamedTuple):
    """The mesh axis over which blocks are distributed, and what was said about the parameters."""

    axis: str | None
    param_specs: Any

    def leaf_specs(self, treedef: Any) -> list[Any]:
        """Return the spec of every leaf, None where nothing was said."""
        if self.param_specs is None:
            return [None] * treedef.num_leaves
        like = jax.tree.unflatten(treedef, range(treedef.num_leaves))
        specs = jax.tree.broadcast(
            self.param_specs, like, is_leaf=lambda x: is_absent(x) or isinstance(x, PartitionSpec)
        )
        return [None if is_absent(x) else x for x in treedef.flatten_up_to(specs)]

    def like_param(self, x: jax.Array, param: Any, spec: Any) -> jax.Array:
        """Return an array of a parameter's shape, placed like it or as was said."""
        sharding = named_sharding(param)
        if sharding is None:
            return x
        return _put(x, sharding.mesh, sharding.spec if spec is None else spec)

    def blocks(self, x: jax.Array, like: Any) -> jax.Array:
        """Return a stack of blocks, distributed over the axis on the mesh of another array."""
        return x if self.axis is None else self._over_axis(x, mesh_of([like]))

    def _over_axis(self, x: jax.Array, mesh: Any) -> jax.Array:
        if mesh is None:
            return x
        if x.shape[0] % (size := mesh.shape.get(self.axis, 1)):
            raise ValueError(
                f'pipeline_axis_size must be a multiple of {size}, the size of the mesh axis '
                f'{self.axis!r}: {x.shape[0]} blocks cannot be divided over it.'
            )
        return _put(x, mesh, PartitionSpec(self.axis))

    def everywhere(self, state: Any, params: Any) -> Any:
        """Return a state whose leaves that are nowhere yet are replicated over the params' mesh."""
        mesh = mesh_of(jax.tree.leaves(params))
        if mesh is None:
            return state

        def replicated(x: jax.Array) -> jax.Array:
            return x if named_sharding(x) is not None else _put(x, mesh, PartitionSpec())

        return jax.tree.map(replicated, state)

    def constrained(self, x: jax.Array, spec: Any) -> jax.Array:
        """Return an array of a parameter's shape where it was said to be."""
        mesh = mesh_of([x])
        return x if spec is None or mesh is None else _put(x, mesh, spec)


def on_mesh(
    compute: Callable[..., Any], place: Placement, numbers: dict, updates: Any, state: Any
) -> tuple[Any, Any]:
    """Return what ``compute`` does of numbers, updates and state, on a mesh of any kind of axes."""
    mesh = mesh_of(jax.tree.leaves((updates, state)))
    if place.axis is not None and (mesh is None or place.axis not in mesh.axis_names):
        found = 'they are on none' if mesh is None else f'the axes of theirs are {mesh.axis_names}'
        raise ValueError(
            f'pipeline_axis_name={place.axis!r} needs gradients or state on a mesh that has this '
            f'axis; {found}. Put them there with jax.device_put and a NamedSharding.'
        )
    traced = {k: v for k, v in numbers.items() if isinstance(v, jax.Array)}

    def inside(given: dict, updates: Any, state: Any) -> tuple[Any, Any]:
        return compute({**numbers, **given}, updates, state)

    return in_auto_axes(inside, (updates, state), traced, updates, state)


def _put(x: jax.Array, mesh: Any, spec: Any) -> jax.Array:
    sharding = NamedSharding(mesh, spec)
    if not isinstance(x, jax.core.Tracer):
        return jax.device_put(x, sharding)
    if mesh.explicit_axes:
        return jax.sharding.reshard(x, sharding)
    return jax.lax.with_sharding_constraint(x, sharding)
