"""Kill processes while they save, and let savers and a reader race; print a JSON object.

    python tests/fuzz/kill_savers.py [--kills 1000] [--megabytes 50]

One process imports everything and forks the victims, which write numpy arrays only.
"""

import argparse
import json
import os
import random
import signal
import tempfile
import time

import numpy as np

from braintools_optim.checkpoint import file
from braintools_optim.errors import CheckpointError

PAGE = 4096


def content(version, size):
    return {'version': version, 'x': np.full(size, version % 251, np.uint8)}


def whole_version(path):
    """Return the version of a file; raise if it is not one version from end to end."""
    _, found = file.read(path)
    version, found_bytes = found['version'], set(found['x'][::PAGE].tolist())
    if found_bytes != {version % 251}:
        raise AssertionError(f'a file of version {version} has bytes of {found_bytes}')
    return version


def fork(work):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def kill_savers(kills, size, rng):
    """Overwrite one file in children that are killed; count what is found afterwards."""
    found = {'kills': kills, 'bytes': size, 'old': 0, 'new': 0, 'temporaries_left': 0, 'bad': []}
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, 'x.ckpt')
        version = 0
        file.write(path, content(version, size))
        start = time.perf_counter()
        file.write(path, content(version, size))
        longest = 1.2 * (time.perf_counter() - start)  # that a victim lives

        def save_forever():
            number = version
            while True:
                number += 1
                file.write(path, content(number, size))

        for _ in range(kills):
            child = fork(save_forever)
            time.sleep(rng.uniform(0, longest))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            try:
                now = whole_version(path)
            except (CheckpointError, AssertionError, OSError) as error:
                found['bad'].append(str(error))
                continue
            found['old' if now == version else 'new'] += 1
            longest *= 1.03 if now == version else 0.9  # whatever else the machine does
            if now < version:
                found['bad'].append(f'version {now} came back after {version}')
            version = now
            found['temporaries_left'] += len(os.listdir(directory)) > 1
        file.write(path, content(version, size))
        found['files_after_the_next_save'] = sorted(os.listdir(directory))
    return found


def race(saves, size):
    """Let two processes save to one path while this one reads it."""
    found = {'reads': 0, 'seen': [0, 0], 'bad': []}
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, 'x.ckpt')
        file.write(path, content(0, size))

        def saver(first):
            def work():
                for i in range(saves):
                    file.write(path, content(first + 2 * i, size))

            return work

        children = [fork(saver(0)), fork(saver(1))]
        codes = []
        while len(codes) < len(children):
            found['reads'] += 1
            try:
                tree = file.read(path)[1]
                found['seen'][tree['version'] % 2] += 1
                if not (tree['x'] == tree['version'] % 251).all():
                    found['bad'].append(f'version {tree["version"]} is mixed with another')
            except CheckpointError as error:
                found['bad'].append(str(error))
            ended, status = os.waitpid(-1, os.WNOHANG)
            if ended:
                codes.append(os.waitstatus_to_exitcode(status))
        found['codes'] = codes
        found['files'] = sorted(os.listdir(directory))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--kills', type=int, default=1000)
    parser.add_argument('--megabytes', type=int, default=50)
    parser.add_argument('--seed', type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    size = options.megabytes * 10**6
    print(json.dumps({'kill': kill_savers(options.kills, size, rng), 'race': race(40, 10**6)}))


if __name__ == '__main__':
    main()
