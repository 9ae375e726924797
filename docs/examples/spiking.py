"""Spiking neurons learn to tell two patterns apart: ``python docs/examples/spiking.py [STEPS]``.

Leaky integrate-and-fire neurons in plain brainstate. A spike has no useful derivative, so the
backward pass takes that of a smooth function instead: the surrogate gradient.
"""

import sys

import brainstate
import jax
import jax.numpy as jnp
import optax

import braintools_optim as bo

INPUTS, HIDDEN, CLASSES, TIME, SAMPLES = 40, 60, 2, 50, 128


@jax.custom_jvp
def spike(v):
    """Return 1 where the membrane potential is over the threshold of 0, else 0."""
    return (v > 0.0).astype(v.dtype)


@spike.defjvp
def _(primals, tangents):
    (v,), (dv,) = primals, tangents
    return spike(v), dv / (1.0 + 5.0 * jnp.abs(v)) ** 2


class Leaky(brainstate.nn.Module):
    """What leaks from step to step, and is kept in a State: a current or a potential."""

    def __init__(self, size, decay, fires):
        super().__init__()
        self.size, self.decay, self.fires = size, decay, fires

    def init_state(self, batch_size):
        self.v = brainstate.HiddenState(jnp.zeros((batch_size, self.size)))

    def update(self, x):
        v = self.decay * self.v.value + x
        z = spike(v - 1.0)
        self.v.value = v * (1.0 - jax.lax.stop_gradient(z)) if self.fires else v
        return z if self.fires else v


class Net(brainstate.nn.Module):
    """Spikes in, a layer of spiking neurons, leaky readouts."""

    def __init__(self):
        super().__init__()
        self.inward = brainstate.nn.Linear(INPUTS, HIDDEN)
        self.neurons = Leaky(HIDDEN, 0.9, fires=True)
        self.outward = brainstate.nn.Linear(HIDDEN, CLASSES)
        self.readout = Leaky(CLASSES, 0.95, fires=False)

    def update(self, x):
        return self.readout(self.outward(self.neurons(self.inward(x))))


def main(steps=100):
    """Train on frozen random spike trains; return the share that is told apart."""
    brainstate.random.seed(0)
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.bernoulli(keys[0], 0.1, (TIME, SAMPLES, INPUTS)).astype(jnp.float32)
    label = jax.random.bernoulli(keys[1], 0.5, (SAMPLES,)).astype(jnp.int32)
    net = Net()
    opt = bo.Adamax(lr=bo.StepLR(1e-2, step_size=max(steps // 2, 1), gamma=0.3), grad_clip_norm=1.0)
    opt.register_trainable_weights(net.states(brainstate.ParamState))
    params = opt.param_states.to_pytree()

    def logits():
        brainstate.nn.init_all_states(net, batch_size=SAMPLES)
        return brainstate.transform.for_loop(net.update, x).mean(axis=0)

    def loss():
        return optax.softmax_cross_entropy_with_integer_labels(logits(), label).mean()

    @brainstate.transform.jit
    def train_step():
        grads, value = brainstate.transform.grad(loss, params, return_value=True)()
        opt.step(grads)
        opt.lr.step()
        return value

    for step in range(steps):
        value = train_step()
        if step % max(steps // 5, 1) == 0:
            print(f'step {step:4d}   loss {value:.3f}   lr {opt.current_lr:.1e}')
    accuracy = float(jnp.mean(logits().argmax(axis=1) == label))
    print(f'accuracy {accuracy:.3f}')
    return accuracy


if __name__ == '__main__':
    main(*map(int, sys.argv[1:]))
