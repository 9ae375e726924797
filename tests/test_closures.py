"""A closure is compiled once, is never stale, and gives the same in all contexts."""

import functools
import pickle
from functools import partial

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from brainstate import ParamState, State
from brainstate.transform import for_loop, jit, vmap
from closure_runs import SEARCHES, Counter, problem, rosenbrock
from looking import (
    compilations,
    digest,
    signature,
    values_of,
)

import braintools_optim as bo

# ---- a closure is compiled once, and never stale ------------------------------------------------


def test_one_trace_over_many_calls():
    opt, _, closure = rosenbrock(linesearch='strong_wolfe', max_iter=3)
    counter = Counter(closure)
    opt.step(counter)
    traces = counter.traces
    with compilations() as later:
        for lr in (0.5, 0.25, 0.125, 0.125):
            opt.param_groups[0]['lr'] = lr
            opt.tolerance_grad = lr / 1e6
            opt.step(counter)
    assert counter.traces == traces and later == []
    jitted = jit(lambda: opt.step(counter))
    jitted()
    traces = counter.traces
    for _ in range(4):
        jitted()
    assert counter.traces == traces


SHIFT = 1.0


def of_module(w):
    return ((w.value - SHIFT) ** 2).sum()


class Model:
    def __init__(self):
        self.w = ParamState(jnp.zeros(3))

    def loss(self):
        return ((self.w.value - 1.0) ** 2).sum()


@pytest.mark.parametrize('way', ['lambda', 'method', 'counter'])
def test_new_functions_of_one_meaning_are_one_program(way):
    model, calls = Model(), 0
    opt = bo.LBFGS(max_iter=2).register_trainable_weights({'w': model.w})

    def counting():
        nonlocal calls
        calls += 1
        return model.loss()

    def closure():
        if way == 'counter':
            return counting
        return model.loss if way == 'method' else lambda: of_module(model.w)

    opt.step(closure())
    with compilations() as later:
        for _ in range(3):
            calls += 1
            opt.step(closure())
    assert later == []


def test_what_a_closure_refers_to_is_never_stale(monkeypatch):
    w = ParamState(jnp.zeros(3))
    opt = bo.LBFGS(max_iter=1, linesearch='strong_wolfe').register_trainable_weights({'w': w})

    def loss_of(batch, target=0.0):
        return lambda: ((w.value - batch) ** 2).sum() + target

    for t in range(3):
        batch = jnp.full(3, 1.0 + t)
        w.value = jnp.zeros(3)
        assert opt.step(loss_of(batch)) == 3 * (1.0 + t) ** 2
        w.value = jnp.zeros(3)
        assert opt.step(loss_of(batch, 0.5)) == 3 * (1.0 + t) ** 2 + 0.5
    w.value = jnp.zeros(3)
    step = lambda: opt.step(lambda: of_module(w))  # noqa: E731
    assert step() == 3.0
    w.value = jnp.zeros(3)
    monkeypatch.setattr(f'{__name__}.SHIFT', 2.0)
    assert step() == 12.0


class Trainer:
    """What a closure may read from: attributes, entries, a slot, a property, a method's own."""

    class Slotted:
        __slots__ = ('batch',)

    scale = 1.0
    power = 2

    def __init__(self, w):
        self.w = w
        self.batch = jnp.zeros(3)
        self.data = {'batch': [jnp.zeros(3)]}
        self.host = np.zeros(3, np.float32)
        self.slotted = self.Slotted()
        self.slotted.batch = jnp.zeros(3)
        self.losses = []
        self.calls = {'n': 0}
        self.traces = 0

    @property
    def target(self):
        return self.batch + self.data['batch'][0] + self.host + self.slotted.batch

    def loss(self):
        self.traces += 1
        self.calls['n'] += 1
        self.losses.append(None)
        return self.scale * (self.bent(self.w.value - self.target)).sum()

    @staticmethod
    def bent(x):
        return x**Trainer.power

    def __call__(self):
        return self.loss()


@pytest.mark.parametrize('way', ['method', 'callable', 'lambda', 'partial'])
def test_what_a_closure_reaches_is_never_stale(way, monkeypatch):
    w = ParamState(jnp.zeros(3))
    opt = bo.LBFGS(max_iter=1).register_trainable_weights({'w': w})
    trainer = Trainer(w)

    def closure():
        ways = {
            'method': trainer.loss,
            'callable': trainer,
            'lambda': lambda: trainer.loss(),
            'partial': functools.partial(Trainer.loss, trainer),
        }
        return ways[way]

    def step():
        w.value = jnp.zeros(3)
        return float(opt.step(closure()))

    assert step() == 0.0
    traces = trainer.traces
    assert step() == 0.0 and trainer.traces == traces  # it writes, and is compiled once
    trainer.batch = jnp.ones(3)
    assert step() == 3.0
    trainer.data['batch'][0] = jnp.ones(3)
    assert step() == 12.0
    trainer.host[:] = 1.0
    assert step() == 27.0
    trainer.slotted.batch = jnp.ones(3)
    assert step() == 48.0
    trainer.scale = 2.0
    assert step() == 96.0
    monkeypatch.setattr(Trainer, 'power', 3)
    assert step() == -384.0
    traces = trainer.traces
    assert step() == -384.0 and trainer.traces == traces


@pytest.mark.parametrize('given', ['LBFGS', 'tx'])
def test_what_a_value_function_refers_to_is_never_stale(given, monkeypatch):
    monkeypatch.setattr('braintools_optim.engine.closure._REMEMBERED', 3)
    traces = []

    def search():
        def update(updates, state, params=None, *, value, value_fn, **extra):
            traces.append(None)
            return jax.tree.map(lambda p: value_fn(params) - value + 0.0 * p, updates), state

        return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)

    w, shift = ParamState(jnp.zeros(3)), State(jnp.zeros(3))
    opt = bo.LBFGS(1.0, linesearch=search()) if given == 'LBFGS' else bo.OptaxOptimizer(search())
    opt.register_trainable_weights({'w': w})
    data = {'x': jnp.zeros(3)}

    def value_fn(values):
        return (values['w'] + shift.value + data['x']).sum()

    def moved():
        w.value = jnp.zeros(3)
        opt.step({'w': jnp.ones(3)}, value=jnp.asarray(1.0), value_fn=value_fn)
        return abs(float(w.value[0]))

    assert moved() == 1.0 and moved() == 1.0 and len(traces) == 1
    shift.value = jnp.ones(3)
    assert moved() == 2.0 and len(traces) == 1
    data['x'] = jnp.ones(3)
    assert moved() == 5.0 and len(traces) == 2
    assert moved() == 5.0 and len(traces) == 2
    for t in range(5):
        opt.step({'w': jnp.ones(3)}, value=0.0, value_fn=lambda values, t=t: values['w'][0] + t)
    assert len(opt._stepper.closures.compiled) <= 3 and not opt._stepper.donating.compiled
    assert int(opt.step_count.value) == 10


def scaled_inside(w, batch):
    """A loss with its batch among the constants of a jitted function in it."""
    return jax.jit(lambda v: ((v - batch.mean(0)) ** 2).sum())(w.value)


@pytest.mark.parametrize(
    ('loss', 'kind'),
    [
        (lambda w, batch: ((w.value - batch.mean(0)) ** 2).sum(), jnp.asarray),
        (lambda w, batch: jax.nn.softplus(w.value - batch).mean(), np.asarray),
        (lambda w, batch: (w.value**2 * batch.sum()).mean(), lambda x: jnp.asarray(x[0, 0])),
        (
            lambda w, key: ((w.value - jax.random.normal(key, (3,))) ** 2).sum(),
            lambda x: jax.random.key(int(1e6 * abs(x[0, 0]))),
        ),
        (scaled_inside, jnp.asarray),
    ],
    ids=['array', 'NumPy', 'scalar', 'key', 'inside'],
)
def test_a_closure_over_the_next_batch_is_the_same_program(loss, kind, request):
    """Its arrays are arguments, but for those in a jitted function within it."""
    batches = [kind(np.random.default_rng(t).normal(size=(4, 3)).astype('f')) for t in range(4)]
    ends, compiled = [], []
    for known in (True, False):
        w = ParamState(jnp.array([1.0, -2.0, 0.5]))
        opt = bo.LBFGS(0.5, max_iter=3, linesearch='strong_wolfe')
        opt.register_trainable_weights({'w': w})
        for batch in batches:
            with compilations() as names:
                opt.step(lambda w=w, batch=batch: loss(w, batch))
            compiled += [name for name in names if 'eval_jaxpr' in name]
            if not known:
                opt._stepper.closures.compiled.clear()
                opt._stepper.closures.alike.clear()
        ends.append(np.asarray(w.value))
    np.testing.assert_array_equal(*ends)
    each = request.node.callspec.id == 'inside'
    assert len(compiled) == (4 if each else 1) + 4


def test_a_buffer_of_numpy_is_read_when_the_step_is_taken():
    """It is known by what is in it: what is in it later belongs to no step of before."""
    ends = []
    for refilled in (True, False):
        w = ParamState(jnp.ones(4096))
        opt = bo.LBFGS(0.5, max_iter=2).register_trainable_weights({'w': w})
        buffers = [np.zeros(4096, np.float32) for _ in range(2)]
        for t in range(6):
            if not refilled:
                buffers = [np.zeros(4096, np.float32) for _ in range(2)]
            batch = buffers[t % 2]
            batch[:] = t % 3
            opt.step(lambda w=w, batch=batch: ((w.value - batch) ** 2).mean())
        ends.append(np.asarray(w.value))
    np.testing.assert_array_equal(*ends)


def test_a_closure_that_calls_back_calls_its_own_function():
    """XLA is not told which function that is."""
    w, heard = ParamState(jnp.ones(3)), []
    opt = bo.LBFGS(max_iter=1).register_trainable_weights({'w': w})

    def closure_of(t):
        def closure():
            jax.debug.callback(lambda x: heard.append((t, float(x))), w.value.sum())
            return (w.value**2).sum()

        return closure

    for t in range(3):
        opt.step(closure_of(t))
        jax.effects_barrier()
        assert {called for called, _ in heard} == {t}
        heard.clear()


def test_closures_that_differ_in_the_kind_of_a_key_are_two_programs():
    """To XLA both are the same numbers."""
    w, key = ParamState(jnp.ones(3)), State(jax.random.key(0, impl='rbg'))
    opt = bo.LBFGS(max_iter=1).register_trainable_weights({'w': w})
    words = jax.random.key_data(key.value)
    for impl in ('rbg', 'unsafe_rbg'):

        def closure(impl=impl):
            key.value = jax.random.wrap_key_data(words, impl=impl)
            return (w.value**2).sum()

        opt.step(closure)
        assert str(jax.random.key_impl(key.value)) == impl


def test_a_value_function_over_the_next_batch_is_the_same_program():
    ends = []
    for known in (True, False):
        w = ParamState(jnp.zeros(3))
        opt = bo.OptaxOptimizer(tx=optax.lbfgs()).register_trainable_weights({'w': w})
        for t in range(3):
            batch = jnp.full(3, 1.0 + t)

            def loss(values, batch=batch):
                return ((values['w'] - batch) ** 2).sum()

            value, grad = jax.value_and_grad(loss)({'w': w.value})
            with compilations() as names:
                opt.step(grad, value=value, grad=grad, value_fn=loss)
            assert len([name for name in names if 'eval_jaxpr' in name]) == (t == 0 or not known)
            if not known:
                opt._stepper.closures.compiled.clear()
                opt._stepper.closures.alike.clear()
        ends.append(np.asarray(w.value))
    np.testing.assert_array_equal(*ends)
    assert (ends[0] != 0).all()


def test_few_closures_are_remembered(monkeypatch):
    monkeypatch.setattr('braintools_optim.engine.closure._REMEMBERED', 3)
    w = ParamState(jnp.zeros(3))
    opt = bo.LBFGS(max_iter=1).register_trainable_weights({'w': w})

    def loss_of(batch):
        return lambda: ((w.value - batch) ** 2).sum()

    for t in range(6):
        opt.step(loss_of(jnp.full(3, float(t))))
    assert len(opt._stepper.closures.compiled) == 3 and len(opt._stepper.closures.alike) == 1


def test_states_with_data_are_arguments():
    w, x = ParamState(jnp.zeros(3)), State(jnp.ones(3))
    opt = bo.LBFGS(max_iter=1).register_trainable_weights({'w': w})
    closure = Counter(lambda: ((w.value - x.value.sum(0)) ** 2).sum())
    opt.step(closure)
    traces = closure.traces
    for t in range(3):
        w.value, x.value = jnp.zeros(3), jnp.full(3, 1.0 + t)
        assert opt.step(closure) == 27 * (1.0 + t) ** 2
    assert closure.traces == traces
    w.value, x.value = jnp.zeros(3), jnp.ones((2, 3))  # another shape: traced anew
    assert opt.step(closure) == 12.0
    np.testing.assert_array_equal(x.value, 1.0)


def test_what_a_closure_writes_and_draws_changes_once():
    w, runs = ParamState(jnp.ones(4)), State(jnp.array(0))
    rng = brainstate.random.RandomState(3)
    seen = []

    def closure():
        runs.value = runs.value + 1
        noise = rng.normal(size=4)
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), noise)
        return ((w.value * (1 + 0.1 * noise) - 2.0) ** 2).sum()

    opt = bo.LBFGS(max_iter=4, linesearch='strong_wolfe').register_trainable_weights({'w': w})
    noises = []
    for t in range(3):
        del seen[:]
        before = rng.value
        opt.step(closure)
        jax.effects_barrier()
        assert int(runs.value) == t + 1 and (rng.value != before).any()
        assert len(seen) > 2 and all((x == seen[0]).all() for x in seen)
        noises.append(seen[0])
    assert (noises[0] != noises[1]).any() and (noises[1] != noises[2]).any()


# ---- all contexts -------------------------------------------------------------------------------


@pytest.mark.parametrize('search', [None, *SEARCHES])
def test_eager_is_jit_is_a_loop(search, x64):
    results = []
    for way in ('eager', 'jit', 'for_loop'):
        opt, params, closure = rosenbrock(linesearch=search, max_iter=3, lr=0.5)
        step = partial(opt.step, closure)
        if way == 'for_loop':
            losses = for_loop(lambda _, step=step: step(), jnp.arange(6))
        else:
            step = jit(step) if way == 'jit' else step
            losses = [step() for _ in range(6)]
        assert int(opt.step_count.value) == 6
        results.append((np.asarray(losses), np.asarray(params['w'].value)))
    for losses, w in results[1:]:
        np.testing.assert_allclose(losses, results[0][0], rtol=1e-9)
        np.testing.assert_allclose(w, results[0][1], rtol=1e-9)


def test_data_of_a_jitted_function():
    w = ParamState(jnp.zeros(3))
    opt = bo.LBFGS(max_iter=3, linesearch='strong_wolfe').register_trainable_weights({'w': w})
    traces = 0

    @jit
    def train(x):
        nonlocal traces
        traces += 1
        return opt.step(lambda: ((w.value - x) ** 2).sum())

    for t in range(4):
        train(jnp.full(3, float(t)))
        np.testing.assert_allclose(w.value, t, atol=1e-5)
    assert traces == 1


def test_construction_and_training_are_vmappable(x64):
    def train(x, y):
        w = ParamState(jnp.stack([x, y]))
        opt = bo.LBFGS(max_iter=4, linesearch='strong_wolfe').register_trainable_weights({'w': w})
        for _ in range(3):
            opt.step(lambda: (1 - w.value[0]) ** 2 + 100 * (w.value[1] - w.value[0] ** 2) ** 2)
        return w.value

    starts = jnp.array([-1.2, 0.3, 2.0]), jnp.array([1.0, -1.0, 0.5])
    mapped = vmap(train)(*starts)
    for i in range(3):
        np.testing.assert_allclose(mapped[i], train(*(s[i] for s in starts)), rtol=1e-9)


@pytest.mark.parametrize('search', [None, *SEARCHES])
def test_a_resumed_run_is_the_uninterrupted_one(search):
    def fresh():
        params, loss = problem('saturating')
        kwargs = {'linesearch': search, 'max_iter': 3, 'memory_size': 4}
        opt = bo.LBFGS(**kwargs).register_trainable_weights(params)
        return opt, params, lambda: loss(values_of(params))

    opt, params, closure = fresh()
    shapes = signature(opt._core.value)
    for _ in range(3):
        opt.step(closure)
    assert signature(opt._core.value) == shapes
    frozen, values = pickle.dumps(opt.state_dict()), values_of(params)
    resumed, others, its_closure = fresh()
    for name, state in others.items():
        state.value = values[name]
    resumed.load_state_dict(pickle.loads(frozen))
    assert digest(resumed, others) == digest(opt, params)
    for _ in range(3):
        opt.step(closure)
        resumed.step(its_closure)
    assert digest(resumed, others) == digest(opt, params)


def test_a_given_line_search_outlives_the_process():
    def fresh():
        params, _ = problem('rosenbrock')
        search = optax.scale_by_zoom_linesearch(7)
        return bo.LBFGS(linesearch=search).register_trainable_weights(params)

    state = fresh().state_dict()
    assert ' at 0x' not in str(state)
    fresh().load_state_dict(state)
