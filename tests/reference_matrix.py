"""More rules for `reference.py`: the algorithms that look at rows, columns and matrices."""

import numpy as np
import reference


def rms(x):
    """The root of the mean square."""
    return np.sqrt(np.mean(x * x))


def adafactor(
    p, g, memory, *, lr=0.01, beta2_decay=-0.8, eps=(None, 1e-3), d=1.0, weight_decay=0.0,
    beta1=0.0, factored=True, original=False,
):  # fmt: skip
    """torch.optim.Adafactor; original, the paper's algorithms 4 and 5. Parameters are float64."""
    eps1 = eps[0] or (1e-30 if original else 2.0**-52)
    t = memory['t'] = memory.get('t', 0) + 1
    new = t**beta2_decay
    square = g * g + (eps1 if original else 0.0)
    if factored and g.ndim > 1:
        row = memory['r'] = (1 - new) * memory.get('r', 0.0) + new * square.mean(-1, keepdims=True)
        col = memory['c'] = (1 - new) * memory.get('c', 0.0) + new * square.mean(-2, keepdims=True)
        mean = row.mean(-2, keepdims=True)
        v = row * col / (mean if original else np.maximum(mean, eps1))
    else:
        v = memory['v'] = (1 - new) * memory.get('v', 0.0) + new * square
    u = g / np.sqrt(v if original else np.maximum(v, eps1**2))
    alpha = max(eps[1], rms(p)) * min(lr, 1 / np.sqrt(t))
    update = alpha * u / max(1.0, rms(u) / d)
    update = memory['m'] = beta1 * memory.get('m', 0.0) + (1 - beta1) * update
    return p - lr * weight_decay * p - update


def muon(
    p, g, memory, *, lr, weight_decay=0.1, momentum=0.95, nesterov=True,
    ns_coefficients=(3.4445, -4.775, 2.0315), eps=1e-7, ns_steps=5, adjust_lr_fn=None, reshape=None,
    outputs='rows', adamw=None, adamw_lr_ratio=1.0, adamw_betas=(0.9, 0.95), adamw_eps=1e-8,
    adamw_weight_decay=0.0,
):  # fmt: skip
    """torch.optim.Muon, on arrays that are matrices with the last axis as columns."""
    if adamw == 'all' or (adamw and p.ndim < 2):
        theirs = {'betas': adamw_betas, 'eps': adamw_eps, 'weight_decay': adamw_weight_decay}
        return reference.adamw(p, g, memory, lr=lr * adamw_lr_ratio, **theirs)
    m = memory['m'] = momentum * memory.get('m', 0.0) + (1 - momentum) * g
    x = momentum * m + (1 - momentum) * g if nesterov else m
    cols = p.shape[-1] if p.ndim else 1
    x = x.reshape(-1, cols)
    rows = len(x)
    factor = np.sqrt(max(1, rows / cols if outputs == 'rows' else cols / rows))
    left, s, right = np.linalg.svd(x / max(np.sqrt((x * x).sum()), eps), full_matrices=False)
    a, b, c = ns_coefficients
    for _ in range(ns_steps):  # it acts on the singular values alone
        s = a * s + b * s**3 + c * s**5
    ratio = 0.2 * np.sqrt(max(rows, cols)) if adjust_lr_fn else factor
    return p - lr * weight_decay * p - lr * ratio * (left * s @ right).reshape(p.shape)


def sparse_adam(p, g, memory, *, lr, betas=(0.9, 0.999), eps=1e-8):
    """torch.optim.SparseAdam, where rows of zeros are not in the gradient."""
    b1, b2 = betas
    t = memory['t'] = memory.get('t', 0) + 1
    there = (g != 0).any(axis=tuple(range(1, g.ndim)), keepdims=True) if g.ndim else True
    m, v = memory.get('m', np.zeros_like(p)), memory.get('v', np.zeros_like(p))
    m = memory['m'] = np.where(there, b1 * m + (1 - b1) * g, m)
    v = memory['v'] = np.where(there, b2 * v + (1 - b2) * g * g, v)
    step = lr * np.sqrt(1 - b2**t) / (1 - b1**t)
    return np.where(there, p - step * m / (np.sqrt(v) + eps), p)
