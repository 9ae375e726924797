"""Record trajectories of torch.optim into tests/golden/, the oracle of the parity tests.

Usage: ``python tests/record_torch.py`` records SGD and Adam; the other families have scripts of
their own, which import this one. Needs torch; the tests that read the files do not. Each script
writes ``torch_<suite>.npz`` with the keys

- ``cases``: JSON list of the cases; ``versions``: JSON of torch's and numpy's versions and the
  script;
- ``<problem>/params/<leaf>`` and ``<problem>/grads/<leaf>`` (a row per step), full precision;
- ``<case>/<dtype>/<leaf>``: the parameters after each step;
- ``<case>/<dtype>/<leaf>.<name>``: what the optimizer keeps of a leaf, where the case asks for it.
"""

import inspect
import json
from pathlib import Path

import numpy as np
import torch

GOLDEN = Path(__file__).parent / 'golden'
STEPS = 30

# The key of a problem's arrays: its leaves, and the dtypes it is recorded in.
PROBLEMS = {
    'problem': ({'w': (4, 3), 'b': (3,), 't': (2, 3, 2), 's': ()}, ('float64', 'float32')),
    'problem_z': ({'z': (3, 2)}, ('complex128', 'complex64')),
}


def case(
    name, optimizer, *, problem='problem', changes=(), late=False, groups=(), absent=None, keeps=(),
    **kwargs,
):  # fmt: skip
    """Describe one trajectory.

    ``changes`` are ``(step, options)`` set on every group before that step (from 0); torch is told
    one step before where it acts on them one step ``late``. ``groups`` are parameter groups that
    name their leaves, ``absent`` maps a leaf to the steps at which its gradient is None, ``keeps``
    are names in torch's state to record, too; ``kwargs`` go to the optimizer.
    """
    script = {'changes': changes, 'late': late, 'groups': groups, 'absent': absent, 'keeps': keeps}
    given = {key: value for key, value in script.items() if value}
    return {'name': name, 'optimizer': optimizer, 'kwargs': kwargs, 'problem': problem} | given


# A leaf that starts late, one with gaps (two steps running among them), one that stops.
ABSENT = {'b': [0, 1, 12], 'w': [3, 7, 8, 20], 's': [27, 28, 29]}
ADAM_CHANGES = [
    (6, {'lr': 3e-2}),
    (12, {'betas': (0.7, 0.9)}),
    (18, {'weight_decay': 0.2}),
    (24, {'lr': 2e-3, 'betas': (0.95, 0.99), 'weight_decay': 0.0}),
]

CORE = [
    case('sgd', 'SGD', lr=0.05),
    case('sgd_momentum', 'SGD', lr=0.05, momentum=0.9),
    case('sgd_dampening', 'SGD', lr=0.05, momentum=0.9, dampening=0.5),
    case('sgd_nesterov', 'SGD', lr=0.05, momentum=0.9, nesterov=True),
    case('sgd_weight_decay', 'SGD', lr=0.05, weight_decay=0.1),
    case('sgd_maximize', 'SGD', lr=0.05, maximize=True),
    case(
        'sgd_all_nesterov',
        'SGD',
        lr=0.05,
        momentum=0.9,
        weight_decay=0.1,
        nesterov=True,
        maximize=True,
    ),
    case(
        'sgd_all_dampening',
        'SGD',
        lr=0.05,
        momentum=0.9,
        dampening=0.5,
        weight_decay=0.1,
        maximize=True,
    ),
    case(
        'sgd_changes',
        'SGD',
        lr=0.05,
        momentum=0.9,
        changes=[
            (6, {'lr': 0.01}),
            (12, {'momentum': 0.5, 'dampening': 0.3}),
            (18, {'weight_decay': 0.2}),
            (24, {'lr': 0.1, 'momentum': 0.95, 'dampening': 0.0, 'weight_decay': 0.0}),
        ],
    ),
    case(
        'sgd_groups',
        'SGD',
        lr=0.05,
        momentum=0.9,
        groups=[
            {'params': ['w', 't'], 'weight_decay': 0.1},
            {'params': ['b', 's'], 'lr': 0.01, 'momentum': 0.5},
        ],
    ),
    case('sgd_absent', 'SGD', lr=0.05, momentum=0.9, dampening=0.5, absent=ABSENT),
    case('sgd_complex', 'SGD', problem='problem_z', lr=0.05, momentum=0.9),
    case('adam', 'Adam', lr=1e-2),
    case('adam_betas', 'Adam', lr=1e-2, betas=(0.8, 0.95)),
    case('adam_eps', 'Adam', lr=1e-2, eps=1e-3),
    case('adam_weight_decay', 'Adam', lr=1e-2, weight_decay=0.1),
    case('adam_amsgrad', 'Adam', lr=1e-2, amsgrad=True),
    case('adam_maximize', 'Adam', lr=1e-2, maximize=True),
    case('adam_decoupled', 'Adam', lr=1e-2, weight_decay=0.1, decoupled_weight_decay=True),
    case(
        'adam_all',
        'Adam',
        lr=1e-2,
        betas=(0.8, 0.95),
        eps=1e-3,
        weight_decay=0.1,
        amsgrad=True,
        maximize=True,
    ),
    case('adam_changes', 'Adam', lr=1e-2, changes=ADAM_CHANGES),
    case(
        'adam_groups',
        'Adam',
        lr=1e-2,
        groups=[
            {'params': ['w', 't'], 'weight_decay': 0.1, 'betas': (0.8, 0.95)},
            {'params': ['b', 's'], 'lr': 3e-2, 'eps': 1e-3},
        ],
    ),
    case('adam_absent', 'Adam', lr=1e-2, amsgrad=True, absent=ABSENT),
    case('adam_complex', 'Adam', problem='problem_z', lr=1e-2),
    case('adamw', 'AdamW', lr=1e-2),
    case('adamw_weight_decay', 'AdamW', lr=1e-2, weight_decay=0.3),
    case('adamw_amsgrad', 'AdamW', lr=1e-2, amsgrad=True),
    case('adamw_maximize', 'AdamW', lr=1e-2, maximize=True),
    case(
        'adamw_all',
        'AdamW',
        lr=1e-2,
        betas=(0.8, 0.95),
        eps=1e-3,
        weight_decay=0.3,
        amsgrad=True,
        maximize=True,
    ),
    case('adamw_changes', 'AdamW', lr=1e-2, changes=ADAM_CHANGES),
    case(
        'adamw_groups',
        'AdamW',
        lr=1e-2,
        groups=[
            {'params': ['w', 't'], 'weight_decay': 0.3, 'betas': (0.8, 0.95)},
            {'params': ['b', 's'], 'lr': 3e-2, 'eps': 1e-3, 'weight_decay': 0.0},
        ],
    ),
    case('adamw_absent', 'AdamW', lr=1e-2, weight_decay=0.3, absent=ABSENT),
]


def make_problem(name):
    """Initial parameters and gradients that do not depend on them, from a fixed seed."""
    shapes, dtypes = PROBLEMS[name]
    rng = np.random.default_rng(20260)

    def normal(shape):
        x = rng.normal(size=shape)
        return x + 1j * rng.normal(size=shape) if dtypes[0] == 'complex128' else x

    # Two decades of scale, rising and falling, so that amsgrad's maximum matters.
    scale = 10.0 ** np.sin(2 * np.pi * np.arange(STEPS) / 13)
    params, grads = {}, {}
    for leaf, shape in shapes.items():
        params[leaf] = np.asarray(normal(shape))
        grad = normal((STEPS, *shape)) * scale.reshape(-1, *[1] * len(shape))
        grad[rng.random(grad.shape) < 0.1] = 0.0
        grad[15] = 0.0  # a whole step
        if shape:
            grad[:10].reshape(10, -1)[:, 0] = 0.0  # an element whose moments stay 0 at first
        grads[leaf] = grad
    return params, grads


def make_optimizer(case, leaves):
    """Build the case's optimizer over `leaves`, on torch's plain for-loop implementation."""
    cls = getattr(torch.optim, case['optimizer'])
    accepted = inspect.signature(cls).parameters
    plain = {key: False for key in ('foreach', 'fused') if key in accepted}
    groups = [
        group | {'params': [leaves[leaf] for leaf in group['params']]}
        for group in case.get('groups', ())
    ]
    return cls(groups or list(leaves.values()), **case['kwargs'], **plain)


def record(case, params, grads, dtype):
    """Return {leaf: its value after each step} in `dtype`."""
    # torch keeps some optimizers' scalar state in its default dtype.
    torch.set_default_dtype(torch.float64 if dtype in ('float64', 'complex128') else torch.float32)
    torch_dtype = getattr(torch, dtype)
    leaves = {
        leaf: torch.nn.Parameter(torch.tensor(value, dtype=torch_dtype))
        for leaf, value in params.items()
    }
    optimizer = make_optimizer(case, leaves)
    changes, absent = dict(case.get('changes', ())), case.get('absent', {})
    names = {leaf: [f'{leaf}.{name}' for name in case.get('keeps', ())] for leaf in leaves}
    trajectory = {name: [] for leaf in leaves for name in (leaf, *names[leaf])}
    for step in range(STEPS):
        change = changes.get(step + case.get('late', 0), {})
        for group in optimizer.param_groups:
            unknown = change.keys() - group.keys()
            if unknown:
                raise KeyError(f'{case["name"]}: {case["optimizer"]} has no options {unknown}')
            group.update(change)
        for leaf, param in leaves.items():
            missing = step in absent.get(leaf, ())
            param.grad = None if missing else torch.tensor(grads[leaf][step], dtype=torch_dtype)
        optimizer.step()
        for leaf, param in leaves.items():
            trajectory[leaf].append(param.detach().numpy().copy())
            for name in names[leaf]:  # not there before the first gradient
                kept = optimizer.state[param].get(name.partition('.')[2], torch.zeros_like(param))
                trajectory[name].append(kept.detach().numpy().copy())
    return {leaf: np.stack(values) for leaf, values in trajectory.items()}


def record_suite(suite, cases, script, sources=None):
    """Write one suite's npz, and the index of all."""
    versions = {'torch': torch.__version__, 'numpy': np.__version__, 'script': Path(script).name}
    versions |= {'sources': sources} if sources else {}
    arrays = {'cases': np.array(json.dumps(cases)), 'versions': np.array(json.dumps(versions))}
    for problem in {case['problem']: None for case in cases}:  # a dict keeps the order
        params, grads = make_problem(problem)
        arrays |= {f'{problem}/params/{leaf}': value for leaf, value in params.items()}
        arrays |= {f'{problem}/grads/{leaf}': value for leaf, value in grads.items()}
        for case in cases:
            if case['problem'] != problem:
                continue
            for dtype in PROBLEMS[problem][1]:
                for leaf, values in record(case, params, grads, dtype).items():
                    key = f'{case["name"]}/{dtype}/{leaf}'
                    if key in arrays or not np.isfinite(values).all():
                        raise ValueError(f'{key} is recorded twice or is not finite')
                    arrays[key] = values
    GOLDEN.mkdir(exist_ok=True)
    np.savez_compressed(GOLDEN / f'{"" if sources else "torch_"}{suite}.npz', **arrays)
    write_index()


def write_index():
    """Write INDEX.md from the files recorded so far."""
    lines = [
        '# Trajectories recorded from torch.optim and from authors of algorithms',
        '',
        'Written by `tests/record_torch.py`, whose docstring explains the keys; do not edit.',
    ]
    for path in sorted(GOLDEN.glob('*.npz')):
        with np.load(path, allow_pickle=False) as data:
            if 'versions' not in data:  # of another kind
                continue
            cases, versions = (json.loads(data[key].item()) for key in ('cases', 'versions'))
            others = {
                kind: json.loads(data[kind].item())
                for kind in ('closures', 'averages')
                if kind in data
            }
        counts = {kind: len(found) for kind, found in others.items()}
        counts = counts or {f'cases of {STEPS} steps': len(cases)}
        what = ', '.join(f'{count} {kind}' for kind, count in counts.items())
        lines += [
            '',
            f'## {path.name}',
            '',
            f'{what}, recorded with torch {versions["torch"]}, numpy '
            f'{versions["numpy"]} by `python tests/{versions["script"]}`.',
            '',
            *(f'- {name}: {source}' for name, source in versions.get('sources', {}).items()),
            *([''] if 'sources' in versions else []),
            '| case | optimizer | kwargs | problem, script |',
            '|---|---|---|---|',
        ]
        for case in cases:
            name, optimizer, kwargs = (case.pop(key) for key in ('name', 'optimizer', 'kwargs'))
            script = '; '.join(
                value if key == 'problem' else f'{key} `{json.dumps(value)}`'
                for key, value in case.items()
            )
            lines.append(f'| {name} | {optimizer} | `{json.dumps(kwargs)}` | {script} |')
        lines += [
            f'| {case["name"]} | closure | `{json.dumps(case["kwargs"])}` | {case["problem"]}, '
            f'{case["steps"]} steps |'
            for case in others.get('closures', [])
        ]
        lines += [
            f'| {case["name"]} | average | `{json.dumps(case["kwargs"])}` | |'
            for case in others.get('averages', [])
        ]
    _, mark, copied = (GOLDEN / 'INDEX.md').read_text().partition('\n## Copied')
    (GOLDEN / 'INDEX.md').write_text('\n'.join(lines) + '\n' + mark + copied)


if __name__ == '__main__':
    record_suite('core', CORE, __file__)
