r"""Learning-rate schedules as pure functions of the step.

Every name here makes a schedule: ``f = cosine(1e-3, T_max=90)``; then ``f(step)`` is the value at
that step, counted from 0, for Python ints and traced steps alike, in optax too: ``optax.adam(f)``.

Each is one formula, affine in the base value: :math:`\eta_t = a_t + b_t\,\eta`. A scheduler takes
:math:`(a_t, b_t)` from ``cosine.pair(t, T_max, eta_min)``, for this closed form or for torch's
recursion :math:`\eta_{t+1} = a_{t+1} + b_{t+1} (\eta_t - a_t) / b_t`. The pair checks nothing;
``cosine.check(owner, T_max=90)`` does, and returns all hyper-parameters in normal form.

Python numbers are computed by NumPy in float64, without JAX; what is traced, by JAX. Steps stay
integers up to the last division, so that they are exact however large; results are weakly typed.
"""

from __future__ import annotations

import functools
import inspect
import math
import numbers
import typing
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Concatenate, Literal, ParamSpec, Protocol

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ['constant', 'cosine', 'cosine_restarts', 'cyclic', 'exponential', 'exponential_decay',
           'inverse_sqrt', 'inverse_time', 'lambda_', 'linear', 'multistep', 'one_cycle',
           'piecewise_constant', 'polynomial', 'rex', 'sequential', 'step', 'swa', 'warmup',
           'warmup_cosine', 'wsd']  # fmt: skip

Schedule = Callable[[Any], Any]
Pair = tuple[Any, Any]
P = ParamSpec('P')


# --- what a hyper-parameter may be: written in its annotation
@dataclass(frozen=True)
class Range:
    """The numbers a hyper-parameter may be; if ``many``, a sequence of them in ascending order."""

    allowed: str
    low: float = -math.inf
    high: float = math.inf
    whole: bool = False
    many: bool = False

    def __call__(self, x: Any) -> Any:
        """Return Python numbers for any but arrays, or raise without a message."""
        if self.many:
            each = list(map(replace(self, many=False), x))
            if each != sorted(each):
                raise ValueError
            return each
        if isinstance(x, jax.core.Tracer):
            return x
        if isinstance(x, numbers.Real):
            x = int(float(x)) if self.whole and float(x).is_integer() else float(x)
        elif not isinstance(x, jax.Array | np.ndarray):
            raise TypeError
        v = np.asarray(x, float)
        inside = np.isfinite(v) & (v >= self.low) & (v <= self.high)
        if not np.all(inside) or (self.whole and np.any(v % 1)):
            raise ValueError
        return x


Scalar = float | jax.Array
Real = Annotated[Scalar, Range('a finite number')]
NonNegative = Annotated[Scalar, Range('a finite number >= 0', 0)]
Positive = Annotated[Scalar, Range('a finite number > 0', math.ulp(0.0))]
Fraction = Annotated[Scalar, Range('a number from 0 to 1', 0, 1)]
Count = Annotated[int, Range('an integer >= 0', 0, whole=True)]
PositiveCount = Annotated[int, Range('an integer >= 1', 1, whole=True)]
_ASCENDING = Range('integers >= 0 in ascending order', 0, whole=True, many=True)
Milestones = Annotated[Sequence[int], _ASCENDING]
Flag = Literal[True, False]


def _admit(owner: str, name: str, hint: Any, value: Any) -> Any:
    """Return a hyper-parameter in normal form, or raise: what, allowed, got."""
    args, kind, allowed = typing.get_args(hint), typing.get_origin(hint), 'a function'
    if type(None) in args:
        return _admit(owner, name, args[0], value)
    try:
        if kind is Annotated:
            allowed = args[1].allowed
            return args[1](value)
        if kind is Literal:
            allowed = 'one of ' + ', '.join(map(repr, args))
            return args[args.index(value)]
        if kind is Callable and not callable(value):
            raise TypeError
        return value
    except (TypeError, ValueError) as e:
        error = TypeError if isinstance(e, TypeError) else ValueError
        raise error(f'{owner}: {name} must be {allowed}, got {value!r}') from None


# --- from a formula to a public schedule
class Family(Protocol[P]):
    """The schedules of one formula: call it with a base value and the hyper-parameters."""

    pair: Callable[Concatenate[Any, P], Pair]  # (step, *hyper), unchecked
    check: Callable[Concatenate[str, P], dict[str, Any]]  # (owner, *hyper) -> all, in normal form

    def __call__(self, base: Scalar, *args: P.args, **kwargs: P.kwargs) -> Schedule:
        """Return the schedule ``f(step)``."""


def _schedule(formula: Callable[Concatenate[Any, Any, P], Pair]) -> Family[P]:
    """Turn ``formula(xp, t, *hyper)`` into the factory of its schedules, with pair and check."""
    name, hints = formula.__name__, typing.get_type_hints(formula, include_extras=True)
    parameters = list(inspect.signature(formula).parameters.values())[2:]
    # A formula that isn't affine asks for the base by name.
    signature = inspect.Signature([p for p in parameters if p.name != 'base'])
    pair = functools.partial(_evaluate, formula)

    def check(owner: str, /, *args: Any, **kwargs: Any) -> dict[str, Any]:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError as e:
            raise TypeError(f'{owner}: {e}; it takes {", ".join(signature.parameters)}') from None
        return {
            k: p.default
            if given.get(k, p.default) is p.default
            else _admit(owner, k, hints[k], given[k])
            for k, p in signature.parameters.items()
        }

    @functools.wraps(formula)
    def factory(base: Any, *args: Any, **kwargs: Any) -> Schedule:
        base, hyper = _admit(name, 'base', Real, base), check(name, *args, **kwargs)
        if len(signature.parameters) < len(parameters):
            hyper['base'] = base

        def schedule(step: Any) -> Any:
            a, b = pair(step, **hyper)
            return a + b * base

        return schedule

    first = inspect.Parameter('base', inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation='Real')
    public: Any = factory
    public.__signature__ = inspect.Signature([first, *signature.parameters.values()])
    public.pair, public.check = pair, check
    return public


def _is_jax(x: Any) -> bool:
    return isinstance(x, jax.Array) or (isinstance(x, list | tuple) and any(map(_is_jax, x)))


def _evaluate(formula: Callable[..., Any], t: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Call ``formula(xp, t, ...)`` with xp = numpy, or jax.numpy if anything is a JAX array."""
    t = _weak(t)
    if not any(map(_is_jax, (t, *args, *kwargs.values()))):
        with np.errstate(over='ignore'):
            return _weak(formula(np, t, *args, **kwargs))
    integer = _is_jax(t) and jnp.issubdtype(t.dtype, jnp.integer)
    limit = jnp.iinfo(t.dtype if integer else jnp.int32).max
    values = [_weak(x, limit) for x in (t, *args)]
    return formula(jnp, *values, **{k: _weak(x, limit) for k, x in kwargs.items()})


def _weak(x: Any, limit: float = math.inf) -> Any:
    """Return NumPy scalars as Python numbers, and ints that steps can't reach as floats."""
    if isinstance(x, list | tuple):
        return type(x)([_weak(y, limit) for y in x])
    if isinstance(x, np.generic | np.ndarray) and x.ndim == 0:
        x = x.item()
    return float(x) if isinstance(x, int) and x > limit else x


# --- shared by the formulas; a branch that isn't selected must have a finite gradient, too
def _done(xp: Any, t: Any, total: Any) -> Any:
    """The fraction of ``total`` steps that is done, from 0 to 1; 1 if there are none."""
    return xp.where(t >= total, 1.0, xp.clip(t, 0, total) * 1.0 / xp.maximum(total, 1))


def _left(xp: Any, t: Any, total: Any) -> Any:
    """The fraction that is left, from 1 to 0, subtracted in integers; 0 after no steps."""
    return xp.where(t <= 0, 1.0, (total - xp.clip(t, 0, total)) * 1.0 / xp.maximum(total, 1))


def _half_cosine(xp: Any, x: Any) -> Any:
    """(1 - cos(pi x)) / 2: from 0 at 0 to 1 at 1, exactly 0 at 0 and without cancellation there."""
    return xp.square(xp.sin(x * (math.pi / 2)))


def _power(xp: Any, x: Any, k: Any) -> Any:
    """x ** k for x >= 0: float32 can't hold 0.9999999, but it can hold its float64 logarithm."""
    if xp is np or _is_jax(x):
        return xp.power(x, k * 1.0)
    return xp.exp(k * math.log(x)) if x > 0 else xp.where(k == 0, 1.0, 0.0)


def _between(start: Any, up: Any, down: Any = 1.0, end: Any = 0.0) -> Pair:
    """From ``start`` up to the base, then down to ``end``: ``up`` is 1 before ``down`` leaves 1."""
    return start * (1.0 - up) + end * (1.0 - down), up * down


# --- torch's schedules
@_schedule
def constant(xp: Any, t: Any, factor: NonNegative = 1 / 3, total_iters: Count = 5) -> Pair:
    r"""Multiply the base by ``factor`` during the first ``total_iters`` steps (T).

    .. math:: \eta_t = f \eta \text{ if } t < T \text{ else } \eta
    """
    return 0.0, xp.where(t < total_iters, factor, 1.0)


@_schedule
def linear(
    xp: Any,
    t: Any,
    start_factor: NonNegative = 1 / 3,
    end_factor: NonNegative = 1.0,
    total_iters: Count = 5,
) -> Pair:
    r"""Move from ``start_factor`` to ``end_factor`` times the base in ``total_iters`` steps (T).

    .. math:: \eta_t = (f_0 + (f_1 - f_0) \min(t / T, 1))\,\eta
    """
    return 0.0, start_factor + (end_factor - start_factor) * _done(xp, t, total_iters)


@_schedule
def step(xp: Any, t: Any, step_size: PositiveCount = 30, gamma: NonNegative = 0.1) -> Pair:
    r"""Multiply by ``gamma`` every ``step_size`` steps (s).

    .. math:: \eta_t = \gamma^{\lfloor t / s \rfloor}\,\eta
    """
    return 0.0, _power(xp, gamma, t // step_size)


@_schedule
def multistep(
    xp: Any, t: Any, milestones: Milestones = (30, 60, 90), gamma: NonNegative = 0.1
) -> Pair:
    r"""Multiply by ``gamma`` at each of ``milestones``, ascending steps; twice at one named twice.

    .. math:: \eta_t = \gamma^{|\{i : m_i \le t\}|}\,\eta
    """
    return 0.0, _power(xp, gamma, sum(xp.where(t >= m, 1, 0) for m in milestones))


@_schedule
def exponential(xp: Any, t: Any, gamma: NonNegative = 0.95) -> Pair:
    r"""Multiply by ``gamma`` at every step.

    .. math:: \eta_t = \gamma^t\,\eta
    """
    return 0.0, _power(xp, gamma, t)


@_schedule
def cosine(xp: Any, t: Any, T_max: PositiveCount = 50, eta_min: Real = 0.0) -> Pair:
    r"""Anneal to ``eta_min`` in ``T_max`` steps, then back, and so on: a cosine.

    .. math:: \eta_t = \eta_{min} + (\eta - \eta_{min}) (1 + \cos(\pi t / T_{max})) / 2
    """
    rest = t % T_max
    left = xp.where((t // T_max) % 2 == 0, T_max - rest, rest)
    return _between(eta_min, _half_cosine(xp, left * 1.0 / T_max))


@_schedule
def cosine_restarts(
    xp: Any, t: Any, T_0: PositiveCount = 10, T_mult: PositiveCount = 1, eta_min: Real = 0.0
) -> Pair:
    r"""Anneal to ``eta_min`` in ``T_0`` steps, restart, each time ``T_mult`` (an int) times longer.

    .. math:: \eta_t = \eta_{min} + (\eta - \eta_{min}) (1 + \cos(\pi T_{cur} / T_i)) / 2
    """
    # In units of T_0, a cycle begins at 0, 1, 1 + M, 1 + M + M^2 ...: found by comparing integers,
    # where a logarithm would miss it.
    begin = units = t // T_0
    if T_mult > 1:
        last = np.max(units) if xp is np else 2**31 - 1
        begin, start, length = 0, 1, 1
        while start <= last:
            begin = begin + xp.where(units >= start, length, 0)
            length *= T_mult
            start += length
    cycle = (begin * (T_mult - 1.0) + 1.0) * T_0
    return _between(eta_min, _half_cosine(xp, 1.0 - (t - begin * T_0) / cycle))


@_schedule
def polynomial(xp: Any, t: Any, total_iters: PositiveCount = 5, power: NonNegative = 1.0) -> Pair:
    r"""Decay to 0 in ``total_iters`` steps (T), as the ``power`` p of the fraction that is left.

    .. math:: \eta_t = (1 - \min(t / T, 1))^p\,\eta
    """
    left = _left(xp, t, total_iters)
    end = xp.where(power == 0, 1.0, 0.0)
    return 0.0, xp.where(left > 0, xp.power(xp.where(left > 0, left, 1.0), power * 1.0), end)


@_schedule
def cyclic(
    xp: Any,
    t: Any,
    max_lr: Real = 0.01,
    step_size_up: PositiveCount = 2000,
    step_size_down: PositiveCount | None = None,
    mode: Literal['triangular', 'triangular2', 'exp_range'] = 'triangular',
    gamma: NonNegative = 1.0,
    scale_fn: Callable[[Any], Any] | None = None,
    scale_mode: Literal['cycle', 'iterations'] = 'cycle',
) -> Pair:
    r"""Rise to ``max_lr`` in ``step_size_up`` steps, fall back in ``step_size_down``, and so on.

    .. math:: \eta_t = \eta + (\eta_{max} - \eta)\,\Lambda_t\,s_t

    The height s is 1 in ``mode`` 'triangular', halved from cycle to cycle in 'triangular2',
    ``gamma`` to the step in 'exp_range', or ``scale_fn`` of the cycle (counted from 1) or, in
    ``scale_mode`` 'iterations', of the step. Momentum: base max_momentum, max_lr base_momentum.
    """
    down = step_size_up if step_size_down is None else step_size_down
    cycle, rest = t // (step_size_up + down), t % (step_size_up + down)
    fall = (step_size_up + down - rest) * 1.0 / down
    weight = xp.where(rest <= step_size_up, rest * 1.0 / step_size_up, fall)
    if scale_fn is not None:
        weight = weight * scale_fn(cycle + 1 if scale_mode == 'cycle' else t)
    elif mode != 'triangular':
        weight = weight * (_power(xp, gamma, t) if mode == 'exp_range' else _power(xp, 0.5, cycle))
    return max_lr * weight, 1.0 - weight


@_schedule
def one_cycle(
    xp: Any,
    t: Any,
    max_lr: Real,
    total_steps: PositiveCount,
    pct_start: Fraction = 0.3,
    anneal_strategy: Literal['cos', 'linear'] = 'cos',
    final_div_factor: Positive = 1e4,
    three_phase: Flag = False,
) -> Pair:
    r"""Rise to ``max_lr`` in the part ``pct_start`` of ``total_steps``, then fall below the base.

    .. math:: \eta \to \eta_{max} \to \eta / f, \quad \eta \to \eta_{max} \to \eta \to \eta / f

    The base is torch's max_lr / div_factor, f ``final_div_factor``, and the phases, two or
    ``three_phase``, are 'cos' or 'linear'. Momentum: base max_momentum, max_lr base_momentum, f 1.
    """
    initial, peak, final = (0.0, 1.0), (max_lr, 0.0), (0.0, 1.0 / final_div_factor)
    last = total_steps - 1
    phases: list[Any] = [(pct_start * total_steps - 1.0, initial, peak), (last, peak, final)]
    if three_phase:
        phases[1:] = [(2 * pct_start * total_steps - 2.0, peak, initial), (last, initial, final)]
    a = b = begin = 0.0
    reached = True  # whether all phases before this one are over
    for end, (a0, b0), (a1, b1) in phases:
        whole = 0 if _is_jax(end) else math.floor(end)  # for the exact sign of t - end
        past = (t - whole) * 1.0 - (end - whole)
        left = xp.clip(-past / xp.where(end == begin, 1.0, end - begin), 0.0, 1.0)
        w = left if anneal_strategy == 'linear' else _half_cosine(xp, left)
        a = xp.where(reached, a0 * w + a1 * (1.0 - w), a)
        b = xp.where(reached, b0 * w + b1 * (1.0 - w), b)
        begin, reached = end, reached & (past > 0)
    return a, b


@_schedule
def lambda_(xp: Any, t: Any, fn: Callable[[Any], Any]) -> Pair:
    r"""Multiply the base by ``fn`` of the step.

    .. math:: \eta_t = f(t)\,\eta
    """
    return 0.0, fn(t)


@_schedule
def swa(
    xp: Any,
    t: Any,
    swa_lr: Real,
    anneal_epochs: Count = 10,
    anneal_strategy: Literal['cos', 'linear'] = 'cos',
) -> Pair:
    r"""Anneal to ``swa_lr`` in ``anneal_epochs`` steps (T): ``anneal_strategy`` 'cos' or 'linear'.

    .. math:: \eta_t = \eta_{swa} + (\eta - \eta_{swa})\,\alpha(1 - \min(t / T, 1))
    """
    left = xp.where(t < anneal_epochs, _left(xp, t, anneal_epochs), 0.0)
    return _between(swa_lr, left if anneal_strategy == 'linear' else _half_cosine(xp, left))


def sequential(schedules: Sequence[Schedule], milestones: Sequence[int]) -> Schedule:
    r"""Follow each of ``schedules`` (or pairs), from its own 0, up to the next of ``milestones``.

    .. math:: \eta_t = f_i(t - m_i), \quad m_i \le t < m_{i+1}
    """
    at = _admit('sequential', 'milestones', Milestones, milestones)
    if len(schedules) != len(at) + 1:
        raise ValueError(f'sequential: {len(schedules)} schedules need 1 milestone less, got {at}')
    return functools.partial(_evaluate, _join, schedules=list(schedules), milestones=at)


def _join(xp: Any, t: Any, schedules: Sequence[Schedule], milestones: Sequence[Any]) -> Any:
    if xp is np and np.ndim(t) == 0:
        i = bisect_right(milestones, t)
        return schedules[i](t - milestones[i - 1] if i else t)
    value: Any = None
    for f, begin, end in zip(schedules, [0, *milestones], [*milestones, None], strict=True):
        # One that isn't running stays at its nearest step, where it is finite.
        new = f(xp.clip(t - begin, 0, None if end is None else end - begin))
        chosen = functools.partial(xp.where, t >= begin)
        value = new if value is None else jax.tree.map(chosen, new, value)
    return value


# --- optax's and braintools'
@_schedule
def exponential_decay(
    xp: Any,
    t: Any,
    decay_steps: PositiveCount = 1000,
    decay_rate: Positive = 0.96,
    transition_begin: Count = 0,
    staircase: Flag = False,
    end_value: Real | None = None,
    base: Scalar = 1.0,
) -> Pair:
    r"""Decay by ``decay_rate`` (r) in ``decay_steps`` (s), from ``transition_begin`` (t0) on.

    .. math:: \eta_t = r^{\max(t - t_0, 0) / s}\,\eta

    A ``staircase`` rounds the exponent down; ``end_value`` bounds the value.
    """
    since = xp.maximum(t - transition_begin, 0)
    b = _power(xp, decay_rate, since // decay_steps if staircase else since * 1.0 / decay_steps)
    if end_value is None:
        return 0.0, b
    beyond = xp.where(decay_rate < 1, b * base < end_value, b * base > end_value)
    return xp.where(beyond, end_value, 0.0), xp.where(beyond, 0.0, b)


def piecewise_constant(boundaries: Sequence[int], values: Sequence[Scalar]) -> Schedule:
    r"""Take one of ``values`` after the other, the next at each of ``boundaries``.

    .. math:: \eta_t = v_i, \quad b_i \le t < b_{i+1}
    """
    owner = 'piecewise_constant'
    at = _admit(owner, 'boundaries', Milestones, boundaries)
    each = [_admit(owner, 'values', Real, v) for v in values]
    if len(each) != len(at) + 1:
        raise ValueError(f'{owner}: {len(at)} boundaries need {len(at) + 1} values, got {values!r}')
    return sequential([functools.partial(lambda v, t: v, v) for v in each], at)


@_schedule
def warmup(xp: Any, t: Any, warmup_epochs: Count = 5, warmup_start_lr: Real = 0.0) -> Pair:
    r"""Rise from ``warmup_start_lr`` on a straight line, in ``warmup_epochs`` steps (W).

    .. math:: \eta_t = \eta_0 + (\eta - \eta_0) \min(t / W, 1)
    """
    return _between(warmup_start_lr, _done(xp, t, warmup_epochs))


@_schedule
def warmup_cosine(
    xp: Any,
    t: Any,
    warmup_steps: Count = 1000,
    total_steps: PositiveCount = 10000,
    warmup_start_lr: Real = 0.0,
    eta_min: Real = 0.0,
) -> Pair:
    r"""Rise from ``warmup_start_lr`` in ``warmup_steps``, anneal to ``eta_min``: ``total_steps``.

    .. math:: \eta_t = \eta_{min} + (\eta - \eta_{min}) (1 + \cos(\pi (t - W) / (T - W))) / 2
    """
    decay = xp.maximum(total_steps - warmup_steps, 0)
    return _between(
        warmup_start_lr,
        _done(xp, t, warmup_steps),
        _half_cosine(xp, _left(xp, t - warmup_steps, decay)),
        eta_min,
    )


# --- recipes
@_schedule
def wsd(
    xp: Any,
    t: Any,
    warmup_steps: Count,
    stable_steps: Count,
    decay_steps: PositiveCount,
    decay: Literal['linear', 'cosine', '1-sqrt'] = 'linear',
    warmup_start_lr: Real = 0.0,
    eta_min: Real = 0.0,
) -> Pair:
    r"""Rise from ``warmup_start_lr``, stay, decay to ``eta_min``: a trapezoid (arXiv:2404.06395).

    .. math:: \eta_t = \min(t / W, 1)\,d(\max(t - W - S, 0) / D)\,\eta

    The ``decay`` d(x) is 1 - x, half a cosine, or :math:`1 - \sqrt x` (arXiv:2405.18392).
    """
    since = xp.maximum(t - warmup_steps, 0) - stable_steps
    down = _left(xp, since, decay_steps)
    if decay == 'cosine':
        down = _half_cosine(xp, down)
    elif decay == '1-sqrt':
        done = xp.where(since > 0, _done(xp, since, decay_steps), 1.0)
        down = xp.where(since > 0, 1.0 - xp.sqrt(done), 1.0)
    return _between(warmup_start_lr, _done(xp, t, warmup_steps), down, eta_min)


@_schedule
def inverse_sqrt(
    xp: Any,
    t: Any,
    warmup_steps: Count = 4000,
    warmup_start_lr: Real = 0.0,
    timescale: PositiveCount | None = None,
) -> Pair:
    r"""Rise from ``warmup_start_lr`` in ``warmup_steps`` (W), then decay as a root of the step.

    .. math:: \eta_t = \min(t / W, \sqrt{S / (S + t - W)})\,\eta

    The ``timescale`` S is W if not given (arXiv:1706.03762).
    """
    scale = xp.maximum(warmup_steps, 1) if timescale is None else timescale
    root = xp.sqrt(scale / (xp.maximum(t - warmup_steps, 0) * 1.0 + scale))
    return _between(warmup_start_lr, _done(xp, t, warmup_steps), root)


@_schedule
def inverse_time(
    xp: Any,
    t: Any,
    decay_rate: NonNegative = 1.0,
    decay_steps: PositiveCount = 1,
    staircase: Flag = False,
) -> Pair:
    r"""Divide by 1 + ``decay_rate`` (r) times the periods of ``decay_steps`` (s), or ``staircase``.

    .. math:: \eta_t = \eta / (1 + r t / s)
    """
    periods = t // decay_steps if staircase else t * 1.0 / decay_steps
    return 0.0, 1.0 / (1.0 + decay_rate * periods)


@_schedule
def rex(xp: Any, t: Any, total_iters: PositiveCount, eta_min: Real = 0.0) -> Pair:
    r"""Decay to ``eta_min`` in ``total_iters`` steps (T), slowly, then fast (arXiv:2107.04197).

    .. math:: \eta_t = \frac{1 - t / T}{1/2 + (1 - t / T) / 2}\,\eta
    """
    left = _left(xp, t, total_iters)
    return _between(eta_min, 2.0 * left / (1.0 + left))
