"""The dtypes of an optimizer's state and masters, where they are not those of the parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .transforms import with_masters

__all__ = ['Precision', 'checked_dtype']


class Precision(NamedTuple):
    """What a chain computes in, what it updates parameters in, what it keeps first moments in."""

    state_dtype: Any
    master_dtype: Any
    mu_dtype: Any

    @classmethod
    def checked(cls, owner: str, *given: Any) -> Precision:
        """Return dtypes and None as they are given, or raise."""
        new = cls(*(checked_dtype(owner, *pair) for pair in zip(cls._fields, given, strict=True)))
        if new.state_dtype is not None and new.master_dtype is not None:
            raise TypeError(
                f'{owner} takes state_dtype or master_dtype, got both: the chain computes in the '
                f'dtype of the masters.'
            )
        return new

    def over(
        self,
        chain: optax.GradientTransformation,
        keep: Callable[[int, jax.Array], jax.Array] | None = None,
    ) -> optax.GradientTransformation:
        """Return a chain that updates wide copies of narrow parameters, where that is asked for.

        ``keep`` constrains these copies.
        """
        return chain if self.master_dtype is None else with_masters(chain, self.master_dtype, keep)


def checked_dtype(owner: str, name: str, given: Any) -> Any:
    """Return a floating-point dtype or None, or raise."""
    if given is None:
        return None
    try:
        dtype = None if isinstance(given, np.generic | np.ndarray | jax.Array) else np.dtype(given)
    except (TypeError, ValueError):  # the latter for dicts, which could be structures of NumPy
        dtype = None
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f'{owner} needs a floating-point dtype for {name}, got {given!r}.')
    if given is float:  # as wide as JAX computes
        return jax.dtypes.canonicalize_dtype(dtype)
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError(
            f'{owner} was given {name}={dtype.name}, and JAX computes in 32 bits: call '
            f"jax.config.update('jax_enable_x64', True) after brainstate is imported, which turns "
            f'it off.'
        )
    return dtype
