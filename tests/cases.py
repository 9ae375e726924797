"""The registry of the tests: a row per optimizer, and what the contract tests share.

A later algorithm gets every promise tested by adding one row to `CASES`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import brainstate
import cases_adaptive
import cases_authors
import cases_averaged
import cases_matrix
import cases_white_kron
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from reference_curvature import lbfgs

import braintools_optim as bo

PROMISES = (
    *('live', 'contexts', 'vmap', 'groups', 'clipping', 'growth', 'atomic', 'shapes'),
    *('gradients', 'resume', 'outer_trace', 'donation', 'no_absent_count', 'masters'),
    *('accumulation', 'constraints', 'infinities'),
)


@dataclass(frozen=True)
class Case:
    """One optimizer as it is constructed in the tests.

    ``oracle`` names the torch.optim class whose numbers it has (None: there is none), ``rule`` is
    its update in numpy. ``traits`` say what a test must know: ``momentum`` (the first update from
    zero does not show it), ``late`` (some steps do not show some numbers), ``rests`` (a step
    may leave a parameter where it is), ``contracted`` (XLA contracts its multiplications and
    additions differently when groups change), ``pooled`` (leaves of one shape are computed
    together, alone in other kernels). ``live`` gives two values to move between for every
    live number. ``skip`` maps a promise, or ``live:<number>``, to the reason why it does not apply.
    """

    id: str
    cls: type[bo.OptaxOptimizer]
    kwargs: dict[str, Any]
    rule: Callable
    oracle: str | None = None
    traits: frozenset[str] = frozenset()
    live: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    skip: dict[str, str] = field(default_factory=dict)

    def make(self, **changed: Any) -> Any:
        """Construct the optimizer."""
        return self.cls(**{**self.kwargs, **changed})

    def hyper(self, **changed: Any) -> dict[str, Any]:
        """Return the values for the rule."""
        return {**self.kwargs, **changed}

    def numbers(self, t: int, group: int) -> dict[str, Any]:
        """Return values for every live number that differ from step to step and group to group."""

        def between(i: int, low: Any, high: Any) -> Any:
            if isinstance(low, tuple):
                return tuple(between(i, a, b) for a, b in zip(low, high, strict=True))
            return low + (high - low) * ((0.37 * t + 0.61 * group + 0.23 * i) % 1.0)

        return {k: between(i, *ends) for i, (k, ends) in enumerate(self.live.items())}


class Heavy(bo.OptaxOptimizer):
    """An optimizer as people write them for braintools: a chain built once, by default_tx."""

    def __init__(self, lr=1e-3, momentum=0.9, weight_decay=0.0, grad_clip_norm=None, **more):
        self.momentum = momentum
        super().__init__(
            tx=None, lr=lr, weight_decay=weight_decay, grad_clip_norm=grad_clip_norm, **more
        )

    def default_tx(self):
        transforms = []
        if self.weight_decay > 0:
            transforms.append(optax.add_decayed_weights(self.weight_decay))
        transforms.append(optax.trace(decay=self.momentum))
        transforms.append(optax.scale_by_schedule(self._lr_scheduler))
        return optax.chain(*transforms)


BAKED = {'lr': 0.03, 'betas': (0.8, 0.95), 'weight_decay': 0.05}


def baked_adam(p, g, memory, **h):
    """The rule of the chain below, whatever the optimizer's own numbers are."""
    return reference.adam(p, g, memory, **BAKED)


BAKED_CHAIN = optax.chain(
    optax.add_decayed_weights(BAKED['weight_decay']),
    optax.scale_by_adam(*BAKED['betas']),
    optax.scale(-BAKED['lr']),
)

LR = {'lr': (0.02, 0.2)}
DECAY = {'weight_decay': (0.01, 0.4)}
MOMENTUM = {'momentum': (0.3, 0.95)}
DAMPENING = {'dampening': (0.1, 0.6)}
ADAM = {**LR, 'betas': ((0.7, 0.9), (0.95, 0.99)), 'eps': (1e-8, 1e-2), **DECAY}

# Reasons that several rows share.
STATELESS = {
    'live:momentum': 'built with momentum = 0 it keeps no buffer, and says so when assigned',
    'live:dampening': 'without momentum there is nothing to dampen',
}
NESTEROV = {'live:dampening': 'torch allows no dampening with nesterov'}
SHARED_COUNT = {
    'no_absent_count': "optax's own scale_by_adam counts once for all parameters of a chain"
}

LBFGS = {'lr': (0.3, 1.2), 'tolerance_grad': (0.0, 1.5), 'tolerance_change': (0.0, 0.5)}
OF_GROUP = frozenset({'late', 'rests'})
ONE_HISTORY = {
    'groups': 'a group has one history of all its parameters: groups change it',
    'accumulation': 'its history takes the gradients of all parameters, so it is refused',
}

CASES = [
    Case(
        'sgd',
        bo.SGD,
        {'lr': 0.05},
        reference.sgd,
        'SGD',
        live={**LR, **DECAY},
        skip=STATELESS,
    ),
    Case(
        'sgd-momentum',
        bo.SGD,
        {'lr': 0.05, 'momentum': 0.9},
        reference.sgd,
        'SGD',
        frozenset({'momentum'}),
        live={**LR, **MOMENTUM, **DECAY, **DAMPENING},
    ),
    Case(
        'sgd-dampening',
        bo.SGD,
        {'lr': 0.05, 'momentum': 0.9, 'dampening': 0.5},
        reference.sgd,
        'SGD',
        frozenset({'momentum'}),
        live={**LR, **MOMENTUM, **DECAY, **DAMPENING},
    ),
    Case(
        'sgd-nesterov',
        bo.SGD,
        {'lr': 0.05, 'momentum': 0.9, 'nesterov': True},
        reference.sgd,
        'SGD',
        frozenset({'momentum'}),
        live={**LR, **MOMENTUM, **DECAY},
        skip=NESTEROV,
    ),
    Case(
        'sgd-all',
        bo.SGD,
        {
            **{'lr': 0.05, 'momentum': 0.9, 'dampening': 0.3, 'weight_decay': 0.1},
            **{'maximize': True, 'grad_clip_norm': 2.0, 'grad_clip_value': 0.6},
        },
        reference.sgd,
        'SGD',
        frozenset({'momentum'}),
        live={**LR, **MOMENTUM, **DECAY, **DAMPENING},
    ),
    Case(
        'momentum',
        bo.Momentum,
        {'lr': 0.05, 'momentum': 0.8},
        reference.momentum,
        traits=frozenset({'momentum'}),
        live={**LR, **MOMENTUM, **DECAY},
    ),
    Case(
        'momentum-nesterov',
        bo.MomentumNesterov,
        {'lr': 0.05, 'momentum': 0.8, 'weight_decay': 0.1},
        reference.nesterov,
        traits=frozenset({'momentum'}),
        live={**LR, **MOMENTUM, **DECAY},
    ),
    Case('adam', bo.Adam, {'lr': 0.05}, reference.adam, 'Adam', live=ADAM),
    Case('adam-amsgrad', bo.Adam, {'lr': 0.05, 'amsgrad': True}, reference.adam, 'Adam', live=ADAM),
    Case(
        'adam-decoupled',
        bo.Adam,
        {'lr': 0.05, 'weight_decay': 0.1, 'decoupled_weight_decay': True},
        reference.adam,
        'Adam',
        live=ADAM,
    ),
    Case('adamw', bo.AdamW, {'lr': 0.05}, reference.adamw, 'AdamW', live=ADAM),
    Case(
        'adamw-amsgrad',
        bo.AdamW,
        {'lr': 0.05, 'amsgrad': True},
        reference.adamw,
        'AdamW',
        live=ADAM,
    ),
    Case('optax-default', bo.OptaxOptimizer, {'lr': 0.05}, reference.adam, live={**LR, **DECAY}),
    Case(
        'optax-chain',
        bo.OptaxOptimizer,
        {'tx': BAKED_CHAIN, 'lr': 0.05},
        baked_adam,
        traits=frozenset({'contracted'}),
        skip={'live': 'the numbers of a given chain, lr too, are baked into it', **SHARED_COUNT},
    ),
    Case(
        'user-default-tx',
        Heavy,
        {'lr': 0.05, 'momentum': 0.8, 'weight_decay': 0.1},
        reference.momentum,
        traits=frozenset({'momentum'}),
        live=LR,
        skip={'live:weight_decay': 'default_tx bakes it into its chain, and says so when assigned'},
    ),
    *cases_adaptive.rows(Case),
    *cases_authors.rows(Case),
    *cases_averaged.rows(Case),
    *cases_matrix.rows(Case),
    *cases_white_kron.rows(Case),
    Case('lbfgs', bo.LBFGS, {'lr': 0.5}, lbfgs, None, OF_GROUP, LBFGS, ONE_HISTORY),
    Case(
        'lbfgs-all',
        bo.LBFGS,
        {
            **{'lr': 0.5, 'memory_size': 2, 'scale_init_precond': False},
            **{'maximize': True, 'grad_clip_norm': 2.0, 'grad_clip_value': 0.6},
        },
        lbfgs,
        traits=OF_GROUP,
        live={'lr': (0.2, 0.8), 'tolerance_grad': (0.0, 1.0), 'tolerance_change': (0.0, 3.0)},
        skip=ONE_HISTORY,
    ),
]

CASE = {case.id: case for case in CASES}


def over_cases(promise: str, rows: Sequence[Case] = CASES) -> Any:
    """Parametrize a test over every row to which a promise applies."""
    assert promise in PROMISES
    return pytest.mark.parametrize(
        'case',
        [
            pytest.param(
                case,
                id=case.id,
                marks=[pytest.mark.skip(reason=case.skip[promise])] if promise in case.skip else [],
            )
            for case in rows
        ],
    )


def over_classes(promise: str) -> Any:
    """Parametrize a test over the first row of every class.

    For what the base does, whatever a class was constructed with.
    """
    return over_cases(promise, list({case.cls: case for case in reversed(CASES)}.values()))


# ---- the problem all rows solve ----------------------------------------------------------

SHAPES = {'a': (3,), 'block.c.bias': (3,), 'block.c.weight': (2, 3), 's': ()}
"""The arrays: two States of one array, and one State that holds the arrays of `block.c`."""


def nested(by_name: dict[str, Any]) -> dict[str, Any]:
    """Return nested dicts of what is given by dotted names."""
    tree: dict[str, Any] = {}
    for name, value in by_name.items():
        *parents, last = name.split('.')
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = value
    return tree


def start(scale: float = 1.0) -> dict[str, np.ndarray]:
    """Return the initial parameters by name."""
    rng = np.random.default_rng(7)
    return {name: scale * rng.normal(size=shape) for name, shape in SHAPES.items()}


def make_params(values: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a tree of ParamStates; what stands in ``block.c`` is the value of one State.

    The values by name keep their dtype; without them it is JAX's default.
    """
    given = values or {k: jnp.asarray(v, float) for k, v in start().items()}
    tree = nested({k: jnp.array(v) for k, v in given.items()})
    parts = {k: v for k, v in tree.items() if k != 'block'}
    states: dict[str, Any] = {k: brainstate.ParamState(v) for k, v in parts.items()}
    if 'block' in tree:
        states['block'] = {'c': brainstate.ParamState(tree['block']['c'])}
    return states


def gradients(t: int, names: Any = SHAPES) -> dict[str, np.ndarray]:
    """Return the gradients of step ``t`` by name: some signs, sizes and zeros."""
    rng = np.random.default_rng([11, t])
    grads = {name: rng.normal(size=shape) for name, shape in SHAPES.items()}
    if t % 4 == 3:
        grads['block.c.bias'] = np.zeros(3)
    return {name: (1.5 + np.cos(t)) * grads[name] for name in names}


def grads_tree(t: int, dtype: Any = float, names: Any = SHAPES) -> dict[str, Any]:
    """Return the gradients of step ``t`` as a tree of arrays."""
    return nested({k: jnp.asarray(g, dtype) for k, g in gradients(t, names).items()})


def stacked_grads(steps: int, dtype: Any = float) -> dict[str, Any]:
    """Return the gradients of all steps as one tree, for loops."""
    each = [gradients(t) for t in range(steps)]
    return nested({k: jnp.asarray(np.stack([g[k] for g in each]), dtype) for k in SHAPES})


def pull(values: Any, t: Any) -> Any:
    """Return gradients that depend on the parameters, of any tree of arrays, at step ``t``."""
    return jax.tree.map(lambda p: 0.6 * p + 0.2 * jnp.sin(3.0 * p + 0.5 * t), values)


def split(params: dict[str, Any], groups: int) -> list[dict[str, Any]]:
    """Return the tree of parameters as the trees of 1, 2 or 3 groups."""
    parts = [['a', 'block', 's']] if groups == 1 else [['a', 's'], ['block'], []]
    parts = [['a'], ['block'], ['s']] if groups == 3 else parts
    return [{k: params[k] for k in part} for part in parts if part]


def group_of(name: str) -> int:
    """Return in which of two groups a parameter is."""
    return int(name.startswith('block'))


def build(case: Case, params: dict[str, Any], groups: int = 1, **changed: Any) -> Any:
    """Construct a row's optimizer over the parameters in 1, 2 or 3 groups of equal values."""
    first, *rest = split(params, groups)
    opt = case.make(**changed).register_trainable_weights(first)
    for part in rest:
        opt.add_param_group(part)
    return opt


def reference_for(
    case: Case, values: dict[str, Any] | None = None, group_of: Callable = group_of
) -> tuple[Any, Callable]:
    """Return the row's reference, and its step, which knows clipping and maximize."""
    ref = reference.Reference(case.rule, values or start(), group_of)
    common = ('grad_clip_norm', 'grad_clip_value', 'maximize', 'tx')

    def step(grads: dict[str, Any], hyper: Any = None, **bounds: Any) -> None:
        per_name = {
            name: {
                k: v
                for k, v in case.hyper(**(hyper(name) if hyper else {})).items()
                if k not in common
            }
            for name in ref.params
        }
        if case.kwargs.get('maximize'):
            grads = {k: None if g is None else -g for k, g in grads.items()}
        ref.step(
            grads,
            per_name,
            bounds.get('grad_clip_norm', case.kwargs.get('grad_clip_norm', np.inf)),
            bounds.get('grad_clip_value', case.kwargs.get('grad_clip_value', np.inf)),
        )

    return ref, step
