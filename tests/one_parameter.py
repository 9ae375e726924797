"""Single parameters, and what a step has done to them."""

import brainstate
import jax.numpy as jnp
import numpy as np
from brainstate import ParamState

LR = 0.1


def param(*values, dtype=None):
    return ParamState(jnp.asarray(values, dtype))


def adam_reference(start, grads, lr=LR, betas=(0.9, 0.999), eps=1e-8, decay=0.0, amsgrad=False):
    """Return where Adam goes from ``start`` with the gradients of each step, in float64."""
    b1, b2 = betas
    p = np.array(start, np.float64)
    m, v, top = np.zeros((3, *p.shape))
    for t, g in enumerate(grads, 1):
        g = np.asarray(g, np.float64) + decay * p
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        top = np.maximum(top, v) if amsgrad else v
        p = p - lr * (m / (1 - b1**t)) / (np.sqrt(top / (1 - b2**t)) + eps)
    return p


def close(value, want, tolerance=1e-5):
    got = np.asarray(value)
    assert got.shape == np.shape(want)
    np.testing.assert_allclose(got.astype(np.result_type(got, np.float64)), want, tolerance)


def moved(state, by, start=1.0):
    """Whether plain SGD with lr = 1 has subtracted ``by`` from a parameter of ``start``."""
    close(state.value, np.full(np.shape(state.value), start - by))


class TwoLayers(brainstate.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = brainstate.nn.Linear(3, 4)
        self.rest = [brainstate.nn.Linear(4, 4), brainstate.nn.Linear(4, 1)]

    def __call__(self, x):
        for layer in (self.first, *self.rest):
            x = jnp.tanh(layer(x))
        return x
