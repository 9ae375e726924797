"""Damage checkpoint files at random until the time is over; print what was not refused.

    python tests/fuzz/damage.py [--minutes 10] [--seed 0]

Flips of one to eight bits, truncations, splices and overwritten stretches, in files of several
shapes. Beside that the header is mutated with its checksum put right, as an enemy would: such a
file may load, but only as data that its own table describes; whatever else happens than a refusal
or a load is a finding.
"""

import argparse
import io
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from checkpoint_forge import DATA, END, HEADER, MAGIC, decoded, record

from braintools_optim.checkpoint import file
from braintools_optim.checkpoint import record as record_
from braintools_optim.errors import CorruptCheckpoint, IncompatibleCheckpoint


def trees(rng):
    data = np.random.default_rng(rng.randrange(2**32))
    yield {}
    yield {'w': data.standard_normal((5, 7)), 'n': {'count': np.int32(3), 'flag': np.bool_(True)}}
    yield {
        'z': np.zeros((0, 3)),
        'b': data.bytes(rng.randrange(200)),
        'big': 2**99,
        'l': [None] * 9,
    }
    yield {f'layer{i}': data.integers(0, 255, 30, dtype=np.uint8) for i in range(12)}


def damaged(data, rng):
    """Return the bytes with a random damage."""
    kind = rng.randrange(6)
    a, b, c = sorted(rng.randrange(len(data) + 1) for _ in range(3))
    if kind == 0:
        bad = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 3, 8))):
            bit = rng.randrange(8 * len(bad))
            bad[bit // 8] ^= 1 << bit % 8
        return bytes(bad)
    if kind == 1:
        return data[:a]
    if kind == 2:
        return data[:a] + data[b:c] + data[a:b] + data[c:]
    if kind == 3:
        return data[:a] + rng.randbytes(b - a) + data[b:]
    if kind == 4:
        return data[:a] + data[b:]
    return data[:b] + data[a:]


def mutated(data, rng):
    """Return a file whose header was damaged, with valid checksums."""
    reader = record_.Reader(io.BytesIO(data))
    payload = reader.header(1 << 24)
    start = len(MAGIC) + 12 + len(payload)
    rest = data[start:]
    payload = damaged(payload, rng)
    if rng.random() < 0.5:  # and data that is just as long as it was
        return MAGIC + record(0, HEADER, payload) + rest
    body = rng.randbytes(rng.randrange(64))
    tail = record(1, DATA, body) + record(2, END, b'\x03')
    return MAGIC + record(0, HEADER, payload) + tail


def attempt(data, findings, what, must_refuse):
    start = time.process_time()
    try:
        decoded(data)
    except CorruptCheckpoint:
        verdict = 'refused'
    except IncompatibleCheckpoint:
        verdict = 'incompatible'
    except Exception as error:  # a finding, whatever it is
        verdict = f'{type(error).__name__}: {error}'
    else:
        verdict = 'loaded'
    slow = time.process_time() - start > 1
    fine = verdict == 'refused' or (not must_refuse and verdict in ('loaded', 'incompatible'))
    if slow or not fine:
        findings.append({'what': what, 'verdict': verdict, 'slow': slow, 'data': data.hex()})
    return verdict


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--minutes', type=float, default=10)
    parser.add_argument('--seed', type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    findings, counts = [], {}
    end = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, 'x')

        while time.monotonic() < end and not findings:
            for tree in trees(rng):
                record_.CHUNK = rng.choice((7, 64, 1 << 26))
                file.write(path, tree, meta={'lr': 0.1, 'names': ['a', 'b']})
                with open(path, 'rb') as opened:
                    good = opened.read()
                for _ in range(500):
                    bad = damaged(good, rng)
                    if bad == good:
                        continue
                    forged = mutated(good, rng)
                    for what, data, must in (('damage', bad, True), ('forged', forged, False)):
                        verdict = attempt(data, findings, what, must)
                        key = f'{what}: {verdict}'
                        counts[key] = counts.get(key, 0) + 1
    print(json.dumps({'counts': counts, 'findings': findings[:5]}, indent=1))
    sys.exit(bool(findings))


if __name__ == '__main__':
    main()
