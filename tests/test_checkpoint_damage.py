"""Damaged checkpoint files: every one is refused, in memory and streamed, and tells where."""

import random
import time

import numpy as np
import pytest
from checkpoint_forge import META, decoded, small_tree

from braintools_optim.checkpoint import file, record
from braintools_optim.errors import CheckpointError, CorruptCheckpoint


@pytest.fixture(scope='module')
def small_file(tmp_path_factory):
    path = tmp_path_factory.mktemp('small') / 'x.ckpt'
    file.write(path, small_tree(), kind='optimizer', meta=META)
    data = path.read_bytes()
    assert len(data) < 4096
    return data


def refused(data):
    """Raise unless a file's bytes are refused as damaged."""
    try:
        decoded(data)
    except CorruptCheckpoint as error:
        assert error.record >= 0 and 0 <= error.offset <= len(data)
        return
    raise AssertionError('damage was not noticed')


def test_every_bit_flip_is_refused(small_file):
    data = bytearray(small_file)
    for bit in range(8 * len(data)):
        data[bit // 8] ^= 1 << bit % 8
        refused(data)
        data[bit // 8] ^= 1 << bit % 8
    decoded(data)


def test_every_truncation_and_addition_is_refused(small_file):
    for length in range(len(small_file)):
        refused(small_file[:length])
    refused(small_file + b'\0')
    refused(small_file * 2)


def test_splices_are_refused(small_file):
    rng = random.Random(0)
    for _ in range(10_000):
        data = spliced(small_file, rng)
        if data != small_file:
            refused(data)


def spliced(data, rng):
    """Return the data with a random piece moved, removed, doubled or overwritten."""
    a, b, c = sorted(rng.randrange(len(data) + 1) for _ in range(3))
    return rng.choice(
        (
            lambda: data[:a] + data[b:c] + data[a:b] + data[c:],
            lambda: data[:a] + data[b:],
            lambda: data[:b] + data[a:],
            lambda: data[:a] + rng.randbytes(b - a) + data[b:],
            lambda: data[:a] + data[b:c] + data[a + c - b :],
        )
    )()


def test_records_may_not_change_places(tmp_path, monkeypatch):
    """The number of a record is in its checksum: equal chunks that change places are noticed."""
    monkeypatch.setattr(record, 'CHUNK', 64)
    path = tmp_path / 'x.ckpt'
    file.write(path, {'x': np.arange(32.0)})
    data = path.read_bytes()
    frame = 64 + 12
    start = data.index(np.arange(8.0).tobytes()) - 7
    first, second = data[start : start + frame], data[start + frame : start + 2 * frame]
    refused(data[:start] + second + first + data[start + 2 * frame :])


def test_files_that_change_while_they_are_read(small_file, tmp_path):
    """A length that was true when the file was opened is not trusted."""
    path = tmp_path / 'x.ckpt'
    path.write_bytes(small_file)
    for change in (small_file[:-40], small_file + b'\0'):
        with file._opened(path) as (opened, size):
            path.write_bytes(change)
            with pytest.raises(CorruptCheckpoint):
                file.decode(opened, size)
        path.write_bytes(small_file)


def test_refusing_is_quick(small_file):
    """So that every bit of many files can be tried: it takes less than reading does."""
    data = bytearray(small_file)
    data[-100] ^= 1
    works = [lambda: refused(data), lambda: decoded(small_file)]
    rounds = [[timed(work, time.process_time, 10) for work in works] for _ in range(100)]
    refusing, reading = map(min, zip(*rounds, strict=True))
    assert refusing < reading


def timed(work, clock, calls=100):
    start = clock()
    for _ in range(calls):
        work()
    return (clock() - start) / calls


def test_damage_tells_where(small_file):
    data = bytearray(small_file)
    data[-1] ^= 1
    with pytest.raises(
        CheckpointError, match=r'checksum is wrong \(record 2, byte \d+\)'
    ) as raised:
        decoded(data)
    assert raised.value.record == 2 and raised.value.offset == len(data) - 13
