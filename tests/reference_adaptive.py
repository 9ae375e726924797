"""More rules for `reference.py`: torch.optim's adaptive and classic algorithms."""

import numpy as np
from reference_authors import counted, moment


def rmsprop(
    p, g, memory, *, lr, alpha=0.99, eps=1e-8, weight_decay=0.0, momentum=0.0, centered=False
):
    """torch.optim.RMSprop."""
    g = g + weight_decay * p
    square, mean = moment(memory, 'v', g * g, alpha), moment(memory, 'm', g, alpha)
    if centered:
        square = square - mean * mean
    memory['b'] = momentum * memory.get('b', 0.0) + g / (np.sqrt(square) + eps)
    return p - lr * memory['b']


def adagrad(
    p, g, memory, *, lr, lr_decay=0.0, weight_decay=0.0, initial_accumulator_value=0.0, eps=1e-10
):
    """torch.optim.Adagrad."""
    t = counted(memory)
    g = g + weight_decay * p
    memory['s'] = memory.get('s', initial_accumulator_value) + g * g
    return p - lr / (1 + (t - 1) * lr_decay) * g / (np.sqrt(memory['s']) + eps)


def adadelta(p, g, memory, *, lr, rho=0.9, eps=1e-6, weight_decay=0.0):
    """torch.optim.Adadelta."""
    g = g + weight_decay * p
    square = moment(memory, 'v', g * g, rho)
    delta = np.sqrt(memory.get('u', 0.0) + eps) / np.sqrt(square + eps) * g
    moment(memory, 'u', delta * delta, rho)
    return p - lr * delta


def adamax(p, g, memory, *, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
    """torch.optim.Adamax."""
    t = counted(memory)
    g = g + weight_decay * p
    m = moment(memory, 'm', g, betas[0])
    v = memory['v'] = np.maximum(betas[1] * memory.get('v', 0.0), np.abs(g) + eps)
    return p - lr / (1 - betas[0] ** t) * m / v


def decayed(p, g, lr, weight_decay, decoupled):
    """The parameter and gradient with decay in the one or the other."""
    return (p * (1 - lr * weight_decay), g) if decoupled else (p, g + weight_decay * p)


def nadam(
    p, g, memory, *, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, momentum_decay=4e-3,
    decoupled_weight_decay=False,
):  # fmt: skip
    """torch.optim.NAdam."""
    t = counted(memory)
    p, g = decayed(p, g, lr, weight_decay, decoupled_weight_decay)
    b1, b2 = betas
    now, later = (b1 * (1 - 0.5 * 0.96 ** (i * momentum_decay)) for i in (t, t + 1))
    product = memory['product'] = memory.get('product', 1.0) * now
    m, v = moment(memory, 'm', g, b1), moment(memory, 'v', g * g, b2)
    ahead = (1 - now) / (1 - product) * g + later / (1 - product * later) * m
    return p - lr * ahead / (np.sqrt(v / (1 - b2**t)) + eps)


def radam(
    p, g, memory, *, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0,
    decoupled_weight_decay=False,
):  # fmt: skip
    """torch.optim.RAdam."""
    t = counted(memory)
    p, g = decayed(p, g, lr, weight_decay, decoupled_weight_decay)
    b1, b2 = betas
    m, v = moment(memory, 'm', g, b1), moment(memory, 'v', g * g, b2)
    u = m / (1 - b1**t)
    final = 2 / (1 - b2) - 1
    length = final - 2 * t * b2**t / (1 - b2**t)
    if length > 5:
        over = (length - 4) * (length - 2) * final
        under = (final - 4) * (final - 2) * length
        u = u * np.sqrt(over / under * (1 - b2**t)) / (np.sqrt(v) + eps)
    return p - lr * u


def rprop(p, g, memory, *, lr, etas=(0.5, 1.2), step_sizes=(1e-6, 50.0)):
    """torch.optim.Rprop, its steps scaled as lr is scaled since the first one."""
    first = memory.setdefault('lr', lr)
    agree = g * memory.get('g', 0.0)
    factor = np.select([agree > 0, agree < 0], [etas[1], etas[0]], 1.0)
    size = memory['size'] = np.clip(memory.get('size', first) * factor, *step_sizes)
    g = memory['g'] = np.where(agree < 0, 0.0, g)
    return p - lr / first * size * np.sign(g)


def asgd(p, g, memory, *, lr, lambd=1e-4, alpha=0.75, t0=1e6, weight_decay=0.0):
    """torch.optim.ASGD, where a change of lr, lambd or alpha is not one update late."""
    t = counted(memory)
    rate = lr / (1 + lambd * lr * (t - 1)) ** alpha
    return p * (1 - lambd * rate) - rate * (g + weight_decay * p)
