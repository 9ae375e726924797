"""How tests compile: faster than what users have, unless `XLA_FLAGS= pytest ...` says otherwise."""

import os

import jax

# XLA's newer code generator takes most of the suite's time: it compiles three times as long, and
# what it makes runs as fast.
FLAGS = '--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1'


def quick_options():
    """Compile in half the time what hardly runs; nothing where XLA's flags are not the suite's."""
    ours = os.environ.get('XLA_FLAGS', '').startswith(FLAGS)
    return {'xla_backend_optimization_level': 0} if ours else {}


def quick_jit(f):
    return jax.jit(f, compiler_options=quick_options())
