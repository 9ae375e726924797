"""Trees of parameters and gradients for Quad and Skew."""

import jax
import jax.numpy as jnp
import numpy as np

STYLES = ('quad', 'skew')

F32 = {'dtype': jnp.float32, 'block_size': 8}


def random_tree(shapes, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    return {k: jnp.asarray(scale * rng.normal(size=s), float) for k, s in shapes.items()}


def stacked(params, steps, seed=1, scale=1.0):
    shapes = {k: (steps, *p.shape) for k, p in params.items()}
    tree = random_tree(shapes, seed, scale)
    return {k: v.astype(params[k].dtype) for k, v in tree.items()}


def same_bits(one, two):
    return all(
        np.asarray(x).tobytes() == np.asarray(y).tobytes()
        for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True)
    )


TREE = {'w': (10, 6), 'l': (20, 3), 'v': (5,), 's': (), 'none': (0, 3)}
