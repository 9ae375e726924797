"""The algorithms in plain numpy float64, one array and one update at a time.

Written from the papers and torch's documentation, not from the package: a rule takes a parameter,
its gradient, a dict in which it keeps what it remembers, and this update's hyper-parameters; it
returns the new parameter. A rule with ``of_group`` takes and returns all parameters of a group that
have gradients, by name. The package must agree with these whatever changes between steps.
"""

import numpy as np


def sgd(p, g, memory, *, lr, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False):
    """torch.optim.SGD."""
    g = g + weight_decay * p
    if momentum or memory:
        first = not memory
        buffer = g if first else momentum * memory['b'] + (1 - dampening) * g
        memory['b'] = buffer
        g = g + momentum * buffer if nesterov else buffer
    return p - lr * g


def momentum(p, g, memory, *, lr, momentum=0.9, weight_decay=0.0, nesterov=False):
    """The heavy ball, whose buffer starts at zero."""
    g = g + weight_decay * p
    memory['b'] = momentum * memory.get('b', 0.0) + g
    return p - lr * (g + momentum * memory['b'] if nesterov else memory['b'])


def nesterov(p, g, memory, **h):
    """The heavy ball with Nesterov's look ahead."""
    return momentum(p, g, memory, nesterov=True, **h)


def adam(
    p, g, memory, *, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, amsgrad=False,
    decoupled_weight_decay=False,
):  # fmt: skip
    """torch.optim.Adam; decoupled, torch.optim.AdamW."""
    if decoupled_weight_decay:
        p = p - lr * weight_decay * p
    else:
        g = g + weight_decay * p
    b1, b2 = betas
    t = memory['t'] = memory.get('t', 0) + 1
    m = memory['m'] = b1 * memory.get('m', 0.0) + (1 - b1) * g
    v = memory['v'] = b2 * memory.get('v', 0.0) + (1 - b2) * g * g
    if amsgrad:
        v = memory['max'] = np.maximum(memory.get('max', 0.0), v)
    return p - lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)


def adamw(p, g, memory, *, weight_decay=0.01, **h):
    """torch.optim.AdamW."""
    return adam(p, g, memory, weight_decay=weight_decay, decoupled_weight_decay=True, **h)


class Reference:
    """Parameters by name, updated by one rule."""

    def __init__(self, rule, params, group_of=lambda name: 0):
        self.rule = rule
        self.group_of = group_of
        self.group_memory = {group_of(name): {} for name in params}
        self.params = {name: np.array(value, np.float64) for name, value in params.items()}
        self.memory = {name: {} for name in params}

    def step(self, grads, hyper, clip_norm=np.inf, clip_value=np.inf):
        """Update all with a gradient; ``hyper`` maps a name to its group's values."""
        grads = {k: np.array(g, np.float64) for k, g in grads.items() if g is not None}
        norm = np.sqrt(sum((g * g).sum() for g in grads.values()))
        scale = clip_norm / norm if norm > clip_norm else 1.0
        grads = {k: np.clip(g * scale, -clip_value, clip_value) for k, g in grads.items()}
        if hasattr(self.rule, 'of_group'):
            for group, memory in self.group_memory.items():
                own = {k: g for k, g in grads.items() if self.group_of(k) == group}
                if own:
                    self.params |= self.rule(self.params, own, memory, **hyper[min(own)])
            return
        for name, g in grads.items():
            self.params[name] = self.rule(self.params[name], g, self.memory[name], **hyper[name])
