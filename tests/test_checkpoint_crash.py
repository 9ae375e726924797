"""Saving that is killed, fails or competes: the old or the new file is there, whole."""

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import resource
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from braintools_optim.checkpoint import atomic, file, reserve
from braintools_optim.errors import SaveError

SAVERS = Path(__file__).parent / 'fuzz' / 'kill_savers.py'
OLD, NEW = {'v': 0, 'x': np.zeros(1000)}, {'v': 1, 'x': np.ones(200_000)}


@pytest.fixture
def path(tmp_path):
    file.write(tmp_path / 'x.ckpt', OLD)
    return tmp_path / 'x.ckpt'


def version(path):
    """Return which of the trees a file holds, from end to end."""
    tree = file.read(path)[1]
    expected = (OLD, NEW)[tree['v']]['x']
    assert np.array_equal(tree['x'], expected)
    return tree['v']


def names(path):
    return sorted(os.listdir(path.parent))


# ---- processes ----------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def savers():
    """Run 200 kills and a race in one process, which imports once and forks."""
    command = [sys.executable, '-W', 'ignore', str(SAVERS), '--kills', '200', '--megabytes', '50']
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_kill_while_saving(savers):
    found = savers['kill']
    assert found['bad'] == [] and found['old'] + found['new'] == found['kills'] == 200
    assert found['bytes'] == 50_000_000
    # the moments were spread over the whole of saving
    assert found['old'] > 20 and found['new'] > 10 and found['temporaries_left'] > 50
    assert found['files_after_the_next_save'] == ['x.ckpt']


def test_two_savers_and_a_reader(savers):
    found = savers['race']
    assert found['bad'] == [] and found['codes'] == [0, 0] and found['files'] == ['x.ckpt']
    assert found['reads'] > 5 and min(found['seen']) > 0


# ---- system calls -------------------------------------------------------------------------------


class Tapped:
    """The os (or fcntl) module; records its calls, and lets the one with a number fail."""

    CALLS = (
        *('open', 'write', 'chmod', 'fsync', 'replace', 'close', 'stat', 'fstat', 'listdir'),
        *('unlink', 'flock'),
    )

    def __init__(self, module, calls, failing=None, error=None, after=False):
        self._module, self._calls = module, calls
        self._failing, self._error, self._after = failing, error, after

    def __getattr__(self, name):
        call = getattr(self._module, name)
        if name not in self.CALLS:
            return call

        def tapped(*args, **kwargs):
            number = len(self._calls)
            self._calls.append((name, args))
            if number == self._failing and not self._after:
                raise self._error
            result = call(*args, **kwargs)
            if number == self._failing:
                if name == 'open':
                    os.close(result)
                raise self._error
            return result

        return tapped


@contextlib.contextmanager
def tapped(monkeypatch, **options):
    calls = []
    with monkeypatch.context() as patch:
        patch.setattr(atomic, 'os', Tapped(os, calls, **options))
        patch.setattr(atomic, 'fcntl', Tapped(fcntl, calls, **options))
        yield calls


def test_order_of_the_system_calls(path, monkeypatch):
    """What is renamed was flushed before, and the rename is flushed after."""
    directory = str(path.parent)
    with tapped(monkeypatch) as calls:
        file.write(path, NEW)
    order = [name for name, _ in calls]
    for earlier, later in [
        (order.index('open'), order.index('flock')),
        (order.index('flock'), order.index('write')),
        (len(order) - 1 - order[::-1].index('write'), order.index('fsync')),
        (order.index('chmod'), order.index('fsync')),
        (order.index('fsync'), order.index('replace')),
    ]:
        assert earlier < later
    tail = calls[order.index('replace') :]
    opened = [args[0] for name, args in tail if name == 'open']
    assert opened == [directory] and order.count('fsync') == 2
    assert [name for name, _ in tail].index('open') < [name for name, _ in tail].index('fsync')
    temporary, target = tail[0][1]
    assert target == str(path) and os.path.dirname(temporary) == directory
    flags = calls[order.index('open')][1][1]
    assert (
        flags & os.O_EXCL and flags & os.O_CREAT and calls[order.index('open')][1][0] == temporary
    )


def faults():
    """Return how many calls a save makes, and their names (in a directory of its own)."""
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        path = Path(directory) / 'x'
        file.write(path, OLD)
        with tapped(patch) as calls:
            file.write(path, NEW)
    return [name for name, _ in calls]


@pytest.mark.parametrize('after', [False, True], ids=['before', 'after'])
@pytest.mark.parametrize('error', [OSError(errno.EIO, 'broken'), KeyboardInterrupt()], ids=repr)
def test_failure_of_each_system_call(path, monkeypatch, error, after):
    """Each call fails once, before or after it did its work."""
    descriptors = len(os.listdir('/proc/self/fd'))
    order = faults()
    assert {'open', 'flock', 'write', 'chmod', 'fsync', 'replace', 'close'} <= set(order)
    assert order.count('write') >= 3
    rename = order.index('replace')
    for number, name in enumerate(order):
        file.write(path, OLD)
        kind = SaveError if isinstance(error, OSError) else KeyboardInterrupt
        options = {'failing': number, 'error': error, 'after': after}
        with tapped(monkeypatch, **options), pytest.raises(kind) as raised:
            file.write(path, NEW)
        message = f'{name}, call {number}'
        renamed = number > rename or (number == rename and after)
        assert version(path) == renamed, message
        if kind is SaveError:
            assert raised.value.__cause__ is error, message
            done = 'is written' if number > rename else 'unchanged'
            assert done in str(raised.value), message
        if not (name == 'open' and after and number < rename):  # an open that nobody knows of
            assert names(path) == ['x.ckpt'], message
        file.write(path, NEW)
        assert names(path) == ['x.ckpt'] and version(path) == 1, message
    left = len(os.listdir('/proc/self/fd')) - descriptors
    assert left == (0 if after else order.count('close'))  # what did not close stays open


def test_short_writes(path, monkeypatch):
    """A system that writes less than it is given gets the rest again."""
    real = os.write
    short = lambda descriptor, data: real(descriptor, data[: 1 + len(data) // 3])  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, 'write', short)
        file.write(path, NEW)
    assert version(path) == 1


@pytest.mark.parametrize('reserved', [True, False])
def test_no_space(path, monkeypatch, reserved):
    """The limit of a file's size stands for a full disk, which unreserved files meet half-way."""
    if not reserved:
        monkeypatch.setattr(reserve, '_fallocate', None)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        with pytest.raises(SaveError, match=r'could not be written: File too large.*unchanged'):
            file.write(path, NEW)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert version(path) == 0 and names(path) == ['x.ckpt']


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_noticed_before_anything_is_written(path, monkeypatch, number):
    asked = []

    def full(descriptor, mode, start, size):
        asked.append((mode, start, size))
        ctypes.set_errno(number)
        return -1

    monkeypatch.setattr(reserve, '_fallocate', full)
    with tapped(monkeypatch) as calls, pytest.raises(SaveError, match='unchanged') as raised:
        file.write(path, NEW)
    assert raised.value.__cause__.errno == number
    assert asked == [(0, 0, NEW['x'].nbytes)]
    assert 'write' not in [name for name, _ in calls]
    assert version(path) == 0 and names(path) == ['x.ckpt']


@pytest.mark.parametrize('number', [None, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINTR])
def test_a_system_that_does_not_reserve(path, monkeypatch, number):
    def refusing(*_):
        ctypes.set_errno(number)
        return -1

    monkeypatch.setattr(reserve, '_fallocate', number and refusing)
    file.write(path, NEW)
    assert version(path) == 1


def test_what_is_reserved_is_the_file(tmp_path):
    """A file that is reserved is as long as what is written into it, also where that is more."""
    for size in (0, 1, 5000):
        with atomic.replacing(tmp_path / 'x', size) as put:
            put(bytes(size) + b'end')
        assert (tmp_path / 'x').read_bytes() == bytes(size) + b'end'


@contextlib.contextmanager
def as_nobody():
    """Lay down the rights of root, who may write anywhere, for a while."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_read_only_directory():
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / 'x.ckpt'
        file.write(path, OLD)
        os.chmod(path, 0o666)
        os.chmod(directory, 0o555)
        try:
            with as_nobody(), pytest.raises(SaveError, match='Permission denied'):
                file.write(path, NEW)
            with as_nobody():
                assert version(path) == 0
        finally:
            os.chmod(directory, 0o755)
        assert names(path) == ['x.ckpt']


# ---- what is replaced ---------------------------------------------------------------------------


@pytest.mark.parametrize('mode', [0o600, 0o640, 0o444, 0o666])
def test_mode_is_kept(path, mode):
    path.chmod(mode)
    file.write(path, NEW)
    assert stat.S_IMODE(path.stat().st_mode) == mode and version(path) == 1


def test_a_new_file_has_the_mode_of_new_files(tmp_path):
    (tmp_path / 'plain').touch()
    file.write(tmp_path / 'x', OLD)
    assert (tmp_path / 'x').stat().st_mode == (tmp_path / 'plain').stat().st_mode


def test_a_secret_file_is_never_open_to_others(path, monkeypatch):
    """The temporary file is as closed as the file that it will be."""
    path.chmod(0o600)
    seen = []
    real = os.replace

    def replace(source, target):
        seen.append(stat.S_IMODE(os.stat(source).st_mode))
        real(source, target)

    with tapped(monkeypatch) as calls:
        file.write(path, NEW)
    (opened,) = [args for name, args in calls if name == 'open' and args[1] & os.O_CREAT]
    assert opened[2] == 0o600
    monkeypatch.setattr(atomic.os, 'replace', replace)
    file.write(path, OLD)
    assert seen == [0o600]


@pytest.mark.parametrize('there', [True, False], ids=['to a file', 'to nothing yet'])
def test_symbolic_links_are_followed(path, there):
    directory = path.parent / 'elsewhere'
    directory.mkdir()
    if there:
        file.write(directory / 'y', OLD)
    link = path.parent / 'link'
    link.symlink_to('elsewhere/y')
    file.write(link, NEW)
    assert link.is_symlink() and version(directory / 'y') == version(link) == 1
    assert os.listdir(directory) == ['y']


@pytest.mark.parametrize('what', ['directory', 'pipe', 'loop', 'no directory'])
def test_what_cannot_be_replaced(tmp_path, what):
    path = tmp_path / 'x'
    if what == 'directory':
        path.mkdir()
    elif what == 'pipe':
        os.mkfifo(path)
    elif what == 'loop':
        path.symlink_to('x')
    else:
        path = tmp_path / 'none' / 'x'
    before = os.listdir(tmp_path)
    with pytest.raises(SaveError, match='could not be written'):
        file.write(path, NEW)
    assert os.listdir(tmp_path) == before


# ---- sweeping -----------------------------------------------------------------------------------


def test_only_temporaries_of_the_dead_are_swept(path):
    mine = path.parent / '.braintools_optim-1-aa.tmp'
    stale = path.parent / '.braintools_optim-1-bb.tmp'
    alike = path.parent / '.braintools_optim-1-cc.tmp'
    for each in (mine, stale, path.parent / 'other.tmp', path.parent / '.braintools_optim-x'):
        each.touch()
    alike.symlink_to(path)
    with open(mine, 'rb') as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert atomic.sweep(path.parent) == [stale.name]
        file.write(path, NEW)
        assert mine.exists() and version(path) == 1
    assert atomic.sweep(path.parent) == [mine.name]
    assert names(path) == sorted([alike.name, 'other.tmp', '.braintools_optim-x', 'x.ckpt'])


def test_a_file_being_written_is_not_swept(path):
    with atomic.replacing(path) as put:
        assert atomic.sweep(path.parent) == []
        put(b'abc')
        file.write(path.parent / 'y', OLD)  # which sweeps too
    assert path.read_bytes() == b'abc' and names(path) == ['x.ckpt', 'y']


def test_swept_before_it_was_locked(path, monkeypatch):
    """Between making a temporary file and locking it a sweep may come: then another is made."""
    real, swept = fcntl.flock, []

    def flock(descriptor, operation):
        if not swept:
            swept.append(None)
            swept[:] = atomic.sweep(path.parent)
        real(descriptor, operation)

    monkeypatch.setattr(atomic.fcntl, 'flock', flock)
    file.write(path, NEW)
    assert len(swept) == 1 and swept[0].endswith('.tmp')
    assert version(path) == 1 and names(path) == ['x.ckpt']


def test_without_locks(path, monkeypatch):
    """A file system that has none: nothing is swept, everything is written."""
    stale = path.parent / '.braintools_optim-1-bb.tmp'
    stale.touch()

    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, 'no locks')

    monkeypatch.setattr(atomic.fcntl, 'flock', flock)
    file.write(path, NEW)
    assert version(path) == 1 and stale.exists()


def test_directories_that_cannot_be_flushed(path, monkeypatch):
    """Some file systems refuse it; others fail at it, and that is told."""
    real = os.fsync

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        real(descriptor)

    monkeypatch.setattr(atomic.os, 'fsync', fsync)
    code = errno.EINVAL
    file.write(path, NEW)
    code = errno.EIO
    with pytest.raises(SaveError, match='is written, but could not be flushed'):
        file.write(path, OLD)
    assert version(path) == 0


def test_directories_that_may_not_be_read(path, monkeypatch):
    """One may write into them, so saving there is no failure."""
    real, refused = os.open, []

    def opened(what, flags, *mode, **more):
        if flags & os.O_DIRECTORY:
            refused.append(what)
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(what, flags, *mode, **more)

    monkeypatch.setattr(atomic.os, 'open', opened)
    file.write(path, NEW)
    assert version(path) == 1 and refused
