"""Writing files while the training goes on."""

from __future__ import annotations

import os
import threading
import warnings
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

from ..check import check_flag
from .tree import copied

__all__ = ['Saving', 'free_path', 'write_or_start']

_writing: dict[str, _Work] = {}  # what is being written, by the real path
_lock = threading.Lock()


class _Work:
    """One file being written, in a thread that the process waits for when it ends."""

    def __init__(self, path: str, write: Callable[[], Any]):
        self.path = path
        self.error: BaseException | None = None
        self.left = False  # whether nobody will wait for it any more
        self.finished = False
        self.write: Callable[[], Any] | None = write
        self.thread = threading.Thread(target=self.run, name=f'saving {path}')

    def run(self) -> None:
        assert self.write is not None
        try:
            self.write()
        except BaseException as error:
            self.error = error
        finally:
            self.write = None  # the snapshot may go
            with _lock:
                if _writing.get(self.path) is self:
                    del _writing[self.path]
                self.finished = True
                left = self.left
            if left:
                self.complain()

    def leave(self) -> None:
        """Say that nobody will wait for it any more."""
        with _lock:
            self.left = True
            finished = self.finished
        if finished:
            self.complain()

    def complain(self) -> None:
        """Warn of an error that nobody was told of."""
        if self.error is not None:
            error, self.error = self.error, None
            warnings.warn(
                f'writing {self.path} in the background failed, and nobody waited for it: '
                f'{type(error).__name__}: {error}',
                RuntimeWarning,
                stacklevel=2,
            )


class Saving:
    """A file that is being written in the background.

    An error is raised by :meth:`wait` and :meth:`result`; one that nobody waits for becomes a
    warning when this object is deleted, at the latest when Python exits.
    """

    def __init__(self, work: _Work):
        self._work = work
        self._keeper = weakref.finalize(self, work.leave)

    def done(self) -> bool:
        """Whether writing has ended, with or without success."""
        return not self._work.thread.is_alive()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the file is written; return whether it is. Raise if writing failed."""
        self._work.thread.join(timeout)
        if not self.done():
            return False
        if self._work.error is not None:
            self._keeper.detach()  # somebody knows
            raise self._work.error
        return True

    def result(self) -> str:
        """Wait until the file is written; return its path. Raise if writing failed."""
        self.wait()
        return self._work.path

    def __repr__(self) -> str:
        state = 'writing' if not self.done() else 'failed' if self._work.error else 'written'
        return f'Saving({self._work.path!r}, {state})'


def write_or_start(
    path: str, write: Callable[[Any], Any], data: Any, background: bool
) -> Saving | None:
    """Write data to a path that is free; or a copy of it, while the training goes on."""
    if not check_flag('save', 'background', background, False):
        write(data)
        return None
    work = _Work(os.path.realpath(path), partial(write, copied(data)))
    with _lock:  # who finds it there may wait for it, since it runs; it goes only after this
        work.thread.start()
        _writing[work.path] = work
    return Saving(work)


def free_path(path: str | os.PathLike) -> str:
    """Wait for what is being written to a path, so that files come in the order of their saves.

    Return the path, which from now on means the same from any directory.
    """
    if not isinstance(path, str | bytes | os.PathLike):  # torch.save takes it last
        raise TypeError(
            f'a file needs a path, and first, as in save(path, tree) or opt.load(path); got '
            f'{type(path).__name__}. What state_dict() returns goes into load_state_dict.'
        )
    path = os.path.abspath(os.fsdecode(path))
    with _lock:
        work = _writing.get(os.path.realpath(path))
    if work is not None:
        work.thread.join()
    return path
