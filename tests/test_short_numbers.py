"""Float16, and the edges of float32: what torch 2.13.0 or exact arithmetic gives, is reached."""

import jax.numpy as jnp
import numpy as np
import pytest
from brainstate import ParamState

import braintools_optim as bo

HALF = jnp.float16


def after(opt, dtype, value, grads):
    """Return what becomes of a parameter on these gradients."""
    w = ParamState(jnp.asarray(value, dtype))
    opt.register_trainable_weights({'w': w})
    for g in grads:
        opt.step({'w': jnp.asarray(g, dtype)})
    return w.value


CASES = {
    'radam with a factor far below one': (
        *(lambda: bo.RAdam(0.1, eps=1e-4), [0.0] * 3, [[8e-6, 3e-6, -8e-6]] * 10),
        *([-1.38e-4, -5.3e-5, 1.38e-4], 0.03),  # its first moment has three bits there
    ),
    'adagrad with a factor far below one': (
        lambda: bo.Adagrad(1.0, lr_decay=2.0, eps=1e-3),
        [0.0] * 3,
        [[1e-6, 3e-7, 1e-7]] * 4 + [[-1e-6, -3e-7, -1e-7]] * 8,
        *([-1.14e-3, -3.36e-4, -1.34e-4], 4e-3),
    ),
    'a bias correction larger than float16': (
        *(lambda: bo.Adam(1e-3, betas=(0.99999, 0.999), eps=1e-4), [0.0] * 3),
        *([[200.0, 1.0, 0.1]] * 4, [-0.004, -0.004, -0.00404], 4e-3),
    ),
    'nadam at the end of the range': (
        *(lambda: bo.Nadam(1e-3), [1.0] * 3, [[62000.0, 65000.0, 50000.0]]),
        *([1.0, 1.0, 1.0], 0.0),
    ),
    'adafactor with the eps of its paper': (
        *(lambda: bo.Adafactor(0.1, eps=(1e-30, 1e-3)), [1.0] * 4, [[0.5, -0.3, 1.0, 2.0]] * 3),
        *([0.7128, 1.2872, 0.7128, 0.7128], 4e-3),
    ),
}


@pytest.mark.parametrize(('make', 'value', 'grads', 'want', 'rtol'), CASES.values(), ids=CASES)
def test_in_float16(make, value, grads, want, rtol):
    np.testing.assert_allclose(after(make(), HALF, value, grads), want, rtol=rtol)


def test_adafactor_moves_what_lies_beside_a_small_gradient():
    grads = [[0.5, -0.3, 1.0, 1e-4, 2.0]] * 20
    found = after(bo.Adafactor(0.1, eps=(1e-30, 1e-3)), HALF, [1.0] * 5, grads)
    assert np.all(np.abs(np.asarray(found, float) - 1.0) > 0.5), found


def test_a_first_beta_that_is_raised_live_does_not_overflow():
    w = ParamState(jnp.zeros(2, HALF))
    opt = bo.Adam(1e-3, eps=1e-4).register_trainable_weights({'w': w})
    grad = {'w': jnp.array([200.0, 100.0], HALF)}
    for _ in range(3):
        opt.step(grad)
    opt.betas = (0.9999, 0.999)
    opt.step(grad)
    np.testing.assert_allclose(w.value, [-0.6807, -0.6807], rtol=2e-3)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_yogi_rests_where_squares_overflow(dtype):
    grads = [[3e19, 1.0], [1e19, 1.0], [4e19, 1.0], [1.0, 1.0]]
    found = np.asarray(after(bo.Yogi(1e-2), dtype, [1.0, 1.0], grads), float)
    assert found[0] == 1.0 and 0.9 < found[1] < 0.99
