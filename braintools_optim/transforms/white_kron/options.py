"""What Quad and Skew can be told, checked once for all their functions."""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .layout import Layout, layout_of
from .norm import ESTIMATORS

__all__ = ['Options', 'given_options']


class Options(NamedTuple):
    """The options of :func:`scale_by_quad`, which says what they mean."""

    lr_style: str | None = 'adam'
    b1: Any = 0.95
    normalize_grads: bool = False
    max_size_dense: int = 16384
    preconditioner_lr: Any = 0.7
    preconditioner_init_scale: Any = 1.0
    dtype: Any = jnp.bfloat16
    scanned_layers: Any = None
    block_size: int = 256
    pipeline_axis_name: str | None = None
    pipeline_axis_size: int = 1
    params_partition_specs: Any = None
    noise_scale: Any = 1e-9
    preconditioner_lr_min: Any = 0.4
    norm_estimator: str = 'random'
    update_every: int = 1
    seed: Any = 0
    per_layer: bool = False
    precision: Any = None

    def checked(self, owner: str) -> Options:
        """Return the options with their dtype canonical; raise if one is not allowed."""

        def refuse(name: str, allowed: str) -> None:
            raise ValueError(f'{owner} needs {allowed} for {name}, got {getattr(self, name)!r}.')

        if self.lr_style not in ('adam', None):
            refuse('lr_style', "'adam' or None")
        if self.norm_estimator not in ESTIMATORS:
            refuse('norm_estimator', f'one of {", ".join(map(repr, ESTIMATORS))}')
        least = {'max_size_dense': 0, 'block_size': 1, 'pipeline_axis_size': 1, 'update_every': 1}
        counts = {name: _whole(getattr(self, name)) for name in least}
        for name, low in least.items():
            if counts[name] is None or counts[name] < low:
                refuse(name, f'an integer >= {low}')
        if isinstance(self.seed, bool | str) or not jnp.issubdtype(
            getattr(self.seed, 'dtype', type(self.seed)), np.integer
        ):
            refuse('seed', 'an integer')
        for name in ('normalize_grads', 'per_layer'):
            if not isinstance(getattr(self, name), bool | np.bool_):
                refuse(name, 'True or False')
        if self.pipeline_axis_name is None and self.pipeline_axis_size > 1:
            refuse('pipeline_axis_size', '1 (there is no pipeline_axis_name)')
        for name in ('b1', 'preconditioner_lr', 'preconditioner_lr_min'):
            if not _known_in(getattr(self, name), lambda x: 0.0 <= x < 1.0):
                refuse(name, 'a number in [0, 1)')
        if not _known_in(self.preconditioner_init_scale, lambda x: 0.0 < x < np.inf):
            refuse('preconditioner_init_scale', 'a number in (0, inf)')
        if not _known_in(self.noise_scale, lambda x: 0.0 <= x < np.inf):
            refuse('noise_scale', 'a number in [0, inf)')
        if not _is_precision(self.precision):
            refuse('precision', 'what jax.lax.dot takes for it')
        return self._replace(dtype=_storage(owner, self.dtype), **counts)

    def layout(self, shape: tuple[int, ...], scanned: bool) -> Layout:
        """Return how a leaf of this shape is seen."""
        sizes = self.max_size_dense, self.block_size, self.pipeline_axis_size
        return layout_of(shape, scanned, *sizes)

    def storage(self, like: Any) -> Any:
        """Return the dtype in which the factors of a leaf are kept."""
        return self.dtype or jnp.promote_types(like, jnp.float32)

    def accuracy(self, storage: Any) -> Any:
        """Return the precision of matrix products."""
        if self.precision is not None:
            return self.precision
        # Whoever keeps factors in more than bfloat16 does not want them multiplied in less.
        return 'default' if storage == jnp.bfloat16 else 'highest'


def _whole(value: Any) -> Any:
    """Return an integer, which optax may have made an array of, or None."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def _storage(owner: str, dtype: Any) -> Any:
    """Return one of the dtypes that factors can be kept in; None is each parameter's own."""
    if dtype is None:
        return None
    try:
        canonical = jnp.dtype(dtype)
    except (TypeError, ValueError):  # the latter for dicts, which could be structures of NumPy
        canonical = None
    if canonical not in (jnp.bfloat16, jnp.float32, jnp.float64):
        raise ValueError(
            f'{owner} needs bfloat16, float32, float64 or None (that of each parameter, at least '
            f'float32) for dtype, got {dtype!r}; the range of float16 is too small.'
        )
    return canonical


def _is_precision(given: Any) -> bool:
    """Whether products can be computed in a precision."""
    one = jax.ShapeDtypeStruct((1, 1), jnp.float32)
    try:
        jax.eval_shape(functools.partial(jax.lax.dot, precision=given), one, one)
    except (TypeError, ValueError):
        return False
    return True


def _known_in(value: Any, allowed: Callable[[float], bool]) -> bool:
    """Whether a number is traced, or in range."""
    if isinstance(value, jax.core.Tracer):
        return True
    try:
        return not isinstance(value, bool | str | None) and bool(allowed(float(value)))
    except (TypeError, OverflowError):  # several numbers, or an integer beyond all floats
        return False


def given_options(
    function: Callable[..., optax.GradientTransformation],
) -> Callable[..., optax.GradientTransformation]:
    """Let a function of :class:`Options`, and perhaps more, take the options as its arguments.

    What it takes besides goes first, but for the decay, which stands after ``b1`` as in eformer.
    """
    own = [p for p in inspect.signature(function).parameters.values() if p.name != 'options']
    options = list(inspect.signature(Options).parameters.values())
    early = [p for p in own if not p.name.startswith('weight_decay')]
    decay = [p for p in own if p.name.startswith('weight_decay')]
    parameters = [
        p.replace(kind=p.POSITIONAL_OR_KEYWORD)
        for p in (*early, *options[:2], *decay, *options[2:])
    ]
    signature = inspect.Signature(parameters, return_annotation=optax.GradientTransformation)

    @functools.wraps(function)
    def taking(*args: Any, **kwargs: Any) -> optax.GradientTransformation:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            known = ', '.join(signature.parameters)
            raise TypeError(f'{function.__name__}() {error}; it takes {known}.') from None
        bound.apply_defaults()
        values = dict(bound.arguments)
        picked = Options(**{name: values.pop(name) for name in Options._fields})
        return function(picked.checked(function.__name__), **values)

    taking.__signature__ = signature  # type: ignore[attr-defined]  # inspect reads it
    return taking
