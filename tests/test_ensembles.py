"""Several models with an optimizer each, which brainstate builds and steps under vmap."""

import copy

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brainstate import ParamState
from brainstate.transform import jit, vmap, vmap2, vmap_new_states

import braintools_optim as bo

RATES = (0.1, 0.02)
SCHEDULES = {
    'step': lambda lr: bo.StepLR(lr, step_size=1, gamma=0.5),
    'one cycle': lambda lr: bo.OneCycleLR(max_lr=lr, total_steps=10),
    'restarts': lambda lr: bo.CosineAnnealingWarmRestarts(lr, T_0=2),
    'sequence': lambda lr: bo.SequentialLR(
        [bo.LinearLR(lr, start_factor=0.5, total_iters=2), bo.ExponentialLR(lr, gamma=0.9)], [2]
    ),
    'plateau': lambda lr: bo.ReduceLROnPlateau(lr, patience=0, factor=0.5),
    'none': lambda lr: lr,
}


OPTIMIZERS = {
    'masters of what is wide': lambda lr: bo.SGD(lr, master_dtype='float32'),
    'masters that are narrow': lambda lr: bo.Adam(lr, master_dtype='bfloat16'),
    'lbfgs': lambda lr: bo.LBFGS(lr),
}


@pytest.mark.parametrize('make', OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_every_optimizer_trains_as_an_ensemble(make):
    def member(lr):
        w = ParamState(jnp.ones(3))
        return w, make(lr).register_trainable_weights({'w': w})

    found = []
    vmap_new_states(in_axes=0)(lambda lr: found.extend(member(lr)))(jnp.array(RATES))
    w, opt = found[-2:]
    step = mapped(lambda: opt.step({'w': 2 * w.value - 1}), None)
    for _ in range(3):
        step()
    for i, lr in enumerate(RATES):
        alone, single = member(lr)
        for _ in range(3):
            single.step({'w': 2 * alone.value - 1})
        np.testing.assert_allclose(w.value[i], alone.value, rtol=1e-6)


def built(lr, make):
    w = ParamState(jnp.ones(3))
    return w, bo.AdamW(make(lr)).register_trainable_weights({'w': w})


def take_step(w, opt):
    opt.step({'w': w.value})
    opt.lr.step(*[jnp.float32(1.0)] * isinstance(opt.lr, bo.ReduceLROnPlateau))


def ensemble(make):
    found = []
    vmap_new_states(in_axes=0)(lambda lr: found.extend(built(lr, make)))(jnp.array(RATES))
    return found[-2:]


def mapped(function, states):
    """Return the function mapped over States: all that it touches, or those that are named."""
    if states is None:
        axes = {0: ...}
        return jit(
            vmap2(function, in_axes=(), state_in_axes=axes, state_out_axes=axes, axis_size=2)
        )
    return jit(vmap(function, in_axes=(), in_states=states, out_states=states, axis_size=2))


@pytest.mark.parametrize('named', [False, True])
@pytest.mark.parametrize('make', SCHEDULES.values(), ids=SCHEDULES)
def test_an_ensemble_trains_as_each_of_its_members(make, named):
    w, opt = ensemble(make)
    states = [w, *brainstate.graph.states(opt).values()] if named else None
    step = mapped(lambda: take_step(w, opt), states)
    alone = [built(lr, make) for lr in RATES]
    for _ in range(4):
        step()
        for one in alone:
            take_step(*one)
    np.testing.assert_allclose(w.value, jnp.stack([v.value for v, _ in alone]), rtol=1e-6)
    np.testing.assert_allclose(opt.current_lr, [o.current_lr for _, o in alone], rtol=1e-6)
    np.testing.assert_array_equal(opt.step_count.value, [4, 4])


def test_numbers_of_an_ensemble_are_read_outside_and_written_inside():
    w, opt = ensemble(SCHEDULES['step'])
    np.testing.assert_array_equal(opt.current_lr, np.float32(RATES))
    np.testing.assert_array_equal(opt.betas[0], np.float32([0.9, 0.9]))
    assert '[0.1  0.02]' in repr(opt) and 'epoch=[0, 0]' in repr(opt.lr)
    mapped(lambda: setattr(opt, 'current_lr', opt.current_lr * 3.0), None)()
    np.testing.assert_allclose(opt.current_lr, np.float32(RATES) * 3.0, rtol=1e-6)


@pytest.mark.parametrize('inner', [lambda f: f, jit], ids=['eager', 'jit'])
def test_one_scheduler_becomes_several_by_the_rates_it_finds(inner):
    """Its epoch, which no rate has part in, is mapped with its numbers."""
    w, opt = built(0.1, SCHEDULES['step'])
    states = list(brainstate.graph.states(opt).values())

    def step(lr):
        opt.current_lr = lr
        inner(opt.lr.step)()
        return opt.current_lr

    np.testing.assert_allclose(vmap(step, out_states=states)(jnp.array(RATES)), [0.05, 0.01])
    np.testing.assert_allclose(opt.current_lr, [0.05, 0.01], rtol=1e-6)
    np.testing.assert_array_equal(opt.lr.last_epoch.value, [1, 1])


@pytest.mark.parametrize(
    'use',
    [
        lambda w, opt: setattr(opt, 'current_lr', 0.3),
        lambda w, opt: setattr(opt, 'betas', (0.3, 0.2)),
        lambda w, opt: opt.step({'w': w.value}),
        lambda w, opt: jit(lambda: opt.step({'w': w.value}))(),
        lambda w, opt: bo.train_step({'w': w}, opt, lambda: w.value @ jnp.ones(3))(),
        lambda w, opt: opt.lr_apply(lambda lr: lr / 2),
        lambda w, opt: opt.add_param_group({'v': ParamState(jnp.ones(3))}),
        lambda w, opt: opt.register_trainable_weights({'v': ParamState(jnp.ones(3))}),
        lambda w, opt: opt.lr.step(),
        lambda w, opt: opt.lr.preview(3),
        lambda w, opt: bo.StepLR(opt, step_size=2),
        lambda w, opt: opt.state_dict(),
        lambda w, opt: opt.save('never'),
    ],
)
def test_what_an_ensemble_cannot_do_outside_of_vmap(use):
    w, opt = ensemble(SCHEDULES['step'])
    before = jax.tree.map(np.array, [s.value for s in brainstate.graph.states(opt).values()])
    with pytest.raises(ValueError, match='several.*which a vmap made'):
        use(w, opt)
    after = [s.value for s in brainstate.graph.states(opt).values()]
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_a_copy_of_an_ensemble_says_that_it_is_one():
    with pytest.raises(ValueError, match='this optimizer stands for several'):
        copy.deepcopy(ensemble(SCHEDULES['step'])[1])


def test_an_ensemble_that_accumulates_says_the_same():
    found = []

    def member(lr):
        w = ParamState(jnp.ones(3))
        found.append(bo.AdamW(lr, accumulate_steps=2).register_trainable_weights({'w': w}))

    vmap_new_states(in_axes=0)(member)(jnp.array(RATES))
    with pytest.raises(ValueError, match='several, which a vmap made: use it in the function'):
        found[-1].step({'w': jnp.ones((2, 3))})


def test_the_states_of_a_module_hold_what_its_schedulers_remember():
    class Agent(brainstate.nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.opt = built(0.1, SCHEDULES['sequence'])
            bo.ParamScheduler(self.opt, 'weight_decay', lambda epoch: 0.1 * epoch)

        def learn(self):
            self.opt.step({'w': self.w.value})
            for scheduler in self.opt.schedulers:
                scheduler.step()
            self.opt.lr.step()
            return np.array(self.w.value)

    agent = Agent()
    agent.learn()
    kept = {path: jax.tree.map(jnp.array, s.value) for path, s in agent.states().items()}
    first = [agent.learn() for _ in range(3)]
    for path, state in agent.states().items():
        state.value = kept[path]
    np.testing.assert_array_equal([agent.learn() for _ in range(3)], first)
    with pytest.raises(TypeError, match='is a State of an optimizer.*give the optimizer itself'):
        bo.save('never', {'agent': agent.states()})


@pytest.mark.parametrize('decay', [None, 0.5])
def test_every_member_has_an_average_of_its_own(decay):
    def member(lr):
        net = brainstate.nn.Linear(2, 1, w_init=jnp.ones, b_init=jnp.zeros)
        opt = bo.SGD(lr).register_trainable_weights(net.states(ParamState))
        return net, opt, bo.AveragedModel(net, decay=decay)

    def step(net, opt, average):
        opt.step({('weight',): net.weight.value})
        average.update_parameters(net)

    found = []
    vmap_new_states(in_axes=0)(lambda lr: found.extend(member(lr)))(jnp.array(RATES))
    together = found[-3:]
    take = mapped(lambda: step(*together), None)
    for _ in range(3):
        take()
    for i, lr in enumerate(RATES):
        alone = member(lr)
        for _ in range(3):
            step(*alone)
        for got, want in zip(
            jax.tree.leaves(together[2].module.weight.value),
            jax.tree.leaves(alone[2].module.weight.value),
            strict=True,
        ):
            np.testing.assert_allclose(got[i], want, rtol=1e-6)
    np.testing.assert_array_equal(together[2].n_averaged.value, [3, 3])
