"""Quad and Skew: momentum whitened by Kronecker-factored preconditioners.

| module | what |
|---|---|
| `update` | the transformations, and their state |
| `options` | what they can be told, checked |
| `layout` | leaves as batches of matrices, cut into blocks |
| `step` | one step over all leaves |
| `factor`, `norm` | the two update rules on stacks of blocks; norms of matrices |
| `draw` | the random numbers that they learn from |
| `place`, `specs` | where state and blocks are on a mesh |
| `view` | the state in the terms of the original |
"""

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
