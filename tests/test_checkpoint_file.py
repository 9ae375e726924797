"""The checkpoint file: what goes in comes out, and what is damaged never does."""

import hashlib
import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
import tracemalloc
import types
from collections import OrderedDict, namedtuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_forge import META, decoded, forge, header, small_tree

from braintools_optim.checkpoint import describe, file, progress_bar, record
from braintools_optim.checkpoint.dtype import DTYPES
from braintools_optim.checkpoint.header import Header
from braintools_optim.checkpoint.tree import copied
from braintools_optim.errors import (
    CorruptCheckpoint,
    IncompatibleCheckpoint,
)

RNG = np.random.default_rng(0)


def of_bits(dtype, shape):
    """Return an array of random bytes that are values of its dtype."""
    count = int(np.prod(shape)) * dtype.itemsize
    data = RNG.integers(0, 256, count, dtype=np.uint8)
    if dtype.name in ('bool', 'int4', 'uint4'):
        data &= 1 if dtype.name == 'bool' else 15
    return data.view(dtype).reshape(shape)


def same(a, b):
    """Whether two arrays are equal bit for bit."""
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def written(tmp_path, tree, **options):
    path = tmp_path / 'x.ckpt'
    file.write(path, tree, **options)
    return path


def back(tmp_path, tree):
    return file.read(written(tmp_path, tree))[1]


# ---- what goes in comes out ---------------------------------------------------------------------


@pytest.mark.parametrize('name', DTYPES)
def test_dtypes(tmp_path, name):
    dtype = DTYPES[name]
    tree = {str(s): of_bits(dtype, s) for s in [(), (0,), (3, 0, 2), (7,), (3, 5)]}
    tree['columns'] = of_bits(dtype, (4, 6)).T
    tree['every other'] = of_bits(dtype, (9,))[::2]
    tree['read-only'] = of_bits(dtype, (3,))
    tree['read-only'].flags.writeable = False
    found = back(tmp_path, tree)
    assert list(found) == list(tree)
    for key, value in tree.items():
        assert same(found[key], value), key
        assert found[key].flags.writeable and found[key].flags.owndata or not value.size


def test_the_whitelist_is_the_formats():
    sizes = {'bool': 1, 'bfloat16': 2, 'complex64': 8, 'complex128': 16}
    sizes |= {f'{sign}int{bits}': max(bits // 8, 1) for sign in ('', 'u') for bits in (4, 8, 16)}
    sizes |= {f'{sign}int{bits}': bits // 8 for sign in ('', 'u') for bits in (32, 64)}
    sizes |= {f'float{bits}': bits // 8 for bits in (16, 32, 64)}
    kinds = ('e3m4', 'e4m3', 'e4m3b11fnuz', 'e4m3fn', 'e4m3fnuz', 'e5m2', 'e5m2fnuz', 'e8m0fnu')
    sizes |= {f'float8_{kind}': 1 for kind in kinds}
    assert {name: dtype.itemsize for name, dtype in DTYPES.items()} == sizes


@pytest.mark.parametrize('order', ['<', '>'])
@pytest.mark.parametrize('kind', ['i2', 'f4', 'c16'])
def test_byte_order(tmp_path, order, kind):
    array = np.arange(5).astype(order + kind)
    path = written(tmp_path, {'x': array})
    assert array.astype('<' + kind).tobytes() in path.read_bytes()
    assert same(file.read(path)[1]['x'], array.astype(kind))


def test_bytes_that_numpy_tolerates_are_made_canonical(tmp_path):
    tree = {
        'flags': np.array([2, 0, 255], np.uint8).view(bool),
        'low': np.array([0xFF, 0x7F, 1], np.uint8).view(DTYPES['int4']),
    }
    found = back(tmp_path, tree)
    assert found['flags'].tolist() == [True, False, True]
    assert found['low'].astype(int).tolist() == [-1, -1, 1]


def test_plain_values(tmp_path):
    tree = {
        'none': None,
        'flags': [True, False],
        'ints': [0, -1, 2**63, -(2**63), 2**64 - 1, 2**64, -(2**64), 2**128 - 1, -(2**200)],
        'floats': [0.1, -0.0, float('inf'), 5e-324],
        'text': ['', 'ä' * 300, 'a/b'],
        'bytes': [b'', bytes(range(256))],
        'empty': [{}, [], {'': {}}],
        'a/b': {'c': np.ones(1)},
        'a': {'b/c': np.zeros(1)},
    }
    found = back(tmp_path, tree)
    assert found['a/b']['c'] == 1 and found['a']['b/c'] == 0
    for key in ('none', 'flags', 'ints', 'floats', 'text', 'bytes', 'empty'):
        assert found[key] == tree[key]
        assert list(map(type, found[key] or ())) == list(map(type, tree[key] or ()))
    assert str(found['floats'][1]) == '-0.0'


def test_tuples_and_mappings_become_lists_and_dicts(tmp_path):
    found = back(tmp_path, OrderedDict(b=(1, (np.ones(2), 2)), a=np.float64(0.5)))
    assert list(found) == ['b', 'a'] and type(found) is dict
    assert type(found['b'][1]) is list and found['b'][1][0].tolist() == [1, 1]
    assert same(found['a'], np.array(0.5))


@pytest.mark.parametrize('top', [np.arange(3), 5, [np.ones(1)], None, b'x'], ids=str)
def test_any_top(tmp_path, top):
    assert np.array_equal(back(tmp_path, top), top) or back(tmp_path, top) == top


@pytest.mark.parametrize('impl', ['threefry2x32', 'rbg', 'unsafe_rbg'])
def test_prng_keys(tmp_path, impl):
    one, many = jax.random.key(7, impl=impl), jax.random.key(8, impl=impl)
    many = jnp.stack([many, one, one])[:, None]
    found = back(tmp_path, {'one': one, 'many': many, 'none': many[:0]})
    assert found['one'].dtype == one.dtype and found['many'].shape == (3, 1)
    assert found['none'].shape == (0, 1)
    assert same(jax.random.key_data(found['many']), jax.random.key_data(many))
    assert same(jax.random.bits(found['one']), jax.random.bits(one))


def test_meta_is_readable_without_the_arrays(tmp_path):
    path = written(tmp_path, small_tree(), kind='optimizer', meta=META)
    data = bytearray(path.read_bytes())
    data[-30] ^= 1
    path.write_bytes(data)
    with path.open('rb') as opened:
        found = Header.of(record.Reader(opened), len(data))
    assert (found.meta, found.kind, found.format) == (META, 'optimizer', (1, 0))
    assert found.versions['jax'] == jax.__version__
    with pytest.raises(CorruptCheckpoint):
        file.read(path)


def test_the_format_is_as_described(tmp_path):
    """The bytes are those that the test's own writer makes, and are read back from it."""
    data = forge(header(meta={'a': 1}))
    assert decoded(data)[0] == {'a': 1}
    assert decoded(data)[1]['x'].tobytes() == b'abcd'
    head = header(meta={'a': 1}, versions=file._versions())
    path = written(tmp_path, {'x': np.frombuffer(b'abcd', np.uint8)}, meta={'a': 1})
    assert path.read_bytes() == forge(head)


def test_later_minor_versions_are_read():
    found = decoded(forge(header(format=[1, 7], novelty={'a': [1]})))
    assert found[1]['x'].tobytes() == b'abcd'


def test_newer_formats_and_features_are_refused_by_name():
    with pytest.raises(IncompatibleCheckpoint, match='newer format 2.0') as raised:
        decoded(forge(header(format=[2, 0], features=['zstd', 'delta'], arrays=None)))
    assert len(raised.value.differences) == 3
    assert "unknown feature 'delta'" in raised.value.differences[2]


def test_chunks(tmp_path, monkeypatch):
    """Arrays reach over the ends of chunks, and chunks over arrays."""
    monkeypatch.setattr(record, 'CHUNK', 7)
    tree = {'a': np.arange(3, dtype='u1'), 'b': np.arange(9.0), 'c': np.zeros(0), 'd': np.ones(2)}
    path = written(tmp_path, tree)
    found = file.read(path)[1]
    assert all(same(found[k], tree[k]) for k in tree)
    assert [a.maximum for a in file.describe(path).arrays] == [2, 8, None, 1]


def test_memory(tmp_path):
    """Writing, reading and describing need little beside the arrays."""
    size = 1 << 25
    tree = {'a': np.ones(size // 4, np.float32), 'b': np.ones((size // 512, 64)).T}
    path = tmp_path / 'x.ckpt'

    def peak(work):
        tracemalloc.start()
        try:
            result = work()
            return tracemalloc.get_traced_memory()[1], result
        finally:
            tracemalloc.stop()

    slack = 10 << 20  # two batches whose sum another core takes
    assert peak(lambda: file.write(path, tree))[0] < slack
    taken, (_, found) = peak(lambda: file.read(path))
    assert 2 * size <= taken < 2 * size + slack
    assert same(found['b'], tree['b'])
    assert peak(lambda: file.describe(path))[0] < slack


def test_a_copy_shares_nothing():
    array, device = np.ones(3), jnp.ones(3)
    tree = {'a': array, 'd': device, 'l': (array[::2], 1), 'k': jax.random.key(1), 'b': b'x'}
    found = copied(tree)
    assert type(found['d']) is np.ndarray and found['l'][1:] == [1] and found['b'] == b'x'
    assert not any(np.shares_memory(found[k], tree[k]) for k in 'ad')
    assert not np.shares_memory(found['l'][0], array)
    before = jax.random.key_data(tree['k'])
    words = np.asarray(jax.random.key_data(found['k']))
    assert same(before, words) and not np.shares_memory(np.asarray(before), words)
    device.delete()
    array[:] = 5
    assert found['d'].tolist() == found['a'].tolist() == [1, 1, 1]


# ---- sharded arrays, in a process of its own ----------------------------------------------------


def test_sharded(tmp_path):
    flags = os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
    env = {**os.environ, 'XLA_FLAGS': flags.strip(), 'JAX_PLATFORMS': 'cpu'}
    command = [sys.executable, '-W', 'error', __file__, str(tmp_path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == []


def complaints_about_sharded(directory):
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    mesh = jax.make_mesh((4, 2), ('a', 'b'), axis_types=(AxisType.Auto,) * 2)
    whole = {
        'x': np.arange(64.0, dtype=np.float32).reshape(8, 8),
        'n': np.arange(8).astype(DTYPES['int4']),
        'k': jax.random.split(jax.random.key(0), 8),
    }
    complaints = []
    for spec in [(), ('a',), ('b',), (('a', 'b'),)]:
        place = NamedSharding(mesh, PartitionSpec(*spec))
        tree = {key: jax.device_put(value, place) for key, value in whole.items()}
        path = os.path.join(directory, 'x.ckpt')
        for what, saved in (('live', tree), ('copied', copied(tree))):
            file.write(path, saved)
            found = file.read(path)[1]
            found['k'], key = jax.random.key_data(found['k']), jax.random.key_data(whole['k'])
            if not all(same(found[k], v) for k, v in {**whole, 'k': key}.items()):
                complaints.append(f'{spec} {what}')
        if tree['x']._npy_value is not None:
            complaints.append(f'{spec}: a copy on the host stays with the array')
    return complaints


# ---- what cannot be saved -----------------------------------------------------------------------

Point = namedtuple('Point', 'x')
LOOP: dict = {}
LOOP['again'] = LOOP

UNSAVABLE = {
    'object array': (np.array([None]), TypeError, 'a/b is an array of object'),
    'text array': (np.array(['x']), TypeError, 'a/b is an array of <U1'),
    'date': (np.array(['2020'], 'M8[s]'), TypeError, 'a/b is an array of datetime64'),
    'struct': (np.zeros(2, [('x', 'f4')]), TypeError, 'a/b is an array of'),
    'long double': (np.zeros(2, np.longdouble), TypeError, 'a/b is an array of'),
    'masked array': (np.ma.zeros(2), TypeError, 'a/b is a numpy.ma'),
    'namedtuple': (Point(1), TypeError, 'a/b is of .*Point'),
    'function': (len, TypeError, 'a/b is of builtins.builtin_function'),
    'complex': (1j, TypeError, 'a/b is of builtins.complex'),
    'set': ({1}, TypeError, 'a/b is of builtins.set, .*dicts of str keys'),
    'int keys': ({1: 2}, TypeError, 'a/b has the key 1 of builtins.int; keys must be str'),
    'loop': (LOOP, ValueError, 'nested too deep or holds itself'),
    'half a character': ('\ud800', ValueError, 'no valid Unicode'),
    'long list': ([0] * 600_000, ValueError, 'turn long lists into arrays'),
    'long text': ('x' * (1 << 24), ValueError, 'turn long lists and strings'),
}


@pytest.mark.parametrize('case', UNSAVABLE)
def test_what_cannot_be_saved(tmp_path, case):
    value, kind, message = UNSAVABLE[case]
    path = written(tmp_path, {'old': 1})
    with pytest.raises(kind, match=message):
        file.write(path, {'a': {'b': value}})
    assert file.read(path)[1] == {'old': 1} and os.listdir(tmp_path) == ['x.ckpt']


def test_traced_and_donated_arrays_cannot_be_saved(tmp_path):
    with pytest.raises(TypeError, match='x is being traced'):
        jax.eval_shape(lambda x: file.write(tmp_path / 'x', {'x': x}), jnp.ones(2))
    gone = jnp.ones(2)
    gone.delete()
    with pytest.raises(ValueError, match='x was deleted or donated'):
        file.write(tmp_path / 'x', {'x': gone})
    assert os.listdir(tmp_path) == []


def test_meta_is_plain(tmp_path):
    with pytest.raises(TypeError, match='meta must be plain .* lr is not'):
        file.write(tmp_path / 'x', {}, meta={'lr': np.float32(1)})


def test_what_is_written_can_be_read_at_the_limits(tmp_path):
    deep: list = []
    for _ in range(30):
        deep = [deep]
    assert back(tmp_path, deep) == deep
    with pytest.raises(ValueError, match='nested too deep'):
        file.write(tmp_path / 'x', [deep])
    many = [0] * 500_000
    assert back(tmp_path, many) == many


@pytest.mark.parametrize('wrong', ['missing', 'directory', 'device', 'empty', 'text'])
def test_what_is_no_checkpoint(tmp_path, wrong):
    path = {'directory': tmp_path, 'device': '/dev/zero'}.get(wrong, tmp_path / 'x')
    if wrong in ('empty', 'text'):
        path.write_bytes(b'' if wrong == 'empty' else b'\x81\xa1a\x01' * 50)
    kinds = {'missing': FileNotFoundError, 'directory': IsADirectoryError, 'device': ValueError}
    with pytest.raises(kinds.get(wrong, CorruptCheckpoint)):
        file.read(path)
    with pytest.raises(kinds.get(wrong, CorruptCheckpoint)):
        file.describe(path)


# ---- describe and progress ----------------------------------------------------------------------


def test_describe(tmp_path, monkeypatch):
    monkeypatch.setattr(describe, 'PIECE', 16)
    tree = {
        'f': np.array([np.nan, -2, np.inf, 3, np.nan], np.float32),
        'all': {'nan': np.full(3, np.nan)},
        'h': jnp.array([1.5, jnp.nan], jnp.bfloat16),
        'i': np.arange(-3, 9),
        'q': np.arange(-8, 8).astype(DTYPES['int4']),
        'u': np.arange(16).astype(DTYPES['uint4']),
        'm': np.array([2**64 - 1], np.uint64),
        'c': np.array([1j, complex(np.nan, 0)]),
        'z': np.zeros((0, 2)),
        'e': jnp.array([0.5, 448], jnp.float8_e4m3fn),
        'k': jax.random.split(jax.random.key(0), 3),
        'b': b'abc',
    }
    path = written(tmp_path, tree, kind='mine', meta=META)
    found = file.describe(path)
    assert (found.kind, found.meta, found.format) == ('mine', META, (1, 0))
    assert found.size == path.stat().st_size and found.path == str(path)
    rows = {
        a.path: (a.dtype, a.shape, a.nbytes, a.minimum, a.maximum, a.nans) for a in found.arrays
    }
    assert rows == {
        'f': ('float32', (5,), 20, -2, np.inf, 2),
        'all/nan': ('float64', (3,), 24, None, None, 3),
        'h': ('bfloat16', (2,), 4, 1.5, 1.5, 1),
        'i': ('int64', (12,), 96, -3, 8, None),
        'q': ('int4', (16,), 16, -8, 7, None),
        'u': ('uint4', (16,), 16, 0, 15, None),
        'm': ('uint64', (1,), 8, 2**64 - 1, 2**64 - 1, None),
        'c': ('complex128', (2,), 32, None, None, 1),
        'z': ('float64', (0, 2), 0, None, None, 0),
        'e': ('float8_e4m3fn', (2,), 2, 0.5, 448, 0),
        'k': ('key<threefry2x32>', (3,), 24, None, None, None),
        'b': ('bytes', (3,), 3, None, None, None),
    }
    data = bytearray(path.read_bytes())
    for offset in (5, 30, len(data) - 40, len(data) - 1):
        data[offset] ^= 1
        path.write_bytes(data)
        with pytest.raises(CorruptCheckpoint):
            file.describe(path)
        data[offset] ^= 1


def test_progress(tmp_path, monkeypatch):
    shown = []

    class Bar:
        def __init__(self, **options):
            shown.append([options['desc'], options['total'], 0])

        def __enter__(self):
            return self

        def __exit__(self, *_):
            shown[-1].append('closed')

        def update(self, count):
            shown[-1][2] += count

    tqdm = types.ModuleType('tqdm')
    tqdm.__spec__ = importlib.machinery.ModuleSpec('tqdm', None)
    tqdm.tqdm = Bar
    monkeypatch.setitem(sys.modules, 'tqdm', tqdm)
    tree = {'x': np.ones(100_000), 'y': np.ones(50, np.float32)}
    size = 800_200
    path = written(tmp_path, tree)
    assert shown == []
    monkeypatch.setattr(progress_bar, 'LONG', size - 1)
    file.write(path, tree)
    file.read(path)
    file.describe(path)
    assert shown == [[what, size, size, 'closed'] for what in ('saving', 'loading', 'reading')]
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    file.write(path, tree)
    assert len(shown) == 3


def test_small_arrays_share_memory_that_is_aligned_and_bounded(tmp_path):
    tree = {f'{i:03d}': np.full(1 << 17, i, np.float64) for i in range(40)}  # 40 MiB
    tree |= {name: of_bits(dtype, (5, 3)) for name, dtype in DTYPES.items()}
    tree |= {'empty': np.zeros((0, 2)), 'one': np.ones(())}
    found = file.read(written(tmp_path, tree))[1]
    blocks = {}
    for name, array in found.items():
        assert same(array, tree[name]) and array.flags.writeable
        assert array.ctypes.data % 64 == 0 or not array.size
        while array.base is not None:
            array = array.base
        blocks[array.ctypes.data] = array.nbytes
    assert len(blocks) <= 5 and max(blocks.values()) <= (1 << 24) + 64


# ---- opt-in -------------------------------------------------------------------------------------


@pytest.mark.skipif(not os.environ.get('BRAINTOOLS_OPTIM_HUGE'), reason='needs 10 GiB: opt-in')
def test_five_gib(tmp_path):
    """BRAINTOOLS_OPTIM_HUGE=1: one array of 5 GiB, longer than 2**32 bytes, there and back."""
    import resource
    import time

    array = np.arange(5 << 27, dtype=np.uint64)
    start = time.perf_counter()
    path = written(tmp_path, {'x': array})
    saved = time.perf_counter()
    found = file.read(path)[1]['x']
    loaded = time.perf_counter()
    assert all(
        hashlib.sha256(array[i : i + (1 << 27)]).digest()
        == hashlib.sha256(found[i : i + (1 << 27)]).digest()
        for i in range(0, array.size, 1 << 27)
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    save, load = saved - start, loaded - saved
    print(f'5 GiB: saved in {save:.1f} s, loaded in {load:.1f} s; peak {peak:.2f} GiB')
    path.unlink()


if __name__ == '__main__':
    print(json.dumps(complaints_about_sharded(sys.argv[1])))
