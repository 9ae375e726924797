"""Checks on eight host devices, which need a process of their own."""

import json
import os
import subprocess
import sys

from compiling import quickly


def complaints_of(script):
    """Run a test file as a script on eight devices; return the JSON object that it prints.

    To be called by one test of the file: every worker would run it anew for its share of several.
    """
    flags = os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
    env = {**os.environ, 'XLA_FLAGS': flags.strip(), 'JAX_PLATFORMS': 'cpu'}
    env['JAX_DISABLE_MOST_OPTIMIZATIONS'] = str(quickly())
    done = subprocess.run(
        [sys.executable, '-W', 'error', script], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
