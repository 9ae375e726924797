"""Record trajectories of torch.optim's adaptive and classic algorithms, as record_torch.py does.

Usage: ``python tests/record_torch_adaptive.py``; it writes ``torch_adaptive.npz``.
"""

from record_torch import ABSENT, ADAM_CHANGES, case, record_suite

TWO = [['w', 't'], ['b', 's']]


def family(name, optimizer, *, base, each, changes, groups, absent):
    """Return the cases of one algorithm: each keyword alone, all together, and how it is used.

    ``each`` maps names of settings to keywords besides ``base``; ``groups`` are the options of two
    groups; ``absent`` are the keywords with which gradients are absent.
    """
    settings = {'': {}, **each, 'maximize': {'maximize': True}}
    settings['all'] = {k: v for options in settings.values() for k, v in options.items()}
    cases = [
        case(f'{name}_{setting}'.rstrip('_'), optimizer, **{**base, **options})
        for setting, options in settings.items()
    ]
    members = [{'params': leaves, **options} for leaves, options in zip(TWO, groups, strict=True)]
    return [
        *cases,
        case(f'{name}_changes', optimizer, **base, changes=changes),
        case(f'{name}_groups', optimizer, **base, groups=members),
        case(f'{name}_absent', optimizer, **base, **absent, absent=ABSENT),
        case(f'{name}_complex', optimizer, problem='problem_z', **base),
        case(f'{name}_complex_all', optimizer, problem='problem_z', **{**base, **settings['all']}),
    ]


BETAS = {
    'betas': {'betas': (0.8, 0.95)},
    'eps': {'eps': 1e-3},
    'weight_decay': {'weight_decay': 0.1},
}
ADAM_GROUPS = [
    {'weight_decay': 0.1, 'betas': (0.8, 0.95)},
    {'lr': 3e-2, 'eps': 1e-3},
]
DECOUPLED = {'decoupled_weight_decay': True, 'weight_decay': 0.3}

CASES = [
    *family(
        'rmsprop',
        'RMSprop',
        base={'lr': 1e-2},
        each={
            'alpha': {'alpha': 0.9},
            'eps': {'eps': 1e-3},
            'weight_decay': {'weight_decay': 0.1},
            'momentum': {'momentum': 0.9},
            'centered': {'centered': True},
        },
        changes=[
            (6, {'lr': 3e-2}),
            (12, {'alpha': 0.8, 'eps': 1e-4}),
            (18, {'weight_decay': 0.2}),
            (24, {'lr': 2e-3, 'alpha': 0.95, 'weight_decay': 0.0}),
        ],
        groups=[{'weight_decay': 0.1, 'alpha': 0.9}, {'lr': 3e-2, 'momentum': 0.5}],
        absent={'momentum': 0.9, 'centered': True},
    ),
    case(
        'rmsprop_changes_centered_momentum',
        'RMSprop',
        lr=1e-2,
        centered=True,
        momentum=0.9,
        changes=[
            (6, {'momentum': 0.5}),
            (12, {'alpha': 0.8}),
            (18, {'lr': 3e-2, 'momentum': 0.95}),
        ],
    ),
    *family(
        'adagrad',
        'Adagrad',
        base={'lr': 5e-2},
        each={
            'lr_decay': {'lr_decay': 0.1},
            'weight_decay': {'weight_decay': 0.1},
            'initial_accumulator_value': {'initial_accumulator_value': 0.5},
            'eps': {'eps': 1e-2},
        },
        changes=[
            (6, {'lr': 0.1}),
            (12, {'lr_decay': 0.2, 'eps': 1e-3}),
            (18, {'weight_decay': 0.2}),
            (24, {'lr': 2e-2, 'lr_decay': 0.0, 'weight_decay': 0.0}),
        ],
        groups=[
            {'weight_decay': 0.1, 'lr_decay': 0.3},
            {'lr': 0.2, 'eps': 1e-3},
        ],
        absent={'lr_decay': 0.2, 'initial_accumulator_value': 0.1},
    ),
    *family(
        'adadelta',
        'Adadelta',
        base={'lr': 1.0},
        each={
            'lr': {'lr': 0.3},
            'rho_one': {'rho': 1.0},
            'rho': {'rho': 0.8},
            'eps': {'eps': 1e-3},
            'weight_decay': {'weight_decay': 0.1},
        },
        changes=[
            (6, {'lr': 3.0}),
            (12, {'rho': 0.7, 'eps': 1e-4}),
            (18, {'weight_decay': 0.2}),
            (24, {'lr': 0.2, 'rho': 0.95, 'weight_decay': 0.0}),
        ],
        groups=[{'weight_decay': 0.1, 'rho': 0.8}, {'lr': 3.0, 'eps': 1e-3}],
        absent={'weight_decay': 0.1},
    ),
    *family(
        'adamax',
        'Adamax',
        base={'lr': 1e-2},
        each=BETAS,
        changes=ADAM_CHANGES,
        groups=ADAM_GROUPS,
        absent={},
    ),
    *family(
        'nadam',
        'NAdam',
        base={'lr': 1e-2},
        each={
            **BETAS,
            'no_momentum_decay': {'momentum_decay': 0.0},
            'momentum_decay': {'momentum_decay': 0.1},
            'decoupled': DECOUPLED,
        },
        changes=[*ADAM_CHANGES, (9, {'momentum_decay': 0.2}), (27, {'momentum_decay': 0.0})],
        groups=[*ADAM_GROUPS[:1], {**ADAM_GROUPS[1], 'momentum_decay': 0.1}],
        absent={'weight_decay': 0.1},
    ),
    *family(
        'radam',
        'RAdam',
        base={'lr': 1e-2},
        each={
            'short': {'betas': (0.5, 0.6)},  # never long enough to rectify
            'late': {'betas': (0.9, 0.78)},
            **BETAS,
            'decoupled': DECOUPLED,
        },
        changes=ADAM_CHANGES,
        groups=ADAM_GROUPS,
        absent={'weight_decay': 0.1},
    ),
    *family(
        'rprop',
        'Rprop',
        base={'lr': 1e-2},
        each={
            'start_above': {'step_sizes': (1e-3, 5e-3)},
            'etas': {'etas': (0.7, 1.5)},
            'step_sizes': {'step_sizes': (5e-3, 2e-2)},
        },
        changes=[
            (6, {'etas': (0.3, 1.1)}),
            (12, {'step_sizes': (8e-3, 3e-2)}),
            (20, {'etas': (0.6, 1.4), 'step_sizes': (1e-6, 50.0)}),
        ],
        groups=[{'etas': (0.7, 1.5)}, {'lr': 3e-2, 'step_sizes': (1e-2, 4e-2)}],
        absent={},
    ),
    *family(
        'asgd',
        'ASGD',
        base={'lr': 5e-2},
        each={
            'lambd': {'lambd': 0.1},
            'alpha': {'alpha': 0.5},
            't0': {'t0': 5},
            'weight_decay': {'weight_decay': 0.1},
        },
        changes=[(6, {'weight_decay': 0.2}), (18, {'weight_decay': 0.0})],
        groups=[{'weight_decay': 0.1, 'lambd': 0.2}, {'lr': 0.1, 'alpha': 1.0}],
        absent={'lambd': 0.1, 't0': 4, 'keeps': ['ax']},
    ),
    case('asgd_average', 'ASGD', lr=5e-2, lambd=0.1, t0=5, keeps=['ax']),
    case(
        'asgd_changes_late',
        'ASGD',
        lr=5e-2,
        lambd=0.1,
        t0=5,
        late=True,
        changes=[(6, {'lr': 0.1}), (12, {'alpha': 0.5}), (18, {'t0': 9}), (24, {'lr': 0.02})],
        keeps=['ax'],
    ),
]

if __name__ == '__main__':
    record_suite('adaptive', CASES, __file__)
