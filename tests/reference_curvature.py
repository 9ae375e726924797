"""More rules for `reference.py`: those that look at all parameters of a group together."""

import numpy as np


def lbfgs(
    p, g, memory, *, lr, memory_size=10, scale_init_precond=True, tolerance_grad=1e-7,
    tolerance_change=1e-9, linesearch=None,
):  # fmt: skip
    """torch.optim.LBFGS, with the inverse Hessian as a matrix; it starts anew for other names."""
    assert linesearch is None
    x, grad = (np.concatenate([np.ravel(tree[k]) for k in g]) for tree in (p, g))
    if np.abs(grad).max() <= tolerance_grad:
        return {k: p[k] for k in g}
    first = memory.get('names') != list(g)
    if first:
        memory.update(names=list(g), pairs=[], scale=1.0)
    else:
        s, y = memory['step'], grad - memory['grad']
        if y @ s > 1e-10:
            memory['pairs'] = [*memory['pairs'], (s, y)][-memory_size:]
            memory['scale'] = y @ s / (y @ y) if scale_init_precond else 1.0
    inverse = memory['scale'] * np.eye(len(x))
    for s, y in memory['pairs']:
        v = np.eye(len(x)) - np.outer(y, s) / (y @ s)
        inverse = v.T @ inverse @ v + np.outer(s, s) / (y @ s)
    length = lr * min(1.0, 1.0 / np.abs(grad).sum()) if first and scale_init_precond else lr
    if -grad @ inverse @ grad > -tolerance_change:
        length = 0.0
    memory['grad'], memory['step'] = grad, -length * (inverse @ grad)
    x = x + memory['step']
    parts = np.split(x, np.cumsum([np.size(p[k]) for k in g])[:-1])
    return {k: part.reshape(np.shape(p[k])) for k, part in zip(g, parts, strict=True)}


lbfgs.of_group = True
