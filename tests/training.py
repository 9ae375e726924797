"""A model that reads, writes and draws, its data, and the loop that one writes by hand."""

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
from brainstate import ParamState
from brainstate.transform import grad, jit

import braintools_optim as bo

RNG = np.random.default_rng(7)

BATCHES = [
    (RNG.normal(size=(6, 4)).astype('f'), RNG.normal(size=(6, 2)).astype('f')) for _ in range(5)
]


class Net(brainstate.nn.Module):
    """Two layers, a running mean that it writes, noise that it draws, a scale that it reads."""

    def __init__(self, noisy=False):
        super().__init__()
        w, v = np.random.default_rng(1).normal(size=(2, 4, 4)).astype('f') / 2
        self.body = ParamState({'w': jnp.array(w), 'b': jnp.zeros(4)})
        self.head = ParamState(jnp.array(v[:, :2]))
        self.mean = brainstate.LongTermState(jnp.zeros(4))
        self.scale = brainstate.State(jnp.ones(4))
        self.noisy, self.random = noisy, brainstate.random.RandomState(3)

    def __call__(self, x):
        h = jnp.tanh(x @ self.body.value['w'] + self.body.value['b']) * self.scale.value
        self.mean.value = 0.9 * self.mean.value + 0.1 * h.mean(0)
        h = h - self.mean.value
        return (h + 0.1 * self.random.normal(size=h.shape) if self.noisy else h) @ self.head.value

    def params(self):
        return {'body': self.body, 'head': self.head}


def square(model):
    return lambda x, y: jnp.mean((model(x) - y) ** 2)


def registered(opt, params):
    return opt.register_trainable_weights(params)


def digest(model, opts, schedulers=()):
    """Return all numbers that a step may write, as bytes."""
    values = [state.value for state in brainstate.graph.states(model).values()]
    values += [(opt._core.value, opt._table.state.value) for opt in opts]
    values += [state.value for scheduler in schedulers for state in scheduler._states()]
    values = jax.tree.map(
        lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.extended) else x,
        jax.tree.leaves(values),
    )
    return [(np.asarray(x).dtype.str, np.asarray(x).tobytes()) for x in values]


def sgd(model):
    return [registered(bo.SGD(0.1, momentum=0.9, nesterov=True), model.params())], []


def adamw(model):
    opt = bo.AdamW(bo.CosineAnnealingLR(0.05, T_max=7), weight_decay=0.1, grad_clip_norm=0.3)
    opt.register_trainable_weights({'body': model.body})
    opt.add_param_group({'head': model.head}, weight_decay=0.0)
    return [opt], [
        opt.lr,
        bo.ParamScheduler(opt, 'weight_decay', bo.schedules.linear(0.1, 1.0, 0.1, 9)),
    ]


def two(model):
    opts = [registered(bo.Adam(0.05), {'b': model.body}), registered(bo.Lion(0.01), [model.head])]
    return opts, [bo.StepLR(opts[1], step_size=2)]


def by_hand(opts, loss, schedulers=(), search=None, has_aux=False):
    """Return the step as one writes it for brainstate.transform.jit."""
    params = [opt.param_states.to_pytree() for opt in opts]

    @jit
    def step(*args):
        grads, value, *aux = grad(loss, params, return_value=True, has_aux=has_aux)(*args)
        for opt, g in zip(opts, grads, strict=True):
            opt.step(g, **(search(value, *args) if search else {}))
        for scheduler in schedulers:
            scheduler.step()
        return (value, *aux) if has_aux else value

    return step
