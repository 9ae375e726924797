"""Lookahead: what it computes, and what it takes over of its base optimizer."""

import copy
from typing import Any, NamedTuple

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from brainstate import ParamState

import braintools_optim as bo


def over(base, *more, **kwargs):
    """Lookahead over two groups: the optimizer and its parameters."""
    v, w = ParamState(jnp.ones(2)), ParamState(jnp.ones(2))
    opt = bo.Lookahead(base, *more, **kwargs).register_trainable_weights({'w': w})
    opt.add_param_group({'v': v})
    return opt, w, v


GRADS = {'w': jnp.ones(2), 'v': jnp.ones(2)}


def test_lookahead_goes_part_of_the_way(x64):
    opt, w, _ = over(bo.SGD(0.1), 3, 0.25)
    seen = []
    for _ in range(7):
        opt.step(GRADS)
        seen.append(float(w.value[0]))
    np.testing.assert_allclose(seen, [0.9, 0.8, 0.925, 0.825, 0.725, 0.85, 0.75])


def test_lookahead_has_the_numbers_and_flags_of_its_base():
    base = bo.SGD(0.1, momentum=0.9, nesterov=True, maximize=True, grad_clip_norm=3.0)
    opt, w, v = over(base, alpha=1.0)
    assert set(opt.param_groups[0]) == {
        *('params', 'lr', 'momentum', 'dampening', 'weight_decay', 'alpha'),
        *('nesterov', 'maximize', 'sync_period'),
    }
    assert (opt.momentum, opt.nesterov, opt.maximize, opt.grad_clip_norm) == (0.9, True, True, 3.0)
    twin = bo.SGD(0.1, momentum=0.9, nesterov=True, maximize=True, grad_clip_norm=3.0)
    x, y = ParamState(jnp.ones(2)), ParamState(jnp.ones(2))
    twin.register_trainable_weights({'w': x}).add_param_group({'v': y})
    for o in (opt, twin):
        o.step(GRADS)
        o.param_groups[1].update(momentum=0.5, weight_decay=0.1, lr=0.3)
        o.grad_clip_norm = 0.7
        o.step(GRADS)
    np.testing.assert_array_equal(w.value, x.value)
    np.testing.assert_array_equal(v.value, y.value)
    with pytest.raises(ValueError, match='SGD needs momentum > 0 with nesterov=True'):
        over(bo.SGD(0.1, momentum=0.9, nesterov=True))[0].add_param_group(
            {'x': ParamState(jnp.ones(1))}, momentum=0.0
        )


def test_lookahead_takes_the_scheduler_of_its_base():
    scheduler = bo.ConstantLR(0.4, factor=0.5, total_iters=1)
    opt, w, v = over(bo.SGD(scheduler))
    assert opt.lr is scheduler and opt.get_last_lr() == [0.2, 0.2]
    opt.step(GRADS)
    scheduler.step()
    opt.step(GRADS)
    np.testing.assert_allclose((w.value, v.value), 1 - 0.2 - 0.4, rtol=1e-6)
    beside = bo.ExponentialLR(0.4, gamma=0.5)
    base = bo.SGD(bo.ConstantLR(0.4, 1.0, 0))
    base.add_scheduler(beside)
    opt, w, _ = over(base)
    assert opt.schedulers == [beside]
    beside.step()
    assert opt.get_last_lr() == [0.2, 0.2]
    opt = bo.Lookahead(bo.SGD(0.4))
    late = bo.ExponentialLR(opt, gamma=0.5)
    assert opt.lr is late
    changed = bo.Adam(0.1)
    changed.current_lr, changed.eps = 0.3, 1e-3
    opt = bo.Lookahead(changed)
    assert (opt.current_lr, opt.eps) == (0.3, 1e-3)


def test_lookahead_with_a_learning_rate_and_decay_of_its_own():
    opt = bo.Lookahead(bo.AdamW(bo.ConstantLR(0.4)), lr=0.25, weight_decay=0.5)
    assert (opt.current_lr, opt.weight_decay, opt.betas) == (0.25, 0.5, (0.9, 0.999))
    assert bo.Lookahead(bo.AdamW(0.4)).weight_decay == 0.01


@pytest.mark.parametrize('how', ['default', 'lr', 'scheduler'])
def test_lookahead_over_a_chain_multiplies_what_it_returns(how):
    lr = {'default': None, 'lr': 0.5, 'scheduler': bo.ConstantLR(1.0, 0.5, 1)}[how]
    opt, w, v = over(optax.sgd(0.25), 2, 0.5, lr=lr)
    opt.param_groups[1]['lr'] = 2.0
    opt.step(GRADS)
    first = 0.75 if how == 'default' else 0.875
    np.testing.assert_allclose((w.value[0], v.value[0]), (first, 0.5))
    opt.step(GRADS)
    np.testing.assert_allclose((w.value[0], v.value[0]), (first, 0.5))


class Signed(NamedTuple):
    """The state of a chain of somebody else's, whose field is named like a sum of squares."""

    nu: Any


def test_lookahead_over_a_chain_leaves_to_it_what_its_state_means(x64):
    def update(updates, state, params=None):
        assert jax.tree.leaves(params)[0].dtype == complex  # as they are, no pairs of reals
        return jax.tree.map(jnp.negative, updates), state

    tx = optax.GradientTransformation(lambda params: Signed(jnp.full(2, -1.0)), update)
    w = ParamState(jnp.full(2, 1.0 + 1.0j))
    opt = bo.Lookahead(tx, 2, 0.5, lr=0.25, weight_decay=0.5)
    opt.register_trainable_weights({'w': w})
    opt.step({'w': jnp.full(2, 1.0j)})
    np.testing.assert_allclose(w.value, 1.0 + 1.0j - 0.25 * (1.0j + 0.5 * (1.0 + 1.0j)))
    saved = opt.state_dict()
    assert saved['optimizer'] == 'Lookahead'  # over what: a chain has no name
    opt.load_state_dict(saved)
    assert opt.opt_state.value.fast[1].nu.tolist() == [-1.0, -1.0]


class OldSGD(bo.OptaxOptimizer):
    def default_tx(self):
        return optax.scale_by_schedule(self._lr_scheduler)


@pytest.mark.parametrize(
    'base', [OldSGD, lambda lr: bo.OptaxOptimizer(optax.sgd(lr))], ids=['default_tx', 'tx']
)
def test_lookahead_over_a_chain_that_is_fixed(base):
    opt, w, v = over(base(lr=0.25), 2, 0.5)
    with pytest.raises(AttributeError, match='alpha is baked'):
        opt.alpha = 0.3
    if base is OldSGD:
        opt.param_groups[1]['lr'] = 0.5
    twin = copy.deepcopy(opt)
    opt.step(GRADS)
    opt.step(GRADS)
    np.testing.assert_allclose((w.value[0], v.value[0]), (0.75, 0.5 if base is OldSGD else 0.75))
    if base is OldSGD:
        twin.current_lr = 0.0
    twin.step({'w': GRADS['w']})
    np.testing.assert_allclose(w.value[0], 0.75 if base is OldSGD else 0.5)


def test_lookahead_gives_extra_arguments_on():
    def update(updates, state, params=None, *, value, **extra):
        return jax.tree.map(lambda p: -value * p, params), state

    tx = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    opt, w, _ = over(tx)
    opt.step(GRADS, value=0.5)
    np.testing.assert_allclose(w.value, 0.5)


def test_lookahead_can_be_copied_and_looked_at():
    opt, w, _ = over(bo.Adam(0.1), sync_period=2)
    opt.step(GRADS)
    other = copy.deepcopy(opt)
    before = w.value
    opt.step(GRADS)
    after, w.value = w.value, before
    other.step(GRADS)
    np.testing.assert_array_equal(w.value, after)
    assert repr(opt).startswith('Lookahead (step 2') and 'betas' in repr(opt)
    assert all(isinstance(s, bo.OptimState) for s in brainstate.graph.states(opt).values())
    again, x, _ = over(bo.Adam(0.1), sync_period=3)
    with pytest.raises(bo.IncompatibleCheckpoint, match='sync_period'):
        again.load_state_dict(opt.state_dict())


def test_lookahead_of_lookahead(x64):
    opt, w, _ = over(bo.Lookahead(bo.SGD(0.1), 2, 0.5), 4, 0.5)
    assert (opt.alpha, opt.base_alpha, opt.sync_period, opt.base_sync_period) == (0.5, 0.5, 4, 2)
    for _ in range(4):
        opt.step(GRADS)
    np.testing.assert_allclose(w.value, 0.9)


def test_a_base_that_was_refused_can_be_used():
    base = bo.Adam(bo.ConstantLR(0.1))
    with pytest.raises(ValueError, match='alpha'):
        bo.Lookahead(base, alpha=2.0)
    assert bo.Lookahead(base, alpha=1.0).lr is base.lr


def test_a_wrong_alpha_of_a_group_is_refused():
    opt, _, _ = over(bo.SGD(0.1))
    with pytest.raises(ValueError, match=r'Lookahead needs alpha in \[0, 1\], got alpha=1.5'):
        opt.param_groups[1]['alpha'] = 1.5
    with pytest.raises(ValueError, match='Lookahead needs an integer >= 1 for sync_period, got 0'):
        opt.add_param_group({'x': ParamState(jnp.ones(1))}, sync_period=0)
    assert opt.param_groups[1]['alpha'] == 0.5 and len(opt.param_groups) == 2


def test_lookahead_goes_on_from_weights_that_were_loaded():
    """Neither those of its registration nor those before a period are what it goes back to."""
    w, grads = ParamState(jnp.zeros(2)), {'w': jnp.ones(2)}
    opt = bo.Lookahead(bo.SGD(0.1), sync_period=2, alpha=0.5).register_trainable_weights({'w': w})
    for start in (10.0, 20.0):
        w.value = jnp.full(2, start)
        opt.step(grads)
        opt.step(grads)
        np.testing.assert_allclose(w.value, start - 0.1, rtol=1e-6)


# ---- what a base is given besides gradients -----------------------------------------------------


def maximized(w):
    return -jnp.sum(jnp.array([1.0, 10.0]) * (w - 1.0) ** 2)


BASES = {
    'a line search that climbs': lambda: bo.LBFGS(linesearch='strong_wolfe', maximize=True),
    'other gradients, climbing': lambda: bo.Mars(0.1, maximize=True, exact=True),
    'other gradients, clipped': lambda: bo.Mars(0.1, exact=True, grad_clip_norm=0.5),
}


@pytest.mark.parametrize('make', BASES.values(), ids=BASES)
def test_what_comes_besides_gradients_goes_the_way_that_it_goes_in_the_base(make):
    found = []
    for opt in (make(), bo.Lookahead(make(), alpha=1.0)):
        w = ParamState(jnp.array([0.5, -0.5]))
        opt.register_trainable_weights({'w': w})
        for t in range(3):
            value, grad = jax.value_and_grad(maximized)(w.value)
            if opt._searches():
                opt.step({'w': grad}, value=value, value_fn=lambda p: maximized(p['w']))
            else:
                opt.step({'w': grad}, previous_point_grads={'w': grad * (0.5 if t else 0.0)})
        found.append(np.array(w.value))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-6)
    assert np.isfinite(found[0]).all() and (found[0] != [0.5, -0.5]).all()


@pytest.mark.parametrize(
    ('base', 'lacks'),
    [
        (lambda: bo.Mars(0.1, exact=True), 'exact=True.*needs previous_point_grads'),
        (lambda: bo.LBFGS(linesearch='zoom'), 'needs value, the loss, and value_fn'),
    ],
)
def test_what_a_base_lacks_is_said(base, lacks):
    opt = bo.Lookahead(base()).register_trainable_weights({'w': ParamState(jnp.ones(2))})
    with pytest.raises(TypeError, match=lacks):
        opt.step({'w': jnp.ones(2)})


def test_train_step_gives_the_loss_to_a_base_that_searches():
    w = ParamState(jnp.array([0.0, 3.0]))
    opt = bo.Lookahead(bo.LBFGS(linesearch='strong_wolfe'), alpha=1.0)
    opt.register_trainable_weights({'w': w})
    step = bo.train_step(w, opt, lambda: -maximized(w.value))
    for _ in range(6):
        step()
    np.testing.assert_allclose(w.value, [1.0, 1.0], rtol=1e-5)


def test_a_scheduler_of_a_number_drives_it_under_its_new_name():
    base = bo.RMSprop(0.1, alpha=0.99)
    halves = bo.ParamScheduler(base, 'alpha', lambda epoch: 0.25 + 0.05 * epoch)
    opt = bo.Lookahead(base, alpha=0.5)
    opt.register_trainable_weights({'w': ParamState(jnp.ones(2))})
    assert (opt.alpha, opt.base_alpha) == (0.5, 0.25)
    halves.step()
    assert (opt.alpha, opt.base_alpha) == (0.5, pytest.approx(0.3))
    assert halves.name == 'base_alpha'


def test_the_state_of_a_base_has_its_version():
    class Mine(bo.SGD):
        pass

    old = bo.Lookahead(Mine(0.1)).register_trainable_weights({'w': ParamState(jnp.ones(2))})
    saved = old.state_dict()
    Mine.state_schema = 2
    new = bo.Lookahead(Mine(0.1)).register_trainable_weights({'w': ParamState(jnp.ones(2))})
    with pytest.raises(bo.IncompatibleCheckpoint, match='was of version 1, here it is 2'):
        new.load_state_dict(saved)

    Mine.added_options = {2: {'momentum': 0.0, 'alpha': 0.3}}
    del saved['param_groups']['0']['momentum']
    newer = bo.Lookahead(Mine(0.1)).register_trainable_weights({'w': ParamState(jnp.ones(2))})
    assert newer.added_options == {2: {'momentum': 0.0, 'base_alpha': 0.3}}
    with pytest.raises(bo.IncompatibleCheckpoint) as caught:
        newer.load_state_dict(saved)
    assert caught.value.differences == ["group 0: 'base_alpha' is unknown here"]


@pytest.mark.parametrize('order', [('opt', 'scheduler'), ('scheduler', 'opt'), ('base', 'opt')])
def test_a_copy_has_the_scheduler_that_is_copied_with_it(order):
    base = bo.Adam(bo.StepLR(0.1, step_size=1))
    opt = bo.Lookahead(base).register_trainable_weights({'w': ParamState(jnp.ones(2))})
    there = {'opt': opt, 'scheduler': opt.lr, 'base': base}
    new = copy.deepcopy({name: there[name] for name in order})
    assert new.get('scheduler', new['opt'].lr) is new['opt'].lr is not opt.lr
    new['opt'].lr.step()
    assert (new['opt'].current_lr, opt.current_lr) == (pytest.approx(0.01), 0.1)
