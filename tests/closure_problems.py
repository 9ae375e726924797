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


def ripple(p, put):
    """Its hills and dales make the search come too near to an end of its bracket."""
    w = p['w']
    hills = 1 / (1 + 50 * (w - 1) ** 2) + 1 / (1 + 90 * (w + 0.7) ** 2)
    return (w**2).sum() * 0.1 + (hills - 1 / (1 + 80 * (w - 0.5) ** 2)).sum()


def steep(p, put):
    """Its slope at the start promises more than there is: the ends of a bracket change places."""
    w = p['w']
    rising = 1e-5 * (1 + w**2) ** 0.5 - w / (1 + w**2) ** 0.5
    return (rising + 0.05 / (1 + 0.01 * (w - 100) ** 2)).sum()


def cusp(p, put):
    """From far away by small steps: the search goes ever farther, until it rises."""
    w = p['w']
    return ((w**2 + 1e-6) ** 0.5).sum() + 0.3 * ((w[0] - w[1]) ** 2 + 1e-4) ** 0.5


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
    ripple: {'w': np.array([-1.3, 0.5])},
    steep: {'w': np.array([0.2])},
    cusp: {'w': np.array([-5.4, 1.6])},
    complex_squares: {'z': _normal(4, 3) + 0.3j * _normal(4, 3)},
    saturating: {'w': _normal(4, 5), 'b': np.zeros(5), 'v': _normal(5), 's': np.array(0.5)},
}
LOSSES = {loss.__name__: loss for loss in STARTS}
