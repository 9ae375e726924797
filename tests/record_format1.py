"""Record files of format 1: one for every registered optimizer class, for every scheduler,
and for what a file tells beside numbers and arrays.

Run by hand: ``python tests/record_format1.py``. It writes those that are missing and never writes
one anew: what a released version wrote must load for ever. Each file holds how its run went on.
"""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
from checkpoint_runs import (
    OPTIMIZERS,
    SCHEDULES,
    optioned,
    optioned_on,
    schedule_on,
    scheduled,
    train_on,
    trained,
)
from looking import named

import braintools_optim as bo

GOLDEN = Path(__file__).parent / 'golden' / 'format1'
STEPS = range(2, 4)
EPOCHS = range(4, 8)


def main() -> None:
    assert not jax.config.jax_enable_x64
    for name, case in OPTIMIZERS.items():
        path = GOLDEN / f'{name}.ckpt'
        if path.exists():
            continue
        (opt, _), (other, others) = trained(case), trained(case)
        train_on(other, STEPS)
        opt.save(path, params=True, extra={'end': named(others), 'rates': other.get_last_lr()})
        print(path.name)
    for name, schedule in SCHEDULES.items():
        path = GOLDEN / f'scheduler-{name}.ckpt'
        if path.exists():
            continue
        opt, _, _ = scheduled(schedule, bo.SGD, EPOCHS.start)
        other, others, scheduler = scheduled(schedule, bo.SGD, EPOCHS.start)
        schedule_on(schedule, other, scheduler, EPOCHS)
        end = {k: np.asarray(v.value) for k, v in others.items()}
        opt.save(path, params=True, extra={'end': end, 'rates': other.get_last_lr()})
        print(path.name)
    path = GOLDEN / 'options.ckpt'
    if not path.exists():
        (opt, _), (other, others) = optioned(), optioned()
        optioned_on(opt, range(STEPS.start))
        optioned_on(other, range(STEPS.stop))
        opt.save(path, params=True, extra={'end': named(others), 'rates': other.get_last_lr()})
        print(path.name)


if __name__ == '__main__':
    main()
