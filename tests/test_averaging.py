"""AveragedModel: torch's averages, and the promises of every optimizer's step."""

import copy
import json
import pydoc
from dataclasses import dataclass
from pathlib import Path

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import saiunit as u
from brainstate import BatchState, HiddenState, LongTermState, ParamState, ShortTermState
from brainstate.transform import for_loop, jit, vmap
from looking import (
    compilations,
    same,
)

import braintools_optim as bo

FILE = np.load(Path(__file__).parent / 'golden' / 'torch_averages.npz')
RECORDED = {case['name']: case for case in json.loads(FILE['averages'].item())}


def geometric(averaged, new, num_averaged):
    return (averaged**2 * num_averaged + new**2) / (averaged + new + num_averaged)


KINDS = [{}, {'decay': 0.9}, {'avg_fn': geometric, 'use_buffers': True}]


class Model(brainstate.nn.Module):
    """What a model may hold, by name."""

    def __init__(self, **states):
        super().__init__()
        for name, state in states.items():
            setattr(self, name, state)

    def update(self, x):
        return x * self.w.value


def arrays(model):
    return jax.tree.map(np.asarray, [s.value for s in model.states().values()])


def mixed():
    """Return a model with leaves of every kind."""
    tied = ParamState({'weight': jnp.ones((2, 3)), 'bias': jnp.zeros(3), 'ids': jnp.arange(2)})
    return Model(
        tied=tied,
        again=tied,
        w=ParamState(jnp.asarray(2.0)),  # weakly typed
        half=ParamState(jnp.ones(2, jnp.bfloat16)),
        z=ParamState(jnp.ones(2, jnp.complex64)),
        tau=ParamState(jnp.ones(2) * u.ms),
        mean=BatchState(jnp.zeros(2)),
        seen=BatchState(jnp.int32(0)),
        h=HiddenState(jnp.zeros(2)),
    )


def moved(model, by=1):
    for state in model.states().values():
        state.value = jax.tree.map(lambda x: x + by, state.value)


# ---- values ------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', RECORDED)
def test_torch(name, x64):
    given = {k: jnp.asarray(FILE[f'model/{k}']) for k in 'wbm'}
    model = Model(
        w=ParamState(given['w'][0]), b=ParamState(given['b'][0]), m=BatchState(given['m'][0])
    )
    kwargs = RECORDED[name]['kwargs']
    if 'avg_fn' in kwargs:
        kwargs = kwargs | {'avg_fn': geometric}
    average = bo.AveragedModel(model, **kwargs)
    for i in range(len(given['w'])):
        for k in 'wbm':
            getattr(model, k).value = given[k][i]
        average.update_parameters(model)
        for k in 'wbm':
            mine, theirs = getattr(average.module, k).value, FILE[f'{name}/{k}'][i]
            np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=0, err_msg=f'{k} at {i}')
    assert average.n_averaged.value == len(given['w'])


@pytest.mark.parametrize('kwargs', KINDS, ids=['mean', 'decay', 'function'])
def test_types_stay_and_traces_agree(kwargs):
    def made():
        model = mixed()
        return model, bo.AveragedModel(model, **kwargs)

    def one(model, average):
        moved(model)
        average.update_parameters(model)

    eager, jitted, looped = made(), made(), made()
    types = jax.tree.map(jax.typeof, [s.value for s in eager[1].states().values()])
    for _ in range(3):
        one(*eager)
    compiled = jit(lambda: one(*jitted))
    with compilations() as first:
        compiled()
    with compilations() as later:
        compiled()
        compiled()
    assert first and 'jit(jaxpr_call)' not in later  # numbers move to the device, once
    for_loop(lambda _: one(*looped), jnp.arange(3))
    assert types == jax.tree.map(jax.typeof, [s.value for s in eager[1].states().values()])
    for _, average in (jitted, looped):
        assert average.n_averaged.value == 3
        close = jax.tree.map(
            lambda a, b: np.allclose(np.complex64(a), np.complex64(b), rtol=1e-6),
            arrays(average),
            arrays(eager[1]),
        )
        assert jax.tree.all(close)
    model, average = eager
    assert average.module.tied is average.module.again
    assert same(average.module.tied.value['ids'], model.tied.value['ids'])
    assert same(average.module.seen.value, model.seen.value)
    assert same(average.module.h.value, np.zeros(2))  # a state of a run is its own
    assert average.module.tau.value.unit == u.ms
    if 'avg_fn' not in kwargs:
        expected = 0.9 * (0.9 * 3 + 0.1 * 4) + 0.1 * 5 if 'decay' in kwargs else 4.0
        assert np.allclose(average.module.w.value, expected)
        assert same(average.module.mean.value, model.mean.value)


def test_one_program_for_many_updates_and_decays():
    model = Model(w=ParamState(jnp.arange(3.0)))
    average = bo.AveragedModel(model, decay=0.5)
    average.update_parameters(model)
    another = bo.AveragedModel(model, decay=0.25)
    with compilations() as names:
        for decay in (0.5, 0.9, 0.0):
            average.decay = decay
            average.update_parameters(model)
        another.update_parameters(model)
    assert not names


def test_live_decay():
    model = Model(w=ParamState(jnp.float32(1.0)))
    average = bo.AveragedModel(model, decay=0.999)
    assert average.decay == 0.999
    average.update_parameters(model)

    @jit
    def update():
        average.update_parameters(model)

    value = 1.0
    for decay in (0.999, 0.5, 0.9999):
        average.decay = decay
        before = float(average.module.w.value)
        model.w.value = jnp.float32(value := value + 1)
        update()
        moved = float(average.module.w.value) - before
        assert np.isclose(moved, (1 - decay) * (value - before), rtol=1e-3)

    @jit
    def warmed():
        n = average.n_averaged.value
        average.decay = jnp.minimum(0.999, (1 + n) / (10 + n))
        average.update_parameters(model)

    warmed()
    assert np.isclose(average.decay, 5 / 14)
    with pytest.raises(ValueError, match=r'decay in \[0, 1\], got decay=1.5'):
        average.decay = 1.5
    assert np.isclose(average.decay, 5 / 14)


def test_decays_of_an_ensemble():
    def run(decay, start):
        model = Model(w=ParamState(start))
        average = bo.AveragedModel(model, decay=decay)
        for _ in range(2):
            average.update_parameters(model)
            model.w.value = model.w.value + 1.0
        return average.module.w.value

    decays, starts = jnp.array([0.0, 0.5, 1.0]), jnp.zeros((3, 2))
    assert same(np.asarray(vmap(run)(decays, starts)), np.array([[1.0] * 2, [0.5] * 2, [0.0] * 2]))


def test_kept_in_float32():
    model = Model(w=ParamState(jnp.ones(2, jnp.bfloat16)), n=ParamState(jnp.arange(2)))
    narrow = bo.AveragedModel(model, decay=0.999)
    wide = bo.AveragedModel(model, decay=0.999, state_dtype=jnp.float32)
    for average in (narrow, wide):
        average.update_parameters(model)
    model.w.value = model.w.value * 2
    for average in (narrow, wide):
        average.update_parameters(model)
    assert narrow.module.w.value.dtype == jnp.bfloat16 and narrow.module.w.value[0] == 1.0
    assert wide.module.w.value.dtype == jnp.float32 and wide.module.n.value.dtype == jnp.int32
    assert np.allclose(wide.module.w.value, 1.001, atol=1e-6)


# ---- buffers of its own ------------------------------------------------------------------------


def pointers(model):
    return {
        x.unsafe_buffer_pointer()
        for x in jax.tree.leaves([s.value for s in model.states().values()])
    }


def test_outlives_steps_that_take_over_memory():
    class Normed(brainstate.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = brainstate.nn.BatchNorm0d((2,))
            self.last = brainstate.nn.Linear(2, 1)

        def update(self, x):
            return self.last(self.norm(x))

    model = Normed()
    average = bo.AveragedModel(model)
    opt = bo.Adam(0.1).register_trainable_weights(model.states(ParamState))

    def loss(x):
        with brainstate.environ.context(fit=True):
            return jnp.mean(model(x) ** 2)

    step = bo.train_step(model, opt, loss)
    x = jnp.arange(8.0).reshape(4, 2)
    whole = jit(lambda: (step(x), average.update_parameters(model)))

    def update_by_operations():
        with jax.disable_jit():
            average.update_parameters(model)

    for update in (lambda: average.update_parameters(model), whole, update_by_operations):
        update()
        assert not pointers(average.module) & pointers(model)
        kept = arrays(average)
        step(x)
        step(x)
        assert same(arrays(average), kept)
    assert same(average.module.norm.running_mean.value, kept[1])
    with brainstate.environ.context(fit=False):
        assert same(average(x), average.module(x)) and not same(average(x), model(x))


def test_copies_are_independent():
    model = mixed()
    average = bo.AveragedModel(model, decay=0.5)
    average.update_parameters(model)
    other = copy.deepcopy(average)
    moved(model)
    other.decay = 0.0
    other.update_parameters(model)
    assert (average.n_averaged.value, average.decay) == (1, 0.5)
    assert average.module.w.value == 2.0 and other.module.w.value == 3.0


# ---- checkpoints -------------------------------------------------------------------------------


@pytest.mark.parametrize('kwargs', KINDS, ids=['mean', 'decay', 'function'])
def test_resumes(kwargs, tmp_path):
    def made():
        model = Model(w=ParamState({'a': jnp.ones(3)}), m=BatchState(jnp.ones(2)))
        return model, bo.AveragedModel(model, **kwargs)

    def train(model, average, rounds):
        for i in rounds:
            moved(model, 0.1 * i)
            average.update_parameters(model)

    def run(model, average):
        return {'model': model.states(), 'average': average.states()}

    whole, half, resumed = made(), made(), made()
    train(*whole, range(3))
    train(*half, range(3))
    if kwargs.get('decay'):
        whole[1].decay = half[1].decay = 0.7
    bo.save(tmp_path / 'run', run(*half))
    bo.restore(tmp_path / 'run', run(*resumed))
    if kwargs.get('decay'):
        assert resumed[1].decay == 0.7
    train(*whole, range(3, 6))
    train(*resumed, range(3, 6))
    assert same(arrays(resumed[1]), arrays(whole[1]))


# ---- mistakes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda m: setattr(m, 'extra', ParamState(jnp.ones(1))), 'has besides extra'),
        (lambda m: delattr(m, 'half'), 'lacks half'),
        (lambda m: setattr(m.w, 'value', jnp.ones(2)), "'w'.*float32.*got float32.2."),
        (lambda m: setattr(m.half, 'value', jnp.ones(2, int)), "'half'.*bfloat16.2., got int32"),
        (lambda m: setattr(m.seen, 'value', jnp.float32(1)), "'seen'.*int32.*got float32"),
        (lambda m: setattr(m, 'tied', ParamState(jnp.ones(2))), 'has besides tied'),
        (lambda m: setattr(m.tau, 'value', jnp.ones(2) * u.mV), 'tau'),
    ],
)
def test_another_structure_changes_nothing(change, message):
    average = bo.AveragedModel(mixed(), decay=0.5)
    before = arrays(average)
    other = mixed()
    moved(other)
    change(other)
    with pytest.raises(ValueError, match=message):
        average.update_parameters(other)
    assert same(arrays(average), before)


def test_states_of_a_run_may_differ():
    model = Model(w=ParamState(jnp.ones(2)))
    average = bo.AveragedModel(model)
    model.h, model.s = HiddenState(jnp.ones(3)), ShortTermState(0)
    average.update_parameters(model)
    assert average.n_averaged.value == 1


@pytest.mark.parametrize(
    'kwargs, error, message',
    [
        ({'decay': 1.5}, ValueError, r'decay in \[0, 1\]'),
        ({'decay': float('nan')}, ValueError, 'nan'),
        ({'decay': 'x'}, TypeError, "got 'x'"),
        ({'decay': 0.9, 'avg_fn': geometric}, ValueError, 'decay or avg_fn, got both'),
        ({'avg_fn': 0.9}, TypeError, 'function for avg_fn, got 0.9'),
        ({'use_buffers': 1}, TypeError, 'True or False for use_buffers'),
        ({'state_dtype': int}, TypeError, 'floating-point dtype for state_dtype'),
    ],
)
def test_bad_arguments(kwargs, error, message):
    with pytest.raises(error, match=f'AveragedModel.*{message}'):
        bo.AveragedModel(Model(w=ParamState(jnp.ones(2))), **kwargs)


def test_other_mistakes():
    model = Model(w=ParamState(jnp.ones(2)))
    with pytest.raises(TypeError, match='needs a model, a brainstate Module, got dict'):
        bo.AveragedModel(model.states().copy())
    average = bo.AveragedModel(model)
    assert average.decay is None
    with pytest.raises(AttributeError, match='assign n_averaged.value'):
        average.n_averaged = 3
    average.n_averaged.value = np.int32(0)
    with pytest.raises(AttributeError, match='built without decay'):
        average.decay = 0.5
    with pytest.raises(TypeError, match='needs a model'):
        average.update_parameters(3)
    wrong = bo.AveragedModel(model, avg_fn=lambda a, p, n: a.sum())
    with pytest.raises(TypeError, match="avg_fn must return an array of the shape .2,. of 'w'"):
        wrong.update_parameters(model)
    assert wrong.n_averaged.value == 0


@pytest.mark.parametrize('kwargs', [{}, {'decay': 0.9}, {'decay': 0.9, 'use_buffers': True}])
@pytest.mark.parametrize('road', [lambda f: f, jit], ids=['eager', 'jit'])
def test_what_is_no_number_is_copied(kwargs, road):
    model = Model(w=ParamState(jnp.ones(2)), key=LongTermState(jax.random.key(0)))
    average = bo.AveragedModel(model, **kwargs)
    update = road(lambda: average.update_parameters(model))
    for seed in (1, 2):
        model.key.value = jax.random.key(seed)
        update()
        assert average.module.key.value == jax.random.key(seed)


@dataclass
class Share:
    """A function without a hash, as data classes are."""

    share: float

    def __call__(self, averaged, new, num_averaged):
        return averaged * self.share + new * (1 - self.share)


def test_an_average_of_an_object_without_a_hash():
    model = Model(w=ParamState(jnp.zeros(2)))
    average = bo.AveragedModel(model, avg_fn=Share(0.75))
    average.update_parameters(model)
    model.w.value = jnp.ones(2)
    with compilations() as found:
        for want in (0.25, 0.4375):
            average.update_parameters(model)
            np.testing.assert_allclose(average.module.w.value, want)
    assert len(found) == 0


def test_a_failing_write_is_undone():
    model = Model(a=ParamState(jnp.ones(2)), b=ParamState(jnp.ones(2)))
    average = bo.AveragedModel(model)
    before = arrays(average)
    moved(model)

    def stop(ctx):
        raise KeyboardInterrupt

    average.module.b.register_hook('write_before', stop)
    with pytest.raises(BaseException):  # noqa: B017  (what brainstate makes of it)
        average.update_parameters(model)
    assert same(arrays(average), before)


def test_help():
    text = pydoc.plain(pydoc.render_doc(bo.AveragedModel))
    head = text[: text.index('Method resolution order')]
    for name in ('model', 'decay', 'avg_fn', 'use_buffers', 'state_dtype'):
        assert f'{name}: ' in head and f'{name} :' in head


def test_it_shows_its_numbers_and_its_model():
    model = mixed()
    average = bo.AveragedModel(model, decay=0.9)
    average.update_parameters(model)
    average.decay = 0.75
    shown = repr(average)
    assert 'decay=0.75,' in shown and 'n_averaged=1,' in shown and 'module=Model(' in shown
    assert 'decay' not in repr(bo.AveragedModel(model))
    texts = []
    jit(lambda: texts.append(repr(average)))()
    assert 'n_averaged' in texts[0]


@pytest.mark.parametrize('decay', [None, 0.25, 0.75])
def test_what_is_infinite_in_all_models_is_so_in_their_average(decay):
    model = brainstate.nn.Linear(1, 2)
    (state,) = model.states(ParamState).values()
    average = bo.AveragedModel(model, decay=decay)
    for weight in (1.0, 2.0):
        state.value = {'weight': jnp.array([[weight, 0.0]]), 'bias': jnp.array([-jnp.inf, weight])}
        average.update_parameters(model)
    (mean,) = average.states(ParamState).values()
    assert mean.value['bias'][0] == -jnp.inf
    assert 1.0 < mean.value['bias'][1] < 2.0
