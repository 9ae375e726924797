"""AdEMAMix on Rosenbrock's function, after the figure of its paper (arXiv:2409.03137).

    python -m benchmarks.ademamix_rosenbrock [--json FILE] [--plot FILE]

Adam with several beta1 against AdEMAMix with several beta3, whose alpha and beta3 are warmed up
over the run: distance to the optimum by iteration, as a table and a plot.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import brainstate
import jax
import jax.numpy as jnp
import numpy as np

import braintools_optim as bo

from .measure import environment

STEPS = 10_000
AT = (100, 300, 1000, 3000, 10_000)  # iterations in the table
START = (-3.0, 5.0)
OPTIMUM = np.ones(2)
LRS = (1e-3, 3e-3, 1e-2, 3e-2)  # each optimizer is given the one with which it ends nearest
B2 = 0.999


def loss(x: jax.Array) -> jax.Array:
    return (1.0 - x[0]) ** 2 + 100.0 * (x[1] - x[0] ** 2) ** 2


def adam(b1: float) -> Callable[[float], Any]:
    return lambda lr: bo.Adam(lr, betas=(b1, B2))


def ademamix(b3: float, alpha: float) -> Callable[[float], Any]:
    return lambda lr: bo.AdEMAMix(
        lr, betas=(0.9, B2), b3=b3, alpha=alpha, T_alpha=STEPS, T_b3=STEPS
    )


OPTIMIZERS = {
    **{f'Adam, beta1 {b1}': adam(b1) for b1 in (0.9, 0.99, 0.999, 0.9999)},
    **{f'AdEMAMix, beta3 {b3}, alpha 9': ademamix(b3, 9.0) for b3 in (0.99, 0.999, 0.9999)},
    'AdEMAMix, beta3 0.9999, alpha 2': ademamix(0.9999, 2.0),
}


def descend(make: Callable[[Any], Any]) -> tuple[np.ndarray, float]:
    """Return the points on the way with the best learning rate, and that."""

    def run(lr: jax.Array) -> jax.Array:
        x = brainstate.ParamState(jnp.array(START))
        opt = make(lr).register_trainable_weights({'x': x})

        def step(_: Any) -> jax.Array:
            opt.step({'x': jax.grad(loss)(x.value)})
            return x.value

        return brainstate.transform.for_loop(step, np.arange(STEPS))

    lrs = np.array(LRS)
    ways = np.asarray(jax.jit(jax.vmap(run))(lrs))
    ends = np.linalg.norm(ways[:, -1] - OPTIMUM, axis=-1)
    best = int(np.nanargmin(ends))
    return np.concatenate([[START], ways[best]]), float(lrs[best])


def plot(ways: dict[str, tuple[np.ndarray, float]], path: Path) -> None:
    """Draw the ways and the distances."""
    import matplotlib

    matplotlib.use('agg')
    from matplotlib import pyplot

    figure, (plane, curves) = pyplot.subplots(1, 2, figsize=(13, 5), layout='constrained')
    x, y = np.meshgrid(np.linspace(-3.5, 2.5, 200), np.linspace(-2.0, 10.0, 200))
    levels = np.log10(1e-3 + (1 - x) ** 2 + 100 * (y - x * x) ** 2)
    plane.contourf(x, y, levels, 30, cmap='Greys', alpha=0.6)
    for name, (way, lr) in ways.items():
        style = '--' if name.startswith('Adam,') else '-'
        plane.plot(*way.T, style, label=name, linewidth=1.2)
        distance = np.linalg.norm(way - OPTIMUM, axis=-1)
        curves.loglog(np.arange(1, len(way)), distance[1:], style, label=f'{name}, lr {lr:g}')
    plane.plot(*OPTIMUM, 'k*', markersize=12)
    plane.set(xlim=(-3.5, 2.5), ylim=(-2.0, 10.0), title="ways on Rosenbrock's function")
    curves.set(xlabel='iteration', xlim=(100, STEPS), title='distance to the optimum')
    curves.grid(alpha=0.3)
    curves.legend(fontsize=8)
    figure.savefig(path, dpi=80)


def main() -> None:
    """Run all, print the table, write the plot."""
    docs = Path(__file__).parent.parent / 'docs'
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--json', type=Path)
    parser.add_argument('--plot', type=Path, default=docs / 'ademamix_rosenbrock.png')
    options = parser.parse_args()
    ways = {name: descend(make) for name, make in OPTIMIZERS.items()}
    rows = {}
    print('| optimizer | lr | ' + ' | '.join(f'after {t:,}' for t in AT) + ' |')
    print('|---' * (len(AT) + 2) + '|')
    for name, (way, lr) in ways.items():
        distance = np.linalg.norm(way - OPTIMUM, axis=-1)
        rows[name] = {'lr': lr, 'distance': {t: float(distance[t]) for t in AT}}
        print(f'| {name} | {lr:g} | ' + ' | '.join(f'{distance[t]:.1e}' for t in AT) + ' |')
    plot(ways, options.plot)
    if options.json:
        report = {'environment': environment(), 'start': START, 'rows': rows}
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == '__main__':
    main()
