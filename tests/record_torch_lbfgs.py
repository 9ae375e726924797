"""Record torch.optim.LBFGS over closures into tests/golden/torch_lbfgs.npz; see record_torch.py.

The losses are those of closure_problems.py, in double precision. ``closures`` is a JSON list of the
cases, ``cases`` is empty, and the other keys are

- ``<case>/params/<leaf>``: the parameters after each step;
- ``<case>/losses``, ``<case>/evaluations``: what each step returned, and how often it evaluated.
"""

import json
from pathlib import Path

import closure_problems
import numpy as np
import torch
from record_torch import GOLDEN, write_index

CLOSURES = [
    {'name': name, 'problem': problem, 'steps': steps, 'kwargs': kwargs}
    for name, problem, steps, kwargs in (
        ('rosenbrock_plain', 'rosenbrock', 40, {'max_iter': 1}),
        ('rosenbrock_plain_5', 'rosenbrock', 12, {'max_iter': 5, 'lr': 0.5}),
        ('rosenbrock_plain_still', 'rosenbrock', 3, {'lr': 1e-5, 'tolerance_change': 1e-3}),
        ('rosenbrock_one', 'rosenbrock', 30, {'max_iter': 1, 'max_eval': 20}),
        ('rosenbrock_5', 'rosenbrock', 12, {'max_iter': 5}),
        ('rosenbrock_20', 'rosenbrock', 4, {'max_iter': 20}),
        ('rosenbrock_short', 'rosenbrock', 12, {'max_iter': 20, 'max_eval': 5}),
        ('rosenbrock_far', 'rosenbrock', 8, {'max_iter': 5, 'lr': 30.0, 'history_size': 3}),
        ('ripple', 'ripple', 3, {'max_iter': 5, 'lr': 1e6}),
        ('steep', 'steep', 2, {'max_iter': 3, 'lr': 1e5}),
        ('cusp', 'cusp', 3, {'max_iter': 5, 'lr': 1e-3}),
        ('least_squares_plain', 'least_squares', 30, {'max_iter': 1}),
        ('least_squares_5', 'least_squares', 5, {'max_iter': 5}),
        ('least_squares_20', 'least_squares', 3, {'max_iter': 20}),
        ('complex_plain', 'complex_squares', 30, {'max_iter': 1, 'lr': 0.5}),
        ('complex_5', 'complex_squares', 5, {'max_iter': 5}),
        ('saturating_plain', 'saturating', 30, {'max_iter': 1, 'lr': 0.3, 'history_size': 5}),
        ('saturating_5', 'saturating', 10, {'max_iter': 5}),
        ('saturating_20', 'saturating', 2, {'max_iter': 20, 'history_size': 4}),
        ('saturating_loose', 'saturating', 5, {'tolerance_grad': 1e-2, 'tolerance_change': 1e-3}),
    )
]
for _case in CLOSURES:
    if 'plain' not in _case['name']:
        _case['kwargs']['line_search_fn'] = 'strong_wolfe'


def record_closure(case):
    """Return the arrays of one case."""
    loss = closure_problems.LOSSES[case['problem']]
    params = {
        k: torch.nn.Parameter(torch.tensor(v)) for k, v in closure_problems.STARTS[loss].items()
    }
    optimizer = torch.optim.LBFGS(params.values(), **case['kwargs'])
    evaluations = 0

    def closure():
        nonlocal evaluations
        evaluations += 1
        optimizer.zero_grad()
        value = loss(params, torch.tensor)
        value.backward()
        return value

    rows = {'losses': [], 'evaluations': [], **{f'params/{k}': [] for k in params}}
    for _ in range(case['steps']):
        before = evaluations
        rows['losses'].append(optimizer.step(closure).item())
        rows['evaluations'].append(evaluations - before)
        for name, p in params.items():
            rows[f'params/{name}'].append(p.detach().numpy().copy())
    return {f'{case["name"]}/{k}': np.stack(v) for k, v in rows.items()}


if __name__ == '__main__':
    torch.set_default_dtype(torch.float64)
    versions = {
        'torch': torch.__version__,
        'numpy': np.__version__,
        'script': Path(__file__).name,
    }
    arrays = {'cases': '[]', 'closures': json.dumps(CLOSURES), 'versions': json.dumps(versions)}
    for closure_case in CLOSURES:
        arrays |= record_closure(closure_case)
    np.savez_compressed(GOLDEN / 'torch_lbfgs.npz', **arrays)
    write_index()
