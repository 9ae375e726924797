"""64 learning rates in one compiled program: ``python docs/examples/sweep.py [STEPS]``.

A function that builds a model and its optimizer and trains it is mapped over learning rates and
weight decays, as any other function of numbers is: each of them has its own model and moments.
"""

import sys

import brainstate
import jax
import jax.numpy as jnp

import braintools_optim as bo

LEARNING_RATES = jnp.logspace(-4.0, 0.5, 64)


def data():
    """Return noisy samples of a wave."""
    x = jnp.linspace(-1.0, 1.0, 64)[:, None]
    noise = 0.1 * jax.random.normal(jax.random.key(1), x.shape)
    return x, jnp.sin(4.0 * x) + noise


def train(lr, steps):
    """Build all, train, and return the loss after each step; ``lr`` may be a traced number."""
    x, y = data()
    key = jax.random.key(0)  # the same model for every learning rate
    hidden = brainstate.ParamState(jax.random.normal(key, (2, 32)) * 2.0)
    out = brainstate.ParamState(jnp.zeros((32, 1)))
    opt = bo.Adam(lr=lr).register_trainable_weights({'hidden': hidden, 'out': out})
    params = opt.param_states.to_pytree()

    def loss():
        w, b = hidden.value
        return jnp.mean((jnp.tanh(x * w + b) @ out.value - y) ** 2)

    def step(_):
        grads, value = brainstate.transform.grad(loss, params, return_value=True)()
        opt.step(grads)
        return value

    return brainstate.transform.for_loop(step, jnp.arange(steps))


def main(steps=200):
    """Train all, and return the learning rates and the losses, a row for each."""
    losses = jax.jit(jax.vmap(lambda lr: train(lr, steps)))(LEARNING_RATES)
    final = losses[:, -1]
    for lr, value in list(zip(LEARNING_RATES, final, strict=True))[::9]:
        print(f'lr {lr:8.5f}   loss {value:9.5f}')
    best = jnp.nanargmin(final)
    print(f'best: lr {LEARNING_RATES[best]:.5f}   loss {final[best]:.5f}')
    return LEARNING_RATES, losses


if __name__ == '__main__':
    main(*map(int, sys.argv[1:]))
