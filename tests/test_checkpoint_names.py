"""What a checkpoint takes for what: names, units, objects that stand at two places."""

import enum

import brainstate
import jax.numpy as jnp
import numpy as np
import pytest
import saiunit as u
from brainstate import ParamState
from looking import assert_trees_close, digest, values_of

import braintools_optim as bo
from braintools_optim.__main__ import show


def momentum(params):
    return bo.SGD(0.1, momentum=0.9).register_trainable_weights(params)


def apart(params, spelling):
    """Step an optimizer over two parameters whose names could be one."""
    opt = momentum(params)
    opt.step(spelling(jnp.ones(2), jnp.full(2, 5.0)))
    return opt


SPELLINGS = {
    'a leaf and a State': lambda x, y: {'a': {'b': x}, 'a.b': y},
    'leaves of two States': lambda x, y: {'a': {'b.c': x}, 'a.b': {'c': y}},
    'leaves of one State': lambda x, y: {'a': {'b.c': x, 'b': {'c': y}}},
    'an index': lambda x, y: {'a': {'b[0]': x, 'b': [y]}},
}


@pytest.mark.parametrize('spelling', SPELLINGS.values(), ids=SPELLINGS)
def test_parameters_that_could_have_one_name_are_two(spelling, tmp_path):
    def states():
        tree = spelling(jnp.zeros(2), jnp.zeros(2))
        return {key: ParamState(value) for key, value in tree.items()}

    params, others = states(), states()
    opt = apart(params, spelling)
    opt.save(tmp_path / 'run', params=True)
    assert len(opt.state_dict()['opt_state']['0']['trace']) == 2
    new = momentum(others)
    assert new.load(tmp_path / 'run') == bo.LoadReport()
    assert digest(new, others) == digest(opt, params)
    assert_trees_close(values_of(others), spelling(jnp.full(2, -0.1), jnp.full(2, -0.5)), rtol=1e-6)


def test_the_order_of_registration_swaps_no_parameters(tmp_path):
    def registered(order):
        params = {'a.b': ParamState(jnp.zeros(2)), 'a': {'b': ParamState(jnp.zeros(2))}}
        opt = bo.SGD(0.1, momentum=0.9)
        for key in order:
            opt.register_trainable_weights({key: params[key]})
        return opt, params

    opt, params = registered(['a', 'a.b'])
    assert opt.param_states.names == ['a.b', "['a.b']"]
    opt.step({'a.b': jnp.ones(2), 'a': {'b': jnp.full(2, 5.0)}})
    opt.save(tmp_path / 'run', params=True)
    same, others = registered(['a', 'a.b'])
    same.load(tmp_path / 'run')
    assert digest(same, others) == digest(opt, params)
    other, _ = registered(['a.b', 'a'])
    with pytest.raises(bo.IncompatibleCheckpoint, match=r"the parameter \['a'\]\['b'\] is missing"):
        other.load(tmp_path / 'run')


def test_keys_that_give_one_name_in_every_way_are_refused():
    params = {
        'a': ParamState({'b': jnp.ones(2), "['b']": jnp.ones(2)}),
        "a['b']": None,
        'a.b': None,
    }
    params["a['b']"], params['a.b'] = ParamState(jnp.ones(2)), ParamState(jnp.ones(2))
    with pytest.raises(ValueError, match='two parameters would be called .* rename one'):
        momentum(params)


@pytest.mark.parametrize('params', [False, True])
@pytest.mark.parametrize(('unit', 'name'), [(u.volt, 'V'), (u.second, 's'), (None, 'None')])
def test_state_in_another_unit_is_refused(params, unit, name, tmp_path):
    weights = {'w': ParamState(jnp.ones(3) * u.mV)}
    opt = momentum(weights)
    opt.step({'w': jnp.ones(3) * u.mV})
    opt.save(tmp_path / 'run', params=params)
    others = {'w': ParamState(jnp.ones(3) if unit is None else jnp.ones(3) * unit)}
    new = momentum(others)
    before = digest(new, others)
    for load in (
        lambda: new.load(tmp_path / 'run', strict=False),
        lambda: new.load_state_dict(opt.state_dict()),
    ):
        with pytest.raises(bo.IncompatibleCheckpoint, match=f'w was in mV, here it is in {name}'):
            load()
    assert digest(new, others) == before
    saved = opt.state_dict()
    del saved['units']  # as older ones
    assert new.load_state_dict(saved) == bo.LoadReport()


@pytest.mark.parametrize('wrong', [3, ['mV'], {'w': 3}, {3: 'mV'}])
def test_units_that_are_none_are_refused(wrong):
    opt = momentum({'w': ParamState(jnp.ones(3) * u.mV)})
    with pytest.raises(bo.IncompatibleCheckpoint, match='unit|w was in'):
        opt.load_state_dict({**opt.state_dict(), 'units': wrong})


def test_one_object_at_two_places_takes_one_value(tmp_path):
    bo.save(tmp_path / 'run', {'enc': ParamState(jnp.ones(2)), 'dec': ParamState(jnp.zeros(2))})
    tied = ParamState(jnp.full(2, 7.0))
    with pytest.raises(bo.IncompatibleCheckpoint, match=r'tree\.dec and tree\.enc are one object'):
        bo.restore(tmp_path / 'run', {'enc': tied, 'dec': tied})
    np.testing.assert_array_equal(tied.value, [7.0, 7.0])
    nan = ParamState(jnp.array([jnp.nan, 1.0]))
    bo.save(tmp_path / 'run', {'enc': nan, 'dec': nan})
    bo.restore(tmp_path / 'run', {'enc': tied, 'dec': tied})
    np.testing.assert_array_equal(tied.value, [np.nan, 1.0])


def test_one_optimizer_at_two_places_takes_one_state(tmp_path):
    def pair():
        return [momentum({'w': ParamState(jnp.ones(2))}) for _ in range(2)]

    first, second = pair()
    second.momentum = 0.5
    bo.save(tmp_path / 'run', {'a': first, 'b': second})
    opt, _ = pair()
    with pytest.raises(bo.IncompatibleCheckpoint, match=r'tree\.b and tree\.a are one object'):
        bo.restore(tmp_path / 'run', {'a': opt, 'b': opt})
    bo.save(tmp_path / 'run', {'a': second, 'b': second, 'lr': [second.lr, second.lr]})
    bo.restore(tmp_path / 'run', {'a': opt, 'b': opt, 'lr': [opt.lr, opt.lr]})
    assert opt.momentum == 0.5


def test_a_member_of_an_enum_is_its_text(tmp_path):
    class Mode(str, enum.Enum):  # noqa: UP042  # as people write it for older versions of Python
        EMA = 'ema'

    bo.save(tmp_path / 'run', {'mode': Mode.EMA, 'each': {Mode.EMA: 1}})
    assert bo.load(tmp_path / 'run') == {'mode': 'ema', 'each': {'ema': 1}}


def test_without_strictness_later_parameters_are_restored_when_they_come(tmp_path):
    def params(*names):
        return {name: ParamState(jnp.ones(2)) for name in names}

    opt = bo.Adam(0.1).register_trainable_weights(params('a', 'b'))
    opt.step({'a': jnp.ones(2), 'b': jnp.ones(2)})
    opt.save(tmp_path / 'run', params=True, extra=5)
    new, first, second = bo.Adam(0.5), params('a'), params('b')
    report = new.load(tmp_path / 'run', strict=False)
    assert report.waiting and report.extra == 5
    new.register_trainable_weights(first)
    np.testing.assert_allclose(first['a'].value, 0.9, rtol=1e-6)
    assert report.waiting and 'group 0: the parameter b is unknown here' in report.unexpected
    new.register_trainable_weights(second)
    np.testing.assert_allclose(second['b'].value, 0.9, rtol=1e-6)
    assert report == bo.LoadReport(extra=5)
    assert new.state_dict()['opt_state']['0']['leaf_counts'] == {'a': 1, 'b': 1}
    assert new.current_lr == 0.1


def test_without_strictness_what_comes_after_the_first_step_is_new():
    params = {name: ParamState(jnp.ones(2)) for name in 'ab'}
    opt = bo.Adam(0.1).register_trainable_weights(params)
    opt.step({'a': jnp.ones(2), 'b': jnp.ones(2)})
    new = bo.Adam(0.5)
    report = new.load_state_dict(opt.state_dict(), strict=False)
    new.register_trainable_weights({'a': ParamState(jnp.ones(2))})
    new.step({'a': jnp.ones(2)})
    new.register_trainable_weights({'b': ParamState(jnp.ones(2))})
    assert new.state_dict()['opt_state']['0']['leaf_counts'] == {'a': 2, 'b': 0}
    assert 'group 0: the parameter b is unknown here' in report.unexpected


def test_numbers_that_no_float_holds_and_names_twice_are_refused():
    w = {'w': ParamState(jnp.ones(2))}
    opt = bo.Rprop(0.1).register_trainable_weights(w)
    saved = opt.state_dict()
    saved['opt_state']['0']['leaf_lrs']['w'] = 10**400
    with pytest.raises(bo.IncompatibleCheckpoint, match='leaf_lrs must be numbers'):
        opt.load_state_dict(saved)
    saved = opt.state_dict()
    saved['param_groups']['0']['params'] = ['w', 'w']
    with pytest.raises(bo.IncompatibleCheckpoint, match='params has a name twice'):
        opt.load_state_dict(saved)
    plateau = bo.ReduceLROnPlateau(0.1)
    with pytest.raises(bo.IncompatibleCheckpoint, match='best must be a number'):
        plateau.load_state_dict({**plateau.state_dict(), 'best': 10**400})


def test_a_directory_that_is_called_like_a_checkpoint_is_none(tmp_path):
    keeper = bo.Checkpointer(tmp_path, {'w': brainstate.ParamState(jnp.ones(2))}, keep=1)
    (tmp_path / 'step-00000001.ckpt').mkdir()
    for step in (5, 6):
        keeper.save(step)
    assert keeper.steps() == [6] and (tmp_path / 'step-00000001.ckpt').is_dir()


def test_the_longest_name_is_the_one_that_is_renamed():
    def trained(names):
        params = {name: ParamState(jnp.full(1, float(i))) for i, name in enumerate(names)}
        opt = bo.Adam(0.1).register_trainable_weights(params)
        opt.step({name: p.value for name, p in params.items()})
        return opt

    saved = trained(['a.x', 'a.b.x', 'ab.x']).state_dict()
    other = trained(['new.x', 'far.x', 'ab.x'])
    report = other.load_state_dict(saved, rename={'a': 'new', 'a.b': 'far'})
    assert report.renamed == {'a.x': 'new.x', 'a.b.x': 'far.x'}


def test_an_outer_name_comes_or_goes():
    def trained(names):
        params = {name: ParamState(jnp.full(1, float(i + 1))) for i, name in enumerate(names)}
        opt = bo.Adam(0.1).register_trainable_weights(params)
        opt.step({name: p.value for name, p in params.items()})
        return opt

    inner, outer = trained(['w', 'v.x']), trained(['model.w', 'model.v.x'])
    saved = inner.state_dict()
    report = outer.load_state_dict(saved, rename={'': 'model'})
    assert report.renamed == {'w': 'model.w', 'v.x': 'model.v.x'}
    saved = outer.state_dict()
    report = inner.load_state_dict(saved, rename={'model': ''})
    assert report.renamed == {'model.w': 'w', 'model.v.x': 'v.x'}


def test_places_that_names_do_not_tell_apart_are_refused_at_once(tmp_path):
    path, w = tmp_path / 'run.ckpt', ParamState(jnp.ones(2))
    for tree in (
        {'a': {'b': w}, 'a.b': 5},
        {'a': {'b': bo.StepLR(0.1, 3)}, 'a.b': 5},
        {('a', 'b'): w, 'a': 5},
    ):
        with pytest.raises(ValueError, match=r'tree\.a(\.b)? is data, and tree\.a\.b is to be re'):
            bo.save(path, tree)
        assert not path.exists()
    tree = {'a': {'b': w}, 'a.c': 5, 'ab': 6}
    bo.save(path, tree)
    assert bo.restore(path, tree).extra == {'a.c': 5, 'ab': 6}


def test_numbers_and_text_of_numpy_come_back(tmp_path):
    path, state = tmp_path / 'run.ckpt', ParamState(np.array([1.0, 2.0], '>f4'))
    tree = {'w': state, 'name': np.str_('run'), 'more': [np.str_('a')]}
    bo.save(path, tree)
    state.value = np.zeros(2, '>f4')
    report = bo.restore(path, tree)
    assert report.extra == {'name': 'run', 'more': ['a']} and not report.cast
    np.testing.assert_array_equal(state.value, [1.0, 2.0])


def test_what_inspect_prints_moves_no_cursor(tmp_path, capsys):
    path = tmp_path / 'run.ckpt'
    bo.save(path, {'a\x1b[2J\nb': np.ones(2), 'naïve': np.ones(2)})
    assert show(str(path)) == 0
    printed = capsys.readouterr().out
    assert r'a\x1b[2J\nb' in printed and 'naïve' in printed and '\x1b' not in printed
