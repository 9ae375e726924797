"""What the chains of several algorithms have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax

from ..engine.leaf import all_leaves
from ..hyper import Hyper
from ..paths import path_name, plain_keys
from ..transforms.absent import is_masked
from ..transforms.infinite import decayed_weights
from ..transforms.wide import widened

if TYPE_CHECKING:
    from ..optimizer import OptaxOptimizer

__all__ = ['descent', 'descent_by_kind', 'users_mask']


def descent(
    h: Hyper,
    direction: optax.GradientTransformation,
    decoupled: bool = False,
    mask: Any = None,
) -> optax.GradientTransformation:
    """Return a chain that goes down a direction by the learning rate, with weight decay.

    The decay is added to the gradient before the direction is computed (L2) or, decoupled, to the
    direction; where a mask says so, as that of :func:`optax.add_decayed_weights`.
    """
    decay = decayed_weights(h.weight_decay, mask)
    order = (direction, decay) if decoupled else (decay, direction)
    return optax.chain(*order, optax.scale_by_learning_rate(h.lr))


def descent_by_kind(
    h: Hyper,
    direction: optax.GradientTransformation,
    is_matrix: Callable[[jax.Array], bool],
    rest_decay: Any,
    rest_rate: Any,
    mask: Any = None,
) -> optax.GradientTransformation:
    """Return a chain that goes down a direction, with one decay for matrices and one for the rest.

    The rest goes at ``rest_rate`` times the learning rate, and decays by ``rest_decay``.
    """

    def matrices(tree: Any) -> Any:
        return jax.tree.map(is_matrix, tree)

    def rest(tree: Any) -> Any:
        return jax.tree.map(lambda p: not is_matrix(p), tree)

    of_rest = optax.chain(decayed_weights(rest_decay, mask), optax.scale(rest_rate))
    return optax.chain(
        direction,
        optax.masked(decayed_weights(h.weight_decay, mask), matrices),
        optax.masked(of_rest, rest),
        optax.scale_by_learning_rate(h.lr),
    )


def users_mask(optimizer: OptaxOptimizer, name: str, mask: Any) -> Callable[[Any], Any] | None:
    """Return the mask of that name as a function of the tree that the chain sees of a group.

    It raises where the mask does not fit the group. A function of the user's is given, in
    a step, complex numbers where the chain sees pairs of reals.
    """
    if mask is None:
        return None

    def fitting(tree: Any) -> Any:
        owner = type(optimizer).__name__
        said = mask(_complex_again(optimizer, tree)) if callable(mask) else mask
        try:
            jax.tree.map(lambda *_: None, said, tree)
        except ValueError:
            there, masked = map(_names, (tree, said))
            raise ValueError(
                f'{owner} has a {name} for {masked}, and a group with {there}: give a group its '
                f'own by add_param_group(params, {name}=...), or a function that returns one for '
                f'the parameters of any group.'
            ) from None
        return said

    return fitting


def _names(tree: Any) -> str:
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_masked)[0]]
    shown = ', '.join(path_name(path) or 'all' for path in paths[:5])
    return f'{shown} ...' if len(paths) > 5 else shown


def _complex_again(optimizer: OptaxOptimizer, tree: Any) -> Any:
    """Return a tree with complex numbers where it has pairs of reals in their place."""
    if not optimizer.complex_as_real:
        return tree
    values = all_leaves(s._value for s in optimizer.param_states)
    leaves = zip(optimizer._leaves, values, strict=True)
    pairs = {leaf.path for leaf, value in leaves if jnp.iscomplexobj(value)}

    def again(path: tuple, x: Any) -> Any:
        if plain_keys(path) not in pairs or jnp.iscomplexobj(x):
            return x
        wide = widened(x)
        return jax.lax.complex(wide[..., 0], wide[..., 1])

    return jax.tree_util.tree_map_with_path(again, tree)
