"""Record torch's optimizers that look at matrices, rows and columns; see record_torch.py.

Muon iterates in the parameters' precision where no ``ns_dtype`` is given, as ours does, and as it
is in torch with ``ns_dtype='bfloat16'``. SparseAdam gets the rows of a gradient whose first entry
is positive, as two halves each.
"""

import contextlib

import torch
from record_torch import PROBLEMS, case, record_suite

SHAPES = {'w': (4, 3), 'v': (2, 5), 'q': (3, 3), 'c': (6, 1)}
PROBLEMS['problem_m'] = (SHAPES, ('float64', 'float32'))
ABSENT = {'v': [0, 1, 12], 'w': [3, 7, 8, 20], 'c': [27, 28, 29]}


class Muon(torch.optim.Muon):
    """torch's, with the precision of the iteration as an option."""

    def __init__(self, params, *, ns_dtype=None, **kwargs):
        super().__init__(params, **kwargs)
        self.ns_dtype = ns_dtype

    def step(self):
        with full_precision() if self.ns_dtype is None else contextlib.nullcontext():
            super().step()


class SparseAdam(torch.optim.SparseAdam):
    """torch's, on some rows of the gradients that it is given."""

    def step(self):
        for p in [p for group in self.param_groups for p in group['params']]:
            if p.grad is not None:
                (rows,) = torch.nonzero(p.grad[:, 0] > 0, as_tuple=True)
                half = p.grad[rows] / 2
                twice = torch.cat([rows, rows])[None], torch.cat([half, half])
                p.grad = torch.sparse_coo_tensor(*twice, p.shape, check_invariants=False)
        super().step()


@contextlib.contextmanager
def full_precision():
    """Let torch's cast to bfloat16 be a copy."""
    cast = torch.Tensor.bfloat16
    torch.Tensor.bfloat16 = torch.Tensor.clone
    try:
        yield
    finally:
        torch.Tensor.bfloat16 = cast


torch.optim.Muon, torch.optim.SparseAdam = Muon, SparseAdam

ADAFACTOR = [
    case('adafactor', 'Adafactor'),
    case('adafactor_lr', 'Adafactor', lr=0.3),
    case('adafactor_decay_rate', 'Adafactor', lr=0.05, beta2_decay=-0.5, d=1.5),
    case('adafactor_eps', 'Adafactor', lr=0.05, eps=(0.5, 0.8)),
    case('adafactor_weight_decay', 'Adafactor', lr=0.05, weight_decay=0.3),
    case('adafactor_maximize', 'Adafactor', lr=0.05, maximize=True),
    case(
        'adafactor_changes',
        'Adafactor',
        lr=0.05,
        changes=[
            (6, {'lr': 0.4}),
            (12, {'beta2_decay': -0.6, 'd': 1.2}),
            (18, {'weight_decay': 0.2}),
            (24, {'lr': 0.1, 'eps': (1e-3, 1e-2), 'weight_decay': 0.0}),
        ],
    ),
    case(
        'adafactor_groups',
        'Adafactor',
        groups=[
            {'params': ['w', 's'], 'weight_decay': 0.3, 'd': 1.3},
            {'params': ['b', 't'], 'lr': 0.2, 'eps': (1e-4, 1e-2)},
        ],
    ),
    case(
        'adafactor_absent',
        'Adafactor',
        lr=0.3,
        absent={'b': [0, 1, 12], 'w': [3, 7, 8, 20], 's': [27, 28, 29]},
    ),
]
MUON = [
    case('muon', 'Muon', problem='problem_m', lr=0.05),
    case('muon_plain', 'Muon', problem='problem_m', lr=0.05, nesterov=False, weight_decay=0.0),
    case(
        'muon_match',
        'Muon',
        problem='problem_m',
        lr=0.05,
        adjust_lr_fn='match_rms_adamw',
        momentum=0.7,
    ),
    case(
        'muon_steps',
        'Muon',
        problem='problem_m',
        lr=0.05,
        ns_steps=3,
        ns_coefficients=(2.0, -1.5, 0.5),
        eps=0.5,
        adjust_lr_fn='original',
    ),
    case(
        'muon_changes',
        'Muon',
        problem='problem_m',
        lr=0.05,
        changes=[
            (6, {'lr': 0.2}),
            (12, {'momentum': 0.5, 'ns_coefficients': (3.0, -4.0, 1.8)}),
            (18, {'weight_decay': 0.3, 'eps': 2.0}),
            (24, {'lr': 0.01, 'momentum': 0.95}),
        ],
    ),
    case(
        'muon_groups',
        'Muon',
        problem='problem_m',
        lr=0.05,
        groups=[
            {'params': ['w', 'q'], 'weight_decay': 0.3},
            {'params': ['v', 'c'], 'lr': 0.1, 'momentum': 0.6, 'nesterov': False},
        ],
    ),
    case('muon_absent', 'Muon', problem='problem_m', lr=0.05, absent=ABSENT),
    case('muon_bfloat16', 'Muon', problem='problem_m', lr=0.05, ns_dtype='bfloat16'),
]
SPARSE = [
    case('sparse_adam', 'SparseAdam', problem='problem_m', lr=0.05),
    case('sparse_adam_betas', 'SparseAdam', problem='problem_m', lr=0.05, betas=(0.7, 0.9)),
    case('sparse_adam_eps', 'SparseAdam', problem='problem_m', lr=0.05, eps=0.1, maximize=True),
    case(
        'sparse_adam_changes',
        'SparseAdam',
        problem='problem_m',
        lr=0.05,
        changes=[
            (6, {'lr': 0.2}),
            (12, {'betas': (0.7, 0.9)}),
            (18, {'eps': 0.01}),
        ],
    ),
    case(
        'sparse_adam_groups',
        'SparseAdam',
        problem='problem_m',
        lr=0.05,
        groups=[
            {'params': ['w', 'q'], 'eps': 0.01},
            {'params': ['v', 'c'], 'lr': 0.1, 'betas': (0.5, 0.8)},
        ],
    ),
    case('sparse_adam_absent', 'SparseAdam', problem='problem_m', lr=0.05, absent=ABSENT),
]

if __name__ == '__main__':
    record_suite('matrix', [*ADAFACTOR, *MUON, *SPARSE], __file__)
