"""Averages of a model's parameters over the training, as torch.optim.swa_utils has them."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Hashable
from typing import Any

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
from brainstate import ParamState, State
from brainstate.graph import Node
from saiunit import Quantity

from .check import check_flag, check_number, is_tracer
from .engine.late_state import NumbersState, weak_scalars
from .engine.leaf import Codec, flat_values, is_unit_leaf, regrouped, without_unit
from .engine.observe import announce, asked_for, traced
from .engine.own_state import next_step_count
from .engine.writing import write_all
from .optimizer import Optimizer
from .paths import path_name
from .precision import checked_dtype
from .ranges import UNIT
from .signature import constructor_signature
from .state import PASSING, OptimState
from .transforms.infinite import difference

__all__ = ['AveragedModel']

_OWNER = 'AveragedModel'
_TORCH = {
    'multi_avg_fn': 'Give decay=0.999 for an exponential moving average, nothing for the mean, or '
    'avg_fn, a function of one array.',
    'device': 'The copy lies where the model does.',
}


class AveragedModel(brainstate.nn.Module):
    r"""A copy of a model whose parameters are an average of those that the model has had.

    .. math:: \bar\theta_0 = \theta_0, \qquad
        \bar\theta_n = d\,\bar\theta_{n-1} + (1 - d)\,\theta_n
        \quad\text{or}\quad \bar\theta_{n-1} + (\theta_n - \bar\theta_{n-1})/(n + 1)

    Every call of :meth:`update_parameters` takes in the present parameters; the first one copies
    them. Calling the average calls the copy, ``average.module``. ``average.states()`` is all that a
    checkpoint needs.

    Parameters
    ----------
    model : Module
        The model to copy; it is not kept.
    decay : float, optional
        The weight :math:`d` of what was there before, for an exponential moving average. It is
        live: assign ``average.decay`` to change it. The plain mean (SWA) if not given.
    avg_fn : callable, optional
        Another average: a pure function of the averaged array, the new one and ``n_averaged``. It
        is traced, as a loss function is, and sees arrays without units.
    use_buffers : bool
        Whether other lasting States, such as running statistics, are averaged as well. By default
        they are copied in every update.
    state_dtype : dtype, optional
        The dtype of the averages, such as float32 for a model in bfloat16, where a decay of 0.999
        is lost in rounding; by default that of each parameter.

    Notes
    -----
    Integers are copied (torch fails on them, or rounds). States of a run (`ShortTermState`, such as
    those of recurrent layers, and random generators) are the copy's own. Averages are computed in
    float32 or wider. torch's ``AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999))`` is
    ``AveragedModel(model, decay=0.999)``. The plain mean is of Izmailov et al., arXiv:1803.05407.

    Examples
    --------
    >>> import brainstate, jax.numpy as jnp
    >>> import braintools_optim as bo
    >>> model = brainstate.nn.Linear(2, 1)
    >>> average = bo.AveragedModel(model, decay=0.9)
    >>> for bias in (1.0, 2.0):
    ...     model.weight.value = {**model.weight.value, 'bias': jnp.array([bias])}
    ...     average.update_parameters(model)
    >>> average.module.weight.value['bias']
    Array([1.1], dtype=float32)
    >>> average(jnp.ones((3, 2))).shape
    (3, 1)
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> AveragedModel:
        """Say what stands here for torch's arguments."""
        for name in _TORCH.keys() & kwargs.keys():
            raise TypeError(f'{_OWNER} has no argument {name!r}. {_TORCH[name]}')
        if len(args) > 1 and cls is AveragedModel:
            raise TypeError(
                f'{_OWNER} takes the model alone without a name, got {type(args[1]).__name__} '
                f'besides: write {_OWNER}(model, decay=0.999).'
            )
        return super().__new__(cls)

    def __init__(
        self,
        model: Any,
        *,
        decay: float | None = None,
        avg_fn: Callable[[Any, Any, Any], Any] | None = None,
        use_buffers: bool = False,
        state_dtype: Any = None,
    ):
        super().__init__()
        _check_model(model)
        if decay is not None and avg_fn is not None:
            raise ValueError(f'{_OWNER} takes decay or avg_fn, got both.')
        if not (avg_fn is None or callable(avg_fn)):
            raise TypeError(f'{_OWNER} needs a function for avg_fn, got {avg_fn!r}.')
        self.avg_fn = avg_fn
        self.use_buffers = check_flag(_OWNER, 'use_buffers', use_buffers, False)
        dtype = checked_dtype(_OWNER, 'state_dtype', state_dtype)
        self._decay = None if decay is None else NumbersState(_weights(decay))
        self.n_averaged = OptimState(np.int32(0))
        self.module = copy.deepcopy(model)
        announce(self.module.states().values())
        if dtype is not None:
            for state in filter(self._averages, _lasting(self.module).values()):
                state.value = jax.tree.map(lambda x: _cast(x, dtype), state.value)

    @property
    def decay(self) -> Any:
        """The weight of what was there before; assign to change it. None for the plain mean."""
        return None if self._decay is None else self._decay.entries()[0]

    @decay.setter
    def decay(self, value: Any) -> None:
        if self._decay is None:
            raise AttributeError(
                f'this {_OWNER} was built without decay; construct it with one (any may follow).'
            )
        self._decay.replace(_weights(value))

    def __getattr__(self, name: str) -> Any:
        way = ' Call update_parameters(model) after each step of the optimizer.'
        raise AttributeError(f'{_OWNER} has no attribute {name!r}.{way if name == "step" else ""}')

    def __setattr__(self, name: str, value: Any) -> None:
        if name == 'n_averaged' and name in vars(self):
            raise AttributeError(f'{_OWNER}.n_averaged is a State; assign n_averaged.value.')
        super().__setattr__(name, value)

    def update_parameters(self, model: Any) -> None:
        """Take the present parameters of a model into the average: all of them, or none."""
        _check_model(model)
        mine, theirs = _lasting(self.module), _lasting(model)
        _check_paths(set(mine), set(theirs))
        plan = tuple((path, self._averages(state)) for path, state in mine.items())
        old = [state.value for state in mine.values()]
        new = [theirs[path].value for path in mine]
        vector = None if self._decay is None else self._decay.value
        count = self.n_averaged.value
        compute = _averaged if traced() else _program
        moved = compute(plan, _hashable(self.avg_fn), old, new, asked_for(vector), asked_for(count))
        changes = zip(mine.values(), moved, strict=True)
        write_all([*changes, (self.n_averaged, next_step_count(count))])

    def update(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the averaged model returns, as calling the average does."""
        if args and isinstance(args[0], Node):
            raise TypeError(
                f'{_OWNER}.update calls the averaged model, as update of a Module does, and got '
                f'{type(args[0]).__name__}: call update_parameters(model).'
            )
        return self.module(*args, **kwargs)

    def __pretty_repr_item__(self, name: str, value: Any) -> tuple[str, Any] | None:
        """Show its numbers as numbers."""
        if name == '_decay' and value is not None:
            return 'decay', self.decay
        if name == 'n_averaged' and not is_tracer(value.value):
            return name, np.asarray(value.value).tolist()
        return super().__pretty_repr_item__(name, value)

    def _averages(self, state: State) -> bool:
        return self.use_buffers or isinstance(state, ParamState)


# brainstate's metaclass hides the signature of the constructor
AveragedModel.__signature__ = constructor_signature(AveragedModel)


@jax.numpy_dtype_promotion('standard')
def _averaged(
    plan: tuple[tuple[tuple, bool], ...],
    avg_fn: Callable[[Any, Any, Any], Any] | None,
    old: list,
    new: list,
    vector: Any,
    count: Any,
) -> list:
    """Return the next averages, in arrays of their own. ``plan`` tells paths, and what is averaged.

    All that is wrong with a model is found here: once for each kind of model, when it is traced.
    """
    weight = 1.0 / (count + 1) if vector is None else weak_scalars(vector)[1]
    moved = []
    pairs = [
        zip(_leaves(*which, x, y), flat_values(x)[0], flat_values(y)[0], strict=True)
        for which, x, y in zip(plan, old, new, strict=True)
    ]
    for leaf, before, now in itertools.chain(*pairs):
        if leaf is None:
            # Without jit it would be the model's own array, which a train_step takes over.
            moved.append(jax.tree.map(jnp.copy, now))
            continue
        a, p = leaf.encode(before), leaf.encode(now)
        if avg_fn is None:
            mean = _between(a, p, jnp.asarray(weight, a.real.dtype))
        else:
            mean = avg_fn(a, p, count)
            if getattr(mean, 'shape', None) != a.shape:
                must = f'avg_fn must return an array of the shape {a.shape} of {leaf.name!r}'
                raise TypeError(f'{must}, got {mean!r}.')
        moved.append(leaf.decode(jnp.where(count == 0, p, mean.astype(p.dtype)), before))
    return regrouped(old, moved)


_program = jax.jit(_averaged, static_argnums=(0, 1))


def _hashable(fn: Any) -> Any:
    """Return a function by which programs can be told apart: not every callable has a hash."""
    return fn if isinstance(fn, Hashable) else fn.__call__  # a method is told by its object's id


def _between(a: jax.Array, p: jax.Array, weight: jax.Array) -> jax.Array:
    """Return what lies so far on the way from ``a`` to ``p``; exactly these at 0 and 1."""
    way = difference(p, a)
    return jnp.where(weight < 0.5, a + weight * way, p - (1 - weight) * way)


def _weights(decay: Any) -> list:
    """Return a decay and its complement, which would lose digits in float32."""
    number = check_number(_OWNER, 'decay', decay, allowed=UNIT)
    return [number, 1.0 - number]


def _lasting(model: Node) -> dict[tuple, State]:
    """Return the States of a model that outlast a run, each once, by path."""
    found = brainstate.graph.states(model)
    return {path: state for path, state in found.items() if not isinstance(state, PASSING)}


def _leaves(path: tuple, averages: bool, mine: Any, theirs: Any) -> list[Codec | None]:
    """Return how each leaf of a State is averaged, None where it is copied; raise for misfits."""
    flat, tree = jax.tree_util.tree_flatten_with_path(mine, is_leaf=is_unit_leaf)
    others, other_tree = flat_values(theirs)
    if tree != other_tree:
        raise ValueError(
            f'{path_name(path)!r} of the model must be the tree of the averaged one, {tree}, '
            f'got {other_tree}.'
        )
    found: list[Codec | None] = []
    for (inner, x), y in zip(flat, others, strict=True):
        name, unit = path_name((*path, *inner)), x.unit if isinstance(x, Quantity) else None
        (shape, dtype), (other, given) = _type(x), _type(y)
        mean = averages and jnp.issubdtype(dtype, jnp.inexact)
        kind = jnp.inexact if jnp.issubdtype(dtype, jnp.complexfloating) else jnp.floating
        if shape != other or not (jnp.issubdtype(given, kind) if mean else given == dtype):
            raise ValueError(
                f'{name!r} of the model must be like the averaged one, {dtype}{list(shape)}, '
                f'got {given}{list(other)}.'
            )
        if not mean:
            found.append(None)
            continue
        wide = jnp.promote_types(dtype, jnp.float32)
        found.append(Codec(name=name, unit=unit, real_view=False, state_dtype=wide))
    return found


def _type(x: Any) -> tuple[tuple, Any]:
    array = without_unit(x)
    return jnp.shape(array), jax.dtypes.result_type(array)


def _cast(x: Any, dtype: Any) -> Any:
    return jnp.asarray(x, dtype) if jnp.issubdtype(jnp.result_type(x), jnp.floating) else x


def _check_model(model: Any) -> None:
    if not isinstance(model, Node) or isinstance(model, Optimizer):
        raise TypeError(
            f'{_OWNER} needs a model, a brainstate Module, got {type(model).__name__}; States '
            f'alone can be the attributes of one.'
        )


def _check_paths(mine: set, theirs: set) -> None:
    for which, paths in (('lacks', mine - theirs), ('has besides', theirs - mine)):
        if paths:
            raise ValueError(
                f'{_OWNER} averages models of one structure; the model that it was given '
                f'{which} {", ".join(sorted(map(path_name, paths)))}.'
            )
