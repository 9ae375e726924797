"""A recurrent network learns to add up noise; killed, it goes on as if it had not been."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import brainstate
import jax
import jax.numpy as jnp
import numpy as np

from .algorithms import AdamW
from .checkpoint.whole import load, restore, save
from .schedulers import WarmupCosineSchedule

__all__ = ['Run', 'main', 'work']

EVERY = 10  # steps between two saves
PLOT = 'braintools_optim_demo.png'


class Integrator(brainstate.nn.Module):
    """Give at each moment the sum of all inputs so far."""

    def __init__(self, hidden: int = 32):
        super().__init__()
        self.inner = brainstate.nn.Linear(1 + hidden, hidden)
        self.outer = brainstate.nn.Linear(hidden, 1)
        self.hidden = hidden

    def update(self, inputs: jax.Array) -> jax.Array:
        """Return the output at each moment for inputs of shape (time, batch, 1)."""

        def moment(h: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
            h = jnp.tanh(self.inner(jnp.concatenate([x, h], axis=-1)))
            return h, self.outer(h)

        start = jnp.zeros((inputs.shape[1], self.hidden))
        return brainstate.transform.scan(moment, start, inputs)[1]


@jax.jit
def batch(step: int) -> tuple[jax.Array, jax.Array]:
    """Return the inputs and targets of a step: the same in every process."""
    inputs = 0.3 * jax.random.normal(jax.random.key(step), (25, 64, 1))
    return inputs, jnp.cumsum(inputs, axis=0)


class Run:
    """A network, its optimizer and how far it has come."""

    def __init__(self, steps: int):
        brainstate.random.seed(0)
        self.steps, self.step = steps, 0
        self.losses: list[float] = []
        self.rates: list[float] = []
        self.network = Integrator()
        parameters = brainstate.ParamState
        schedule = WarmupCosineSchedule(1e-2, warmup_steps=steps // 10, total_steps=steps)
        self.opt = AdamW(schedule, weight_decay=1e-3, grad_clip_norm=1.0)
        self.opt.register_trainable_weights(self.network.inner.states(parameters))
        self.opt.add_param_group(self.network.outer.states(parameters), lr=3e-3, weight_decay=0.0)
        self.traces = 0
        self.update = brainstate.transform.jit(self._update)

    def _update(self, inputs: jax.Array, targets: jax.Array) -> jax.Array:
        self.traces += 1

        def loss() -> jax.Array:
            return jnp.mean((self.network(inputs) - targets) ** 2)

        weights = self.opt.param_states.to_pytree()
        grads, value = brainstate.transform.grad(loss, weights, return_value=True)()
        self.opt.step(grads)
        return value

    def train(self) -> Iterator[float]:
        """Yield the loss of each step that is left."""
        while self.step < self.steps:
            self.rates.append(self.opt.current_lr)
            self.losses.append(float(self.update(*batch(self.step))))
            self.opt.lr.step()  # a new learning rate in every step; never traced again
            self.step += 1
            yield self.losses[-1]

    def whole(self) -> dict[str, Any]:
        """Return all that is saved."""
        history = {'step': self.step, 'losses': self.losses, 'rates': self.rates}
        return {'opt': self.opt, 'network': self.network.states(brainstate.ParamState), **history}

    def resume(self, path: Path) -> None:
        """Go back to where a file was saved."""
        found = restore(path, self.whole()).extra
        self.step, self.losses, self.rates = found['step'], found['losses'], found['rates']

    def parameters(self) -> list[np.ndarray]:
        """Return the values of all parameters."""
        states = self.network.states(brainstate.ParamState).values()
        return [np.asarray(x) for x in jax.tree.leaves([s.value for s in states])]


def work(path: Path, steps: int) -> None:
    """Train and save now and then, until somebody kills this process."""
    run = Run(steps)
    for _ in run.train():
        if run.step % EVERY == 0:
            save(path, run.whole())
            print(run.step, flush=True)


def main(steps: int = 400, show: Callable[[str], None] = print) -> Run:
    """Train, kill, resume, compare; return the uninterrupted run."""
    whole = Run(steps)
    show(f'{whole.opt}\n')
    for loss in whole.train():
        bar(whole.step, steps, f'loss {loss:.5f}   lr {whole.rates[-1]:.2e}')
    end = np.mean(whole.losses[-10:])
    show(f'\nThe loss fell from {whole.losses[0]:.3f} to {end:.5f}. The step was traced')
    show(f'{whole.traces} time, while the learning rate changed {steps} times.\n')

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'run.ckpt'
        killed = train_and_kill(path, steps)
        show(f'Another process did the same, and was killed in step {killed} or later.')
        resumed = Run(steps)
        resumed.resume(path)
        show(f'Its file is whole, from step {load(path)["step"]}. It goes on from there:')
    for loss in resumed.train():
        bar(resumed.step, steps, f'loss {loss:.5f}   lr {resumed.rates[-1]:.2e}')
    pairs = zip(whole.parameters(), resumed.parameters(), strict=True)
    same = all(np.array_equal(a, b) for a, b in pairs) and whole.losses == resumed.losses
    show(f'\nAll losses and parameters are identical to the uninterrupted run: {same}.')
    if not same:
        raise AssertionError('a resumed run differs from the uninterrupted one')
    show(plot(whole))
    return whole


def train_and_kill(path: Path, steps: int) -> int:
    """Let another process train, and kill it half-way; return how far it said it was."""
    command = [sys.executable, '-m', 'braintools_optim', 'demo', '--steps', str(steps)]
    child = subprocess.Popen([*command, '--work', str(path)], stdout=subprocess.PIPE, text=True)
    reached = 0
    with child:
        for line in child.stdout or ():
            reached = int(line)
            if reached >= steps // 2:
                break
        child.kill()
    if not reached:
        raise RuntimeError(f'the other process ended with {child.returncode} before its first save')
    return reached


def bar(done: int, total: int, text: str) -> None:
    """Show progress: a line that is written over, or ten lines where there is no terminal."""
    filled = '#' * (30 * done // total)
    line = f'[{filled:<30}] {done}/{total}   {text}'
    if sys.stdout.isatty():
        print(f'\r{line}', end='' if done < total else '\n', flush=True)
    elif done % max(total // 10, 1) == 0:
        print(line)


def plot(run: Run) -> str:
    """Plot losses and learning rates if matplotlib is there; say what was done."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return 'With matplotlib installed there would be a plot.'
    figure = Figure(figsize=(8, 3), layout='constrained')
    left, right = figure.subplots(1, 2)
    left.semilogy(run.losses)
    left.set(xlabel='step', ylabel='loss', title='an RNN learns to add up')
    right.plot(run.rates)
    right.set(xlabel='step', ylabel='learning rate', title='warm-up, then cosine')
    figure.savefig(PLOT, dpi=100)
    return f'Plotted to {PLOT}.'
