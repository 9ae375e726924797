"""From a formula to a public schedule."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from .backend import array, scalar
from .domain import Real, Scalar, admit, is_number

__all__ = ['Pair', 'Schedule', 'evaluate', 'family', 'is_jax', 'plain']

Schedule = Callable[[Any], Any]
Pair = tuple[Any, Any]
P = ParamSpec('P')


class Family(Protocol[P]):
    """The schedules of one formula: call it with a base value and the hyper-parameters."""

    pair: Callable[Concatenate[Any, P], Pair]  # (step, *hyper), unchecked
    check: Callable[Concatenate[str, P], dict[str, Any]]  # (owner, *hyper) -> all, in normal form
    numbers: frozenset[str]  # names of floats, which may be traced, or differ by group
    bound: Callable[..., Any] | None  # (value, present, *hyper): what the pair gives, in bounds

    def __call__(self, base: Scalar, *args: P.args, **kwargs: P.kwargs) -> Schedule:
        """Return the schedule ``f(step)``."""


def family(
    formula: Callable[Concatenate[Any, Any, P], Pair],
    agree: Callable[[str, dict[str, Any]], None] = lambda owner, hyper: None,
    bound: Callable[..., Any] | None = None,
) -> Family[P]:
    """Turn ``formula(xp, t, *hyper)`` into the factory of its schedules, with pair and check.

    ``agree`` raises for hyper-parameters that are admitted, and contradict each other. ``bound(xp,
    value, present, *hyper)`` is what becomes of a value that follows the present one.
    """
    name, hints = formula.__name__, typing.get_type_hints(formula, include_extras=True)
    signature = inspect.Signature(list(inspect.signature(formula).parameters.values())[2:])
    pair = functools.partial(evaluate, formula)
    within = None if bound is None else functools.partial(evaluate, bound)

    def check(owner: str, /, *args: Any, **kwargs: Any) -> dict[str, Any]:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError as e:
            raise TypeError(f'{owner}: {e}; it takes {", ".join(signature.parameters)}.') from None
        hyper = {
            k: p.default
            if given.get(k, p.default) is p.default
            else admit(owner, k, hints[k], given[k])
            for k, p in signature.parameters.items()
        }
        agree(owner, hyper)
        return hyper

    @functools.wraps(formula)
    def factory(base: Any, *args: Any, **kwargs: Any) -> Schedule:
        base, hyper = admit(name, 'base', Real, base), check(name, *args, **kwargs)

        def schedule(step: Any) -> Any:
            a, b = pair(step, **hyper)
            value = a + b * base
            return value if within is None else within(value, None, **hyper)

        return schedule

    first = inspect.Parameter('base', inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation='Real')
    public: Any = factory
    public.__signature__ = inspect.Signature([first, *signature.parameters.values()])
    public.pair, public.check, public.bound = pair, check, within
    public.numbers = frozenset(k for k in signature.parameters if is_number(hints[k]))
    return public


# What needs no look inside to be computed by Python.
_PLAIN = frozenset({bool, float, functools.partial, int, str, types.BuiltinFunctionType,
                    types.FunctionType, types.MethodType, types.NoneType})  # fmt: skip


def evaluate(formula: Callable[..., Any], t: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Call ``formula(xp, t, ...)``: xp is for JAX if anything is, else for arrays or numbers."""
    if _PLAIN.issuperset(map(type, (t, *args, *kwargs.values()))):
        return formula(scalar, t, *args, **kwargs)
    values, named = plain((_signed(t), *args)), {k: plain(x) for k, x in kwargs.items()}
    everything = (*values, *named.values())
    if any(map(is_jax, everything)):
        t = values[0]
        integer = is_jax(t) and jnp.issubdtype(t.dtype, jnp.integer)
        limit = jnp.iinfo(t.dtype if integer else jnp.int32).max
        values, named = _fit(values, limit), {k: _fit(x, limit) for k, x in named.items()}
        with jax.numpy_dtype_promotion('standard'):  # steps are integers, other numbers are not
            return formula(jnp, *values, **named)
    if any(isinstance(x, np.ndarray) for x in everything):
        with np.errstate(over='ignore'):
            return plain(formula(array, *values, **named))
    return formula(scalar, *values, **named)


def _signed(t: Any) -> Any:
    """Return integer steps, of which formulas take others away, as wide integers with a sign."""
    if not isinstance(t, jax.Array | np.ndarray) or t.dtype.kind not in 'iu':
        return t
    if t.dtype.kind == 'i' and t.dtype.itemsize >= 4:
        return t
    host = isinstance(t, np.ndarray)
    wide = np.dtype(np.int64) if host else jax.dtypes.canonicalize_dtype(np.int64)
    if t.dtype.itemsize >= wide.itemsize:
        t = (np if host else jnp).minimum(t, np.iinfo(wide).max)
    return t.astype(wide)


def is_jax(x: Any) -> bool:
    """Whether JAX must compute with it: a JAX array, or a sequence with one."""
    if type(x) in _PLAIN:
        return False
    return isinstance(x, jax.Array) or (isinstance(x, list | tuple) and any(map(is_jax, x)))


def plain(x: Any) -> Any:
    """Return NumPy scalars, in sequences too, as Python numbers, and all else as it is."""
    if type(x) in _PLAIN:
        return x
    if isinstance(x, list | tuple):
        return x if _PLAIN.issuperset(map(type, x)) else type(x)([plain(y) for y in x])
    return x.item() if isinstance(x, np.generic | np.ndarray) and x.ndim == 0 else x


def _fit(x: Any, limit: int) -> Any:
    """Return ints that steps can't reach as floats, which JAX can represent."""
    if isinstance(x, list | tuple):
        return type(x)([_fit(y, limit) for y in x])
    return float(x) if isinstance(x, int) and x > limit else x
