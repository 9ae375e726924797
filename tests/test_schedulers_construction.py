"""Constructing schedulers of one's own, and constructions that fail."""

import jax.numpy as jnp
import pytest
from brainstate import ParamState
from brainstate.transform import jit

import braintools_optim as bo
from braintools_optim.errors import IncompatibleCheckpoint


class WithDefault(bo.LRScheduler):
    """As people write them for braintools."""

    def __init__(self, base_lr=1e-3, last_epoch=0):
        super().__init__(base_lr, last_epoch)

    def affine(self, epoch, group):
        return 0.0, 0.5**epoch


class Named(bo.LRScheduler):
    """As people write them for torch."""

    def __init__(self, opt, last_epoch=0):
        super().__init__(opt, last_epoch)

    def affine(self, epoch, group):
        return 0.0, 0.5**epoch


def test_the_default_of_a_base_gives_way_to_what_the_optimizer_has():
    for attach in (
        WithDefault,
        lambda opt: WithDefault(base_lr=opt),
        Named,
        lambda opt: Named(opt=opt),
    ):
        opt = bo.SGD(0.1)
        attach(opt).step()
        assert opt.current_lr == 0.05
    opt = bo.SGD(0.1)
    WithDefault(opt, base_lr=0.5)
    assert opt.current_lr == 0.5
    assert bo.SGD(WithDefault()).current_lr == 1e-3


def boom(epoch):
    raise RuntimeError('boom')


@pytest.mark.parametrize(
    'build',
    [
        lambda part: bo.ChainedScheduler([part, bo.LambdaLR(lr_lambda=boom)]),
        lambda part: bo.SequentialLR([part, bo.LambdaLR(lr_lambda=boom)], [3], last_epoch=1),
    ],
)
def test_a_failed_construction_leaves_the_parts_as_they_were(build):
    part = bo.StepLR(0.1, step_size=2)
    for _ in range(3):
        part.step()
    part.apply(lambda lr: 2 * lr)
    before = part.state_dict()
    with pytest.raises(RuntimeError, match='boom'):
        build(part)
    assert part.state_dict() == before


def test_a_failed_optimizer_leaves_its_scheduler_as_it_was():
    schedule = bo.StepLR(step_size=3)
    before = schedule.state_dict()
    with pytest.raises(ValueError, match='memory_size'):
        bo.LBFGS(lr=schedule, memory_size=0)
    assert schedule.state_dict() == before and schedule.optimizer is None


class NeverAdds(bo.Lookahead):
    def add_scheduler(self, scheduler):
        raise RuntimeError('boom')


def test_a_failed_lookahead_leaves_the_schedulers_to_its_base():
    base = bo.SGD(0.1, momentum=0.9)
    driver = bo.ParamScheduler(base, 'momentum', lambda epoch: 0.9)
    with pytest.raises(RuntimeError, match='boom'):
        NeverAdds(base)
    assert base.lr.optimizer is base and driver.optimizer is base
    base.lr.step()
    assert base.momentum == 0.9


class NamedGamma(bo.LRScheduler):
    gamma = 0.9

    def __init__(self, base_lr=0.1, gamma=0.5):
        super().__init__(base_lr, numbers={'gamma': gamma})

    def affine(self, epoch, group):
        return 0.0, self.gamma**epoch


def test_a_number_is_found_where_a_class_has_its_name():
    opt = bo.SGD(0.1)
    schedule = NamedGamma(opt, gamma=0.5)
    schedule.step()
    assert opt.current_lr == 0.05 and schedule.gamma == 0.5 and NamedGamma.gamma == 0.9


class OptimizerLater(bo.LRScheduler):
    def __init__(self, base_lr=0.1, opt=None):
        super().__init__(base_lr)
        self.other = opt

    def affine(self, epoch, group):
        return 0.0, 0.5**epoch


def test_an_optimizer_that_comes_later_is_an_argument_like_others():
    opt = bo.SGD(0.1)
    schedule = OptimizerLater(0.1, opt=opt)
    assert schedule.other is opt and schedule.optimizer is None
    with pytest.raises(TypeError, match='StepLR drives one optimizer, got two'):
        bo.StepLR(opt, optimizer=bo.SGD(0.1))


class WithAttributes(bo.LRScheduler):
    """As people write them for torch: its arguments are attributes, which it reads."""

    def __init__(self, optimizer, warm=10, label='a'):
        self.warm, self.label, self.calls, self.limit = warm, label, 0, float('nan')
        super().__init__(optimizer)

    def get_lr(self):
        self.calls += 1
        assert self.limit != 0
        return [base * self.factor() for base in self.base_lrs]

    def factor(self):
        return 1.0 / (1.0 + self.last_epoch.value / self.warm)


def driven(**given):
    opt = bo.SGD(0.1).register_trainable_weights({'w': ParamState(jnp.ones(2))})
    return opt, WithAttributes(opt, **given)


def test_attributes_that_it_was_built_with_are_compared():
    opt, schedule = driven(warm=10)
    schedule.step()
    saved = opt.state_dict()
    elsewhere, _ = driven(warm=10, label='another run')  # which no formula reads
    elsewhere.load_state_dict(saved)
    other, _ = driven(warm=500)
    with pytest.raises(IncompatibleCheckpoint, match="'warm': 10.*'warm': 500"):
        other.load_state_dict(saved)
    same, again = driven(warm=10)
    same.load_state_dict(saved)
    assert same.current_lr == opt.current_lr
    older = schedule.state_dict()
    older['fixed'].clear()
    again.load_state_dict(older)  # as versions before wrote it


def test_attributes_that_a_traced_function_has_read_stay():
    opt, schedule = driven()
    schedule.warm = 5  # nothing has been traced
    jit(lambda: schedule.step())()
    assert opt.current_lr == pytest.approx(0.1 / 1.2)
    with pytest.raises(AttributeError, match="warm of WithAttributes was read .* numbers={'warm'"):
        schedule.warm = 1
    assert schedule.warm == 5
    schedule.warm, schedule.label = 5, 'b'  # the same; and what the formula does not read
    schedule.calls, schedule.limit = 0, float('nan')
    schedule.step()
