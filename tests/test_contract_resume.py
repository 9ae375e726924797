"""A row's run that is saved and resumed goes on; what does not fit is refused whole."""

import pickle

import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
from cases import (
    CASE,
    grads_tree,
    make_params,
    over_cases,
    over_classes,
    split,
)
from contract_runs import assert_usable
from looking import (
    digest,
    named,
    values_of,
)

import braintools_optim as bo


def pack(x):
    """Encode what msgpack does not know: arrays."""
    if isinstance(x, np.ndarray):
        return {'dtype': x.dtype.name, 'shape': x.shape, 'bytes': x.tobytes()}
    raise TypeError(f'not plain data: {type(x)}')


def unpack(x):
    """Undo `pack`; tuples have become lists."""
    if 'bytes' in x:
        return np.frombuffer(x['bytes'], jnp.dtype(x['dtype'])).reshape(x['shape'])
    return x


ENCODINGS = {
    'as it is': lambda d: d,
    'msgpack': lambda d: msgpack.unpackb(msgpack.packb(d, default=pack), object_hook=unpack),
    'pickle': lambda d: pickle.loads(pickle.dumps(d)),
}


def fresh(case, values=None, half=False):
    """A run as it is constructed, with a second group, and maybe a parameter in bfloat16."""
    params = make_params(values)
    if half:
        params['a'].value = params['a'].value.astype(jnp.bfloat16)
    part = split(params, 2)
    opt = case.make().register_trainable_weights(part[0])
    baked_in = 'live' in case.skip
    opt.add_param_group(part[1], **({} if baked_in else {'lr': 0.11}))
    return opt, params


@over_cases('resume')
def test_a_resumed_run_is_the_uninterrupted_one(case, x64):
    go_on_beside_the_resumed(case)


@pytest.mark.parametrize('name', ['adamw', 'lookahead-adamw', 'mars', 'muon', 'quad', 'sm3'])
def test_a_resumed_run_in_two_precisions(name):
    go_on_beside_the_resumed(CASE[name], half=True)


def go_on_beside_the_resumed(case, half=False):
    """A run that every encoding resumes is, to its end, the one that was not interrupted."""
    opt, params = fresh(case, half=half)
    opt.step(grads_tree(0))
    opt.step(grads_tree(1, names=['s', 'block.c.weight']))  # counts differ within each group
    opt.step(grads_tree(2))
    opt.lr.step()
    for group in opt.param_groups:  # as a user or scheduler left them
        for name, value in case.numbers(5, group.index).items():
            group[name] = value
    snapshot, values, before = opt.state_dict(), values_of(params), digest(opt, params)
    assert {type(k) for k in keys(snapshot)} == {str}
    frozen = pickle.dumps(snapshot)
    resumed = {}
    for name, encode in ENCODINGS.items():
        resumed[name] = fresh(case, named(values), half)
        resumed[name][0].load_state_dict(encode(snapshot))
        assert digest(*resumed[name]) == before, name
    run = resumed['msgpack']  # the others are equal to it in all States: their future is, too
    for t in range(3, 6):
        for o in (opt, run[0]):
            o.step(grads_tree(t))
    assert digest(*run) == digest(opt, params)
    assert run[0].get_last_lr() == opt.get_last_lr()
    # Later steps reach it neither from the optimizer it was taken of nor from the one it went to.
    assert pickle.dumps(snapshot) == frozen


def keys(tree):
    """All keys of all dicts in nested plain data; raises where it is not plain."""
    if isinstance(tree, dict):
        return [*tree, *(k for v in tree.values() for k in keys(v))]
    if isinstance(tree, list | tuple):
        return [k for v in tree for k in keys(v)]
    assert tree is None or type(tree) in (bool, int, float, str, np.ndarray), type(tree)
    return []


@over_classes('resume')
def test_a_checkpoint_that_does_not_fit_is_refused_whole(case):
    opt, params = fresh(case)
    for t in range(2):
        opt.step(grads_tree(t))
    before = digest(opt, params)

    def refused(spoil, *says):
        state = pickle.loads(pickle.dumps(opt.state_dict()))
        state['step_count'] = 70  # to see whether anything was taken over
        for group in state['param_groups'].values():
            group['lr'] = 0.77
        spoil(state)
        with pytest.raises(bo.IncompatibleCheckpoint) as caught:
            opt.load_state_dict(state)
        differences = caught.value.differences
        for words in says:
            assert any(all(w in line for w in words) for line in differences), (words, differences)
        assert digest(opt, params) == before
        return differences

    slots = opt.state_dict()['opt_state']['0']
    arrays = [(s, p) for s in slots for p in slots[s] if isinstance(slots[s][p], np.ndarray) and p]

    def spoil_slots(state):
        """Spoil what there is: state-less algorithms have no slots."""
        for i, (slot, name) in enumerate(arrays):
            value = state['opt_state']['0'][slot][name]
            if i == 0:
                state['opt_state']['0'][slot][name] = value.astype(np.float16)
            elif i == 1:
                state['opt_state']['1'][slot]['block.c.bias'] = np.zeros((7, 1), np.float32)
                del state['opt_state']['1'][slot]['block.c.weight']
        state['opt_state']['0']['surplus'] = {'a': np.zeros(3)}

    found = [('group 0', '{} of {} is float16['.format(*arrays[0]))] if arrays else []
    found += [('group 1', 'block.c.bias', '[7, 1]', '[3]')] if len(arrays) > 1 else []
    found += [('group 1', 'block.c.weight', 'missing')] if len(arrays) > 1 else []
    found += [('surplus', 'unknown')]
    refused(spoil_slots, *found)

    def spoil_groups(state):
        state['param_groups']['2'] = state['param_groups']['1']
        state['opt_state']['2'] = state['opt_state']['1']

    groups = [('param_groups', "'2'"), ('opt_state', "'2'")]
    refused(spoil_groups, *groups)

    def spoil_values(state):
        state['param_groups']['0']['lr'] = float('nan')
        state['param_groups']['1']['params'] = ['elsewhere']
        state['param_groups']['1']['maximize'] = not case.kwargs.get('maximize', False)
        state['param_groups']['1']['novelty'] = 1.0
        state['options']['grad_clip_norm'] = -1.0

    values = [('group 0', 'lr', 'nan'), ('elsewhere',), ('maximize',), ('novelty',)]
    values += [('grad_clip_norm', '-1')]
    refused(spoil_values, *values)

    def spoil_all(state):
        for spoil in (spoil_slots, spoil_groups, spoil_values):
            spoil(state)
        state['optimizer'] = 'Sorcery'
        state['step_count'] = -3

    refused(spoil_all, *found, *groups, *values, ('Sorcery', case.cls.__name__), ('-3',))


DAMAGE = {
    'not a dict': lambda s: [],
    'part missing': lambda s: {k: v for k, v in s.items() if k != 'opt_state'},
    'groups not a dict': lambda s: {**s, 'param_groups': 3},
    'a group not a dict': lambda s: {**s, 'param_groups': {**s['param_groups'], '0': None}},
    'slots not a dict': lambda s: {**s, 'opt_state': {**s['opt_state'], '0': None}},
    'options not a dict': lambda s: {**s, 'options': None},
    'schedulers not a list': lambda s: {**s, 'schedulers': None},
    'scheduler without values': lambda s: {**s, 'schedulers': [{'scheduler': 'ConstantLR'}]},
    'scheduler with nan': lambda s: {
        **s,
        'schedulers': [{**s['schedulers'][0], 'current_lrs': [float('nan')] * 2}],
    },
    'scheduler with text': lambda s: {
        **s,
        'schedulers': [{**s['schedulers'][0], 'base_lrs': 'x', 'last_epoch': 'y'}],
    },
    'scheduler of another number of groups': lambda s: {
        **s,
        'schedulers': [{**s['schedulers'][0], 'base_lrs': [0.1], 'starts': [0.1]}],
    },
}


@pytest.mark.parametrize('damage', DAMAGE)
def test_a_damaged_checkpoint_is_refused_whole(damage):
    opt, params = fresh(CASE['sgd-momentum'])
    opt.step(grads_tree(0))
    before = digest(opt, params)
    state = pickle.loads(pickle.dumps({**opt.state_dict(), 'step_count': 70}))
    with pytest.raises(bo.IncompatibleCheckpoint):
        opt.load_state_dict(DAMAGE[damage](state))
    assert digest(opt, params) == before
    assert_usable(opt, params)
