"""Fine-tune with a learning rate for each layer: ``python docs/examples/fine_tuning.py [STEPS]``.

A network learns a sine; then a new head learns another function of the same features. The head
moves most, each layer below it half as much as the one above, the first one not at all.
"""

import sys

import brainstate
import jax.numpy as jnp

import braintools_optim as bo

WIDTH, DEPTH = 32, 4


class Net(brainstate.nn.Module):
    """A stack of layers, and a head."""

    def __init__(self):
        super().__init__()
        sizes = [1] + [WIDTH] * DEPTH
        layers = [brainstate.nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False)]
        self.layers = layers
        self.head = brainstate.nn.Linear(WIDTH, 1)

    def __call__(self, x):
        for layer in self.layers:
            x = jnp.tanh(layer(x))
        return self.head(x)


def train(net, opt, x, y, steps):
    """Take steps on the mean squared error; return it before and after."""
    params = opt.param_states.to_pytree()

    def loss():
        return jnp.mean((net(x) - y) ** 2)

    @brainstate.transform.jit
    def train_step():
        opt.step(brainstate.transform.grad(loss, params)())

    first = float(loss())
    for _ in range(steps):
        train_step()
    return first, float(loss())


def main(steps=300):
    """Pretrain, fine-tune, and return the errors and how far each layer moved."""
    brainstate.random.seed(0)
    net = Net()
    x = jnp.linspace(-2.0, 2.0, 128)[:, None]

    opt = bo.Adam(lr=3e-3).register_trainable_weights(net.states(brainstate.ParamState))
    first, last = train(net, opt, x, jnp.sin(3.0 * x), steps)
    print(f'pretraining: error {first:.4f} -> {last:.4f}')

    net.head = brainstate.nn.Linear(WIDTH, 1)
    opt = bo.AdamW(lr=1e-2, weight_decay=0.0)
    opt.register_trainable_weights({'head': net.head.weight})
    for i in reversed(range(1, DEPTH)):  # a layer that is not registered stays as it is
        lr = opt.current_lr * 0.5 ** (DEPTH - i)
        opt.add_param_group({f'layer{i}': net.layers[i].weight}, lr=lr, weight_decay=1e-4)
    print(opt)

    before = [layer.weight.value['weight'] for layer in net.layers]
    first, last = train(net, opt, x, jnp.abs(x) - 1.0, steps)
    pairs = zip(net.layers, before, strict=True)
    moved = [float(jnp.abs(layer.weight.value['weight'] - w).mean()) for layer, w in pairs]
    print(f'fine-tuning: error {first:.4f} -> {last:.4f}')
    print('mean change of the layers, from the first:', *(f'{d:.4f}' for d in moved))
    return first, last, moved


if __name__ == '__main__':
    main(*map(int, sys.argv[1:]))
