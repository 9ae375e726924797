"""Plain data as other encoders give it back.

After msgpack tuples are lists; ``braintools.file`` makes dicts of lists, with the keys '0', '1'
...; orbax gives numbers back as arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

__all__ = ['plainly', 'shaped_like']


def plainly(value: Any) -> Any:
    """Return nested data with lists for tuples, and arrays as numbers or nested lists of them."""
    if isinstance(value, Mapping):
        return {k: plainly(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plainly(v) for v in value]
    if isinstance(value, np.generic | np.ndarray | jax.Array):
        return np.asarray(value).tolist()
    return value


def shaped_like(value: Any, template: Any) -> Any:
    """Return nested data with lists where the template has lists, if it came as dicts of these."""
    if isinstance(template, Mapping) and isinstance(value, Mapping):
        return {k: shaped_like(v, template.get(k)) for k, v in value.items()}
    if isinstance(template, list | tuple):
        if isinstance(value, Mapping) and set(value) == {str(i) for i in range(len(value))}:
            value = [value[str(i)] for i in range(len(value))]
        if isinstance(value, list | tuple):
            first = template[0] if template else None
            return [
                shaped_like(v, template[i] if i < len(template) else first)
                for i, v in enumerate(value)
            ]
    return value
