"""Learning rates, and schedulers, that a fixed chain does not read: said, not ignored."""

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from brainstate import ParamState

import braintools_optim as bo


class BakedIn(bo.OptaxOptimizer):
    def default_tx(self):
        return optax.sgd(0.1)


class BakedInAtItsConstruction(bo.OptaxOptimizer):
    def default_tx(self):
        return optax.sgd(self.current_lr)


class ReadsAnotherNumber(bo.OptaxOptimizer):
    def __init__(self, lr=0.1, momentum=0.0):
        super().__init__(lr=lr, momentum=momentum)

    def default_tx(self):
        live = optax.scale_by_schedule(lambda count: 1.0 + self.momentum)
        return optax.chain(optax.sgd(0.1, momentum=self.momentum), live)


def scheduled(scheduler, read=lambda opt, scheduler, count: scheduler(count)):
    """Return an optimizer whose given chain ends in its scheduler."""
    tx = optax.scale_by_schedule(lambda count: read(opt, scheduler, count))
    return (opt := bo.OptaxOptimizer(tx=tx, lr=scheduler))


UNREAD = {
    'tx': lambda lr: bo.OptaxOptimizer(tx=optax.sgd(0.1), lr=lr),
    'default_tx': lambda lr: BakedIn(lr=lr),
    'default_tx with the rate': lambda lr: BakedInAtItsConstruction(lr=lr),
    'default_tx with another number': lambda lr: ReadsAnotherNumber(lr=lr),
    'Lookahead': lambda lr: bo.Lookahead(bo.OptaxOptimizer(tx=optax.sgd(0.1)), lr=lr),
}


@pytest.mark.parametrize('jit', [False, True])
@pytest.mark.parametrize('make', UNREAD.values(), ids=UNREAD)
def test_a_rate_that_the_chain_does_not_read(make, jit):
    w, grads = ParamState(jnp.ones(2)), {'w': jnp.ones(2)}
    opt = make(0.1).register_trainable_weights({'w': w})  # the same number twice is right
    step = brainstate.transform.jit(opt.step) if jit else opt.step
    step(grads)
    opt.lr.step()
    opt.current_lr = 0.1
    for change in (
        lambda: setattr(opt, 'current_lr', 5.0),
        lambda: opt.param_groups[0].update(lr=5.0),
        lambda: opt.lr_apply(lambda lr: lr / 2),
        lambda: opt.lr.apply(lambda lr: lr / 2),
        lambda: setattr(opt.lr, 'base_lrs', [5.0]),
    ):
        with pytest.raises(AttributeError, match='lr is baked into the chain.*transform'):
            change()
    assert opt.current_lr == 0.1
    with pytest.warns(UserWarning, match='does not read its learning rate'):
        scheduler = bo.StepLR(opt, step_size=1)
    scheduler.step()
    step(grads)
    np.testing.assert_allclose(w.value, 0.8, 1e-6)


@pytest.mark.parametrize('make', UNREAD.values(), ids=UNREAD)
def test_a_scheduler_that_the_chain_does_not_read(make):
    w = ParamState(jnp.ones(2))
    opt = make(bo.StepLR(0.1, step_size=1)).register_trainable_weights({'w': w})
    with pytest.warns(UserWarning, match='scale_by_schedule.scheduler.*given as lr='):
        opt.step({'w': jnp.ones(2)})
    opt.lr.step()
    opt.step({'w': jnp.ones(2)})
    np.testing.assert_allclose(w.value, 0.8, 1e-6)


def test_rates_assigned_before_the_first_step_that_the_chain_does_not_read():
    for change in (
        lambda opt: setattr(opt, 'current_lr', 0.5),
        lambda opt: opt.add_param_group({'v': ParamState(jnp.ones(2))}, lr=0.5),
    ):
        opt = bo.OptaxOptimizer(tx=optax.sgd(0.1))
        opt.register_trainable_weights({'w': ParamState(jnp.ones(2))})
        change(opt)
        with pytest.warns(UserWarning, match='does not read its learning rate'):
            opt.step({'w': jnp.ones(2)})


class Unread(bo.OptaxOptimizer):
    def transform(self, h):
        return optax.chain(optax.trace(0.9), optax.scale(-0.1))


def test_a_transform_that_does_not_read_the_rate():
    w, grads = ParamState(jnp.ones(2)), {'w': jnp.ones(2)}
    opt = Unread(lr=0.1).register_trainable_weights({'w': w})
    opt.step(grads)
    with pytest.raises(AttributeError, match=r'does not read lr.*scale_by_learning_rate\(h\.lr\)'):
        opt.current_lr = 0.2
    with pytest.warns(UserWarning, match=r'does not read its.*scale_by_learning_rate\(h\.lr\)'):
        bo.StepLR(opt, step_size=1)
    for made in (lambda opt: opt, bo.Lookahead):
        driven = made(Unread(lr=bo.StepLR(0.1, step_size=1))).register_trainable_weights({'w': w})
        with pytest.warns(UserWarning, match='does not read its learning rate'):
            driven.step(grads)


def test_a_given_chain_that_reads_the_rate_of_a_group():
    w, grads = ParamState(jnp.ones(2)), {'w': jnp.ones(2)}
    opt = scheduled(bo.StepLR(0.5, step_size=1), lambda opt, *_: -opt.param_groups[0]['lr'])
    opt.register_trainable_weights({'w': w})
    opt.step(grads)
    opt.current_lr = 0.25
    opt.step(grads)
    np.testing.assert_allclose(w.value, 0.25, 1e-6)


@pytest.mark.parametrize('jit', [False, True])
@pytest.mark.parametrize(
    'read',
    [
        lambda opt, scheduler, count: scheduler(count),
        lambda opt, scheduler, count: -scheduler(),
        lambda opt, scheduler, count: -opt.current_lr,
        lambda opt, scheduler, count: -scheduler.current_lrs.value[0],
        lambda opt, scheduler, count: -opt.get_last_lr()[0],
    ],
    ids=['call', 'plain call', 'current_lr', 'current_lrs', 'get_last_lr'],
)
def test_ways_to_read_the_rate_in_a_given_chain(read, jit):
    w, v = ParamState(jnp.ones(2)), ParamState(jnp.ones(2))
    opt = scheduled(bo.StepLR(0.5, step_size=1, gamma=0.5), read)
    opt.register_trainable_weights({'w': w}).add_param_group({'v': v}, lr=0.25)
    step = brainstate.transform.jit(opt.step) if jit else opt.step
    step({'w': jnp.ones(2), 'v': jnp.ones(2)})
    opt.lr.step()
    step({'w': jnp.ones(2), 'v': jnp.ones(2)})
    opt.current_lr = 0.125
    step({'w': jnp.ones(2)})
    np.testing.assert_allclose(w.value, 0.125, 1e-6)
    np.testing.assert_allclose(v.value, 1 - 0.25 - 0.125, 1e-6)


def test_a_given_chain_that_ends_in_a_scheduler_of_nobody():
    scheduler = bo.StepLR(0.5, step_size=1, gamma=0.5)
    w, grads = ParamState(jnp.ones(2)), {'w': jnp.ones(2)}
    opt = bo.OptaxOptimizer(tx=optax.scale_by_schedule(scheduler))
    opt.register_trainable_weights({'w': w})
    with pytest.raises(ValueError, match='rate of this StepLR would stay.*as lr='):
        opt.step(grads)
    step = brainstate.transform.jit(opt.step)  # which knows of all States that are read
    step(grads)
    scheduler.step()
    step(grads)
    np.testing.assert_allclose(w.value, 0.25, 1e-6)


def test_a_scheduler_in_a_program_that_sees_no_states():
    """Its rate would stay there for good; jax.jit gives nobody the chance to tell."""
    scheduler = bo.StepLR(0.5, step_size=1, gamma=0.5)
    bo.SGD(lr=scheduler).register_trainable_weights({'w': ParamState(jnp.ones(2))})
    tx = optax.scale_by_schedule(scheduler)
    grads, state = jnp.ones(2), tx.init(jnp.ones(2))
    with pytest.raises(
        ValueError, match='StepLR would stay.*brainstate.transform.jit, or step SGD'
    ):
        jax.jit(tx.update)(grads, state)
    step = brainstate.transform.jit(tx.update)
    for rate in (0.5, 0.25):
        np.testing.assert_allclose(step(grads, state)[0], -rate)
        np.testing.assert_allclose(tx.update(grads, state)[0], -rate)
        scheduler.step()


def test_a_failed_step_does_not_tell_that_the_rate_is_unread():
    def fail(updates, state, params=None):
        raise ZeroDivisionError

    opt = bo.OptaxOptimizer(tx=optax.GradientTransformation(lambda params: (), fail))
    opt.register_trainable_weights({'w': ParamState(jnp.ones(2))})
    with pytest.raises(ZeroDivisionError):
        opt.step({'w': jnp.ones(2)})
    opt.current_lr = 0.5
    assert opt.current_lr == 0.5


def test_a_given_chain_has_no_weight_decay_of_a_group_either():
    opt = bo.OptaxOptimizer(tx=optax.sgd(0.1))
    opt.register_trainable_weights({'w': ParamState(jnp.ones(2))})
    with pytest.raises(ValueError, match='weight_decay=0.5 would have no effect'):
        opt.add_param_group({'v': ParamState(jnp.ones(2))}, weight_decay=0.5)
    assert len(opt.param_groups) == 1


def test_a_step_that_fails_teaches_nothing_about_the_chain():
    w = ParamState(jnp.ones(2))
    opt = bo.OptaxOptimizer(tx=optax.scale_by_schedule(lambda count: -opt.current_lr), lr=0.5)
    opt.register_trainable_weights({'w': w})
    with pytest.raises(ValueError, match='shape'):
        opt.step({'w': jnp.ones(3)})

    def broken(updates, state, params=None):
        raise RuntimeError('broken')

    failing = bo.OptaxOptimizer(tx=optax.GradientTransformation(lambda p: (), broken), lr=0.5)
    failing.register_trainable_weights({'w': w})
    with pytest.raises(RuntimeError, match='broken'):
        failing.step({'w': jnp.ones(2)})
    for each in (opt, failing):
        each.current_lr = 0.25
        assert each.current_lr == 0.25
