"""More rules for `reference.py`: algorithms that torch lacks, from their papers and authors' code.

An array is a layer where norms of layers are asked for.
"""

import numpy as np
import reference


def norm(x):
    return np.sqrt((x * x).sum())


def layer_ratio(p, u):
    """|p| / |u|, one where a norm is zero."""
    return norm(p) / norm(u) if norm(p) > 0 and norm(u) > 0 else 1.0


def moment(memory, name, g, decay, first=0.0):
    """Move an average that is kept under a name, and return it."""
    memory[name] = decay * memory.get(name, first) + (1 - decay) * g
    return memory[name]


def counted(memory):
    memory['t'] = memory.get('t', 0) + 1
    return memory['t']


def lion(p, g, memory, *, lr, betas=(0.9, 0.99), weight_decay=0.0):
    """Algorithm 2 of arXiv:2302.06675."""
    sign = np.sign(betas[0] * memory.get('m', 0.0) + (1 - betas[0]) * g)
    moment(memory, 'm', g, betas[1])
    return p - lr * (sign + weight_decay * p)


def lamb(p, g, memory, *, lr, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.0):
    """Algorithm 2 of arXiv:1904.00962, with phi the identity."""
    t = counted(memory)
    m = moment(memory, 'm', g, betas[0]) / (1 - betas[0] ** t)
    v = moment(memory, 'v', g * g, betas[1]) / (1 - betas[1] ** t)
    u = m / (np.sqrt(v) + eps) + weight_decay * p
    return p - lr * layer_ratio(p, u) * u


def lars(
    p, g, memory, *, lr, momentum=0.9, weight_decay=0.0, trust_coefficient=1e-3, eps=1e-8,
    nesterov=False,
):  # fmt: skip
    """Algorithm 1 of arXiv:1708.03888."""
    local = 1.0
    if norm(p) > 0 and norm(g) > 0:
        local = trust_coefficient * norm(p) / (norm(g) + weight_decay * norm(p) + eps)
    step = lr * local * (g + weight_decay * p)
    b = memory['b'] = momentum * memory.get('b', 0.0) + step
    return p - (momentum * b + step if nesterov else b)


def novograd(
    p, g, memory, *, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, grad_averaging=False,
    amsgrad=False,
):  # fmt: skip
    """The authors' code, which starts the norm's average at the first norm."""
    square = (g * g).sum()
    v = moment(memory, 'v', square, betas[1]) if memory.get('v') else square
    memory['v'] = v
    if amsgrad:
        v = memory['max'] = max(v, memory.get('max', 0.0))
    u = g / (np.sqrt(v) + eps) + weight_decay * p
    m = memory['m'] = betas[0] * memory.get('m', 0.0) + u * (1 - betas[0] * grad_averaging)
    return p - lr * m


def fromage(p, g, memory, *, lr, momentum=0.0, p_bound=0.0):
    """The authors' code; the momentum is ours."""
    limit = memory['limit'] = memory.get('limit', norm(p))
    b = memory['b'] = momentum * memory.get('b', 0.0) + g
    p = (p - lr * layer_ratio(p, b) * b) / np.sqrt(1 + lr**2)
    return p * min(1.0, p_bound * limit / norm(p)) if p_bound and norm(p) else p


def belief(
    p, g, memory, *, lr, betas=(0.9, 0.999), eps=1e-16, weight_decay=0.0, amsgrad=False,
    decoupled_weight_decay=True, rectify=False,
):  # fmt: skip
    """Algorithm 2 of arXiv:2010.07468 and the authors' code."""
    if decoupled_weight_decay:
        p = p - lr * weight_decay * p
    else:
        g = g + weight_decay * p
    t = counted(memory)
    m = moment(memory, 'm', g, betas[0])
    s = memory['s'] = moment(memory, 's', (g - m) ** 2, betas[1]) + eps
    if amsgrad:
        s = memory['max'] = np.maximum(s, memory.get('max', 0.0))
    m_hat, power = m / (1 - betas[0] ** t), betas[1] ** t
    if not rectify:
        return p - lr * m_hat / (np.sqrt(s / (1 - power)) + eps)
    last = 2 / (1 - betas[1]) - 1
    n = last - 2 * t * power / (1 - power)
    if n < 5:
        return p - lr * m_hat
    r = (n - 4) * (n - 2) * last / ((last - 4) * (last - 2) * n)
    return p - lr * np.sqrt(r * (1 - power)) * m_hat / (np.sqrt(s) + eps)


def yogi(
    p, g, memory, *, lr, betas=(0.9, 0.999), eps=1e-3, weight_decay=0.0,
    initial_accumulator_value=1e-6,
):  # fmt: skip
    """The authors' code."""
    g = g + weight_decay * p
    t = counted(memory)
    m = moment(memory, 'm', g, betas[0])
    v = memory.get('v', np.full_like(p, initial_accumulator_value))
    v = memory['v'] = v - (1 - betas[1]) * np.sign(v - g * g) * g * g
    correction = np.sqrt(1 - betas[1] ** t) / (1 - betas[0] ** t)
    return p - lr * correction * m / (np.sqrt(v) + eps)


def sm3(p, g, memory, *, lr, momentum=0.9, eps=1e-8, weight_decay=0.0):
    """SM3-II of arXiv:1901.11150, with the momentum of the authors' code."""
    g = g + weight_decay * p
    axes = range(p.ndim)
    others = [tuple(j for j in axes if j != i) for i in axes]
    past = memory.get('a') or [np.zeros(p.shape).max(o, keepdims=True) for o in others]
    if p.ndim:
        nu = np.min(np.broadcast_arrays(*past, p)[:-1], axis=0) + g * g
        memory['a'] = [nu.max(o, keepdims=True) for o in others]
    else:
        nu = memory['nu'] = memory.get('nu', 0.0) + g * g
    u = np.where(nu > 0, g / np.sqrt(nu + eps + (nu == 0)), 0.0)
    return p - lr * (moment(memory, 'm', u, momentum) if momentum or 'm' in memory else u)


def ahead(rule):
    """Lookahead over a rule, counting each parameter's updates."""

    def lookahead(p, g, memory, *, sync_period=5, alpha=0.5, **h):
        slow = memory.setdefault('slow', p)
        p = rule(p, g, memory.setdefault('fast', {}), **h)
        memory['since'] = memory.get('since', 0) + 1
        if memory['since'] < sync_period:
            return p
        memory['since'] = 0
        memory['slow'] = slow + alpha * (p - slow)
        return memory['slow']

    return lookahead


def chain_of_sgd(p, g, memory, *, base_optimizer, lr, weight_decay=0.0):
    """The chain of the row in `cases_authors.py`: half the learning rate that multiplies it."""
    return reference.sgd(p, g, memory, lr=0.5 * lr, momentum=0.8, weight_decay=weight_decay)


lookahead_adam = ahead(reference.adamw)
lookahead_chain = ahead(chain_of_sgd)


def lookahead_rms(p, g, memory, *, lr, alpha, base_alpha, sync_period=3):
    """Over torch's RMSprop, which has an alpha of its own."""

    def rmsprop(p, g, memory, *, lr, a):
        return p - lr * g / (np.sqrt(moment(memory, 'v', g * g, a)) + 1e-8)

    return ahead(rmsprop)(p, g, memory, sync_period=sync_period, alpha=alpha, lr=lr, a=base_alpha)
