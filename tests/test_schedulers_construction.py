"""Constructing schedulers of one's own, and constructions that fail."""

import pytest

import braintools_optim as bo


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


class HiddenGamma(bo.LRScheduler):
    gamma = 0.9

    def __init__(self, base_lr=0.1, gamma=0.5):
        super().__init__(base_lr, numbers={'gamma': gamma})

    def affine(self, epoch, group):
        return 0.0, self.gamma**epoch


def test_a_class_attribute_does_not_hide_a_number():
    with pytest.raises(TypeError, match='HiddenGamma has an attribute gamma, which hides'):
        HiddenGamma(gamma=0.5)
