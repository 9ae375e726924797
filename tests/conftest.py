"""What all tests share."""

import gc
import os
import tempfile

# XLA's newer code generator takes most of the suite's time: it compiles three times as long, and
# what it makes runs as fast. `XLA_FLAGS= pytest ...` tests with what users have.
os.environ.setdefault(
    'XLA_FLAGS', '--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1'
)

# Tests that compile the same program share it, also between the workers and with the processes
# that tests start: XLA takes most of the suite's time. Name a directory in the environment and the
# next run has them, too.
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    programs = tempfile.TemporaryDirectory(prefix='programs-')  # lives as long as this process
    os.environ['JAX_COMPILATION_CACHE_DIR'] = programs.name
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
# Or the path of the directory would be part of every key.
os.environ.setdefault('JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES', 'none')

import brainstate  # noqa: F401  # first: its import turns x64 off, later it would undo the fixture
import jax
import pytest


def pytest_collection_finish():
    """Let the garbage collector pass over what stays anyway, and look less often at the rest."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def pytest_collection_modifyitems(items):
    """Begin with what waits a minute for another process, or the end would wait for it."""
    items.sort(key=lambda item: item.name != 'test_on_a_mesh')


@pytest.fixture
def x64():
    """Let arrays be float64 during one test."""
    before = jax.config.jax_enable_x64
    jax.config.update('jax_enable_x64', True)
    yield
    jax.config.update('jax_enable_x64', before)
