"""Quad and Skew: momentum whitened by Kronecker-factored preconditioners."""

from .layout import DENSE_PATH, LARGE_PATH, ONE_D_PATH
from .specs import get_opt_state_partition_specs
from .update import ScaleByWhiteKronState, quad, scale_by_quad, scale_by_skew, skew
from .view import DenseState, LeafState, dense_state, leaf_states

__all__ = [
    'DENSE_PATH',
    'LARGE_PATH',
    'ONE_D_PATH',
    'DenseState',
    'LeafState',
    'ScaleByWhiteKronState',
    'dense_state',
    'get_opt_state_partition_specs',
    'leaf_states',
    'quad',
    'scale_by_quad',
    'scale_by_skew',
    'skew',
]
