"""How white the updates of Quad, Skew and others are, by step.

    python -m benchmarks.whitening [--seeds 3] [--json FILE]

Gradients are G = L Z R with normal Z of 16 x 12, and fixed L and R that are normal, too. Of the
updates U the table tells the root mean square, how far the covariance of their rows and columns is
from one, |E[U U^T] / 12 - I| / sqrt(16) and likewise of columns, and the condition number of the
former. There is no momentum, so that each update tells of the preconditioner alone.
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

STEPS = 1500
SPANS = ((0, 20), (100, 300), (1000, 1500))
ROWS, COLS = 16, 12


def whitener(style: str, dtype: Any) -> Callable[[Any], optax.GradientTransformation]:
    make = getattr(transforms, f'scale_by_{style}')
    return lambda seed: make(lr_style=None, b1=0.0, block_size=16, dtype=dtype, seed=seed)


OPTIMIZERS: dict[str, Callable[[Any], optax.GradientTransformation]] = {
    'quad float32': whitener('quad', jnp.float32),
    'skew float32': whitener('skew', jnp.float32),
    'quad bfloat16': whitener('quad', jnp.bfloat16),
    'skew bfloat16': whitener('skew', jnp.bfloat16),
    'adam': lambda seed: optax.scale_by_adam(b1=0.0),
    'muon': lambda seed: transforms.scale_by_muon(momentum=0.0, nesterov=False),
    'none': lambda seed: optax.identity(),
}


def measured(name: str, seeds: int) -> dict[str, np.ndarray]:
    """Return root mean square, errors and condition number, (seeds, spans)."""
    rng = np.random.default_rng(0)
    left, right = (jnp.asarray(rng.normal(size=(n, n)), jnp.float32) for n in (ROWS, COLS))

    def run(seed: jax.Array) -> tuple[jax.Array, ...]:
        tx = OPTIMIZERS[name](seed)

        def one(state: Any, key: jax.Array) -> tuple[Any, jax.Array]:
            g = left @ jax.random.normal(key, (ROWS, COLS)) @ right
            update, state = tx.update({'w': g}, state)
            return state, update['w']

        keys = jax.random.split(jax.random.key(5 + seed), STEPS)
        updates = jax.lax.scan(one, tx.init({'w': jnp.zeros((ROWS, COLS))}), keys)[1]
        found = []
        for start, stop in SPANS:
            u = updates[start:stop]
            rows = jnp.einsum('tij,tkj->ik', u, u) / (len(u) * COLS)
            cols = jnp.einsum('tij,tik->jk', u, u) / (len(u) * ROWS)
            off = [jnp.linalg.norm(c - jnp.eye(len(c))) / len(c) ** 0.5 for c in (rows, cols)]
            found.append((jnp.sqrt(jnp.mean(u * u)), *off, jnp.linalg.cond(rows)))
        return tuple(jnp.stack(x) for x in zip(*found, strict=True))

    values = jax.jit(jax.vmap(run))(jnp.arange(seeds))
    return dict(zip(('rms', 'rows', 'cols', 'condition'), map(np.asarray, values), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--json')
    given = parser.parse_args()
    print('| optimizer | steps | rms | error of rows | of columns | condition number |')
    print('|---|---|---|---|---|---|')
    everything = {}
    for name in OPTIMIZERS:
        found = measured(name, given.seeds)
        everything[name] = {k: v.tolist() for k, v in found.items()}
        for i, (start, stop) in enumerate(SPANS):
            cells = ' | '.join(f'{found[k][:, i].mean():.3f}' for k in ('rms', 'rows', 'cols'))
            condition = found['condition'][:, i].mean()
            print(f'| {name} | {start}-{stop} | {cells} | {condition:.3g} |', flush=True)
    if given.json:
        with open(given.json, 'w') as file:
            json.dump(everything, file, indent=1)


if __name__ == '__main__':
    main()
