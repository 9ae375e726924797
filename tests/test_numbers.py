"""The numbers that groups and schedulers show: as they were read, with a live ``.value``."""

import copy
import json
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brainstate import ParamState
from brainstate.transform import for_loop, jit, vmap

import braintools_optim as bo


def ready(**options):
    """Return an optimizer of two groups."""
    opt = bo.SGD(**{'lr': 0.25, **options})
    opt.register_trainable_weights({'w': ParamState(jnp.ones(2))})
    opt.add_param_group({'v': ParamState(jnp.ones(2))}, lr=0.5)
    return opt


def test_a_list_of_learning_rates_is_a_record():
    opt = ready(lr=bo.StepLR(0.25, step_size=1, gamma=0.5))
    seen = []
    for _ in range(3):
        seen.append(opt.param_groups[0]['lr'])
        opt.lr.step()
    assert seen == [0.25, 0.125, 0.0625]
    assert [lr.value for lr in seen] == [0.03125] * 3


@pytest.mark.parametrize('transform', [lambda f: f, jit], ids=['eager', 'jit'])
def test_a_learning_rate_is_put_back(transform):
    opt = ready()

    def pause(grads):
        saved = [group['lr'] for group in opt.param_groups]
        for group in opt.param_groups:
            group['lr'] = 0.0
        opt.step(grads)
        for group, lr in zip(opt.param_groups, saved, strict=True):
            group['lr'] = lr

    transform(pause)({'w': jnp.ones(2), 'v': jnp.ones(2)})
    assert opt.get_last_lr() == [0.25, 0.5]
    np.testing.assert_array_equal(opt.param_states.to_pytree()['w'].value, 1.0)


def test_it_is_a_float():
    lr = ready().param_groups[0]['lr']
    assert isinstance(lr, float) and lr == 0.25 and hash(lr) == hash(0.25) and 2 * lr == 0.5
    assert json.dumps({'lr': lr}) == '{"lr": 0.25}'
    for made in (pickle.loads(pickle.dumps(lr)), copy.deepcopy(lr), copy.copy(lr), lr + 0.0):
        assert type(made) is float and made == lr
    assert (f'{lr:.3f}', repr(lr), str([lr])) == ('0.250', '0.25', '[0.25]')


def test_jax_takes_it_as_a_float():
    lr = ready().param_groups[0]['lr']
    half = jnp.ones(2, jnp.bfloat16)
    assert (half * lr).dtype == (lr * half).dtype == jnp.bfloat16 and jnp.asarray(lr).weak_type
    traces = []

    @jax.jit
    def scaled(x):
        traces.append(x)
        return half * x

    for x in (lr, 0.5, lr):
        assert scaled(x).dtype == jnp.bfloat16
    assert len(traces) == 1


@pytest.mark.parametrize('transform', [lambda f: f, jit], ids=['eager', 'jit'])
def test_no_number_that_is_read_widens_anything(transform):
    opt, half = ready(weight_decay=0.5), jnp.ones(2, jnp.bfloat16)
    scheduler = bo.StepLR(opt, step_size=3)

    def products():
        numbers = [opt.current_lr, opt.weight_decay, *opt.get_last_lr(), *scheduler.base_lrs]
        numbers += [opt.param_groups[0]['lr'], opt.param_groups[0]['lr'].value, scheduler.gamma]
        return [half * x for x in numbers]

    assert {x.dtype for x in transform(products)()} == {jnp.dtype(jnp.bfloat16)}


def test_numpy_takes_it_as_a_number_of_python():
    lr = ready().param_groups[0]['lr']
    scheduler = bo.ReduceLROnPlateau(0.1)
    for metric in (1.0, 2.0):
        scheduler.step(metric)
    bad, array, small = scheduler.num_bad_epochs, np.ones(2, np.float32), np.ones(2, np.int8)
    for made in (array * lr, lr * array, np.float32(2) * lr, array**lr, np.clip(array, 0, lr)):
        assert made.dtype == np.float32
    assert (array * bad).dtype == np.float32 and (small * bad).dtype == np.int8
    array *= lr
    np.testing.assert_array_equal(array, [0.25, 0.25])
    assert np.asarray([lr, lr]).dtype == np.float64


@pytest.mark.parametrize('transform', [lambda f: f, jit], ids=['eager', 'jit'])
@pytest.mark.parametrize(
    'use',
    [
        lambda lr: lr,
        lambda lr: jnp.sqrt(lr) ** 2,
        lambda lr: jnp.where(lr > 0, lr, 1.0),
        lambda lr: jnp.multiply(jnp.ones(()), lr),
        lambda lr: jax.lax.cond(lr > 0, lambda x: x * 1, lambda x: x * 2, lr),
        lambda lr: jax.jit(lambda x: x * 1)(lr),
        lambda lr: jax.grad(lambda x: x * x)(lr) / 2,
        lambda lr: np.ones((), np.float32) * lr,
        lambda lr: (np.ones(2, np.float32) * lr)[0],
    ],
)
def test_functions_take_it_and_return_it(transform, use):
    opt = ready()
    made = transform(lambda: use(opt.param_groups[0]['lr']))()
    np.testing.assert_allclose(made, 0.25)


@pytest.mark.parametrize('transform', [lambda f: f, jit], ids=['eager', 'jit'])
def test_it_is_stored_as_a_plain_number(transform):
    opt = ready()

    def assign():
        opt.param_groups[0]['lr'] = opt.param_groups[1]['lr']
        opt.param_groups[1]['lr'].value = opt.param_groups[1]['lr'] / 4
        opt.weight_decay = opt.param_groups[1]['lr']

    transform(assign)()
    assert opt.get_last_lr() == [0.5, 0.125] and opt.weight_decay == 0.125
    assert {type(x) for x in (*opt.get_last_lr(), opt.weight_decay)} == {float}
    new = bo.SGD(lr=opt.param_groups[0]['lr'], momentum=opt.param_groups[1]['lr'])
    assert type(new.current_lr) is type(new.momentum) is type(new.base_lr) is float
    assert type(bo.StepLR(opt.param_groups[0]['lr']).base_lrs[0]) is float
    saved = opt.state_dict()['param_groups']['0']
    assert type(saved['lr']) is float


def test_loops_and_vmap_see_what_is_there():
    opt = ready()

    def halve(_):
        group = opt.param_groups[0]
        before = group['lr']
        group['lr'] = before * 0.5
        return before * (before > 0.0), group['lr'].value, before.value

    before, after, present = for_loop(halve, jnp.arange(3))
    np.testing.assert_array_equal(before, [0.25, 0.125, 0.0625])
    np.testing.assert_array_equal(after, [0.125, 0.0625, 0.03125])
    np.testing.assert_array_equal(present, after)

    def doubled(lr):
        opt = bo.SGD(lr).register_trainable_weights({'w': ParamState(jnp.ones(2))})
        opt.param_groups[0]['lr'] *= 2
        return opt.param_groups[0]['lr'] + 0.0

    np.testing.assert_array_equal(vmap(doubled)(jnp.array([0.5, 1.0])), [1.0, 2.0])


def test_what_a_scheduler_remembers_is_a_record_too():
    scheduler = bo.ReduceLROnPlateau(0.1, patience=5)
    bests, bad = [], []
    for metric in (3.0, 2.0, 2.5, 1.0):
        scheduler.step(metric)
        bests.append(scheduler.best)
        bad.append(scheduler.num_bad_epochs)
    assert bests == [3.0, 2.0, 2.0, 1.0] and bests[0].value == 1.0
    assert bad == [0, 0, 1, 0] and isinstance(bad[0], int) and list(range(3))[bad[2]] == 1
    assert type(pickle.loads(pickle.dumps(bad[2]))) is int
    restarts = bo.CosineAnnealingWarmRestarts(0.1, T_0=2)
    cycle = [restarts.T_cur]
    restarts.step()
    assert cycle == [0] and cycle[0].value == restarts.T_cur == 1
    with pytest.raises(AttributeError, match='follows from the epoch'):
        cycle[0].value = 3
