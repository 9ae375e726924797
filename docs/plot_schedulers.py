"""Draw every scheduler into docs/schedulers.png: ``python docs/plot_schedulers.py``."""

from __future__ import annotations

from pathlib import Path

import matplotlib

import braintools_optim as bo

matplotlib.use('agg')
from matplotlib import pyplot  # noqa: E402  (the backend comes first)

STEPS = 100


def noisy_wave(t: int) -> float:
    """Return a factor for LambdaLR."""
    return 0.97**t * (0.8 + 0.2 * (t % 10 < 5))


def schedulers() -> dict[str, bo.LRScheduler]:
    """Return every scheduler with settings that show what it does in 100 epochs."""
    return {
        'ConstantLR': bo.ConstantLR(1.0, factor=0.3, total_iters=40),
        'LinearLR': bo.LinearLR(1.0, start_factor=0.1, end_factor=0.8, total_iters=60),
        'WarmupScheduler': bo.WarmupScheduler(1.0, warmup_epochs=30),
        'StepLR': bo.StepLR(1.0, step_size=25, gamma=0.5),
        'MultiStepLR': bo.MultiStepLR(1.0, milestones=[20, 60, 70], gamma=0.5),
        'ExponentialLR': bo.ExponentialLR(1.0, gamma=0.96),
        'ExponentialDecayLR': bo.ExponentialDecayLR(
            1.0, decay_steps=20, decay_rate=0.6, staircase=True, end_value=0.15
        ),
        'PolynomialLR': bo.PolynomialLR(1.0, total_iters=80, power=2.0),
        'InverseTimeLR': bo.InverseTimeLR(1.0, decay_rate=0.1),
        'InverseSqrtLR': bo.InverseSqrtLR(1.0, warmup_steps=15),
        'RexLR': bo.RexLR(1.0, total_iters=90),
        'PiecewiseConstantSchedule': bo.PiecewiseConstantSchedule(
            boundaries=[30, 60], values=[0.8, 0.3, 0.5]
        ),
        'CosineAnnealingLR': bo.CosineAnnealingLR(1.0, T_max=50, eta_min=0.1),
        'CosineAnnealingWarmRestarts': bo.CosineAnnealingWarmRestarts(1.0, T_0=14, T_mult=2),
        'WarmupCosineSchedule': bo.WarmupCosineSchedule(
            1.0, warmup_steps=15, total_steps=90, eta_min=0.1
        ),
        'WSDLR': bo.WSDLR(1.0, warmup_steps=10, stable_steps=55, decay_steps=30, decay='1-sqrt'),
        'CyclicLR': bo.CyclicLR(
            0.1, 1.0, step_size_up=12, step_size_down=20, mode='triangular2', cycle_momentum=False
        ),
        'OneCycleLR': bo.OneCycleLR(1.0, total_steps=STEPS),
        'SWALR': bo.SWALR(1.0, swa_lr=0.2, anneal_epochs=50),
        'LambdaLR': bo.LambdaLR(1.0, lr_lambda=noisy_wave),
        'MultiplicativeLR': bo.MultiplicativeLR(1.0, lr_lambda=lambda t: 0.99 - 0.0004 * t),
        'ChainedScheduler': bo.ChainedScheduler(
            [bo.LinearLR(1.0, start_factor=0.1, total_iters=20), bo.ExponentialLR(gamma=0.98)]
        ),
        'SequentialLR': bo.SequentialLR(
            [bo.ConstantLR(1.0, factor=0.4, total_iters=20), bo.CosineAnnealingLR(T_max=40)], [20]
        ),
    }


def plateau() -> tuple[list[float], list[float]]:
    """Return what ReduceLROnPlateau makes of a metric that stalls, and the metric."""
    scheduler = bo.ReduceLROnPlateau(1.0, factor=0.5, patience=5)
    metric = [max(1.0 - 0.03 * t, 0.5 if t < 60 else 0.5 - 0.01 * (t - 60)) for t in range(STEPS)]
    lrs = []
    for value in metric:
        lrs.append(scheduler.get_last_lr()[0])
        scheduler.step(value)
    return lrs, metric


def main() -> None:
    """Draw and save."""
    figure, grid = pyplot.subplots(4, 6, figsize=(18, 10), sharex=True, layout='constrained')
    axes = grid.ravel()
    for ax, (name, scheduler) in zip(axes, schedulers().items(), strict=False):
        scheduler.plot(STEPS, ax=ax)
        ax.set(title=name, xlabel='', ylabel='', ylim=(-0.04, 1.08))
    lrs, metric = plateau()
    axes[-1].plot(lrs, label='learning rate')
    axes[-1].plot(metric, ':', label='metric')
    axes[-1].set(title='ReduceLROnPlateau', ylim=(-0.04, 1.08))
    axes[-1].legend()
    for ax in axes:
        ax.grid(alpha=0.3)
    figure.supxlabel('epoch')
    figure.supylabel('learning rate (base or maximum 1)')
    figure.savefig(Path(__file__).with_name('schedulers.png'), dpi=80)


if __name__ == '__main__':
    main()
