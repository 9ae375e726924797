"""Where each leaf of the optimizer's state belongs on a mesh."""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import PartitionSpec

from ..mesh import named_sharding
from .layout import ONE_D_PATH, broadcast_flags
from .options import Options
from .place import Placement
from .update import FACTORS, ScaleByWhiteKronState, quad

__all__ = ['get_opt_state_partition_specs']


def get_opt_state_partition_specs(params: Any, **quad_kwargs: Any) -> Any:
    """Return a PartitionSpec for each leaf of the state that :func:`quad` or :func:`skew` have.

    Parameters
    ----------
    params : pytree
        The parameters, or their shapes.
    **quad_kwargs
        What :func:`quad` is given; its defaults are that function's.

    The tree has exactly the structure of the state. Stacks of blocks are distributed over the
    pipeline axis. The average, and factors of vectors, are where their parameter is: as in
    ``params_partition_specs``, or where the parameter's own sharding has it. All else is
    replicated.
    """
    state = jax.eval_shape(quad(**quad_kwargs).init, params)
    bound = quad.__signature__.bind(**quad_kwargs)  # type: ignore[attr-defined]  # given_options sets it
    bound.apply_defaults()
    options = Options(**{name: bound.arguments[name] for name in Options._fields})
    leaves, structure = jax.tree.flatten(params)
    treedef: Any = structure
    place = Placement(options.pipeline_axis_name, options.params_partition_specs)
    said = place.leaf_specs(treedef)
    like_param = [_spec(p) if spec is None else spec for p, spec in zip(leaves, said, strict=True)]
    flags = treedef.flatten_up_to(broadcast_flags(options.scanned_layers, params))
    vectors = [
        options.layout(p.shape, flag).kind == ONE_D_PATH
        for p, flag in zip(leaves, flags, strict=True)
    ]

    def blocks(x: Any) -> PartitionSpec:
        return PartitionSpec() if place.axis is None or not x.size else PartitionSpec(place.axis)

    def specs_of(x: Any) -> Any:
        if not isinstance(x, ScaleByWhiteKronState):
            return PartitionSpec()
        made: dict[str, Any] = {'leaf_counts': PartitionSpec(), 'mu': None}
        if x.mu is not None:
            made['mu'] = jax.tree.unflatten(treedef, like_param)
        for name in FACTORS:
            column = zip(treedef.flatten_up_to(getattr(x, name)), vectors, like_param, strict=True)
            alone = [
                (like if name == 'Ql' else PartitionSpec()) if vector else blocks(leaf)
                for leaf, vector, like in column
            ]
            made[name] = jax.tree.unflatten(treedef, alone)
        return ScaleByWhiteKronState(**made)

    return jax.tree.map(specs_of, state, is_leaf=lambda x: isinstance(x, ScaleByWhiteKronState))


def _spec(param: Any) -> PartitionSpec:
    sharding = named_sharding(param)
    return PartitionSpec() if sharding is None else sharding.spec
