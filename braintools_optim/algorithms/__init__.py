"""The algorithms, by family."""

from .adam import Adam, AdamW
from .adam_variants import Adamax, NAdam, Nadam, RAdam
from .adaptive import Adadelta, Adagrad, RMSprop
from .averaged import AdEMAMix, Mars
from .belief import AdaBelief, Yogi
from .classic import ASGD, Rprop
from .curvature import LBFGS
from .factored import Adafactor
from .layerwise import Fromage, Lamb, Lars, Novograd
from .lookahead import Lookahead
from .orthogonal import Muon
from .sgd import SGD, Momentum, MomentumNesterov
from .sign import Lion
from .sm3 import SM3
from .sparse import SparseAdam
from .white_kron import Quad, Skew

__all__ = [
    'ASGD',
    'LBFGS',
    'SGD',
    'SM3',
    'AdEMAMix',
    'AdaBelief',
    'Adadelta',
    'Adafactor',
    'Adagrad',
    'Adam',
    'AdamW',
    'Adamax',
    'Fromage',
    'Lamb',
    'Lars',
    'Lion',
    'Lookahead',
    'Mars',
    'Momentum',
    'MomentumNesterov',
    'Muon',
    'NAdam',
    'Nadam',
    'Novograd',
    'Quad',
    'RAdam',
    'RMSprop',
    'Rprop',
    'Skew',
    'SparseAdam',
    'Yogi',
]
