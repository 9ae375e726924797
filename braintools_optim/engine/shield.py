"""Calls whose results no interrupt can lose."""

from __future__ import annotations

import _thread
from collections.abc import Callable
from itertools import starmap

import jax

from .observe import x64_enabled

__all__ = ['ShieldedCall']


class ShieldedCall:
    """A call in a thread of its own, so that no interrupt comes between its effect and its result.

    Interrupts are raised in the main thread. JAX runs Python code when it meets arguments of a
    kind that it does not know; raised there, they would drop the results of a program whose
    arguments are already gone.
    """

    def __init__(self, function: Callable, args: tuple):
        self.function, self.args = function, args
        self.x64 = x64_enabled()
        self.result: list = []
        self.error: list[BaseException] = []
        self.started: list = []
        self.ended = False
        self.done = _thread.allocate_lock()

    def run(self) -> None:
        """Begin, and wait for the end."""
        self.done.acquire()
        # Started and known to be, before Python can look for an interrupt.
        self.started.extend(starmap(_thread.start_new_thread, ((self._work, ()),)))
        self.done.acquire()
        if self.error:
            raise self.error[0]

    def finish(self) -> None:
        """Wait for the end, whatever comes."""
        while self.started and not self.ended:
            try:
                self.done.acquire(timeout=0.1)
            except BaseException:  # the interrupt before this one is going to be raised
                continue

    def _work(self) -> None:
        try:
            with jax.enable_x64(self.x64):
                self.result.append(self.function(*self.args))
        except BaseException as error:  # raised where it was called
            self.error.append(error)
        finally:
            self.ended = True
            self.done.release()
