"""What all tests share."""

import gc
import os

from compiling import FLAGS, quickly

os.environ.setdefault('XLA_FLAGS', FLAGS)

import brainstate  # noqa: F401  # first: its import turns x64 off, later it would undo the fixture
import jax
import pytest


def pytest_collection_finish():
    """Let the garbage collector pass over what stays anyway, and look less often at the rest."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 80)


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


@pytest.fixture(autouse=True)
def compile_quickly(request):
    """Compile without LLVM's optimizations, but for tests of what is `exact`.

    What is to be equal bit for bit may then differ by an ulp between two programs with the same
    arithmetic; what is compared within tolerances may not differ more.
    """
    quick = quickly() and not request.node.get_closest_marker('exact')
    jax.config.update('jax_disable_most_optimizations', quick)
    yield
    jax.config.update('jax_disable_most_optimizations', False)


@pytest.fixture(scope='session', autouse=True)
def compile_each_program_once(tmp_path_factory):
    """Let tests that compile the same program share it: XLA takes most of the suite's time.

    All workers use one directory. What one of them reads while another writes it, it compiles
    itself; `pyproject.toml` lets JAX's warning of that pass.
    """
    base = tmp_path_factory.getbasetemp()
    run = base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base
    jax.config.update('jax_compilation_cache_dir', str(run / 'programs'))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
    yield
    jax.config.update('jax_compilation_cache_dir', None)
