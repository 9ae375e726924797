"""Train on eight devices at once: ``python docs/examples/data_parallel.py [STEPS]``.

The batch is divided among the devices, the parameters are on each of them, and JAX adds up the
gradients. The step is the same as on one device. Here the devices are parts of the CPU.
"""

import sys

import brainstate
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

import braintools_optim as bo

DEVICES, BATCH = 8, 512


class Net(brainstate.nn.Module):
    """One hidden layer."""

    def __init__(self):
        super().__init__()
        self.hidden = brainstate.nn.Linear(2, 64)
        self.out = brainstate.nn.Linear(64, 1)

    def __call__(self, x):
        return self.out(jnp.tanh(self.hidden(x)))


def main(steps=200):
    """Train, and return the loss at the beginning and at the end."""
    mesh = jax.make_mesh((DEVICES,), ('batch',), axis_types=(jax.sharding.AxisType.Auto,))
    divided = NamedSharding(mesh, PartitionSpec('batch'))
    everywhere = NamedSharding(mesh, PartitionSpec())

    brainstate.random.seed(0)
    net = Net()
    weights = net.states(brainstate.ParamState)
    for state in weights.values():  # first place the parameters, then register them
        state.value = jax.device_put(state.value, everywhere)
    opt = bo.Adam(lr=1e-2).register_trainable_weights(weights)

    @brainstate.transform.jit
    def train_step(x, y):
        def loss():
            return jnp.mean((net(x) - y) ** 2)

        grads, value = brainstate.transform.grad(loss, weights, return_value=True)()
        opt.step(grads)
        return value

    losses = []
    for step in range(steps):
        x = jax.random.uniform(jax.random.key(step), (BATCH, 2), minval=-1.0, maxval=1.0)
        y = jnp.sin(3.0 * x[:, :1]) * x[:, 1:]
        losses.append(float(train_step(*jax.device_put((x, y), divided))))
        if step % max(steps // 5, 1) == 0:
            print(f'step {step:4d}   loss {losses[-1]:.5f}')

    moments = jax.tree.leaves(opt.opt_state.value)
    placed = {len(array.sharding.device_set) for array in (*moments, net.out.weight.value['bias'])}
    print(f'loss {losses[0]:.5f} -> {losses[-1]:.5f}')
    print(f'each part of the batch: {x.shape[0] // len(mesh.devices)} of {BATCH} samples')
    print(f'devices that hold the parameters and moments: {placed}')
    return losses[0], losses[-1], placed


if __name__ == '__main__':
    jax.config.update('jax_num_cpu_devices', DEVICES)
    main(*map(int, sys.argv[1:]))
