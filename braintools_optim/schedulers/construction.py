"""How schedulers are constructed: with a learning rate, or with an optimizer first, as in torch."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeGuard

from ..engine.attributes import read_attributes
from ..engine.writing import undone_on_error
from ..other_libraries import (
    OF_SCHEDULERS,
    argument_here,
    did_you_mean,
    is_ours,
    note_class,
)

if TYPE_CHECKING:
    from ..optimizer import OptaxOptimizer

__all__ = ['Driven', 'SchedulerType', 'is_optimizer']

OPTIMIZER = ('optimizer', 'optim', 'opt')  # the first argument of schedulers written for torch


class SchedulerType(type):
    """The type of schedulers: ``StepLR(optimizer, step_size=30)`` means what it means in torch."""

    def __init__(cls, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        note_class(cls)
        signature = inspect.signature(cls.__init__)  # type: ignore[misc]  # what a metaclass makes is built by it
        cls.__signature__ = signature.replace(parameters=[*signature.parameters.values()][1:])

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Return a new scheduler, attached to the optimizer if there is one; or change nothing."""
        first = next(iter(inspect.signature(cls).parameters), '')
        if first in ('base_lr', *OPTIMIZER) and is_optimizer(kwargs.get(first)):
            args = kwargs.pop(first), *args
        optimizer = kwargs.pop('optimizer', None)
        if args and is_optimizer(args[0]):
            if optimizer is not None:
                raise TypeError(f'{cls.__name__} drives one optimizer, got two.')
            optimizer, args = args[0], args[1:]
        cls._refuse_unknown(kwargs)
        given = [optimizer, *args, *kwargs.values()]
        with ExitStack() as stack:
            for driven in {id(x): x for x in _optimizers_of(given)}.values():
                stack.enter_context(driven._undone_on_error())
            for part in _schedulers_among(given):
                stack.enter_context(undone_on_error(*part._parts()))
            if optimizer is None:
                scheduler = super().__call__(*args, **kwargs)
            else:
                if first in OPTIMIZER:
                    scheduler = super().__call__(optimizer, *args, **kwargs)
                else:
                    named = cls._named(args, kwargs)
                    scheduler = super().__call__(**named)
                    if cls._finds_base() and 'base_lr' not in named:
                        vars(scheduler)['_given'] = False  # whatever its default may be
                scheduler.attach_optimizer(optimizer)
        vars(scheduler)['_built'] = True
        if not is_ours(scheduler):
            vars(scheduler)['_built_with'] = read_attributes(scheduler, ('affine', 'get_lr'))
        return scheduler

    def _named(cls, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments that came after the optimizer by name."""
        names = list(inspect.signature(cls).parameters)
        if cls._finds_base():
            names = names[1:]
        if len(args) > len(names):
            raise TypeError(
                f'{cls.__name__} takes {len(names)} arguments after the optimizer, got {len(args)}.'
            )
        clash = sorted(set(names[: len(args)]) & set(kwargs))
        if clash:
            raise TypeError(f'{cls.__name__} got {clash[0]!r} twice.')
        return dict(zip(names, args, strict=False)) | kwargs

    def _finds_base(cls) -> bool:
        """Whether an optimizer comes in the place of the base: it has one."""
        first = next(iter(inspect.signature(cls).parameters), None)
        return first == 'base_lr' and not cls.torch_gives_base  # type: ignore[attr-defined]  # what a metaclass makes has it

    def _refuse_unknown(cls, given: Mapping[str, Any]) -> None:
        parameters = inspect.signature(cls).parameters
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return
        for name in given:
            if name not in parameters:
                raise TypeError(
                    f'{cls.__name__} has no argument {name!r}; it has '
                    f'{", ".join(parameters)}.'
                    f'{argument_here(cls.__name__, name, OF_SCHEDULERS)}'
                    f'{did_you_mean(name, parameters)}'
                )


class Driven:
    """Base of the optimizers that schedulers drive, which are built on these."""


def is_optimizer(x: Any) -> TypeGuard[OptaxOptimizer]:
    """Whether it is an optimizer that a scheduler can drive."""
    return isinstance(x, Driven)


def _optimizers_of(values: Iterable[Any]) -> Iterator[OptaxOptimizer]:
    """Yield the optimizers among arguments, and those that schedulers among them drive."""
    yield from filter(is_optimizer, values)
    yield from filter(is_optimizer, (x.optimizer for x in _schedulers_among(values)))


def _schedulers_among(values: Iterable[Any]) -> Iterator[Any]:
    """Yield the schedulers among arguments, and in lists among them."""
    for value in values:
        each = value if isinstance(value, list | tuple) else [value]
        yield from (x for x in each if isinstance(type(x), SchedulerType))
