"""An MLP learns which of five rings a point lies on: ``python docs/examples/mlp.py [STEPS]``.

Two parameter groups, a warm-up followed by a cosine, gradient clipping, minibatches.
"""

import sys

import brainstate
import jax
import jax.numpy as jnp
import optax

import braintools_optim as bo

CLASSES, BATCH = 5, 128


class MLP(brainstate.nn.Module):
    """Two hidden layers and a linear head."""

    def __init__(self, inputs, hidden, outputs):
        super().__init__()
        self.first = brainstate.nn.Linear(inputs, hidden)
        self.second = brainstate.nn.Linear(hidden, hidden)
        self.head = brainstate.nn.Linear(hidden, outputs)

    def __call__(self, x):
        return self.head(jax.nn.relu(self.second(jax.nn.relu(self.first(x)))))


def rings(key, count):
    """Return points in the plane and the ring around the origin that each one lies on."""
    keys = jax.random.split(key)
    label = jax.random.randint(keys[0], (count,), 0, CLASSES)
    angle, noise = jax.random.uniform(keys[1], (2, count))
    radius = label + 0.2 + 0.6 * noise
    angle = 2 * jnp.pi * angle
    return jnp.stack([radius * jnp.cos(angle), radius * jnp.sin(angle)], axis=1), label


def main(steps=400):
    """Train, and return the accuracy on points that were not trained on."""
    brainstate.random.seed(0)
    model = MLP(2, 64, CLASSES)
    x, y = rings(jax.random.key(0), 4096)
    x_test, y_test = rings(jax.random.key(1), 1024)

    schedule = bo.WarmupCosineSchedule(1e-2, warmup_steps=steps // 10, total_steps=steps)
    opt = bo.AdamW(lr=schedule, weight_decay=1e-2, grad_clip_norm=1.0)
    weights = model.states(brainstate.ParamState)
    head = {path: state for path, state in weights.items() if path[0] == 'head'}
    body = {path: state for path, state in weights.items() if path[0] != 'head'}
    opt.register_trainable_weights(body)
    opt.add_param_group(head, weight_decay=0.0)
    params = opt.param_states.to_pytree()

    @brainstate.transform.jit
    def train_step(batch):
        def loss():
            logits = model(x[batch])
            return optax.softmax_cross_entropy_with_integer_labels(logits, y[batch]).mean()

        grads, value = brainstate.transform.grad(loss, params, return_value=True)()
        opt.step(grads)
        schedule.step()
        return value

    for step in range(steps):
        batch = jax.random.randint(jax.random.key(step), (BATCH,), 0, len(x))
        value = train_step(batch)
        if step % max(steps // 8, 1) == 0:
            print(f'step {step:4d}   loss {value:.3f}   lr {opt.current_lr:.1e}')

    accuracy = float(jnp.mean(model(x_test).argmax(axis=1) == y_test))
    print(f'accuracy {accuracy:.3f}')
    return accuracy


if __name__ == '__main__':
    main(*map(int, sys.argv[1:]))
