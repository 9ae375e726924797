"""Programs in the shapes of the public documentation of brainstate and braintools, written anew.

Each takes the library as an argument. `python tests/test_programs.py` runs them with
braintools.optim, to show that they are its programs.
"""

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest

PROGRAMS = []


def program(function):
    PROGRAMS.append(function)
    return function


class Calls(brainstate.State):
    """How often a model was called: a State that is no parameter."""


class CountingMLP(brainstate.nn.Module):
    def __init__(self, n_in, n_hidden, n_out):
        super().__init__()
        self.calls = Calls(jnp.array(0))
        self.l1 = brainstate.nn.Linear(n_in, n_hidden)
        self.l2 = brainstate.nn.Linear(n_hidden, n_out)

    def __call__(self, x):
        self.calls.value += 1
        return self.l2(jax.nn.relu(self.l1(x)))


@program
def regression_with_minibatches(optim):
    """SGD by position, a State that is no parameter, functions for training and testing."""
    model = CountingMLP(1, 32, 1)
    optimizer = optim.SGD(0.1)
    optimizer.register_trainable_weights(model.states(brainstate.ParamState))
    x = np.linspace(0, 1, 64, dtype=np.float32)[:, None]
    y = 0.8 * x**2 + 0.1

    @brainstate.transform.jit
    def train(batch):
        xs, ys = batch
        params = optimizer.param_states.to_pytree()
        grads = brainstate.transform.grad(lambda: jnp.mean((ys - model(xs)) ** 2), params)()
        optimizer.update(grads)

    @brainstate.transform.jit
    def test(batch):
        xs, ys = batch
        return jnp.mean((ys - model(xs)) ** 2)

    first = test((x, y))
    picks = np.random.default_rng(0)
    for _ in range(150):
        rows = picks.integers(0, len(x), 16)
        train((x[rows], y[rows]))
    assert int(model.calls.value) == 151
    assert test((x, y)) < 0.1 * first


@program
def integrator(optim):
    """A recurrent network over time, a decay in every step, a large epsilon, a penalty."""

    class RNN(brainstate.nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = brainstate.nn.ValinaRNNCell(1, 24)
            self.out = brainstate.nn.Linear(24, 1)

        def update(self, x):
            return x >> self.rnn >> self.out

    model = RNN()
    weights = model.states(brainstate.ParamState)
    lr = optim.ExponentialDecayLR(0.025, decay_steps=1, decay_rate=0.99975)
    opt = optim.Adam(lr=lr, eps=1e-1)
    opt.register_trainable_weights(weights)

    @brainstate.transform.jit
    def f_predict(inputs):
        brainstate.nn.init_all_states(model, batch_size=inputs.shape[1])
        return brainstate.transform.for_loop(model.update, inputs)

    def f_loss(inputs, targets, l2=2e-4):
        error = jnp.mean((f_predict(inputs) - targets) ** 2)
        return error + l2 * sum(jnp.sum(x**2) for x in jax.tree.leaves(weights.to_dict_values()))

    @brainstate.transform.jit
    def f_train(inputs, targets):
        grads, loss = brainstate.transform.grad(f_loss, weights, return_value=True)(inputs, targets)
        opt.update(grads)
        return loss

    noise = np.random.default_rng(0)
    losses = []
    for _ in range(60):
        inputs = noise.normal(size=(10, 16, 1)).astype(np.float32)
        losses.append(float(f_train(inputs, 0.1 * np.cumsum(inputs, axis=0))))
        lr.step()
    assert np.mean(losses[-5:]) < 0.4 * losses[0]
    assert abs(opt.current_lr - 0.025 * 0.99975**60) < 1e-6


@program
def trainer_class(optim):
    """A class that is handed a model and an optimizer of any kind, and trains in a loop."""

    class Net(brainstate.nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = brainstate.nn.Linear(2, 12)
            self.readout = brainstate.nn.Linear(12, 3)

        def update(self, x):
            return self.readout(jnp.tanh(self.hidden(x)))

    class Trainer:
        def __init__(self, target, opt: optim.Optimizer, n_epochs):
            assert isinstance(opt, optim.Optimizer)
            self.target, self.opt, self.n_epochs = target, opt, n_epochs
            self.weights = target.states().subset(brainstate.ParamState)
            opt.register_trainable_weights(self.weights)

        def loss(self, xs, labels):
            logits = self.target.update(xs)
            return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels])

        def train(self, xs, labels):
            @brainstate.transform.jit
            def one_epoch(epoch):
                f = brainstate.transform.grad(self.loss, self.weights, return_value=True)
                grads, loss = f(xs, labels)
                self.opt.update(grads)
                return loss

            return [float(one_epoch(i)) for i in range(self.n_epochs)]

    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 24)
    xs = 0.5 * rng.normal(size=(24, 2)).astype(np.float32) + labels[:, None]
    losses = Trainer(Net(), optim.Adam(lr=3e-2), 40).train(xs, labels)
    assert losses[-1] < 0.5 * losses[0]


@program
def classes_with_step_decay(optim):
    """Momentum, L2 decay, a schedule stepped by epoch, the rate and the accuracy printed."""
    model = brainstate.nn.Sequential(
        brainstate.nn.Linear(2, 16), brainstate.nn.ReLU(), brainstate.nn.Linear(16, 2)
    )
    scheduler = optim.StepLR(base_lr=0.1, step_size=3, gamma=0.1)
    optimizer = optim.SGD(lr=scheduler, momentum=0.9, weight_decay=1e-4)
    optimizer.register_trainable_weights(model.states(brainstate.ParamState))
    x = jnp.asarray(np.random.default_rng(2).normal(size=(128, 2)), jnp.float32)
    label = (x[:, 0] * x[:, 1] > 0).astype(jnp.int32)

    @brainstate.transform.jit
    def train_batch(xs, ys):
        def loss_fn():
            logits = model(xs)
            return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(len(ys)), ys]), logits

        params = model.states(brainstate.ParamState)
        f = brainstate.transform.grad(loss_fn, params, has_aux=True, return_value=True)
        grads, loss, logits = f()
        optimizer.step(grads)
        return loss, jnp.mean(logits.argmax(1) == ys)

    rates = []
    for _ in range(8):
        rates.append(float(optimizer.current_lr))
        for i in range(0, 128, 32):
            _, accuracy = train_batch(x[i : i + 32], label[i : i + 32])
        scheduler.step()
    np.testing.assert_allclose(rates, [0.1] * 3 + [0.01] * 3 + [0.001] * 2, rtol=1e-5)
    assert accuracy > 0.85


@program
def tied_weights(optim):
    """UniqueStateManager over a tree in which one State stands twice; clipping both ways."""
    tied = brainstate.ParamState(jnp.ones((2, 3)))
    tree = {
        'encoder': {'weight': tied, 'bias': brainstate.ParamState(jnp.zeros(3))},
        'decoder': {'weight': tied, 'bias': brainstate.ParamState(jnp.zeros(2))},
    }
    manager = optim.UniqueStateManager()
    unique = manager.make_unique(tree)
    assert len(manager) == manager.num_unique_states == 3
    opt = optim.Adam(lr=5e-2, grad_clip_norm=1.0, grad_clip_value=0.5)
    opt.register_trainable_weights(unique)
    x = jnp.asarray(np.random.default_rng(3).normal(size=(32, 2)), jnp.float32)

    def loss_fn():
        code = x @ tied.value + tree['encoder']['bias'].value
        return jnp.mean((code @ tied.value.T + tree['decoder']['bias'].value - x) ** 2)

    @brainstate.transform.jit
    def train_step():
        params = opt.param_states.to_pytree()
        grads, loss = brainstate.transform.grad(loss_fn, params, return_value=True)()
        opt.step(grads)
        return loss

    losses = [float(train_step()) for _ in range(80)]
    assert losses[-1] < 0.2 * losses[0]
    assert tree['encoder']['weight'] is tree['decoder']['weight']


@program
def schedule_of_ones_own(optim):
    """A subclass of LRScheduler with attributes of its own, computed by get_lr."""

    class WarmHoldDecay(optim.LRScheduler):
        def __init__(self, peak, total):
            self.total, self.warm, self.hold = total, max(1, total // 10), total // 2
            super().__init__(base_lr=peak)

        def get_lr(self):
            t = self.last_epoch.value
            up = (t + 1) / self.warm
            down = (self.total - t) / (self.total - self.hold)
            return [base * jnp.clip(jnp.minimum(up, down), 0.0, 1.0) for base in self.base_lrs]

    schedule = WarmHoldDecay(0.1, total=40)
    w = brainstate.ParamState(jnp.array([2.0, -1.0]))
    opt = optim.Adam(lr=schedule)
    opt.register_trainable_weights({'w': w})
    rates = []
    for _ in range(40):
        opt.update(brainstate.transform.grad(lambda: jnp.sum(w.value**2), {'w': w})())
        schedule.step()
        rates.append(float(opt.current_lr))
    np.testing.assert_allclose(rates[:5], [0.05, 0.075, 0.1, 0.1, 0.1], rtol=1e-5)
    assert abs(rates[29] - 0.05) < 1e-6 and jnp.abs(w.value).max() < 1.0


@program
def many_at_once(optim):
    """The losses of samples mapped inside the gradient; a warm-up with a cosine in a for_loop."""
    model = brainstate.nn.Linear(3, 1)
    opt = optim.AdamW(
        lr=optim.WarmupCosineSchedule(0.3, warmup_steps=5, total_steps=60), weight_decay=1e-3
    )
    opt.register_trainable_weights(model.states(brainstate.ParamState))
    weights = opt.param_states.to_pytree()
    x = jnp.asarray(np.random.default_rng(4).normal(size=(32, 3)), jnp.float32)
    y = x @ jnp.array([[1.0], [-2.0], [0.5]])

    def mean_loss():
        return jax.vmap(lambda a, b: jnp.sum((model(a) - b) ** 2))(x, y).mean()

    def body(_):
        grads, loss = brainstate.transform.grad(mean_loss, weights, return_value=True)()
        opt.update(grads)
        opt.lr.step()
        return loss

    losses = brainstate.transform.for_loop(body, jnp.arange(60))
    assert losses[-1] < 0.01 * losses[0]


@pytest.mark.parametrize('function', PROGRAMS, ids=lambda f: f.__name__)
def test_program(function):
    import braintools_optim as optim

    brainstate.random.seed(0)
    function(optim)


if __name__ == '__main__':
    import braintools

    for each in PROGRAMS:
        brainstate.random.seed(0)
        try:
            each(braintools.optim)
            print(f'{each.__name__}: runs')
        except Exception as error:
            print(f'{each.__name__}: {type(error).__name__}: {str(error).splitlines()[0]}')
