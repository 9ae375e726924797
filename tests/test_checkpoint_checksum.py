"""The checksum of a long record is zlib's, whichever pieces it comes in."""

import zlib

import numpy as np
import pytest

from braintools_optim.checkpoint import checksum, file
from braintools_optim.errors import CorruptCheckpoint

LONG = checksum._LONG
BEGINNING = b'\x05\0\0\0\0\0\0\0\x02'


@pytest.fixture(autouse=True)
def without_instructions(monkeypatch):
    """Push bytes ahead even where zlib itself is fast."""
    monkeypatch.setattr(checksum, '_ZLIB_IS_FAST', False)


def of(data, pieces, beginning=BEGINNING):
    """Return the checksum of data that comes in pieces of these lengths, over and over."""
    found = checksum.checksum(beginning, LONG)
    assert type(found) is not checksum.Checksum
    start, i = 0, 0
    while start < len(data):
        found.add(data[start : start + pieces[i % len(pieces)]])
        start, i = start + pieces[i % len(pieces)], i + 1
    return found.value()


P, S = checksum.PERIOD, checksum.SHIFT


@pytest.mark.parametrize(
    'pieces',
    [(1 << 21,), (1 << 18,), (P,), (P + 1, 1), (S, P - S), (P - 1,), (7, 300_001, 0, 64, P - S)],
    ids=str,
)
@pytest.mark.parametrize('length', [0, 1, 9, P - 1, P, P + S, LONG, LONG + 12345])
def test_the_number_is_that_of_zlib(length, pieces):
    data = memoryview(np.random.default_rng(length).bytes(length))
    assert of(data, pieces) == zlib.crc32(data, zlib.crc32(BEGINNING))


def test_any_beginning_of_four_bytes_counts():
    data = np.random.default_rng(0).bytes(LONG)
    for beginning in (b'\0\0\0\0', b'\xff' * 4, b'\xff' * 9, b'abcd', BEGINNING):
        assert of(data, (1 << 20,), beginning) == zlib.crc32(beginning + data)


def test_the_number_of_what_has_come_may_be_asked_for_between_pieces():
    data = np.random.default_rng(1).bytes(2 * P)
    found = checksum.checksum(BEGINNING, LONG)
    for start in range(0, len(data), 50_000):
        found.add(data[start : start + 50_000])
        assert found.value() == zlib.crc32(BEGINNING + data[: start + 50_000])


def test_a_short_record_and_a_fast_zlib_push_nothing(monkeypatch):
    assert type(checksum.checksum(BEGINNING, LONG - 1)) is checksum.Checksum
    monkeypatch.setattr(checksum, '_ZLIB_IS_FAST', True)
    assert type(checksum.checksum(BEGINNING, LONG)) is checksum.Checksum


def test_files_are_the_same_and_are_read_whichever_way_they_were_summed(tmp_path, monkeypatch):
    rng = np.random.default_rng(2)
    tree = {name: rng.standard_normal(size, np.float32) for name, size in (('a', LONG), ('b', 999))}
    contents = []
    for fast in (False, True):
        monkeypatch.setattr(checksum, '_ZLIB_IS_FAST', fast)
        file.write(tmp_path / f'{fast}.ckpt', tree)
        contents.append((tmp_path / f'{fast}.ckpt').read_bytes())
        monkeypatch.setattr(checksum, '_ZLIB_IS_FAST', not fast)
        found = file.read(tmp_path / f'{fast}.ckpt')[1]
        assert all(np.array_equal(found[name], tree[name]) for name in tree)
    assert contents[0] == contents[1]


def test_a_flipped_bit_anywhere_in_a_long_record_is_refused(tmp_path):
    path = tmp_path / 'x.ckpt'
    file.write(path, {'a': np.random.default_rng(3).integers(256, size=LONG, dtype=np.uint8)})
    good = path.read_bytes()
    rng = np.random.default_rng(4)
    for position in (*rng.integers(len(good) - LONG, len(good), 40), len(good) - 1):
        bad = bytearray(good)
        bad[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(bad)
        with pytest.raises(CorruptCheckpoint):
            file.read(path)
