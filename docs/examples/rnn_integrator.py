"""A recurrent network learns to add up noise: ``python docs/examples/rnn_integrator.py [STEPS]``.

The learning rate decays with every step, inside the compiled function; the readout's weights have
a penalty.
"""

import sys

import brainstate
import jax
import jax.numpy as jnp

import braintools_optim as bo

DT, TIME, BATCH, HIDDEN = 0.04, 25, 64, 50


class Integrator(brainstate.nn.Module):
    """A plain recurrent cell and a linear readout."""

    def __init__(self):
        super().__init__()
        self.cell = brainstate.nn.ValinaRNNCell(1, HIDDEN)
        self.readout = brainstate.nn.Linear(HIDDEN, 1)

    def update(self, x):
        return self.readout(self.cell(x))


def white_noise(key):
    """Return noise, of shape (TIME, BATCH, 1), and its running integral."""
    keys = jax.random.split(key)
    bias = 2.0 * jax.random.uniform(keys[0], (1, BATCH, 1)) - 1.0
    noise = jax.random.normal(keys[1], (TIME, BATCH, 1))
    x = bias + 0.1 * noise / jnp.sqrt(DT)
    return x, jnp.cumsum(x * DT, axis=0)


def main(steps=300):
    """Train, and return the mean squared error at the beginning and at the end."""
    brainstate.random.seed(0)
    model = Integrator()
    opt = bo.Adam(lr=bo.ExponentialDecayLR(1e-2, decay_steps=1, decay_rate=0.997))
    opt.register_trainable_weights(model.states(brainstate.ParamState))
    params = opt.param_states.to_pytree()

    def predict(x):
        brainstate.nn.init_all_states(model, batch_size=x.shape[1])
        return brainstate.transform.for_loop(model.update, x)

    @brainstate.transform.jit
    def train_step(key):
        x, y = white_noise(key)

        def loss():
            error = jnp.mean((predict(x) - y) ** 2)
            return error + 1e-5 * jnp.sum(model.readout.weight.value['weight'] ** 2)

        grads, value = brainstate.transform.grad(loss, params, return_value=True)()
        opt.step(grads)
        opt.lr.step()
        return value

    errors = []
    for step in range(steps):
        errors.append(float(train_step(jax.random.key(step))))
        if step % max(steps // 6, 1) == 0:
            print(f'step {step:4d}   loss {errors[-1]:.5f}   lr {opt.current_lr:.1e}')
    print(f'loss {errors[0]:.5f} -> {errors[-1]:.5f}')
    return errors[0], errors[-1]


if __name__ == '__main__':
    main(*map(int, sys.argv[1:]))
