"""Fit a bowl with two groups of parameters: a program as users of braintools.optim write it."""

import brainstate
import jax
import jax.numpy as jnp

import braintools_optim as optim


class MLP(brainstate.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = brainstate.nn.Linear(2, 32)
        self.head = brainstate.nn.Linear(32, 1)

    def __call__(self, x):
        return self.head(jnp.tanh(self.body(x)))[:, 0]


brainstate.random.seed(0)
model = MLP()
body = optim.UniqueStateManager().merge_with(model.body.states(brainstate.ParamState)).to_dict()
head = optim.UniqueStateManager().merge_with({'head': model.head.weight}).to_dict()
x = jax.random.uniform(jax.random.key(1), (256, 2), minval=-1, maxval=1)
y = jnp.sum(x**2, axis=1)


def make_optimizer():
    warm_up = optim.ConstantLR(base_lr=0.02, factor=0.5, total_iters=2)
    opt = optim.Adam(lr=warm_up, weight_decay=1e-5, grad_clip_norm=10.0)
    opt.register_trainable_weights(body)
    opt.add_param_group(head, lr=0.01, weight_decay=0.0)
    return opt


def make_step(opt):
    weights = opt.param_states.to_pytree()

    @brainstate.transform.jit
    def train_step():
        grads, loss = brainstate.transform.grad(
            lambda: jnp.mean((model(x) - y) ** 2), weights, return_value=True
        )()
        opt.update(grads)
        return loss

    return train_step


optimizer = make_optimizer()
train_step = make_step(optimizer)
losses = []
for _ in range(4):
    losses += [float(train_step()) for _ in range(25)]
    optimizer.lr.step()
print('learning rate', optimizer.current_lr, 'of', optimizer.base_lr)

optimizer.current_lr = 0.005
saved = optimizer.state_dict()
optimizer = make_optimizer()
optimizer.load_state_dict(saved)
train_step = make_step(optimizer)
losses += [float(train_step()) for _ in range(50)]
rate = optimizer.param_groups[0]['lr'].value
print(f'loss {losses[0]:.4f} -> {losses[-1]:.4f} after {optimizer.step_count.value} steps')
