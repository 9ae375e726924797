"""Pure optax transformations that optax lacks, or computes otherwise than an algorithm's owner.

A module holds an algorithm or a family of them. These are what they share:

| module | what |
|---|---|
| `absent`, `count`, `entry` | leaves without gradients; counts of updates; equal entries |
| `moments`, `wide` | averages of gradients; precision of at least float32 |
| `infinite` | weight decay, which leaves infinite parameters infinite |
| `mesh` | where arrays are |
| `names` | where a leaf stands in a tree, as people write it |
| `refuse` | what an algorithm cannot take |
"""

from .adam import ScaleByAdamState, scale_by_adam
from .adam_variants import (
    ScaleByNadamState,
    ScaleByTwoMomentsState,
    scale_by_adamax,
    scale_by_nadam,
    scale_by_radam,
)
from .adaptive import (
    ScaleByAdagradState,
    ScaleByCenteredRmsState,
    scale_by_adadelta,
    scale_by_adagrad,
    scale_by_centered_rms,
    scale_by_rms,
)
from .ademamix import (
    ScaleByAdemamixState,
    ademamix,
    alpha_scheduler,
    beta3_scheduler,
    scale_by_ademamix,
    tree_bias_correction,
    tree_cast,
    tree_update_moment,
    tree_update_moment_per_elem_norm,
    tree_zeros_like,
)
from .asgd import StepByAsgdState, step_by_asgd
from .belief import scale_by_belief, scale_by_yogi
from .count import advanced, spread, zero_counts
from .descend import descend
from .factored import ScaleByAdafactorState, scale_by_adafactor
from .infinite import decayed_weights
from .layerwise import (
    BoundNormState,
    ScaleByNovogradState,
    bound_norm,
    scale_by_lars_ratio,
    scale_by_layer_ratio,
    scale_by_novograd,
)
from .lbfgs import StepByLbfgsState, step_by_lbfgs
from .lookahead import LookaheadState, lookahead
from .mars import ScaleByMarsState, mars, scale_by_mars
from .masters import MasterState, with_masters
from .momentum import ScaleByMomentumState, scale_by_momentum
from .orthogonal import Reshape, ScaleByMuonState, newton_schulz, scale_by_muon
from .rprop import StepByRpropState, step_by_rprop
from .sm3 import ScaleBySm3State, scale_by_sm3
from .sparse import ScaleBySparseAdamState, scale_by_sparse_adam
from .strong_wolfe import StrongWolfeState, scale_by_strong_wolfe
from .white_kron import (
    DENSE_PATH,
    LARGE_PATH,
    ONE_D_PATH,
    DenseState,
    LeafState,
    ScaleByWhiteKronState,
    dense_state,
    get_opt_state_partition_specs,
    leaf_states,
    quad,
    scale_by_quad,
    scale_by_skew,
    skew,
)

__all__ = [
    'BoundNormState',
    'DENSE_PATH',
    'DenseState',
    'LARGE_PATH',
    'LeafState',
    'LookaheadState',
    'MasterState',
    'ONE_D_PATH',
    'Reshape',
    'ScaleByAdafactorState',
    'ScaleByAdagradState',
    'ScaleByAdamState',
    'ScaleByAdemamixState',
    'ScaleByCenteredRmsState',
    'ScaleByMarsState',
    'ScaleByMomentumState',
    'ScaleByMuonState',
    'ScaleByNadamState',
    'ScaleByNovogradState',
    'ScaleBySm3State',
    'ScaleBySparseAdamState',
    'ScaleByTwoMomentsState',
    'ScaleByWhiteKronState',
    'StepByAsgdState',
    'StepByLbfgsState',
    'StepByRpropState',
    'StrongWolfeState',
    'ademamix',
    'advanced',
    'alpha_scheduler',
    'beta3_scheduler',
    'bound_norm',
    'decayed_weights',
    'dense_state',
    'descend',
    'get_opt_state_partition_specs',
    'leaf_states',
    'lookahead',
    'mars',
    'newton_schulz',
    'quad',
    'scale_by_adadelta',
    'scale_by_adafactor',
    'scale_by_adagrad',
    'scale_by_adam',
    'scale_by_adamax',
    'scale_by_ademamix',
    'scale_by_belief',
    'scale_by_centered_rms',
    'scale_by_lars_ratio',
    'scale_by_layer_ratio',
    'scale_by_mars',
    'scale_by_momentum',
    'scale_by_muon',
    'scale_by_nadam',
    'scale_by_novograd',
    'scale_by_quad',
    'scale_by_radam',
    'scale_by_rms',
    'scale_by_skew',
    'scale_by_sm3',
    'scale_by_sparse_adam',
    'scale_by_strong_wolfe',
    'scale_by_yogi',
    'skew',
    'spread',
    'step_by_asgd',
    'step_by_lbfgs',
    'step_by_rprop',
    'tree_bias_correction',
    'tree_cast',
    'tree_update_moment',
    'tree_update_moment_per_elem_norm',
    'tree_zeros_like',
    'with_masters',
    'zero_counts',
]
