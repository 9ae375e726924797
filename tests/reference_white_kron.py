"""The rules of Quad and Skew in plain numpy float64, for `reference.py`.

From the algorithms' description: no blocks of several leaves at once, no scaling against overflow,
and norms by singular values, so that nothing is random.
"""

import numpy as np


def merged(shape):
    """The matrix that an array is, None for vectors."""
    if len(shape) < 2 or np.prod(shape) == max(shape):
        return None
    splits = [(int(np.prod(shape[:i])), int(np.prod(shape[i:]))) for i in range(1, len(shape))]
    return min(splits, key=lambda s: max(s) / min(s))


def cuts(size, block_size, max_size_dense):
    """The slices of a dimension, and whether its factor is diagonal."""
    if size > max_size_dense:
        return [slice(0, size)], True
    return [slice(i, min(i + block_size, size)) for i in range(0, size, block_size)], False


def norm(t):
    return np.linalg.norm(t, 2)


def turned(q):
    """A rotation of a factor towards the nearest symmetric matrix."""
    r = q.T - q
    size = np.abs(r).max()
    if size <= np.finfo(q.dtype).tiny:
        return q
    r = r / size
    rq = r @ q
    rrq = r @ rq
    r1, r2 = np.trace(rq), np.trace(rrq)
    if r1 <= 0:
        return q
    a = 1 / 8 / norm(r)
    if r2 < 0:
        a = min(a, -r1 / r2)
    return q + a * (rq + a / 2 * rrq)


def learnt(q, bound, a, g, target, lr, style):
    """A factor of rows, diagonal if it is a vector, and its bound, after one step."""
    diagonal = q.ndim == 1
    t = (a * a).sum(1) if diagonal else a @ a.T
    now = (t.max() if diagonal else norm(t)) + target
    bound = max(0.95 * bound + 0.05 * now, now)
    z = lr / bound / (2 if style == 'quad' else 1)
    if diagonal:
        gain = 1 - z * (t - target)
        new = q * (gain**2 if style == 'quad' else gain)
        return np.where((g != 0).any(1), new, q), bound
    q = q - z * (t @ q - target * q)
    if style == 'skew':
        return turned(q), bound
    q = q - z * (q @ t - target * q)
    return (q + q.T) / 2, bound


def full(q):
    """P = Q^T Q of a factor."""
    return np.diag(q * q) if q.ndim == 1 else q.T @ q


def block(m, g, memory, t, lr, diagonal, style, init, learns):
    """Precondition one block by its left factor and, unless it is a column, by its right one."""
    sides = 1 if m.shape[1] == 1 and diagonal == (True, True) else 2
    if not memory:
        memory['q'] = [
            init * (np.ones(n) if d else np.eye(n)) for n, d in zip(m.shape, diagonal, strict=True)
        ][:sides]
        memory['bound'] = [0.0] * sides
    q, bound = memory['q'], memory['bound']
    if (g != 0).any():
        right = full(q[1]) if sides == 2 else np.eye(1)
        a = full(q[0]) @ m @ right
        if learns:
            both = [
                learnt(q[i], bound[i], *((a, g), (a.T, g.T))[i], m.shape[1 - i], lr, style)
                for i in range(sides)
            ]
            q, bound = [x for x, _ in both], [x for _, x in both]
        if t % 100 == 99 and sides == 2 and learns:  # so that step 100 begins with even factors
            tops = [np.abs(x).max() for x in q]
            q = [x * np.sqrt(tops[0] * tops[1]) / top for x, top in zip(q, tops, strict=True)]
        memory['q'], memory['bound'] = q, bound
    return full(q[0]) @ m @ (full(q[1]) if sides == 2 else np.eye(1))


def white_kron(style):
    """The rule of one of the two styles."""

    def rule(
        p, g, memory, *, lr, b1=0.95, weight_decay=0.1, preconditioner_lr=0.7,
        preconditioner_lr_min=0.4, preconditioner_init_scale=1.0, lr_style='adam',
        normalize_grads=False, max_size_dense=16384, block_size=256, update_every=1,
        scanned_layers=False, per_layer=False, **fixed,
    ):  # fmt: skip
        t = memory['t'] = memory.get('t', 0) + 1
        m = g
        if b1 or 'm' in memory:
            memory['m'] = b1 * memory.get('m', 0.0) + (1 - b1) * g
            m = memory['m'] / (1 - b1**t)
        plr = max(preconditioner_lr / np.sqrt(1 + t / 10000), preconditioner_lr_min)
        layered = scanned_layers and np.ndim(p) > 0
        shape = np.shape(p)[1:] if layered else np.shape(p)
        matrix = merged(shape)
        rows, cols = matrix or (int(np.prod(shape)), 1)
        m, g = m.reshape(-1, rows, cols), g.reshape(-1, rows, cols)
        whole = (1, 2) if per_layer else None
        if normalize_grads:
            m = m / (np.sqrt((m * m).sum(whole, keepdims=True)) + 1e-6)
        if matrix:
            cut = [cuts(n, block_size, max_size_dense) for n in matrix]
        else:
            cut = [([slice(0, n)], True) for n in (rows, cols)]
        out = np.zeros_like(m)
        for layer in range(len(m)):
            for i, r in enumerate(cut[0][0]):
                for j, c in enumerate(cut[1][0]):
                    out[layer, r, c] = block(
                        m[layer, r, c], g[layer, r, c], memory.setdefault((layer, i, j), {}), t,
                        plr, (cut[0][1], cut[1][1]), style, preconditioner_init_scale,
                        (t - 1) % update_every == 0,
                    )  # fmt: skip
        rms = np.sqrt((out * out).mean(whole, keepdims=True))
        out = out * 1.1 / np.maximum(rms, 1.1) / (5 if lr_style == 'adam' else 1)
        return p - lr * (out.reshape(np.shape(p)) + weight_decay * p)

    return rule


quad = white_kron('quad')
skew = white_kron('skew')
