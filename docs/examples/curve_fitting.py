"""Fit a curve whose parameters have units: ``python docs/examples/curve_fitting.py [STEPS]``.

The membrane potential of a cell after a current step. L-BFGS takes the loss as a closure, and
finds amplitude, time constant and resting potential, each in its own unit.
"""

import sys

import jax
import jax.numpy as jnp
import saiunit as u
from brainstate import ParamState

import braintools_optim as bo

TIME = jnp.linspace(0.0, 100.0, 101) * u.ms
TRUTH = {'amplitude': 12.0 * u.mV, 'tau': 18.0 * u.ms, 'rest': -65.0 * u.mV}


def potential(amplitude, tau, rest):
    """Return the potential at every time."""
    return rest + amplitude * (1.0 - u.math.exp(-TIME / tau))


def measured():
    """Return what was measured, with noise."""
    noise = 0.3 * jax.random.normal(jax.random.key(0), TIME.shape) * u.mV
    return potential(**TRUTH) + noise


def main(steps=10):
    """Fit, and return the parameters found and the mean squared error, in mV^2."""
    data = measured()
    fit = {
        'amplitude': ParamState(5.0 * u.mV),
        'tau': ParamState(40.0 * u.ms),
        'rest': ParamState(-60.0 * u.mV),
    }
    opt = bo.LBFGS(lr=1.0, line_search_fn='strong_wolfe', max_iter=10)
    opt.register_trainable_weights(fit)

    def loss():
        curve = potential(**{name: state.value for name, state in fit.items()})
        return u.math.mean((curve - data) ** 2)

    value = loss()
    for step in range(steps):
        last, value = value, opt.step(loss)  # the loss before the step
        print(f'step {step}   loss {value}')
        if step and abs(value - last) < 1e-6 * last:
            break
    for name, state in fit.items():
        print(f'{name:9s} {state.value}   (true: {TRUTH[name]})')
    return {name: state.value for name, state in fit.items()}, loss().to_decimal(u.mV**2)


if __name__ == '__main__':
    main(*map(int, sys.argv[1:]))
