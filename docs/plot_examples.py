"""Draw what the examples show into docs/examples.png: ``python docs/plot_examples.py``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib
import saiunit as u

matplotlib.use('agg')
from matplotlib import pyplot  # noqa: E402  (the backend comes first)

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / 'examples'))
import curve_fitting  # noqa: E402
import fine_tuning  # noqa: E402
import sweep  # noqa: E402


def draw_sweep(ax: Any) -> None:
    """Show the loss over the learning rate after some numbers of steps."""
    lrs, losses = sweep.main()
    for steps in (10, 50, 200):
        ax.loglog(lrs, losses[:, steps - 1], label=f'{steps} steps')
    ax.set(title='sweep: 64 learning rates at once', xlabel='learning rate', ylabel='loss')
    ax.legend()


def draw_fit(ax: Any) -> None:
    """Show the measured potential and the fitted curve."""
    found, _ = curve_fitting.main()
    time = curve_fitting.TIME.to_decimal(u.ms)
    ax.plot(time, curve_fitting.measured().to_decimal(u.mV), '.', ms=4, label='measured')
    ax.plot(time, curve_fitting.potential(**found).to_decimal(u.mV), label='fitted by L-BFGS')
    ax.set(title='curve fitting with units', xlabel='time (ms)', ylabel='potential (mV)')
    ax.legend()


def draw_layers(ax: Any) -> None:
    """Show how far fine-tuning moved each layer."""
    *_, moved = fine_tuning.main()
    ax.bar([f'layer {i}' for i in range(len(moved))], moved)
    ax.set(title='fine-tuning: halved rates, first layer frozen', ylabel='mean change of weights')


def main() -> None:
    """Draw and save."""
    figure, axes = pyplot.subplots(1, 3, figsize=(14, 4), layout='constrained')
    for ax, draw in zip(axes, (draw_sweep, draw_fit, draw_layers), strict=True):
        draw(ax)
        ax.grid(alpha=0.3)
    figure.savefig(HERE / 'examples.png', dpi=80)


if __name__ == '__main__':
    main()
