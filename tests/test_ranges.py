"""The ranges of numbers: some mean the same everywhere, others in one class alone."""

import optax
import pytest

import braintools_optim as bo
from braintools_optim import other_libraries
from braintools_optim.check import check_number


def test_ranges_of_one_class_do_not_bind_another():
    class Own(bo.OptaxOptimizer):
        ranges = {'factor': bo.Range(1.0, 4.0)}

        def __init__(self, lr=0.1, d=0.5, factor=2.0, alpha='fixed', pair=(2.0, 3.0)):
            super().__init__(lr=lr, d=d, factor=factor, alpha=alpha, pair=pair)

        def transform(self, h):
            return optax.scale(-h.lr * h.d * h.factor * h.pair[0])

    opt = Own()
    assert (opt.d, opt.factor, opt.alpha, opt.pair) == (0.5, 2.0, 'fixed', (2.0, 3.0))
    opt.factor = 4
    for name, value in (('factor', 5.0), ('factor', 'x'), ('lr', -1.0)):
        with pytest.raises((TypeError, ValueError), match=f'Own needs .*{name}'):
            Own(**{name: value})
    with pytest.raises(ValueError, match=r'Own needs factor in \[1, 4\], got factor=0.5'):
        opt.factor = 0.5
    with pytest.raises(ValueError, match=r'pair\[1\] in \[0, 1\]'):
        check_number('Own', 'pair', (0.5, 3.0), (0.0, 0.0), bo.Range(0.0, 1.0))


def test_lookahead_keeps_the_ranges_of_its_base():
    opt = bo.Lookahead(bo.RMSprop(alpha=0.5), alpha=0.8)
    opt.base_alpha, opt.alpha = 0.9, 1.0
    for name, value in (('base_alpha', 1.0), ('alpha', 1.5)):
        with pytest.raises(ValueError, match=f'Lookahead needs {name} in'):
            setattr(opt, name, value)


def test_a_subclass_has_the_ranges_of_its_bases():
    class Own(bo.RMSprop):
        ranges = {'warmth': bo.Range(0.0, 1.0)}

        def __init__(self, lr=0.1, alpha=0.9, warmth=0.5):
            super(bo.RMSprop, self).__init__(
                lr=lr, alpha=alpha, warmth=warmth, eps=1e-8, momentum=0.0, centered=False
            )

    for name in ('warmth', 'alpha'):
        with pytest.raises(ValueError, match=f'Own needs {name} in'):
            Own(**{name: 1.5})

    class OwnPlateau(bo.ReduceLROnPlateau):
        ranges = {'factor': bo.Range(0.4, 0.6)}

    for name, value in (('factor', 0.1), ('min_lr', -1.0)):
        with pytest.raises(ValueError, match=f'OwnPlateau needs {name} in'):
            OwnPlateau(0.1, **{'factor': 0.5, name: value})
    assert bo.ReduceLROnPlateau(0.1, factor=0.1).factor == 0.1


class OwnLookahead(bo.Lookahead):
    ranges = {'alpha': bo.Range(0.0, 0.5)}


def test_lookahead_over_lookahead_keeps_all_numbers():
    opt = bo.Lookahead(bo.Lookahead(bo.RMSprop(alpha=0.77), alpha=0.3), alpha=0.2)
    assert (opt.alpha, opt.base_alpha, opt.base_base_alpha) == (0.2, 0.3, 0.77)
    with pytest.raises(ValueError, match='base_base_alpha in'):
        opt.base_base_alpha = 1.0
    for base in (bo.Adam(), optax.sgd(0.1)):
        with pytest.raises(ValueError, match=r'OwnLookahead needs alpha in \[0, 0.5\]'):
            OwnLookahead(base, alpha=0.9)


def test_lookahead_takes_none_where_its_base_does():
    opt = bo.Lookahead(bo.Adafactor(beta1=0.9))
    opt.beta1 = None
    assert opt.beta1 == 0.0


def test_a_class_of_somebody_else_binds_no_other():
    class Warm(bo.OptaxOptimizer):
        ranges = {'temperature': bo.Range(0.0, 1.0)}

    for known in ('_numbers_of_ours', '_arguments_of_ours'):
        getattr(other_libraries, known).cache_clear()
    opt = bo.Adam()
    opt.temperature = 3.0
    assert opt.temperature == 3.0 and 'temperature' in Warm.ranges


@pytest.mark.parametrize(
    'name',
    [
        *('ranges', 'structural', 'static', 'none_is_zero', 'first_moments', 'more_gradients'),
        'never_negative',
    ],
)
def test_names_that_no_number_can_have(name):
    class Own(bo.OptaxOptimizer):
        def __init__(self, lr=0.1, **hyper):
            super().__init__(lr=lr, **hyper)

    with pytest.raises(TypeError, match=f'cannot have a hyper-parameter named {name}'):
        Own(**{name: 1.0})


@pytest.mark.parametrize(
    ('make', 'name'),
    [
        (lambda: bo.CosineAnnealingLR(0.1), 'gamma'),
        (lambda: bo.StepLR(0.1), 'eta_min'),
        (lambda: bo.StepLR(0.1), 'alpha'),
        (lambda: bo.ReduceLROnPlateau(0.1), 'gamma'),
        (lambda: bo.ParamScheduler('weight_decay', abs), 'factor'),
        (bo.Adam, 'factor'),
        (bo.Adam, 'gamma'),
    ],
)
def test_a_number_that_others_have_is_not_assigned(make, name):
    with pytest.raises(AttributeError, match=f'has no number {name!r} to assign'):
        setattr(make(), name, 0.5)


@pytest.mark.parametrize('name', ['sgd', 'LARS', 'lbfgs', 'nadam', 'steplr'])
def test_other_spellings_of_a_class(name):
    with pytest.raises(AttributeError) as caught:
        getattr(bo, name)
    near = str(caught.value).rpartition('Did you mean ')[2].strip("'?")
    assert near.lower() == name.lower() and hasattr(bo, near)


@pytest.mark.parametrize('ranges', [None, {'alpha': (0.0, 1.0)}, lambda self: {}])
@pytest.mark.parametrize('base', [bo.Adam, bo.StepLR])
def test_ranges_that_are_none(base, ranges):
    with pytest.raises(TypeError, match='Own.ranges must be a dict of Range by name'):
        type('Own', (base,), {'ranges': ranges})
