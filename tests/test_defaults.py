"""Which numbers a group gets that is given none: what the others were given last."""

import copy

import jax.numpy as jnp
import pytest
from brainstate import ParamState
from brainstate.transform import for_loop, jit
from cases import CASES, build, make_params

import braintools_optim as bo


def adamw():
    return bo.AdamW(0.1).register_trainable_weights({'w': ParamState(jnp.ones(3))})


def with_another_group(opt):
    """Add a group, and return its numbers."""
    opt.add_param_group({f'w{len(opt.param_groups)}': ParamState(jnp.ones(2))})
    group = opt.param_groups[-1]
    return group['betas'], group['eps']


def assigned(opt):
    opt.betas, opt.eps = (0.5, 0.75), 0.25


GIVEN = (0.5, 0.75), 0.25


@pytest.mark.parametrize('road', ['eager', 'jit', 'traced values', 'for_loop'])
def test_what_was_assigned_for_all_is_for_those_to_come(road):
    opt = adamw()

    def traced(beta, eps):
        opt.betas, opt.eps = (beta, 0.75), eps

    if road == 'eager':
        assigned(opt)
    elif road == 'jit':
        jit(lambda: assigned(opt))()
    elif road == 'traced values':
        jit(traced)(0.5, 0.25)
    else:
        for_loop(lambda eps: traced(0.5, eps), jnp.array([0.125, 0.25]))
    assert with_another_group(copy.deepcopy(opt)) == GIVEN
    assert with_another_group(opt) == GIVEN
    opt.eps = 0.5
    opt.param_groups[0]['eps'] = 0.125  # which is for that group alone
    assert with_another_group(opt) == (GIVEN[0], 0.5)


def test_what_a_program_assigned_for_all_is_not_what_group_0_has_since():
    opt = adamw()
    program = jit(lambda eps: (setattr(opt, 'betas', (0.5, 0.75)), setattr(opt, 'eps', eps)))
    program(0.25)
    opt.param_groups[0].update(betas=(0.25, 0.5), eps=1.0)
    assert with_another_group(opt) == GIVEN
    program = jit(lambda eps: (setattr(opt, 'betas', (0.5, 0.75)), setattr(opt, 'eps', eps)))
    for eps in (0.5, 0.25):  # the second time it is not traced
        program(eps)
        opt.param_groups[0].update(betas=(0.25, 0.5), eps=1.0)
    assert with_another_group(opt) == GIVEN


def test_a_program_that_failed_leaves_no_trace_in_the_numbers_of_groups_to_come():
    opt = adamw()
    with pytest.raises(ZeroDivisionError):
        jit(lambda: (assigned(opt), 1 / 0))()
    opt.param_groups[0].update(betas=(0.25, 0.5), eps=1.0)
    assert with_another_group(opt) == ((0.9, 0.999), 1e-8)


def test_saving_refuses_a_number_of_groups_to_come_that_no_file_may_have():
    opt = adamw()
    jit(lambda eps: setattr(opt, 'eps', eps))(-1.0)
    opt.param_groups[0]['eps'] = 1e-8
    with pytest.raises(ValueError, match='groups to come: .*eps'):
        opt.state_dict()


def test_a_program_that_was_not_traced_to_its_end_changes_nothing():
    opt = adamw()

    def fails():
        assigned(opt)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        jit(fails)()
    assert (opt.betas, opt.eps) == ((0.9, 0.999), 1e-8)
    assert with_another_group(opt) == ((0.9, 0.999), 1e-8)


@pytest.mark.parametrize('way', ['state_dict', 'file'])
def test_a_resumed_run_gives_them_to_groups_to_come(way, tmp_path):
    opt, new = adamw(), adamw()
    assigned(opt)
    if way == 'file':
        opt.save(tmp_path / 'run.ckpt')
        new.load(tmp_path / 'run.ckpt')
    else:
        new.load_state_dict(opt.state_dict())
    assert with_another_group(new) == with_another_group(opt) == GIVEN
    first = new.state_dict()
    del first['defaults']  # the first files lack them
    new.load_state_dict(first)
    assert with_another_group(new) == GIVEN


def test_defaults_that_do_not_fit_are_refused():
    opt = adamw()
    saved = opt.state_dict()
    for wrong, says in (
        ({'betas': [0.9, 1.5]}, r'defaults: .*betas\[1\]=1.5'),
        ({'betas': 0.9}, 'defaults: AdamW needs 2 numbers for betas'),
        ({'eps': 'x'}, 'defaults: AdamW needs a number in'),
        ({'wonder': 1.0}, "defaults: 'wonder' is unknown here"),
        (3, 'defaults must be a dict, got int'),
    ):
        with pytest.raises(bo.IncompatibleCheckpoint, match=says):
            opt.load_state_dict(saved | {'defaults': wrong})
    assert opt._defaults() == adamw()._defaults()


@pytest.mark.parametrize('case', CASES, ids=lambda case: case.id)
def test_every_class_tells_its_defaults(case):
    opt = build(case, make_params())
    saved = opt.state_dict()
    assert set(saved['defaults']) == set(opt._numbers) - {'lr'}
    opt.load_state_dict(saved)
    assert opt.state_dict()['defaults'] == saved['defaults']
