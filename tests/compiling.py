"""How tests compile: faster than what users have, unless `XLA_FLAGS= pytest ...` says otherwise."""

import os
from importlib.metadata import version

FLAGS = '--xla_cpu_parallel_codegen_split_count=1'
if version('jaxlib').startswith('0.10.'):  # later ones have no other, and stop at unknown flags
    # XLA's newer code generator takes most of the suite's time: it compiles three times as long,
    # and what it makes runs as fast.
    FLAGS = f'--xla_cpu_use_fusion_emitters=false {FLAGS}'


def quickly():
    """Whether what hardly runs may be compiled in half the time: where the flags are ours."""
    return os.environ.get('XLA_FLAGS', '').startswith(FLAGS)


def generates_old_code():
    """Whether programs of the same arithmetic have the same bits, as the older generator's have."""
    return 'fusion_emitters=false' in os.environ.get('XLA_FLAGS', '')


def forget_programs():
    """Compile anew from here on, to the bit what another process does.

    Operations that other tests of this worker compiled quickly would differ from it by an ulp.
    """
    import jax  # not before the flags are set

    jax.clear_caches()
