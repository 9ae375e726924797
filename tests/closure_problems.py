"""Losses for optimizers that evaluate them, written for torch's tensors and JAX's arrays alike."""

import numpy as np

_RNG = np.random.default_rng(20261)
INPUTS, TARGETS = _RNG.normal(size=(20, 4)), _RNG.normal(size=(20, 3))
SLOPES = np.array([3.0, -0.5, 0.02])


def rosenbrock(p, put):
    x, y = p['w'][0], p['w'][1]
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def least_squares(p, put):
    return ((put(INPUTS) @ p['w'] - put(TARGETS)) ** 2).sum() / 20


def complex_squares(p, put):
    """Of complex parameters; the fourth power makes the curvature change."""
    error = put(INPUTS + 1j * INPUTS[::-1]) @ p['z'] - put(TARGETS - 2j)
    square = error.real**2 + error.imag**2
    return square.sum() / 20 + (square**2).sum() / 200


def saturating(p, put):
    """A small network, with parameters of several shapes."""
    hidden = put(INPUTS) @ p['w'] + p['b']
    hidden = hidden / (1 + hidden**2) ** 0.5
    error = hidden @ p['v'] * p['s'] - put(TARGETS[:, 0])
    return (error**2).sum() / 20 + 0.01 * (p['w'] ** 2).sum() + 0.01 * (p['v'] ** 2).sum()


def _normal(*shape):
    return 0.5 * np.random.default_rng(3).normal(size=shape)


STARTS = {
    rosenbrock: {'w': np.array([-1.2, 1.0])},
    least_squares: {'w': _normal(4, 3)},
    complex_squares: {'z': _normal(4, 3) + 0.3j * _normal(4, 3)},
    saturating: {'w': _normal(4, 5), 'b': np.zeros(5), 'v': _normal(5), 's': np.array(0.5)},
}
LOSSES = {loss.__name__: loss for loss in STARTS}
