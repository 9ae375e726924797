"""More rules for `reference.py`: AdEMAMix and MARS, from their papers and their authors' code."""

import numpy as np
from reference_authors import counted, moment
from reference_matrix import muon


def fade(r, start, end):
    """The decay whose memory is between those of two others (equation 21 of arXiv:2409.03137)."""
    if r >= 1 or start == end:
        return end
    if start == 0:
        return 0.0 if r == 0 else np.exp(np.log(end) / r)
    s, e = np.log(start), np.log(end)
    return np.exp(s * e / ((1 - r) * e + r * s))


def ademamix(
    p, g, memory, *, lr, betas=(0.9, 0.999), b3=0.9999, alpha=5.0, eps=1e-8, weight_decay=0.0,
    eps_root=0.0, T_alpha=0.0, alpha_start=0.0, T_b3=0.0, b3_start=None, step_offset=0,
):  # fmt: skip
    """Algorithm 1 of arXiv:2409.03137."""
    (b1, b2), t = betas, counted(memory)
    s = t - 1 + step_offset
    if callable(b3):
        b3 = float(b3(s))
    elif T_b3 > 0:
        b3 = fade(min(s / T_b3, 1), b1 if b3_start is None else b3_start, b3)
    if callable(alpha):
        alpha = float(alpha(s))
    elif T_alpha > 0:
        alpha = alpha_start + (alpha - alpha_start) * min(s / T_alpha, 1)
    m, v = moment(memory, 'm', g, b1) / (1 - b1**t), moment(memory, 'v', g * g, b2) / (1 - b2**t)
    u = (m + alpha * moment(memory, 'n', g, b3)) / (np.sqrt(v + eps_root) + eps)
    return p - lr * (u + weight_decay * p)


def mars(p, g, memory, *, bounded=None, **h):
    """Algorithms 2, 3 and 4 of arXiv:2411.10438, with AdamW for what is no matrix."""
    h = MARS | h
    own, t = matrix(p, h), counted(memory)
    c = bounded
    if not own:
        c = g
        h |= {'betas': h['betas_1d'], 'weight_decay': h['weight_decay_1d'], 'variant': 'adamw'}
        h['lr'] = h['lr'] * h['lr_1d'] / h['lr_ref']
    elif c is None:
        c = corrected(p, g, memory, h, t)
        if h['clip']:
            c = c * h['max_grad_norm'] / max(h['max_grad_norm'], np.sqrt((c * c).sum()))
    b1, b2 = h['betas']
    m = moment(memory, 'm', c, b1)
    if h['variant'] == 'lion':
        u = np.sign(m)
    elif h['variant'] == 'shampoo' and p.ndim == 2:
        options = {'lr': 1.0, 'weight_decay': 0.0, 'momentum': 0.0, 'nesterov': False}
        # Muon divides by the larger of norm and eps, this one by the sum, of m / (1 - b1).
        u = p - muon(p, m, {}, **options, eps=np.linalg.norm(m) + 1e-7 * (1 - b1))
    else:
        v = moment(memory, 'v', c * c, b2)
        if h['amsgrad']:
            v = memory['max'] = np.maximum(memory.get('max', 0.0), v)
        u = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t) + h['eps_root']) + h['eps'])
    return p - h['lr'] * (u + h['weight_decay'] * p)


MARS = {
    **{'betas': (0.95, 0.99), 'gamma': 0.025, 'eps': 1e-8, 'weight_decay': 0.0, 'eps_root': 0.0},
    **{'variant': 'adamw', 'clip': 'per_tensor', 'max_grad_norm': 1.0, 'amsgrad': False},
    **{'lr_1d': 3e-3, 'betas_1d': (0.9, 0.95), 'weight_decay_1d': 0.1},
}


def matrix(p, h):
    return h.get('optimize_1d') or p.ndim == 2


def corrected(p, g, memory, h, t):
    """The gradient, corrected by its change."""
    b1, gamma = h['betas'][0], h['gamma']
    gamma = float(gamma(t - 1)) if callable(gamma) else gamma
    first = 0.0 if h.get('first_step_correction', True) else g
    last = -np.flip(g) if h.get('exact') else memory.get('g', first)
    memory['g'] = g
    return g + gamma * b1 / (1 - b1) * (g - last)


def mars_together(params, grads, memory, **h):
    """MARS of all parameters, with one bound for the corrected gradients of a group."""
    h = MARS | h
    own = {k: memory.setdefault(k, {}) for k in grads}
    c = {k: corrected(params[k], g, own[k], h, own[k].get('t', 0) + 1) for k, g in grads.items()}
    norm = np.sqrt(sum((x * x).sum() for x in c.values()))
    factor = min(1.0, h['max_grad_norm'] / (norm + 1e-6))
    return {k: mars(params[k], g, own[k], bounded=c[k] * factor, **h) for k, g in grads.items()}


mars_together.of_group = True
