"""Record torch.optim.swa_utils.AveragedModel into tests/golden/torch_averages.npz.

See record_torch.py. Models have the parameters ``w`` and ``b`` and the buffer ``m``, in double
precision. ``averages`` is a JSON list of the cases, ``cases`` is empty, and the other keys are

- ``model/<leaf>``: the model at each update;
- ``<case>/<leaf>``: the average after each update.
"""

import json
from pathlib import Path

import numpy as np
import torch
from record_torch import GOLDEN, write_index
from torch.optim import swa_utils

UPDATES = 12
SHAPES = {'w': (4, 3), 'b': (3,), 'm': (2,)}
AVERAGES = [
    {'name': name, 'kwargs': kwargs}
    for name, kwargs in (
        ('mean', {}),
        ('mean_buffers', {'use_buffers': True}),
        ('decay', {'decay': 0.9}),
        ('decay_low', {'decay': 0.3}),
        ('decay_0', {'decay': 0.0}),
        ('decay_1', {'decay': 1.0}),
        ('decay_buffers', {'decay': 0.99, 'use_buffers': True}),
        ('function', {'avg_fn': 'geometric'}),
        ('function_buffers', {'avg_fn': 'geometric', 'use_buffers': True}),
    )
]


def geometric(averaged, new, num_averaged):
    """Return a mean that depends on all three arguments, and is not linear."""
    return (averaged**2 * num_averaged + new**2) / (averaged + new + num_averaged)


def record_average(case, arrays):
    """Return the arrays of one case."""
    model = torch.nn.Module()
    for name in ('w', 'b'):
        model.register_parameter(name, torch.nn.Parameter(torch.tensor(arrays[name][0])))
    model.register_buffer('m', torch.tensor(arrays['m'][0]))
    kwargs = dict(case['kwargs'])
    if 'decay' in kwargs:
        kwargs['multi_avg_fn'] = swa_utils.get_ema_multi_avg_fn(kwargs.pop('decay'))
    if 'avg_fn' in kwargs:
        kwargs['avg_fn'] = geometric
    average = swa_utils.AveragedModel(model, **kwargs)
    rows = {name: [] for name in SHAPES}
    for i in range(UPDATES):
        with torch.no_grad():
            for name in SHAPES:
                getattr(model, name).copy_(torch.tensor(arrays[name][i]))
        average.update_parameters(model)
        for name in SHAPES:
            rows[name].append(getattr(average.module, name).detach().numpy().copy())
    return {f'{case["name"]}/{k}': np.stack(v) for k, v in rows.items()}


if __name__ == '__main__':
    torch.set_default_dtype(torch.float64)
    rng = np.random.default_rng(0)
    given = {name: rng.uniform(0.5, 2.0, (UPDATES, *shape)) for name, shape in SHAPES.items()}
    versions = {
        'torch': torch.__version__,
        'numpy': np.__version__,
        'script': Path(__file__).name,
    }
    arrays = {'cases': '[]', 'averages': json.dumps(AVERAGES), 'versions': json.dumps(versions)}
    arrays |= {f'model/{name}': values for name, values in given.items()}
    for average_case in AVERAGES:
        arrays |= record_average(average_case, given)
    np.savez_compressed(GOLDEN / 'torch_averages.npz', **arrays)
    write_index()
