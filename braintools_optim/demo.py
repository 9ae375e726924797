"""A small network learns two intertwined spirals, with two groups and a changing learning rate."""

from __future__ import annotations

from typing import Any

import brainstate
import jax
import jax.numpy as jnp

from .algorithms import AdamW

__all__ = ['run']


def spirals(count: int = 200) -> tuple[jax.Array, jax.Array]:
    """Return points on two spirals and the spiral that each one lies on."""
    radius = jnp.linspace(0.1, 1.0, count)
    angle = 3.5 * jnp.pi * radius
    arm = jnp.stack([radius * jnp.cos(angle), radius * jnp.sin(angle)], axis=1)
    return jnp.concatenate([arm, -arm]), jnp.repeat(jnp.array([0.0, 1.0]), count)


def run(steps: int = 600) -> float:
    """Train, print what happens, and return the accuracy reached."""
    brainstate.random.seed(0)
    sizes = [2, 64, 64, 1]
    layers = [brainstate.nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False)]
    x, y = spirals()

    def logits() -> jax.Array:
        h = x * 4.0
        for layer in layers[:-1]:
            h = jnp.tanh(layer(h))
        return layers[-1](h)[:, 0]

    def loss() -> jax.Array:
        z = logits()
        return jnp.mean(jnp.logaddexp(0.0, z) - y * z)

    body: dict[str, Any] = {f'layer{i}': states(layer) for i, layer in enumerate(layers[:-1])}
    opt = AdamW(lr=2e-2, weight_decay=1e-3, grad_clip_norm=1.0).register_trainable_weights(body)
    opt.add_param_group({'head': states(layers[-1])}, lr=5e-3, weight_decay=0.0)
    gradient = brainstate.transform.grad(loss, opt.param_states.to_pytree(), return_value=True)
    traces = 0

    @brainstate.transform.jit
    def train_step() -> jax.Array:
        nonlocal traces
        traces += 1
        grads, value = gradient()
        opt.step(grads)
        return value

    print(opt, '\n')
    for step in range(steps + 1):
        value = train_step()
        opt.lr_apply(lambda lr: lr * 0.997)
        if step % max(steps // 10, 1) == 0:
            print(f'step {step:5d}   loss {float(value):.4f}   lr {opt.current_lr:.2e}')
    accuracy = float(jnp.mean((logits() > 0) == (y > 0.5)))
    print(f'\n{accuracy:.1%} of the points are classified.')
    print(f'The learning rate changed {steps + 1} times; the step was traced {traces} time.')
    return accuracy


def states(layer: Any) -> Any:
    """Return the one parameter State of a layer."""
    (state,) = layer.states(brainstate.ParamState).values()
    return state
