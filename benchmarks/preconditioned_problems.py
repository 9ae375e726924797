"""Two problems that preconditioning is for, and what each optimizer reaches on them.

    python -m benchmarks.preconditioned_problems [--seeds 3] [--json FILE]

P1 is a quadratic .5 |A (W - W*) B|^2 of 16 x 12, A and B of condition number 31.6, with noise in
every gradient; P2 a matrix factorisation .5 mean((U V^T - M)^2) of rank 4 and 24 x 20, without. 600
steps, the learning rate falling to zero.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from braintools_optim import transforms

STEPS = 600
SHOWN = (100, 300, 600)
NOISE = 0.003


def whitener(style: str) -> Callable[[Any, Any], optax.GradientTransformation]:
    make = getattr(transforms, style)
    options = {'weight_decay': 0.0, 'block_size': 32, 'dtype': jnp.float32}
    return lambda lr, seed: make(lr, seed=seed, **options)


OPTIMIZERS: dict[str, tuple[float, Callable[[Any, Any], optax.GradientTransformation]]] = {
    'adam': (0.02, lambda lr, seed: optax.adam(lr)),
    'mars': (0.02, lambda lr, seed: transforms.mars(lr, b1=0.95, b2=0.99, gamma=0.025)),
    'ademamix': (0.01, lambda lr, seed: transforms.ademamix(lr, b3=0.99, alpha=5.0)),
    'quad': (0.1, whitener('quad')),
    'skew': (0.1, whitener('skew')),
}


def rotation(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.linalg.qr(rng.normal(size=(n, n)))[0]


def conditioned(rng: np.random.Generator, n: int) -> jax.Array:
    """Return a matrix whose singular values are spread over 1.5 decades."""
    values = 10.0 ** np.linspace(0.0, -1.5, n)
    return jnp.asarray(rotation(rng, n) * values @ rotation(rng, n), jnp.float32)


def quadratic() -> tuple[dict, Callable[[dict], jax.Array], float]:
    """Return where P1 begins, its loss, and the noise of its gradients."""
    rng = np.random.default_rng(0)
    a, b = conditioned(rng, 16), conditioned(rng, 12)
    best = jnp.asarray(rng.normal(size=(16, 12)), jnp.float32)
    return (
        {'w': jnp.zeros((16, 12))},
        lambda p: 0.5 * jnp.sum(jnp.square(a @ (p['w'] - best) @ b)),
        NOISE,
    )


def factorisation() -> tuple[dict, Callable[[dict], jax.Array], float]:
    """Return where P2 begins, its loss, and no noise."""
    rng = np.random.default_rng(1)
    u, v, u0, v0 = (jnp.asarray(rng.normal(size=(n, 4)), jnp.float32) for n in (24, 20, 24, 20))
    start = {'u': 0.5 * u0, 'v': 0.5 * v0}
    return start, lambda p: 0.5 * jnp.mean(jnp.square(p['u'] @ p['v'].T - u @ v.T)), 0.0


PROBLEMS = {'quadratic': quadratic, 'factorisation': factorisation}


def losses(problem: str, optimizer: str, seeds: int) -> np.ndarray:
    """Return the loss after each step for each seed of the optimizer's draws; noise is the same."""
    params, loss, noise = PROBLEMS[problem]()
    peak, make = OPTIMIZERS[optimizer]

    def run(seed: jax.Array) -> jax.Array:
        tx = make(optax.linear_schedule(peak, 0.0, STEPS), seed)

        def one(carry: Any, key: jax.Array) -> tuple[Any, jax.Array]:
            params, state = carry
            grads = jax.grad(loss)(params)
            draws = optax.tree.random_like(key, grads)
            grads = jax.tree.map(lambda g, d: g + noise * d, grads, draws)
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), loss(params)

        keys = jax.random.split(jax.random.key(7), STEPS)
        return jax.lax.scan(one, (params, tx.init(params)), keys)[1]

    return np.asarray(jax.jit(jax.vmap(run))(jnp.arange(seeds)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--json')
    given = parser.parse_args()
    found: dict[str, Any] = {}
    head = ' | '.join(f'step {s}' for s in SHOWN)
    print(f'| problem | optimizer | seed | {head} |\n|---|---|---|{"---|" * len(SHOWN)}')
    for problem in PROBLEMS:
        for optimizer in OPTIMIZERS:
            random = optimizer in ('quad', 'skew')
            curves = losses(problem, optimizer, given.seeds if random else 1)
            found[f'{problem}/{optimizer}'] = curves[:, np.array(SHOWN) - 1].tolist()
            for seed, curve in enumerate(curves):
                cells = ' | '.join(f'{curve[s - 1]:.3e}' for s in SHOWN)
                print(f'| {problem} | {optimizer} | {seed if random else ""} | {cells} |')
    if given.json:
        with open(given.json, 'w') as file:
            json.dump(found, file, indent=1)


if __name__ == '__main__':
    main()
