"""Attributes and arguments of optimizers of one's own."""

from dataclasses import dataclass

import jax.numpy as jnp
import optax
import pytest
from brainstate import ParamState

import braintools_optim as bo


class Named(bo.Adam):
    eps = 1e-4


class Flagged(bo.SGD):
    nesterov = True


class Scaled(bo.OptaxOptimizer):
    def transform(self, h):
        return optax.chain(optax.scale(h.scale), optax.scale_by_learning_rate(h.lr))


@dataclass(eq=False)
class ByFields(Scaled):
    rate: float = 0.1
    scale: float = 2.0

    def __post_init__(self):
        super().__init__(lr=self.rate, scale=self.scale)


class WithFallback(Scaled):
    scale = 2.0

    def __init__(self, lr=0.1, scale=None):
        super().__init__(lr=lr, scale=self.scale if scale is None else scale)


def test_numbers_are_found_where_a_class_has_their_names():
    """Reads would show the class's, and steps use something else."""
    assert Named().eps == 1e-8 and Named.eps == 1e-4
    assert Flagged().nesterov is False
    for cls in (ByFields, WithFallback):
        w = ParamState(jnp.zeros(1))
        assert (cls().scale, cls(scale=3.0).scale, cls().scale) == (2.0, 3.0, 2.0)
        opt = cls(scale=3.0).register_trainable_weights({'w': w})
        opt.scale = 4.0
        assert opt.scale == 4.0
        opt.step({'w': jnp.ones(1)})
        assert w.value.tolist() == pytest.approx([-0.4])


class Method(Scaled):
    def __init__(self, lr=0.1, scale=1.0):
        super().__init__(lr=lr, scale=scale)

    def scale(self):
        """Do something else."""


def test_a_method_may_not_have_the_name_of_a_number():
    with pytest.raises(TypeError, match='Method has an attribute scale, which would hide'):
        Method()


class WithRate(bo.Adam):
    lr = 0.01


class WithChain(Scaled):
    tx = None


class Below(WithRate):
    pass


@pytest.mark.parametrize('cls', [WithRate, WithChain, Below])
def test_a_class_attribute_may_not_stand_for_a_property(cls):
    """`opt.lr = 0.1` would reach nobody."""
    home, name = (WithChain, 'tx') if cls is WithChain else (WithRate, 'lr')
    with pytest.raises(TypeError, match=f'{home.__name__} has a class attribute {name} = '):
        cls(lr=0.1)


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
        self.gain, self.label, self.calls, self.best = gain, 'a', 0, float('nan')

    def transform(self, h):
        self.calls += 1
        self.best = self.best
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
    opt.calls, opt.best = 0, float('nan')  # what its methods assign themselves
    opt.step({'w': jnp.ones(1)})
    assert w.value.tolist() == pytest.approx([-0.4])
