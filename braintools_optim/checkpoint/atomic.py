"""Replacing a file at once: at every instant the old or the new one is there, whole.

The new bytes go to a temporary file in the same directory, which its writer holds a lock on (flock)
as long as it lives. So a temporary file without a lock is one whose writer is gone, on this
machine or, over a network file system, on another one: the next save removes it. Where the system
has no flock (Windows), nothing is swept.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator

from ..errors import SaveError
from .reserve import reserve

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # not on this system

__all__ = ['replacing', 'sweep']

_PREFIX, _SUFFIX = '.braintools_optim-', '.tmp'
_GATHERED = 1 << 18  # small writes are put together to so many bytes
_AHEAD = 1 << 23  # from so many bytes on, bringing them to the disk is begun
_FLAGS = os.O_RDWR | getattr(os, 'O_CLOEXEC', 0) | getattr(os, 'O_BINARY', 0)
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # a file system that has none

Put = Callable[[memoryview | bytes], None]


@contextlib.contextmanager
def replacing(path: str | os.PathLike, size: int = 0) -> Iterator[Put]:
    """Give a function that takes the new bytes; when the block ends well, they are the file.

    There will be ``size`` of them, or more.
    """
    try:
        target = os.path.realpath(path)
        directory = os.path.dirname(target)
        mode = _mode_of(target)
        sweep(directory)
        descriptor, temporary = _create(directory, 0o666 if mode is None else 0o600)
    except OSError as error:
        raise _unsaved(path, error) from error
    replaced = False
    try:
        try:
            reserve(descriptor, size)
            gathered = _Gathered(descriptor)
            yield gathered.put
            gathered.flush()
            if mode is not None:
                os.chmod(temporary, mode)
            os.fsync(descriptor)
            if fcntl is None:  # Windows doesn't rename an open file
                os.close(descriptor)
                descriptor = -1
            os.replace(temporary, target)
            replaced = True
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        _sync_directory(directory)
    except BaseException as error:
        if not replaced:
            _remove(temporary)
        if isinstance(error, OSError):
            raise (_unsure if replaced else _unsaved)(path, error) from error
        raise


def _unsaved(path: str | os.PathLike, error: OSError) -> SaveError:
    return SaveError(
        f'{os.fspath(path)} could not be written: {error.strerror or error}; '
        'what was there before is unchanged'
    )


def _unsure(path: str | os.PathLike, error: OSError) -> SaveError:
    return SaveError(
        f'{os.fspath(path)} is written, but could not be flushed: {error.strerror or error}; '
        'after a power failure the old file may be back: save again'
    )


def _remove(temporary: str) -> None:
    with contextlib.suppress(OSError):  # then the next save sweeps it
        os.unlink(temporary)


def _mode_of(target: str) -> int | None:
    """Return the mode of the file that will be replaced, None if there is none."""
    try:
        status = os.stat(target)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):  # renaming over /dev/null would remove the device
        raise OSError(errno.EINVAL, 'it is there, and is no regular file')
    return stat.S_IMODE(status.st_mode)


def _create(directory: str, mode: int) -> tuple[int, str]:
    """Return a new file that is locked, and its path."""
    while True:
        name = f'{_PREFIX}{os.getpid()}-{secrets.token_hex(8)}{_SUFFIX}'
        temporary = os.path.join(directory, name)
        descriptor = os.open(temporary, _FLAGS | os.O_CREAT | os.O_EXCL, mode)
        try:
            _lock(descriptor, wait=True)
            swept = fcntl is not None and not os.fstat(descriptor).st_nlink
        except BaseException:
            _remove(temporary)
            os.close(descriptor)
            raise
        if not swept:  # else someone removed it before it was locked
            return descriptor, temporary
        os.close(descriptor)


def _lock(descriptor: int, wait: bool) -> bool:
    """Lock a file until it is closed; return whether it is."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def sweep(directory: str | os.PathLike) -> list[str]:
    """Remove the temporary files whose writers are gone; return their names.

    What cannot be looked at or removed (another user's, one that was renamed meanwhile) stays.
    """
    removed: list[str] = []
    if fcntl is None:
        return removed
    try:
        names = [n for n in os.listdir(directory) if n.startswith(_PREFIX) and n.endswith(_SUFFIX)]
    except PermissionError:  # one may write into a directory that one may not list
        return removed
    for name in names:
        path = os.path.join(directory, name)
        with contextlib.suppress(OSError):
            descriptor = os.open(path, _FLAGS | os.O_NOFOLLOW)
            try:
                if _lock(descriptor, wait=False):
                    here = os.stat(path, follow_symlinks=False)
                    if os.path.samestat(here, os.fstat(descriptor)):
                        os.unlink(path)
                        removed.append(name)
            finally:
                os.close(descriptor)
    return removed


def _sync_directory(directory: str) -> None:
    """Make a rename in a directory last."""
    if os.name != 'posix':
        return
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:  # one may write into a directory that one may not read
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # this file system has no such thing
            raise
    finally:
        os.close(descriptor)


class _Gathered:
    """Writes to a file, all of what it is given, small things together."""

    def __init__(self, descriptor: int):
        self._descriptor = descriptor
        self._small = bytearray()
        self._written = self._begun = 0

    def put(self, data: memoryview | bytes) -> None:
        if len(data) < _GATHERED // 4:
            self._small += data
            if len(self._small) >= _GATHERED:
                self.flush()
        else:
            self.flush()
            self._write(memoryview(data))

    def flush(self) -> None:
        if self._small:
            self._write(memoryview(self._small))
            self._small = bytearray()

    def _write(self, data: memoryview) -> None:
        while len(data):
            count = os.write(self._descriptor, data)
            data = data[count:]
            self._written += count
            if self._written - self._begun >= _AHEAD:
                self._begin()

    def _begin(self) -> None:
        """Let the system begin to bring to the disk what was written, so that fsync waits less.

        Linux begins that when told that a part is not needed; it keeps what is not on the disk yet.
        """
        if hasattr(os, 'posix_fadvise'):
            with contextlib.suppress(OSError):  # a hint
                length = self._written - self._begun
                os.posix_fadvise(self._descriptor, self._begun, length, os.POSIX_FADV_DONTNEED)
        self._begun = self._written
