"""Checkpoint files made by hand: valid framing around whatever a test wants to see refused."""

import io
import struct
import zlib

import jax
import jax.numpy as jnp
import msgpack
import numpy as np

from braintools_optim.checkpoint import file

MAGIC = b'\x89BTO\r\n\x1a\n'
HEADER, DATA, END = 1, 2, 3

RNG = np.random.default_rng(0)


def small_tree():
    """Return something like a small optimizer's state."""
    return {
        'params': {'w': RNG.standard_normal((4, 5)).astype(np.float32), 'b': np.ones(5, '<f8')},
        'opt_state': {'0': {'mu': {'w': jnp.ones((4, 5), jnp.bfloat16)}, 'count': np.int32(3)}},
        'key': jax.random.key(3),
        'extra': {'epoch': 3, 'note': 'ä', 'history': [1.5, None, True, float('inf')]},
    }


META = {'optimizer': 'Adam', 'groups': {'0': {'lr': 1e-3, 'betas': [0.9, 0.999]}}}


def decoded(data):
    """Return what a file of these bytes gives."""
    return file.decode(io.BytesIO(data), len(data))


def record(number, kind, payload):
    """Return a record as the format describes it, independently of the package's writer."""
    crc = zlib.crc32(payload, zlib.crc32(struct.pack('<QB', number, kind)))
    frame = b'\x93' + bytes([kind]) + b'\xc6' + struct.pack('>I', len(payload))
    return frame + payload + b'\xce' + struct.pack('>I', crc)


def rows(*arrays):
    """Return table rows of (path, dtype, shape)."""
    return [{'path': list(p), 'dtype': d, 'shape': list(s)} for p, d, s in arrays]


def header(**changes):
    """Return a header's map; None as a change leaves a key out."""
    plain = {
        'format': [1, 0],
        'features': [],
        'versions': {},
        'kind': 'tree',
        'meta': {},
        'tree': {'x': None},
        'arrays': rows((['x'], 'uint8', [4])),
    }
    return {k: v for k, v in {**plain, **changes}.items() if v is not None}


def forge(head=None, data=b'abcd', count=None):
    """Return a file; ``head`` is the header's map or its bytes."""
    head = header() if head is None else head
    payload = head if isinstance(head, bytes) else msgpack.packb(head)
    parts = [MAGIC, record(0, HEADER, payload)]
    if data:
        parts.append(record(1, DATA, data))
    number = len(parts) - 1
    parts.append(record(number, END, msgpack.packb(number + 1 if count is None else count)))
    return b''.join(parts)
