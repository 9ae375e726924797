"""What torch 2.13.0 gives in corners: decays to zero, and momenta in sequences of schedulers."""

import brainstate
import jax.numpy as jnp
import numpy as np
import pytest

import braintools_optim as bo


def sgd(lr=0.1):
    w = brainstate.ParamState(jnp.zeros(1))
    return bo.SGD(lr=lr, momentum=0.9).register_trainable_weights({'w': w})


def compiled(step, jitted):
    return brainstate.transform.jit(step) if jitted else step


TO_ZERO = {
    'exponential': lambda opt: bo.ExponentialLR(opt, gamma=0.0),
    'step': lambda opt: bo.StepLR(opt, step_size=1, gamma=0.0),
    'milestones': lambda opt: bo.MultiStepLR(opt, milestones=[1, 2, 3], gamma=0.0),
}
over_decays = pytest.mark.parametrize('decay', TO_ZERO.values(), ids=TO_ZERO)
in_and_out = pytest.mark.parametrize('jitted', [False, True])


@in_and_out
@over_decays
def test_a_factor_of_zero_takes_a_changed_rate_to_zero(decay, jitted, x64):
    opt = sgd()
    scheduler = decay(opt)
    step = compiled(scheduler.step, jitted)
    step()
    opt.current_lr = 0.5
    step()
    assert opt.current_lr == 0.0


@over_decays
def test_a_factor_of_zero_beside_another_schedule(decay):
    opt = sgd()
    both = [decay(opt), bo.CosineAnnealingLR(opt, T_max=4, eta_min=0.05)]
    found = []
    for _ in range(3):
        for scheduler in both:
            scheduler.step()
        found.append(opt.current_lr)
    np.testing.assert_allclose(
        found, [0.0073223304703363135, 0.020710678118654752, 0.035355339059327376], rtol=1e-12
    )


@in_and_out
def test_between_decays_a_changed_rate_stays(jitted, x64):
    opt = sgd()
    scheduler = bo.MultiStepLR(opt, milestones=[1, 3, 3], gamma=0.0)
    step = compiled(scheduler.step, jitted)
    step()
    opt.current_lr = 0.5
    step()
    assert opt.current_lr == 0.5
    step()
    assert opt.current_lr == 0.0


@pytest.mark.parametrize(('jitted', 'epochs'), [(False, 400), (True, 60)])
def test_a_changed_rate_decays_where_the_powers_have_vanished(jitted, epochs):
    opt = sgd()
    scheduler = bo.ExponentialLR(opt, gamma=0.1)
    step = compiled(scheduler.step, jitted)
    for _ in range(epochs):
        step()
    assert opt.current_lr == 0.0
    opt.current_lr, found = 0.5, []
    for _ in range(3):
        step()
        found.append(opt.current_lr)
    np.testing.assert_allclose(found, [0.05, 0.005, 0.0005], rtol=1e-6 if jitted else 1e-12)


def cycle(opt, **more):
    options = {'base_lr': 0.01, 'max_lr': 0.1, 'base_momentum': 0.5, 'max_momentum': 0.9}
    return bo.CyclicLR(opt, step_size_up=4, **{**options, **more})


def later_cycle(opt):
    return cycle(opt, base_lr=0.001, max_lr=0.01, base_momentum=0.6, max_momentum=0.7)


def hold(opt):
    return bo.ConstantLR(opt, factor=1.0, total_iters=5)


SEQUENCES = {  # parts, milestone, the epoch at which the momentum is set to 0.3, torch's momenta
    'two cycles': (cycle, later_cycle, 3, None, [0.9, 0.8, 0.7, 0.7, 0.675, 0.65]),
    'before it': (hold, cycle, 3, 0, [0.3, 0.3, 0.3, 0.9, 0.8]),
    'after it': (cycle, hold, 2, 3, [0.9, 0.8, 0.8, 0.3, 0.3]),
}


@in_and_out
@pytest.mark.parametrize('name', SEQUENCES)
def test_only_the_scheduler_that_runs_moves_the_momentum(name, jitted, x64):
    first, second, milestone, changed, want = SEQUENCES[name]
    opt = sgd()
    scheduler = bo.SequentialLR(opt, [first(opt), second(opt)], milestones=[milestone])
    step = compiled(scheduler.step, jitted)
    found = []
    for epoch in range(len(want)):
        if epoch == changed:
            opt.momentum = 0.3
        found.append(opt.momentum)
        step()
    np.testing.assert_allclose(found, want, rtol=1e-12)


@in_and_out
def test_only_the_scheduler_that_runs_moves_the_first_beta(jitted, x64):
    w = brainstate.ParamState(jnp.zeros(1))
    opt = bo.Adam(0.1, betas=(0.9, 0.99)).register_trainable_weights({'w': w})
    scheduler = bo.SequentialLR(opt, [cycle(opt), later_cycle(opt)], milestones=[3])
    step = compiled(scheduler.step, jitted)
    found = [opt.betas]
    for _ in range(5):
        step()
        found.append(opt.betas)
    want = [(beta, 0.99) for beta in (0.9, 0.8, 0.7, 0.7, 0.675, 0.65)]
    np.testing.assert_allclose(found, want, rtol=1e-12)


@pytest.mark.parametrize('way', ['part by part', 'lr', 'add_scheduler'])
def test_a_cycle_that_comes_later_sets_its_momentum_when_it_is_attached(way):
    def sequence(opt=None):
        late = {'base_lr': 0.01, 'max_lr': 0.1, 'step_size_up': 4, 'max_momentum': 0.8}
        held = {'factor': 1.0, 'total_iters': 5}
        if opt is None:
            parts = [bo.ConstantLR(0.1, **held), bo.CyclicLR(**late)]
        else:
            parts = [bo.ConstantLR(opt, **held), bo.CyclicLR(opt, **late)]
        return bo.SequentialLR(parts, milestones=[2])

    opt = sgd(sequence()) if way == 'lr' else sgd()
    if way != 'lr':
        scheduler = sequence(opt if way == 'part by part' else None)
        opt.add_scheduler(scheduler)
    assert opt.momentum == 0.8
