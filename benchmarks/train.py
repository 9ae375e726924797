"""What a training step costs beside a hand-written jax.jit and brainstate.transform.jit.

    python -m benchmarks.train [--json FILE]

T1 `bo.train_step` beside a hand-written `jax.jit` with donated arguments, and beside the same step
in `brainstate.transform.jit`; T2 the same with a scheduler in the program, and what that adds; T3
what `scan` saves. T1 also says how much of the written bytes is updated in place.
"""

from __future__ import annotations

import functools
from typing import Any

import brainstate
import jax
import jax.numpy as jnp
import optax

import braintools_optim as bo

from .measure import Ratio, Step, command, compare
from .step import model, states

CALLS = 200
X, Y = jnp.ones((8, 4)), jnp.zeros((8, 4))


def loss_of(values: list, x: Any, y: Any) -> Any:
    for value in values:
        x = jnp.tanh(x @ value['weight'] + value['bias'])
    return jnp.mean((x - y) ** 2)


def ours(leaves: int, scheduled: bool = False, shares: list | None = None) -> Step:
    parts = states(model(leaves))
    opt = bo.AdamW(1e-3).register_trainable_weights(parts)
    scheduler = bo.CosineAnnealingLR(opt, T_max=100_000) if scheduled else None

    def loss(x: Any, y: Any) -> Any:
        return loss_of([p.value for p in parts.values()], x, y)

    step = bo.train_step(parts, opt, loss, scheduler)
    if shares is not None:
        shares.append(aliased(step, parts, opt))
    return lambda: step(X, Y)


def aliased(step: Any, parts: dict, opt: Any) -> float:
    """Return how much of the parameters and the optimizer's state is updated in place."""
    written = jax.tree.leaves(([p.value for p in parts.values()], opt._core.value))
    return step.compiled(X, Y).memory_analysis().alias_size_in_bytes / sum(
        x.nbytes for x in written
    )


def by_hand(leaves: int) -> Step:
    """Return the step as one writes it in JAX: parameters and state are donated."""
    params, tx = list(model(leaves).values()), optax.adamw(1e-3, weight_decay=0.01)
    carry = [params, tx.init(params)]

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def train(params: Any, state: Any, x: Any, y: Any) -> Any:
        loss, grads = jax.value_and_grad(loss_of)(params, x, y)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    def step() -> Any:
        carry[0], carry[1], loss = train(*carry, X, Y)
        return loss

    return step


def in_brainstate(leaves: int, scheduled: bool = False) -> Step:
    """Return the step as one writes it in brainstate, with our optimizer."""
    parts = states(model(leaves))
    opt = bo.AdamW(1e-3).register_trainable_weights(parts)
    scheduler = bo.CosineAnnealingLR(opt, T_max=100_000) if scheduled else None

    def loss(x: Any, y: Any) -> Any:
        return loss_of([p.value for p in parts.values()], x, y)

    @brainstate.transform.jit
    def train(x: Any, y: Any) -> Any:
        grads, value = brainstate.transform.grad(loss, parts, return_value=True)(x, y)
        opt.step(grads)
        if scheduler is not None:
            scheduler.step()
        return value

    return lambda: train(X, Y)


def scanned(leaves: int, steps: int) -> Step:
    parts = states(model(leaves))
    opt = bo.AdamW(1e-3).register_trainable_weights(parts)
    step = bo.train_step(parts, opt, lambda x, y: loss_of([p.value for p in parts.values()], x, y))
    batches = jnp.stack([X] * steps), jnp.stack([Y] * steps)
    return lambda: step.scan(batches)


def repeated(leaves: int, steps: int) -> Step:
    step = ours(leaves)

    def run() -> Any:
        for _ in range(steps):
            out = step()
        return out

    return run


def t1(leaves: int = 10) -> list[Ratio]:
    shares: list[float] = []
    rows = [
        compare(
            f'T1 train_step, {leaves} leaves / hand-written donated jax.jit',
            lambda: ours(leaves, shares=shares),
            lambda: by_hand(leaves),
            calls=CALLS,
            target=1.3,
        ),
        compare(
            f'T1 train_step, {leaves} leaves / the same step in brainstate.transform.jit',
            lambda: ours(leaves),
            lambda: in_brainstate(leaves),
            calls=CALLS,
            target=0.6,
        ),
    ]
    rows[0].name += f' ({min(shares):.1%} of the written bytes in place)'
    return rows


def t2(leaves: int = 10) -> list[Ratio]:
    return [
        compare(
            f'T2 train_step with a scheduler, {leaves} leaves / without',
            lambda: ours(leaves, scheduled=True),
            lambda: ours(leaves),
            calls=CALLS,
            target=1.1,
        ),
        compare(
            f'T2 with a scheduler, {leaves} leaves / the same in brainstate.transform.jit',
            lambda: ours(leaves, scheduled=True),
            lambda: in_brainstate(leaves, scheduled=True),
            calls=CALLS,
            target=0.6,
        ),
    ]


def t3(leaves: int = 10, steps: int = 50) -> list[Ratio]:
    return [
        compare(
            f'T3 scan over {steps} steps, {leaves} leaves / as many calls',
            lambda: scanned(leaves, steps),
            lambda: repeated(leaves, steps),
            calls=10,
        )
    ]


if __name__ == '__main__':
    command('python -m benchmarks.train', {'T1': t1, 'T2': t2, 'T3': t3})
