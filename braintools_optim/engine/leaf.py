"""Between what users hold and what an optax chain computes on.

A chain sees a tree of real, strongly typed, unitless arrays. Users hold Quantities, complex
numbers and weakly typed scalars, and gradients of them in either unit convention. Every check of
a gradient against its parameter stands here, and runs when a step is traced.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import saiunit
from jax.experimental.sparse import BCOO, JAXSparse
from saiunit import Quantity

from ..by_path import ByPath
from ..check import noted_if_traced
from ..decay_mask import decays
from ..paths import Keys, path_name, plain_keys, spelled_out
from ..precision import Precision
from ..state import UniqueStateManager, two_called
from ..transforms.masters import wider
from ..transforms.mesh import in_auto_axes, resharded
from ..transforms.sparse import coalesced
from .compiled import NUMBERS

__all__ = [
    *('Codec', 'Leaf', 'all_leaves', 'entries_of', 'flat_values', 'leaves_of', 'over_entries'),
    *('is_unit_leaf', 'regrouped', 'weakly_typed', 'without_unit'),
]


def is_unit_leaf(x: Any) -> bool:
    """Whether ``x`` is one leaf with its unit, for the ``is_leaf`` of tree functions."""
    return isinstance(x, Quantity)


@dataclass(frozen=True)
class Codec:
    """How one array of a State is turned into what is computed on, and back."""

    name: str
    unit: Any  # a saiunit unit, or None for a plain array
    real_view: bool  # complex numbers are shown as pairs of reals
    state_dtype: Any  # what is computed in, None for the array's own dtype

    def check_unit(self, value: Any) -> None:
        """Raise if the value is in another unit than when it was registered."""
        unit = value.unit if isinstance(value, Quantity) else None
        if unit != self.unit:
            raise ValueError(
                f'parameter {self.name!r} was registered in {self.unit or "no unit"} and now holds '
                f'a value in {unit or "no unit"}; assign it in {self.unit or "no unit"}.'
            )

    def encode(self, value: Any) -> jax.Array:
        """Return the array that is computed on."""
        self.check_unit(value)
        array = jnp.asarray(without_unit(value))
        array = jax.lax.convert_element_type(array, array.dtype)  # drops the weak type
        return self._for_chain(_pairs(array) if self._as_pairs(array) else array)

    def decode(self, array: jax.Array, old: Any) -> Any:
        """Return an array that was computed on as a value of the same kind as ``old``."""
        like = without_unit(old)
        if self._as_pairs(like):
            array = array.astype(jnp.finfo(jax.dtypes.result_type(like)).dtype)
            array = jax.lax.complex(array[..., 0], array[..., 1])
        return self._like(array, like)

    def _like(self, array: jax.Array, like: Any) -> Any:
        """Return an array in the dtype, weak or not, of the one that it replaces, with the unit."""
        if jax.dtypes.result_type(like) != array.dtype:
            array = array.astype(jax.dtypes.result_type(like))
        if getattr(like, 'weak_type', isinstance(like, float | complex)):
            array = weakly_typed(array)
        return array if self.unit is None else Quantity(array, unit=self.unit)

    def _for_chain(self, array: jax.Array) -> jax.Array:
        if self.state_dtype is None or jnp.iscomplexobj(array):
            return array
        return jax.lax.convert_element_type(array, self.state_dtype)

    def _as_pairs(self, array: Any) -> bool:
        return self.real_view and jnp.issubdtype(jnp.result_type(array), jnp.complexfloating)


@dataclass(frozen=True)
class Leaf(Codec):
    """One array of a parameter: where it stands, and what its gradients must be."""

    state: int  # position of its State
    path: Keys  # its keys in the trees that chains see, first those of its State
    depth: int  # how many of them are its State's
    shape: tuple[int, ...]
    layouts: frozenset[str]  # of its gradients: 'dense', 'sparse'
    dtype: Any  # when it was registered
    tree: Any = None  # what the leaves of its State formed then
    decays: bool = True  # whether the weight decay is for it
    master_dtype: Any = None  # the least precision of its gradients
    constraint: Callable[[Any], Any] | None = None  # puts its value back after an update

    @property
    def differs(self) -> bool:
        """Whether chains see another kind of array than users hold."""
        return self.unit is not None or self._as_pairs(self.dtype)

    def check(self, value: Any) -> None:
        """Raise if the value cannot be optimized."""
        dtype = jnp.result_type(without_unit(value))
        if not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(
                f'parameter {self.name!r} has dtype {dtype}; only floating-point and complex '
                f'parameters can be optimized. Convert it, or leave it out of the registered tree.'
            )
        if jnp.finfo(dtype).bits > jnp.finfo(jax.dtypes.canonicalize_dtype(dtype)).bits:
            raise TypeError(
                f'parameter {self.name!r} is {dtype}, and JAX computes in float32 now: leave '
                f'jax_enable_x64 as it was when the parameter was made, or convert it.'
            )
        self.check_dtype(value)

    def check_dtype(self, value: Any) -> None:
        """Raise if the value has another dtype than when it was registered."""
        dtype = jnp.result_type(without_unit(value))
        if dtype != self.dtype:
            raise TypeError(
                f'parameter {self.name!r} was registered as {self.dtype} and is {dtype} now; its '
                f'moments no longer fit. Convert parameters before they are registered, or build a '
                f'new optimizer.'
            )

    def check_shape(self, value: Any) -> None:
        """Raise if the value has another shape than when it was registered."""
        if jnp.shape(without_unit(value)) != self.shape:
            raise self.misfit(value)

    def check_axes(self, value: Any) -> None:
        """Raise if the value has another shape, even without the axes that vmap may hide."""
        axes = iter(self.shape)
        if not all(size in axes for size in jnp.shape(without_unit(value))):
            raise self.misfit(value)

    def misfit(self, value: Any) -> ValueError:
        """Return the error that says that the value has a wrong shape."""
        return ValueError(
            f'parameter {self.name!r} was registered with the shape {self.shape} and now has '
            f'{jnp.shape(without_unit(value))}; its moments no longer fit.'
        )

    def moved_by(self, update: Any, old: Any) -> Any:
        """Return the value after an update is added; raise if its shape is not the value's."""
        p = self.encode(old)
        if jnp.shape(update) != p.shape:
            self.check_shape(old)
            raise ValueError(
                f'the chain returned an update of the shape {jnp.shape(update)} for parameter '
                f'{self.name!r}, which it sees with the shape {p.shape}.'
            )
        return self.moved((p + update).astype(p.dtype), old)

    def rounded(self, master: jax.Array, old: Any) -> Any:
        """Return the value that a master, which is constrained already, rounds to.

        Rounding may lead out of where it is kept: then it is put back, if a constraint puts back
        and does not go on changing what it has put back.
        """
        array = master.astype(self.encode(old).dtype)
        if self.constraint is not None:
            settled = self.kept(master, old) == master
            again = self.encode(self.moved(array, old))
            array = jnp.where(settled, again, array)
        return self.decode(array, old)

    def kept(self, master: jax.Array, old: Any) -> jax.Array:
        """Return what the constraint leaves of a master, an array that is computed on."""
        if self.constraint is None:
            return master
        like = without_unit(old)
        wide = jnp.asarray(like, jnp.promote_types(jnp.result_type(like), master.dtype))
        in_wide = wide if self.unit is None else Quantity(wide, unit=self.unit)
        return self.encode(self._kept(self._constrained(self.decode(master, in_wide)), in_wide))

    def moved(self, array: jax.Array, old: Any) -> Any:
        """Return the value after an update, of the same kind as ``old``, where it is kept."""
        value = self.decode(array, old)
        return value if self.constraint is None else self._kept(self._constrained(value), old)

    def _constrained(self, value: Any) -> Any:
        """Return what the constraint makes of a value; say what to do if it cannot be traced."""
        with noted_if_traced(
            f'constrain of {self.name} is a part of the compiled step, in which the parameter has '
            f'no value yet: compute with jax.numpy, not numpy, and choose by jnp.where.'
        ):
            return self.constraint(value)  # type: ignore[misc]  # checked where it was given

    def _kept(self, found: Any, old: Any) -> Any:
        """Return what a constraint made of a value, checked, as one of the same kind as ``old``."""
        like, unit = without_unit(old), saiunit.UNITLESS if self.unit is None else self.unit
        want = jax.dtypes.result_type(like)
        label = found.unit if isinstance(found, Quantity) else saiunit.UNITLESS
        if not isinstance(found, (Quantity, *NUMBERS)):
            problem = f'an array, got {type(found).__name__}'
        elif not label.has_same_dim(unit):
            came = label if isinstance(found, Quantity) else 'no unit'
            problem = f'a value in {self.unit or "no unit"}, got one in {came}'
        elif jnp.shape(found) != jnp.shape(like):
            problem = f'the shape {jnp.shape(like)}, got {jnp.shape(found)}'
        elif jnp.iscomplexobj(found) and not jnp.issubdtype(want, jnp.complexfloating):
            problem = f'real numbers, got {jnp.result_type(without_unit(found))}'
        else:
            array = found.to_decimal(unit) if isinstance(found, Quantity) else found
            # A constant that a function returns may be weakly typed, or lie somewhere else.
            array = jax.lax.convert_element_type(jnp.asarray(array), want)
            return self._like(in_auto_axes(lambda x: x, like, array), like)
        raise TypeError(f'the function that constrains {self.name!r} must return {problem}.')

    def gradient(self, g: Any, value: Any) -> Any:
        """Return what the chain sees of a gradient; raise if it is not one of this parameter."""
        self._check_layout(g)
        g = self._without_unit(g)
        like = without_unit(value)
        shape = g.shape if isinstance(g, BCOO) else jnp.shape(g)
        if shape != jnp.shape(like):
            raise ValueError(
                f'the gradient of {self.name!r} must have the shape of the parameter, '
                f'{jnp.shape(like)}, got {shape}.'
            )
        dtype = jax.dtypes.result_type(entries_of(g))
        want = jax.dtypes.result_type(like)
        if not (jnp.issubdtype(dtype, jnp.number) or dtype == jnp.bool_):
            raise TypeError(
                f'the gradient of {self.name!r} has dtype {dtype}; expected {want}. (JAX gives '
                f'float0 for integer parameters.)'
            )
        if jnp.issubdtype(dtype, jnp.complexfloating) > jnp.issubdtype(want, jnp.complexfloating):
            raise TypeError(
                f'the gradient of {self.name!r} is {dtype}, but the parameter is real ({want}).'
            )
        if not jnp.issubdtype(want, jnp.complexfloating):
            want = self.gradient_dtype(self.state_dtype or want)
        if isinstance(g, BCOO):
            return coalesced(over_entries(lambda x: jax.lax.convert_element_type(x, want), g))
        array = resharded(jax.lax.convert_element_type(jnp.asarray(g), want), like)
        return self._for_chain(_pairs(array)) if self._as_pairs(like) else array

    def gradient_dtype(self, dtype: Any) -> Any:
        """Return the dtype of its gradient, given that of what the chain sees of its value."""
        return wider(dtype, self.master_dtype or dtype)

    def _check_layout(self, g: Any) -> None:
        sparse = isinstance(g, JAXSparse)
        if sparse and 'sparse' not in self.layouts:
            raise TypeError(
                f'the gradient of {self.name!r} is sparse, a {type(g).__name__}; this optimizer '
                f'takes dense ones: give g.todense(), or use SparseAdam.'
            )
        if not sparse and 'dense' not in self.layouts:
            raise TypeError(
                f'the gradient of {self.name!r} is dense; this optimizer takes sparse ones, '
                f'jax.experimental.sparse.BCOO: use Adam for this parameter.'
            )
        if sparse and not (isinstance(g, BCOO) and g.n_batch == 0 < g.n_sparse):
            sizes = f' with n_batch={g.n_batch}, n_sparse={g.n_sparse}' * isinstance(g, BCOO)
            raise TypeError(
                f'the gradient of {self.name!r} must be a BCOO with n_batch=0 and n_sparse>0, '
                f'got a {type(g).__name__}{sizes}.'
            )

    def _without_unit(self, g: Any) -> Any:
        """Return the derivative with respect to the parameter's number in the parameter's unit.

        brainstate's grad labels it with the parameter's unit, saiunit.autograd with its inverse.
        """
        if not isinstance(g, Quantity):
            if self.unit is None or self.unit == saiunit.UNITLESS:
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


def all_leaves(values: Iterable[Any]) -> list:
    """Return the leaves of the values of several States."""
    return [leaf for value in values for leaf in flat_values(value)[0]]


def regrouped(values: list, new: list, gradients: list | None = None) -> list:
    """Return leaves in the place of those of State values.

    Given the gradients, None stands for a State none of whose leaves has one.
    """
    made, start = [], 0
    for value in values:
        leaves, treedef = flat_values(value)
        stop = start + len(leaves)
        moved = gradients is None or any(g is not None for g in gradients[start:stop])
        made.append(treedef.unflatten(new[start:stop]) if moved else None)
        start = stop
    return made


def entries_of(g: Any) -> Any:
    """Return the numbers of a gradient: those that a sparse one has."""
    return g.data if isinstance(g, BCOO) else g


def over_entries(f: Callable[[Any], Any], g: Any) -> Any:
    """Return the gradient with a function applied to its numbers, None where there is none."""
    if not isinstance(g, BCOO):
        return None if g is None else f(g)
    flags = {'indices_sorted': g.indices_sorted, 'unique_indices': g.unique_indices}
    return BCOO((f(g.data), g.indices), shape=g.shape, **flags)


def leaves_of(
    manager: UniqueStateManager,
    real_view: bool,
    layouts: frozenset[str],
    precision: Precision,
    decay_mask: Any,
    constrain: Any,
) -> list[Leaf]:
    """Return the leaves of every registered State, checked."""
    if decay_mask is None:
        decay_mask = True
    elif callable(decay_mask):
        decay_mask = decay_mask(manager.to_pytree_value())
    mask, constraints = ByPath(decay_mask), ByPath(constrain)
    held = [
        jax.tree_util.tree_flatten_with_path(state.value, is_leaf=is_unit_leaf) for state in manager
    ]
    names = iter(_names(manager.names, [[path for path, _ in inner] for inner, _ in held]))
    found = []
    for position, path in enumerate(manager.unique_paths):
        inner, tree = held[position]
        if not inner:
            raise TypeError(f'parameter {manager.names[position]!r} holds no arrays.')
        for sub_path, value in inner:
            name = next(names)
            if not isinstance(without_unit(value), NUMBERS):
                raise TypeError(f'parameter {name!r} must be an array, got {value!r:.80}.')
            unit = value.unit if isinstance(value, Quantity) else None
            keys = (*plain_keys(path), *plain_keys(sub_path))
            leaf = Leaf(
                name=name,
                state=position,
                path=keys,
                depth=len(path),
                shape=jnp.shape(without_unit(value)),
                unit=unit,
                real_view=real_view,
                layouts=layouts,
                state_dtype=precision.state_dtype,
                master_dtype=precision.master_dtype,
                dtype=jnp.result_type(without_unit(value)),
                tree=tree,
                decays=decays(mask.at(keys), name),
                constraint=constraints.at(keys),
            )
            leaf.check(value)
            found.append(leaf)
    return found


def _names(owners: list[str], paths: list[list[tuple]]) -> list[str]:
    """Return a name for each path within the States of these names, none of them twice."""
    pairs = [(owner, path) for owner, inner in zip(owners, paths, strict=True) for path in inner]
    names = [_joined(owner, path_name(path)) for owner, path in pairs]
    often = Counter(names)
    for i, (owner, path) in enumerate(pairs):
        if path and often[names[i]] > 1:
            names[i] = f'{owner}{spelled_out(path)}'
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise two_called(twice[0])
    return names


def _joined(owner: str, name: str) -> str:
    return f'{owner}.{name}' if name and not name.startswith('[') else f'{owner}{name}'


def without_unit(value: Any) -> Any:
    """Return the number of a quantity."""
    return value.mantissa if isinstance(value, Quantity) else value


def weakly_typed(array: Any) -> jax.Array:
    """Return an array typed as Python's numbers are, which widen nothing."""
    zero = 0j if jnp.iscomplexobj(array) else 0.0
    return jnp.full(jnp.shape(array), zero).at[...].set(array)  # keeps the type of the zeros


def _pairs(array: jax.Array) -> jax.Array:
    return jnp.stack([array.real, array.imag], axis=-1)
