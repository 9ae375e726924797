"""Which group's chain is being built or run; meanwhile its traced numbers are those one reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from brainstate.util import StateJaxTracer

if TYPE_CHECKING:
    from ..hyper import Hyper

__all__ = ['Running']


class _Now(NamedTuple):
    hyper: Hyper
    numbers: list[dict[str, Any]] | None  # of all groups, if traced
    trace: StateJaxTracer


class Running:
    """The group whose chain is being built or run, if one is, and whether chains read the rate."""

    def __init__(self, rate_is_read: bool | None = None):
        self.rate_is_read = rate_is_read  # None until a chain has been traced
        self.offered: frozenset[str] = frozenset()  # what chains are given if they take it
        self._now: _Now | None = None

    @contextmanager
    def group(self, h: Hyper, numbers: list[dict[str, Any]] | None = None) -> Iterator[None]:
        """Let it be a group with these values; ``numbers`` are those of all groups, if traced."""
        before, self._now = self._now, _Now(h, numbers, StateJaxTracer())
        try:
            yield
        finally:
            self._now = before

    @contextmanager
    def offering(self, *names: str) -> Iterator[None]:
        """Pass extra arguments of these names only to chains that take them."""
        before, self.offered = self.offered, frozenset(names)
        try:
            yield
        finally:
            self.offered = before

    def hyper(self) -> Hyper | None:
        """Return the values of the group, None if there is none."""
        now = self._now
        # An interrupt may leave it behind: it means nothing outside of its trace.
        return now.hyper if now is not None and now.trace.is_valid() else None

    def hyper_for_rate(self) -> Hyper | None:
        """Return the same to a reader of the learning rate, and note that the chain reads it."""
        if (h := self.hyper()) is not None:
            self.rate_is_read = True
        return h

    def number(self, group: int, name: str) -> Any:
        """Return a traced number of any group, None where none is traced."""
        if self.hyper() is None or self._now is None or not (numbers := self._now.numbers):
            return None
        if name == 'lr':
            self.rate_is_read = True
        return numbers[group][name]
