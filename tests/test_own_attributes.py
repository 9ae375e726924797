"""Attributes and arguments of optimizers of one's own."""

import jax.numpy as jnp
import optax
import pytest
from brainstate import ParamState

import braintools_optim as bo


class HiddenNumber(bo.Adam):
    eps = 1e-4


class HiddenOption(bo.SGD):
    nesterov = True


class HiddenScale(bo.OptaxOptimizer):
    scale = 2.0

    def __init__(self, lr=0.1, scale=1.0):
        super().__init__(lr=lr, scale=scale)

    def transform(self, h):
        return optax.chain(optax.scale(h.scale), optax.scale_by_learning_rate(h.lr))


@pytest.mark.parametrize(
    ('cls', 'name'), [(HiddenNumber, 'eps'), (HiddenOption, 'nesterov'), (HiddenScale, 'scale')]
)
def test_a_class_attribute_does_not_hide_a_number(cls, name):
    """Reads would have found it, and steps something else."""
    with pytest.raises(TypeError, match=f'{cls.__name__} has an attribute {name}, which hides'):
        cls()


class BetasFirst(bo.OptaxOptimizer):
    def __init__(self, betas=(0.9, 0.99), lr=0.1):
        super().__init__(lr=lr, betas=betas)

    def transform(self, h):
        b1, b2 = h.betas
        return optax.chain(optax.scale_by_adam(b1, b2), optax.scale_by_learning_rate(h.lr))


def test_the_first_argument_of_a_constructor_may_be_a_list():
    assert BetasFirst((0.8, 0.9)).betas == BetasFirst([0.8, 0.9]).betas == (0.8, 0.9)
    w = ParamState(jnp.ones(2))
    for params in ({'w': w}, [w], w, {'layer': {'w': w}}):
        with pytest.raises(TypeError, match='takes its parameters after construction'):
            BetasFirst(params)


class WithGain(bo.OptaxOptimizer):
    def __init__(self, lr=0.1, gain=1.0):
        super().__init__(lr=lr)
        self.gain, self.label, self.traces = gain, 'a', 0

    def transform(self, h):
        self.traces += 1
        return optax.chain(self.scaled(), optax.scale_by_learning_rate(h.lr))

    def scaled(self):
        return optax.scale(self.gain)


def test_an_attribute_that_a_compiled_step_has_read_stays():
    """It would go unseen."""
    w = ParamState(jnp.zeros(1))
    opt = WithGain().register_trainable_weights({'w': w})
    opt.gain = 2.0  # nothing has been compiled
    opt.step({'w': jnp.ones(1)})
    assert w.value.tolist() == pytest.approx([-0.2])
    with pytest.raises(AttributeError, match='gain of WithGain was read .* gain=gain'):
        opt.gain = 3.0
    opt.gain, opt.label = 2.0, 'b'  # the same; and what no chain reads
    opt.step({'w': jnp.ones(1)})
    assert w.value.tolist() == pytest.approx([-0.4])
