"""Class attributes of people's own optimizers and schedulers that are named like their numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .other_libraries import home_of, is_defined_here

__all__ = ['let_through', 'refuse_hiding']

_PLAIN = (bool, int, float, complex, str, tuple, type(None))


class GivesWay:
    """A class attribute that stands for itself until an object has a number of its name."""

    def __init__(self, name: str, value: Any):
        self.name, self.value = name, value

    def __get__(self, owner: Any, kind: type | None = None) -> Any:
        if owner is None:
            return self.value
        try:
            return owner.__getattr__(self.name)
        except AttributeError:
            return self.value


def let_through(owner: Any, names: Iterable[str]) -> None:
    """Let the numbers and options of an object be found, also where its class has such a name.

    Else the class would be asked first: reads would show a default, and steps use the number.
    """
    for name in names:
        home = home_of(type(owner), name)
        if home is None or isinstance(said := vars(home)[name], property | GivesWay):
            continue
        if type(said) not in _PLAIN or is_defined_here(home):
            raise TypeError(
                f'{home.__name__} has an attribute {name}, which would hide the argument {name} of '
                f'{type(owner).__name__}: call one of them otherwise.'
            )
        setattr(home, name, GivesWay(name, said))


def refuse_hiding(cls: type) -> None:
    """Raise if a class has a plain value in place of a property of every optimizer.

    What is read of it would be that value, and what is assigned to it would reach nobody.
    """
    ours = next(base for base in cls.__mro__ if is_defined_here(base))
    for base in cls.__mro__[: cls.__mro__.index(ours)]:
        for name, said in vars(base).items():
            if type(said) in _PLAIN and isinstance(getattr(ours, name, None), property):
                raise TypeError(
                    f'{base.__name__} has a class attribute {name} = {said!r}, which would hide '
                    f'{name} of {ours.__name__}: make it the default of an argument, or call it '
                    f'otherwise.'
                )
