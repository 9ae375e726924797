"""Files of optimizers that are damaged, or do not fit: refused whole, every difference listed."""

import random
from types import MappingProxyType

import numpy as np
import pytest
from cases import (
    make_params,
)
from checkpoint_forge import decoded
from checkpoint_runs import OPTIMIZERS, over_classes, saved, small, target, trained
from looking import (
    digest,
)

import braintools_optim as bo
from braintools_optim.checkpoint import file


def written(path, data):
    path.write_bytes(data)
    return path


# ---- damage -------------------------------------------------------------------------------------


def damaged(data):
    """Every bit flipped, every truncation, and 10,000 pieces put elsewhere."""
    view = bytearray(data)
    for i in range(len(view)):
        for bit in range(8):
            view[i] ^= 1 << bit
            yield bytes(view)
            view[i] ^= 1 << bit
    for length in range(len(data)):
        yield data[:length]
    draw, count = random.Random(3), 0
    while count < 10_000:
        start, size = draw.randrange(len(data)), draw.randrange(1, 200)
        at, gone = draw.randrange(len(data)), draw.randrange(200)
        spliced = data[:at] + data[start : start + size] + data[at + gone :]
        if spliced != data:
            count += 1
            yield spliced


@over_classes
def test_every_flip_truncation_and_splice_is_refused(name, tmp_path):
    data = small(name)
    assert len(data) < 4096
    opt, params, before = target(name)
    path, accepted = tmp_path / 'run.ckpt', []
    for i, bad in enumerate(damaged(data)):
        try:  # loading reads all of a file before it looks at the optimizer, as the next test shows
            decoded(bad)
            accepted.append(i)
        except bo.CorruptCheckpoint:
            pass
        if i % 499 == 0:
            with pytest.raises(bo.CorruptCheckpoint):
                opt.load(written(path, bad))
    assert accepted == []
    assert digest(opt, params) == before


def test_nothing_is_looked_at_before_a_file_is_read_whole(tmp_path, monkeypatch):
    opt, _, _ = target('adamw')
    path = written(tmp_path / 'run.ckpt', saved('adamw')[:-1])

    def touched(*_):
        raise AssertionError('the optimizer was looked at')

    monkeypatch.setattr(bo.checkpoint.single, 'take_over', touched)
    with pytest.raises(bo.CorruptCheckpoint):
        opt.load(path)
    monkeypatch.setattr(file, 'read', lambda path: decoded(saved('adamw')))
    with pytest.raises(AssertionError, match='looked at'):
        opt.load(path)


# ---- structure ----------------------------------------------------------------------------------


def slots_of(tree):
    """The places of the arrays that belong to a parameter of group 0."""
    return [
        (slot, name)
        for slot, entry in tree['opt_state']['0'].items()
        for name in entry
        if name and isinstance(entry[name], np.ndarray)
    ]


def wrong_class(state, tree):
    state['optimizer'] = 'Sorcery'
    return ['Sorcery']


def renamed(state, tree):
    state['param_groups']['0']['params'] = ['a', 'other']
    for entry in tree['opt_state']['0'].values():
        if 's' in entry:
            entry['other'] = entry.pop('s')
    return ['the parameter s is missing', 'the parameter other is unknown here']


def missing(state, tree):
    del state['param_groups']['0']['lr'], tree['params']['s']
    says = ["group 0: 'lr' is missing", 'the parameter s is missing']
    for slot, name in slots_of(tree)[:1]:
        del tree['opt_state']['0'][slot][name]
        says.append(f'group 0: {slot} of {name} is missing')
    return says


def extra(state, tree):
    tree['opt_state']['1']['surplus'] = {'block.c.bias': np.zeros(3)}
    return ['group 1: surplus of block.c.bias is unknown here']


def wrong_shape(state, tree):
    tree['params']['s'] = np.zeros((4, 2), np.float32)
    says = ['the parameter s is float32[4, 2], here it is float32[]']
    for slot, name in slots_of(tree)[:1]:
        tree['opt_state']['0'][slot][name] = np.zeros((5, 1), np.float32)
        says = [f'group 0: {slot} of {name} is float32[5, 1]']
    return says


def wrong_dtype(state, tree):
    tree['params']['a'] = tree['params']['a'].astype(np.float64)
    says = ['the parameter a is float64[3], here it is float32[3]']
    for slot, name in slots_of(tree)[1:2]:
        value = tree['opt_state']['0'][slot][name]
        tree['opt_state']['0'][slot][name] = value.astype(np.float16)
        says = [f'group 0: {slot} of {name} is float16{list(value.shape)}']
    return says


def fewer_groups(state, tree):
    del state['param_groups']['1'], tree['opt_state']['1']
    return ["param_groups has groups ['0']", "opt_state has groups ['0']"]


def more_groups(state, tree):
    state['param_groups']['2'] = state['param_groups']['0']
    tree['opt_state']['2'] = tree['opt_state']['0']
    rest = "this optimizer has ['0', '1']: add_param_group comes before loading"
    return [f"{part} has groups ['0', '1', '2'], {rest}" for part in ('param_groups', 'opt_state')]


def other_scheduler(state, tree):
    state['schedulers'] = [{**state['schedulers'][0], 'scheduler': 'StepLR'}]
    return ["the schedulers were ['StepLR']"]


def negative_counter(state, tree):
    state['step_count'] = -1
    says = ['step_count must be in [0, 2**31), got -1']
    for slot, entry in tree['opt_state']['1'].items():
        if all(isinstance(x, int) for x in entry.values()) and entry:
            entry['block.c.bias'] = -4
            says.append(f'group 1: {slot} must be counts in [0, 2**31), got [-4')
        elif '' in entry and entry[''].dtype == np.int32:
            entry[''] = np.array(-3, np.int32)
            says.append(f'group 1: {slot} of the group must be a count, got -3')
    return says


def unknown_feature(state, tree):
    state['entanglement'] = True
    state['param_groups']['1']['novelty'] = 1.0
    for part in ('options', 'defaults', 'dtypes', 'fixed'):
        state[part]['later'] = None
    state['schedulers'] = [{**state['schedulers'][0], 'wobble': 3}]
    return [
        "'entanglement' is unknown here",
        *(
            f"{part}: 'later' is unknown here"
            for part in ('options', 'defaults', 'dtypes', 'fixed')
        ),
        "group 1: 'novelty' is unknown here",
        "ConstantLR: 'wobble' is unknown here",
    ]


def wrong_numbers(state, tree):
    state['param_groups']['0']['lr'] = float('nan')
    state['param_groups']['1']['maximize'] = 'perhaps'
    state['options']['grad_clip_norm'] = -1.0
    state['dtypes']['state_dtype'] = 'float64'
    return ['lr=nan', "maximize was 'perhaps'", 'grad_clip_norm', 'state_dtype was float64']


FAULTS = [
    *(wrong_class, renamed, missing, extra, wrong_shape, wrong_dtype),
    *(fewer_groups, more_groups, other_scheduler, negative_counter, unknown_feature),
    wrong_numbers,
]

TOGETHER = [
    *(wrong_class, extra, wrong_dtype, more_groups, negative_counter),
    *(wrong_numbers, unknown_feature),
]


@over_classes
def test_every_fault_of_structure_is_refused_and_listed(name, tmp_path):
    opt, params, before = target(name)
    path = tmp_path / 'run.ckpt'
    path.write_bytes(saved(name))

    def refused(*faults):
        meta, tree = decoded(saved(name))
        says = [line for fault in faults for line in fault(meta['state'], tree)]
        file.write(path, tree, kind='optimizer', meta=meta)
        with pytest.raises(bo.IncompatibleCheckpoint) as caught:
            opt.load(path)
        message = str(caught.value)
        assert len(caught.value.differences) >= len(says)
        for line in says:
            assert line in message, (faults, line, message)
        assert digest(opt, params) == before

    for fault in FAULTS:
        refused(fault)
    refused(*TOGETHER)
    assert opt.load(written(path, saved(name))).extra == {'epoch': 7}  # the file itself is good
    assert digest(opt, params) != before
    target.cache_clear()


def test_a_newer_format_is_refused_by_name(tmp_path, monkeypatch):
    opt, params, before = target('adamw')
    meta, tree = decoded(saved('adamw'))
    path = tmp_path / 'run.ckpt'
    meta['state'] |= {'format': [2, 1], 'optimizer': 'Sorcery'}  # what it says is anybody's guess
    file.write(path, tree, meta=meta)
    with pytest.raises(bo.IncompatibleCheckpoint, match=r'its format 2\.1 is newer') as caught:
        opt.load(path)
    assert len(caught.value.differences) == 1
    meta['state'] |= {
        'format': [1, 9],
        'optimizer': 'AdamW',
    }  # a minor one adds nothing that matters
    with monkeypatch.context() as patch:
        patch.setattr(file, 'FORMAT', (2, 0))
        file.write(path, tree, meta=meta)
    with pytest.raises(bo.IncompatibleCheckpoint, match='newer'):
        opt.load(path)
    assert digest(opt, params) == before
    for bad in ('1.0', [1], [True, 0], [0, 3], None):
        with pytest.raises(bo.IncompatibleCheckpoint, match='format'):
            opt.load_state_dict({**opt.state_dict(), 'format': bad})
    opt.load_state_dict({**opt.state_dict(), 'format': [1, 9]})


def test_a_missing_array_is_named():
    opt, _ = trained(OPTIMIZERS['adamw'])
    state = opt.state_dict()
    del state['opt_state']['0']['mu']['a'], state['opt_state']['1']['leaf_counts']['block.c.bias']
    with pytest.raises(bo.IncompatibleCheckpoint) as caught:
        opt.load_state_dict(state)
    assert caught.value.differences == [
        'group 0: mu of a is missing',
        'group 1: leaf_counts of block.c.bias is missing',
    ]


def test_another_version_of_what_a_class_keeps_is_refused():
    class Newer(bo.Momentum):
        state_schema = 2

    old, new = (cls(0.1).register_trainable_weights(make_params()) for cls in (bo.Momentum, Newer))
    Newer.__name__ = 'Momentum'
    with pytest.raises(bo.IncompatibleCheckpoint, match='was of version 1, here it is 2'):
        new.load_state_dict(old.state_dict())
    new.load_state_dict(new.state_dict())


def test_options_that_a_class_had_not_yet_mean_what_was_done_then():
    class Newer(bo.Momentum):
        state_schema = 3
        added_options = MappingProxyType(
            {2: {'turned': False}, 3: {'leap': 2.0, 'weight_decay': 0.3}}
        )

        def __init__(self, lr, momentum=0.9, turned=False, leap=2.0):
            bo.OptaxOptimizer.__init__(self, lr=lr, momentum=momentum, turned=turned, leap=leap)

    Newer.__name__ = 'Momentum'
    old = bo.Momentum(0.1, weight_decay=0.2).register_trainable_weights(make_params())
    saved = old.state_dict()
    new = Newer(0.1, leap=5.0).register_trainable_weights(make_params())
    new.load_state_dict(saved)
    assert (new.leap, new.weight_decay) == (2.0, 0.2)  # what it had not, and what it had
    assert saved['schema'] == 1 and 'leap' not in saved['param_groups']['0']
    assert new.state_dict()['schema'] == 3

    turned = Newer(0.1, turned=True).register_trainable_weights(make_params())
    with pytest.raises(bo.IncompatibleCheckpoint, match='turned was False, here it is True'):
        turned.load_state_dict(saved)
    with pytest.raises(bo.IncompatibleCheckpoint, match='was of version 3, here it is 1'):
        old.load_state_dict(new.state_dict())
    Newer.added_options = {3: {'leap': 2.0}}
    with pytest.raises(bo.IncompatibleCheckpoint, match='was of version 1, here it is 3'):
        new.load_state_dict(saved)


def test_lookahead_over_another_optimizer_is_refused():
    """The names of all that they keep, and of all numbers, are the same."""
    runs = [
        bo.Lookahead(base(0.1)).register_trainable_weights(make_params())
        for base in (bo.AdamW, bo.Lamb)
    ]
    assert runs[0].state_dict()['opt_state'].keys() == runs[1].state_dict()['opt_state'].keys()
    with pytest.raises(bo.IncompatibleCheckpoint, match=r'Lookahead\(AdamW\).*Lookahead\(Lamb\)'):
        runs[1].load_state_dict(runs[0].state_dict())
