"""Between what users hold and what an optax chain computes on.

A chain sees a tree of real, strongly typed, unitless arrays. Users hold Quantities, complex
numbers and weakly typed scalars, and gradients of them in either unit convention. Every check of
a gradient against its parameter stands here, and runs when a step is traced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import saiunit
from jax.tree_util import keystr
from saiunit import Quantity

from .state import Atoms, UniqueStateManager, atoms, path_name

__all__ = ['Leaf', 'flat_values', 'leaves_of', 'match_gradients']


def is_unit_leaf(x: Any) -> bool:
    """Whether ``x`` is one leaf with its unit, for the ``is_leaf`` of tree functions."""
    return isinstance(x, Quantity)


def _is_gradient_leaf(x: Any) -> bool:
    return x is None or isinstance(x, Quantity)


@dataclass(frozen=True)
class Leaf:
    """One array of a parameter: its name, where it stands, and how it is turned for the chain."""

    name: str
    state: int  # position of its State
    path: Atoms  # its elementary keys in trees of parameters and gradients
    unit: Any  # a saiunit unit, or None for a plain array
    real_view: bool  # complex numbers are shown to the chain as pairs of reals

    def check(self, value: Any) -> None:
        """Raise if the value cannot be optimized."""
        dtype = jnp.result_type(_mantissa(value))
        if not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(
                f'parameter {self.name!r} has dtype {dtype}; only floating-point and complex '
                f'parameters can be optimized. Convert it, or leave it out of the registered tree.'
            )

    def encode(self, value: Any) -> jax.Array:
        """Return the chain's array of a parameter."""
        array = jnp.asarray(_mantissa(value))
        array = jax.lax.convert_element_type(array, array.dtype)  # drops the weak type
        return _pairs(array) if self._as_pairs(array) else array

    def decode(self, array: jax.Array, old: Any) -> Any:
        """Return the chain's array as a parameter of the same kind as ``old``."""
        like = _mantissa(old)
        if self._as_pairs(like):
            array = jax.lax.complex(array[..., 0], array[..., 1])
        if jax.dtypes.result_type(like) != array.dtype:
            array = array.astype(jax.dtypes.result_type(like))
        if getattr(like, 'weak_type', isinstance(like, float | complex)):
            array = jnp.full(array.shape, 0.0).at[...].set(array)
        return array if self.unit is None else Quantity(array, unit=self.unit)

    def gradient(self, g: Any, value: Any) -> jax.Array:
        """Return the chain's array of a gradient; raise if it is not one of this parameter."""
        g = self._without_unit(g)
        like = _mantissa(value)
        if not isinstance(g, jax.Array | np.ndarray | np.generic | float | complex | int):
            raise TypeError(
                f'the gradient of {self.name!r} must be an array, got {type(g).__name__}.'
            )
        if jnp.shape(g) != jnp.shape(like):
            raise ValueError(
                f'the gradient of {self.name!r} must have the shape of the parameter, '
                f'{jnp.shape(like)}, got {jnp.shape(g)}.'
            )
        dtype, want = jax.dtypes.result_type(g), jax.dtypes.result_type(like)
        if not (jnp.issubdtype(dtype, jnp.number) or dtype == jnp.bool_):
            raise TypeError(
                f'the gradient of {self.name!r} has dtype {dtype}; expected {want}. (JAX gives '
                f'float0 for integer parameters.)'
            )
        if jnp.issubdtype(dtype, jnp.complexfloating) > jnp.issubdtype(want, jnp.complexfloating):
            raise TypeError(
                f'the gradient of {self.name!r} is {dtype}, but the parameter is real ({want}).'
            )
        array = jax.lax.convert_element_type(jnp.asarray(g), want)
        return _pairs(array) if self._as_pairs(like) else array

    def _as_pairs(self, array: Any) -> bool:
        return self.real_view and jnp.issubdtype(jnp.result_type(array), jnp.complexfloating)

    def _without_unit(self, g: Any) -> Any:
        """Return the derivative with respect to the parameter's number in the parameter's unit.

        brainstate's grad labels it with the parameter's unit, saiunit.autograd with its inverse.
        """
        if not isinstance(g, Quantity):
            if self.unit is None:
                return g
            came: Any = 'no unit'
        elif self.unit is None:
            if g.unit.dim.is_dimensionless:
                return g.to_decimal()
            came = g.unit
        else:
            inverse = saiunit.UNITLESS / self.unit
            for unit in (self.unit, inverse):
                if g.unit.has_same_dim(unit):
                    return g.to_decimal(unit)
            came = g.unit
        allowed = 'no unit' if self.unit is None else f'{self.unit} or 1/({self.unit})'
        raise ValueError(f'the gradient of {self.name!r} must have {allowed}, got {came}.')


def flat_values(value: Any) -> tuple[list[Any], Any]:
    """Return the leaves of a State's value, each with its unit, and the tree they form."""
    return jax.tree.flatten(value, is_leaf=is_unit_leaf)


def leaves_of(manager: UniqueStateManager, real_view: bool) -> list[Leaf]:
    """Return the leaves of every registered State, checked."""
    found = []
    for position, (path, state) in enumerate(manager.get_flattened()):
        inner, _ = jax.tree_util.tree_flatten_with_path(state.value, is_leaf=is_unit_leaf)
        if not inner:
            raise TypeError(f'parameter {manager.names[position]!r} holds no arrays.')
        for sub_path, value in inner:
            suffix = path_name(sub_path)
            dot = '' if not suffix or suffix.startswith('[') else '.'
            unit = value.unit if isinstance(value, Quantity) else None
            leaf = Leaf(
                name=f'{manager.names[position]}{dot}{suffix}',
                state=position,
                path=(*atoms(path), *atoms(sub_path)),
                unit=unit,
                real_view=real_view,
            )
            leaf.check(value)
            found.append(leaf)
    return found


def match_gradients(grads: Any, manager: UniqueStateManager, leaves: list[Leaf]) -> list[Any]:
    """Return one gradient, or None where there is none, for each leaf.

    Gradients are found by the keys under which their parameters were registered; by the keys of
    ``manager.to_pytree()``; or by name. What matches nothing raises when parameters go without,
    since then it is most likely theirs under a wrong name.
    """
    given = _by_atoms(grads, manager)
    unclaimed = set(given)
    found: list[Any] = []
    missing: list[str] = []
    routes = _routes(manager)
    for leaf in leaves:
        own = atoms(manager.unique_paths[leaf.state])
        tail = leaf.path[len(own) :]
        hits = []
        for route, rivals in routes[leaf.state]:
            hit = _lookup(given, (*route, *tail), len(route))
            if hit is None:
                continue
            if rivals and not all(_lookup(given, r, len(r), deep=True) for r in rivals):
                raise ValueError(
                    f'the gradient under {_show(route)} may belong to '
                    f'{" or ".join(repr(manager.names[p]) for p in manager.aliases()[route])}: '
                    f'several parameters were registered under these keys. Give gradients in the '
                    f'form of opt.param_states.to_pytree().'
                )
            unclaimed.discard(hit)
            if not any(hit == h for h in hits):
                hits.append(hit)
        present = [given[h] for h in hits if given[h] is not None]
        if not hits:
            missing.append(leaf.name)
        found.append(_one_gradient(present))
    stray = [k for k in unclaimed if given[k] is not None]
    inside = [k for k in stray if any(k[: len(r)] == r for rs in routes for r, _ in rs)]
    if inside or len(missing) == len(leaves) or (stray and missing):
        raise KeyError(
            f'gradients under {", ".join(map(_show, sorted(inside or stray, key=str))) or "no key"}'
            f' match no parameter; without a gradient are {", ".join(missing) or "none"}. Expected '
            f'the keys of the registered parameters: {", ".join(manager.names)}.'
        )
    return found


def _by_atoms(grads: Any, manager: UniqueStateManager) -> dict[Atoms, Any]:
    """Return the gradients by their elementary keys; a name counts as the keys it stands for."""
    if grads is None:
        raise TypeError('step needs gradients, got None.')
    flat, _ = jax.tree_util.tree_flatten_with_path(grads, is_leaf=_is_gradient_leaf)
    named = {name: atoms(path) for name, path in zip(manager.names, manager.unique_paths)}
    given = {}
    for path, g in flat:
        keys = atoms(path)
        if keys and isinstance(keys[0], str) and keys not in manager.aliases():
            keys = (*named.get(keys[0], keys[:1]), *keys[1:])
        given[keys] = g
    return given


def _routes(manager: UniqueStateManager) -> list[list[tuple[Atoms, list[Atoms]]]]:
    """Return, for each State, the keys that lead to it and the keys that must then be given too.

    Where two States were registered under the same keys, these keys mean the first one only if
    the other is given under its own, distinct keys.
    """
    paths = [atoms(path) for path in manager.unique_paths]
    routes: list[list[tuple[Atoms, list[Atoms]]]] = [[] for _ in paths]
    for keys, owners in manager.aliases().items():
        for owner in owners:
            if len(owners) == 1 or paths[owner] == keys:
                routes[owner].append((keys, [paths[o] for o in owners if o != owner]))
    for owner, keys in enumerate(paths):
        if all(keys != route for route, _ in routes[owner]):
            routes[owner].append((keys, []))
    return routes


def _lookup(given: dict, keys: Atoms, least: int, deep: bool = False) -> Atoms | None:
    """Return the key in ``given`` of this leaf, or of a None that stands for its whole State."""
    if keys in given:
        return keys
    for depth in range(least, len(keys)):
        if keys[:depth] in given and given[keys[:depth]] is None:
            return keys[:depth]
    if deep:  # any leaf of the State will do
        return next((k for k in given if k[: len(keys)] == keys), None)
    return None


def _one_gradient(present: list) -> Any:
    """Return the gradient of a leaf that is reached by several names.

    brainstate's grad gives the whole gradient under each name of a tied State: equal values
    count once. Values that differ are the shares of each use, and add up.
    """
    if not present:
        return None
    total = present[0]
    for other in present[1:]:
        if other is not total:
            if jnp.shape(other) != jnp.shape(total):
                return other  # its shape check names the parameter
            total = saiunit.math.where((total == other).all(), total, total + other)
    return total


def _mantissa(value: Any) -> Any:
    return value.mantissa if isinstance(value, Quantity) else value


def _pairs(array: jax.Array) -> jax.Array:
    return jnp.stack([array.real, array.imag], axis=-1)


def _show(keys: Atoms) -> str:
    return repr(keys[0]) if len(keys) == 1 else keystr(keys) if not keys else repr(keys)
