"""Record the authors' optimizers that torch lacks; see record_torch.py.

Usage: ``python tests/record_authors.py FOLDER``, with the packages of `SOURCES` installed, of which
no test needs one, and in the folder the authors' files that are in no package. Each source takes
the arguments of our class here: its own are renamed, and what it lacks is done to the gradient.
"""

import contextlib
import importlib.metadata
import importlib.util
import io
import sys
import types

import torch
from adabelief_pytorch import AdaBelief
from lion_pytorch import Lion
from pytorch_optimizer import SM3
from record_torch import ABSENT, ADAM_CHANGES, case, record_suite

SOURCES = {
    'AdaBelief': 'adabelief-pytorch (the authors), rectify=False where the case does not say',
    'Fromage': 'fromage.py of github.com/jxbz/fromage@1bbd929 (the authors)',
    'Lamb': 'timm, always_adapt=True, max_grad_norm=None',
    'Lars': 'timm, always_adapt=True; it applies lr after the momentum: lr is constant here',
    'Lion': 'lion-pytorch, which has the authors\' numbers',
    'Lookahead': 'lookahead_pytorch.py of github.com/michaelrzhang/lookahead@990861b (the authors)',
    'Novograd': 'timm NvNovoGrad (the authors\', of NVIDIA/DeepLearningExamples)',
    'SM3': 'pytorch_optimizer, which has the numbers of the authors\' sm3.py for TensorFlow',
    'Yogi': "the authors' torch version (\"See Algorithm 2 of go/yogi-opt\")",
}  # fmt: skip
PACKAGES = ['adabelief-pytorch', 'lion-pytorch', 'pytorch_optimizer', 'timm']


def from_folder(folder, name):
    """Import a file that is in no package."""
    spec = importlib.util.spec_from_file_location(name, f'{folder}/{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def from_timm(name):
    """Import an optimizer of timm without all of timm, which needs torchvision."""
    package = types.ModuleType('timm_optim')
    package.__path__ = [f'{importlib.util.find_spec("timm").submodule_search_locations[0]}/optim']
    sys.modules.setdefault('timm_optim', package)
    return importlib.import_module(f'timm_optim.{name}')


def adapted(source, defaults, *, l2=False, renamed=None, **always):
    """Return the source with our arguments, and our defaults where they are others.

    ``l2`` adds the weight decay to the gradient.
    """
    renamed = renamed or {}

    class Adapted(source):
        def __init__(self, params, *, maximize=False, **kwargs):
            self.climbs = maximize
            decay = {'weight_decay': kwargs.pop('weight_decay', 0.0)} if l2 else {}
            theirs = {renamed.get(k, k): v for k, v in (defaults | kwargs).items()}
            with contextlib.redirect_stdout(io.StringIO()):
                super().__init__(params, **theirs, **always)
            for group in self.param_groups:
                for key, value in decay.items():
                    group.setdefault(key, value)

        def step(self):
            with torch.no_grad():
                for group in self.param_groups:
                    for p in [p for p in group['params'] if p.grad is not None]:
                        p.grad = -p.grad if self.climbs else p.grad
                        if l2:
                            p.grad += group['weight_decay'] * p
                super().step()

    return Adapted


def lookahead_over(source):
    """Return the authors' Lookahead, which counts steps, over an optimizer of torch."""

    def build(params, *, sync_period=5, alpha=0.5, **kwargs):
        inner = source(params, **kwargs)
        return from_folder(sys.argv[1], 'lookahead_pytorch').Lookahead(inner, sync_period, alpha)

    return build


LION_CHANGES = [(6, {'lr': 3e-2}), (12, {'betas': (0.5, 0.8)}), (18, {'weight_decay': 0.2})]
LR_CHANGES = [(6, {'lr': 3e-2}), (18, {'lr': 2e-3})]
SM3_CHANGES = [(6, {'lr': 0.2}), (12, {'momentum': 0.5}), (18, {'weight_decay': 0.2, 'eps': 1e-2})]
GROUPS = [
    {'params': ['w', 't'], 'weight_decay': 0.1, 'betas': (0.8, 0.95)},
    {'params': ['b', 's'], 'lr': 3e-2},
]
ALL = {'betas': (0.8, 0.95), 'weight_decay': 0.1, 'maximize': True}

CASES = [
    case('lion', 'Lion', lr=1e-2),
    case('lion_all', 'Lion', lr=1e-2, **ALL),
    case('lion_changes', 'Lion', lr=1e-2, changes=LION_CHANGES),
    case('lion_groups', 'Lion', lr=1e-2, groups=GROUPS),
    case('lion_absent', 'Lion', lr=1e-2, weight_decay=0.1, absent=ABSENT),
    case('adabelief', 'AdaBelief', lr=1e-2),
    case('adabelief_eps', 'AdaBelief', lr=1e-2, eps=1e-3),
    case('adabelief_all', 'AdaBelief', lr=1e-2, **ALL),
    case('adabelief_amsgrad', 'AdaBelief', lr=1e-2, eps=1e-8, amsgrad=True, weight_decay=0.1),
    case('adabelief_coupled', 'AdaBelief', lr=1e-2, weight_decay=0.1, decoupled_weight_decay=False),
    case('adabelief_rectify', 'AdaBelief', lr=1e-2, rectify=True, **ALL),
    case('adabelief_rectify_more', 'AdaBelief', lr=1e-2, eps=1e-3, rectify=True),
    case('adabelief_rectify_never', 'AdaBelief', lr=1e-2, betas=(0.9, 0.5), rectify=True),
    case('adabelief_changes', 'AdaBelief', lr=1e-2, changes=ADAM_CHANGES),
    case('adabelief_groups', 'AdaBelief', lr=1e-2, groups=GROUPS),
    case('adabelief_absent', 'AdaBelief', lr=1e-2, weight_decay=0.1, absent=ABSENT),
    case('yogi', 'Yogi', lr=1e-2),
    case('yogi_eps', 'Yogi', lr=1e-2, eps=1e-8),
    case('yogi_initial', 'Yogi', lr=1e-2, initial_accumulator_value=0.1),
    case('yogi_all', 'Yogi', lr=1e-2, **ALL),
    case('yogi_changes', 'Yogi', lr=1e-2, changes=ADAM_CHANGES),
    case('yogi_groups', 'Yogi', lr=1e-2, groups=GROUPS),
    case('yogi_absent', 'Yogi', lr=1e-2, absent=ABSENT),
    case('lamb', 'Lamb', lr=1e-2),
    case('lamb_eps', 'Lamb', lr=1e-2, eps=1e-3),
    case('lamb_all', 'Lamb', lr=1e-2, **ALL),
    case('lamb_changes', 'Lamb', lr=1e-2, changes=ADAM_CHANGES),
    case('lamb_groups', 'Lamb', lr=1e-2, groups=GROUPS),
    case('lars', 'Lars', lr=1.0),
    case('lars_trust', 'Lars', lr=0.1, trust_coefficient=0.5, eps=1e-2, momentum=0.8),
    case('lars_decay', 'Lars', lr=1.0, trust_coefficient=0.02, weight_decay=0.1),
    case(
        'lars_nesterov', 'Lars', lr=1.0, trust_coefficient=0.02, weight_decay=0.1, nesterov=True,
        maximize=True,
    ),
    case('lars_stateless', 'Lars', lr=1.0, momentum=0.0, weight_decay=0.1),
    case('lars_absent', 'Lars', lr=1.0, trust_coefficient=0.02, absent=ABSENT),
    case('novograd', 'Novograd', lr=1e-2),
    case('novograd_no_average', 'Novograd', lr=1e-2, betas=(0.95, 0.0)),
    case('novograd_averaging', 'Novograd', lr=1e-2, grad_averaging=True, eps=1e-3),
    case('novograd_amsgrad', 'Novograd', lr=1e-2, amsgrad=True, **ALL),
    case('novograd_changes', 'Novograd', lr=1e-2, changes=ADAM_CHANGES),
    case('novograd_groups', 'Novograd', lr=1e-2, groups=GROUPS),
    case('novograd_absent', 'Novograd', lr=1e-2, weight_decay=0.1, absent=ABSENT),
    case('fromage', 'Fromage', lr=1e-2),
    case('fromage_fast', 'Fromage', lr=0.5),
    case('fromage_bound', 'Fromage', lr=0.2, p_bound=1.02),
    case('fromage_maximize', 'Fromage', lr=1e-2, maximize=True),
    case('fromage_changes', 'Fromage', lr=1e-2, changes=LR_CHANGES),
    case('fromage_absent', 'Fromage', lr=1e-2, p_bound=1.0, absent=ABSENT),
    case('sm3', 'SM3', lr=0.1),
    case('sm3_stateless', 'SM3', lr=0.1, momentum=0.0, eps=1e-30),
    case('sm3_all', 'SM3', lr=0.1, momentum=0.8, eps=1e-3, weight_decay=0.1, maximize=True),
    case('sm3_changes', 'SM3', lr=0.1, changes=SM3_CHANGES),
    case('sm3_absent', 'SM3', lr=0.1, absent=ABSENT),
    case('lookahead_sgd', 'Lookahead SGD', lr=0.05),
    case(
        'lookahead_sgd_all', 'Lookahead SGD', lr=0.05, momentum=0.9, nesterov=True,
        weight_decay=0.1, sync_period=3, alpha=0.8,
    ),
    case('lookahead_adam', 'Lookahead Adam', lr=1e-2, sync_period=6),
    case('lookahead_adam_all', 'Lookahead Adam', lr=1e-2, amsgrad=True, alpha=0.2, **ALL),
    case('lookahead_adam_changes', 'Lookahead Adam', lr=1e-2, changes=ADAM_CHANGES),
    case('lookahead_adamw_groups', 'Lookahead AdamW', lr=1e-2, groups=GROUPS),
]  # fmt: skip


def main(folder):
    lamb = from_timm('lamb').Lamb
    lars = from_timm('lars').Lars
    betas = {'betas': (0.9, 0.999)}
    ours_to_theirs = {
        'AdaBelief': adapted(
            AdaBelief,
            {'rectify': False},
            renamed={'decoupled_weight_decay': 'weight_decouple'},
            print_change_log=False,
        ),
        'Fromage': adapted(from_folder(folder, 'fromage').Fromage, {}),
        'Lamb': adapted(
            lamb, {'weight_decay': 0.0}, always_adapt=True, max_grad_norm=None, foreach=False
        ),
        'Lars': adapted(
            lars,
            {'momentum': 0.9},
            renamed={'trust_coefficient': 'trust_coeff'},
            always_adapt=True,
            foreach=False,
        ),
        'Lion': adapted(Lion, {}),
        'Novograd': adapted(from_timm('nvnovograd').NvNovoGrad, betas),
        'SM3': adapted(SM3, {'momentum': 0.9, 'eps': 1e-8}, l2=True, foreach=False),
        'Yogi': adapted(from_folder(folder, 'yogi').Yogi, {}, l2=True),
    }
    for name, source in ours_to_theirs.items():
        setattr(torch.optim, name, source)
    for name in ('SGD', 'Adam', 'AdamW'):
        setattr(torch.optim, f'Lookahead {name}', lookahead_over(getattr(torch.optim, name)))
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    record_suite('authors', CASES, __file__, SOURCES | {'versions': versions})


if __name__ == '__main__':
    main(*sys.argv[1:])
