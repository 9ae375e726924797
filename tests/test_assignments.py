"""Assignments that would go nowhere, or leave behind what no step can use, are refused."""

import brainstate
import jax.numpy as jnp
import numpy as np
import pytest

import braintools_optim as bo


def ready(opt):
    return opt.register_trainable_weights({'w': brainstate.ParamState(jnp.ones(2))})


@pytest.mark.parametrize(
    'name',
    [
        *('weight_decays', 'complex_as_real', 'first_moments', 'gradient_layouts', 'ranges'),
        *('more_gradients', 'no_accumulation', 'structural', 'state_schema', 'transform'),
        *('default_tx', 'never_negative', 'validate'),
    ],
)
def test_what_the_class_of_an_optimizer_says(name):
    opt = ready(bo.Adam(0.1))
    before = getattr(opt, name)
    with pytest.raises(AttributeError, match=f'{name} of Adam is said by the class'):
        setattr(opt, name, ('other',))
    assert getattr(opt, name) == before


@pytest.mark.parametrize('name', ['get_lr', 'affine', 'carries_changes', 'ranges'])
def test_what_the_class_of_a_scheduler_says(name):
    scheduler = bo.StepLR(ready(bo.SGD(0.1)), step_size=1)
    with pytest.raises(AttributeError, match=f'{name} of StepLR is said by the class'):
        setattr(scheduler, name, lambda *_: [0.7])
    scheduler.step()
    assert scheduler.optimizer.current_lr == pytest.approx(0.01)


def test_a_class_of_ones_own_may_set_its_attributes():
    class Mine(bo.SGD):
        note = 'a'
        complex_as_real = True

        def __init__(self):
            super().__init__(lr=0.1)
            self.note, self.complex_as_real = 'b', False

    class Half(bo.LRScheduler):
        def __init__(self):
            super().__init__(0.1)
            self.carries_changes = False

        def affine(self, epoch, group):
            return 0.0, 0.5**epoch

    assert (Mine().note, Mine().complex_as_real, Half().carries_changes) == ('b', False, False)


@pytest.mark.parametrize(
    ('name', 'way'),
    [('foreach', 'Leave it out'), ('fused', 'Leave it out'), ('clipnorm', 'grad_clip_norm')],
)
def test_arguments_of_other_libraries(name, way):
    with pytest.raises(AttributeError, match=f'Adam has no {name!r} to assign. .*{way}'):
        setattr(ready(bo.Adam(0.1)), name, True)


def test_the_optimizer_of_a_scheduler():
    opt = ready(bo.SGD(0.1))
    scheduler = bo.StepLR(opt, step_size=1)
    with pytest.raises(AttributeError, match='optimizer of StepLR is what it drives'):
        scheduler.optimizer = None
    assert scheduler.optimizer is opt


@pytest.mark.parametrize(
    ('value', 'error'),
    [(-5, ValueError), (2**40, ValueError), (np.nan, ValueError), ('x', TypeError)]
    + [(None, TypeError), (1j, TypeError), (True, TypeError)],
)
def test_counters(value, error):
    opt = ready(bo.SGD(bo.StepLR(0.1, step_size=2)))
    opt.step({'w': jnp.ones(2)})
    with pytest.raises(error, match='last_epoch needs a count'):
        opt.lr.last_epoch.value = value
    with pytest.raises((TypeError, error), match='step_count needs a count'):
        opt.step_count.value = value
    assert (int(opt.lr.last_epoch.value), int(opt.step_count.value)) == (0, 1)
    opt.lr.last_epoch.value, opt.step_count.value = 1.5, jnp.int32(7)
    assert (float(opt.lr.last_epoch.value), int(opt.step_count.value)) == (1.5, 7)
    with pytest.raises(TypeError, match='step_count needs a count, got 1.5'):
        opt.step_count.value = 1.5


@pytest.mark.parametrize('name', ['state_dtype', 'master_dtype', 'mu_dtype'])
def test_a_dtype_that_jax_does_not_compute_in(name, request):
    with pytest.raises(ValueError, match=f'{name}=float64, and JAX computes in 32 bits'):
        bo.Adam(0.1, **{name: 'float64'})
    with pytest.raises(TypeError, match='needs a floating-point dtype'):
        bo.Adam(0.1, **{name: np.float32(0.5)})
    assert getattr(bo.Adam(0.1, **{name: float}), name) == np.float32
    request.getfixturevalue('x64')
    assert getattr(bo.Adam(0.1, **{name: 'float64'}), name) == np.float64


def test_a_scheduler_that_a_trace_would_leave_behind():
    opt = ready(bo.SGD(0.1))

    @brainstate.transform.jit
    def attach():
        bo.StepLR(opt, step_size=1)

    with pytest.raises(ValueError, match='StepLR is made in a function that is being traced'):
        attach()
    opt.lr.step()
    assert opt.state_dict()['lr'] == opt.current_lr == 0.1

    @brainstate.transform.jit
    def both():
        inner = ready(bo.SGD(0.1))
        scheduler = bo.StepLR(inner, step_size=1)
        scheduler.step()
        return inner.current_lr

    assert both() == pytest.approx(0.01)


def test_a_group_as_a_dict():
    group = ready(bo.Adam(0.1)).param_groups[0]
    copied = group.copy()
    assert type(copied) is dict and copied == dict(group)
    copied['lr'] = 0.5
    assert (group | {'lr': 0.7})['lr'] == 0.7 and ({'lr': 0.7} | group)['lr'] == group['lr'] == 0.1


def test_what_changes_rates_is_a_function():
    opt = ready(bo.SGD(0.1))
    for change, name in ((opt.lr_apply, 'lr_apply'), (opt.lr.apply, 'apply')):
        with pytest.raises(TypeError, match=f'{name} needs a function of the learning rate'):
            change(0.5)
    assert opt.current_lr == 0.1


def test_a_bound_of_the_whole_optimizer_is_not_assigned_in_a_group():
    opt = ready(bo.Adam(0.1, grad_clip_norm=1.0))
    group = opt.param_groups[0]
    for assign in (
        lambda: group.__setitem__('grad_clip_norm', 0.5),
        lambda: group.update(lr=0.5, grad_clip_norm=0.5),
    ):
        with pytest.raises(KeyError, match='whole optimizer: assign opt.grad_clip_norm'):
            assign()
    assert (opt.grad_clip_norm, opt.current_lr) == (1.0, 0.1)
    opt.grad_clip_norm = 0.5
    assert opt.grad_clip_norm == 0.5


class Empty(bo.StepLR):
    def __len__(self):
        return 0


def test_a_scheduler_that_counts_as_false_drives():
    scheduler = Empty(0.1, step_size=1)
    assert bo.SGD(scheduler).lr is scheduler
