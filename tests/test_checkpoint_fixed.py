"""Masks, constraints and the like: a run does not go on with others than it began with unsaid."""

from functools import partial

import jax.numpy as jnp
import pytest
from brainstate import ParamState
from looking import digest

import braintools_optim as bo

OPTIONS = {
    'decay_mask': {'w': True, 'b': False},
    'constrain': {'w': partial(jnp.clip, min=-1.0, max=1.0)},
    'skip_nonfinite': True,
}
LINES = {
    'decay_mask': 'decay_mask said False for b, here it says True',
    'constrain': "constrain of w was ['jax.numpy.clip', 'max', 1.0, 'min', -1.0], here it is None",
    'skip_nonfinite': 'skip_nonfinite was True, here it is False',
}


def built(names='wb', **options):
    params = {name: ParamState(jnp.ones(3)) for name in names}
    opt = bo.AdamW(0.1, weight_decay=0.1, **options).register_trainable_weights(params)
    opt.step({name: jnp.ones(3) for name in names})
    return opt, params


def refusal(built, saved):
    """Return why a snapshot is refused; nothing may have changed."""
    opt, params = built
    before = digest(opt, params)
    with pytest.raises(bo.IncompatibleCheckpoint) as error:
        opt.load_state_dict(saved)
    assert digest(opt, params) == before
    return error.value.differences


def test_the_same_options_load():
    saved = built(**OPTIONS)[0].state_dict()
    anew = {**OPTIONS, 'constrain': {'w': partial(jnp.clip, min=-1.0, max=1.0)}}
    assert built(**anew)[0].load_state_dict(saved) == bo.LoadReport()


@pytest.mark.parametrize('option', OPTIONS)
def test_another_option_is_refused_by_name_and_let_pass_where_that_is_asked_for(option, tmp_path):
    options = {k: v for k, v in OPTIONS.items() if k != option}
    opt, params = built(**OPTIONS)
    assert refusal(built(**options), opt.state_dict()) == [LINES[option]]
    saved = built(**options)[0].state_dict()
    assert len(refusal((opt, params), saved)) == 1  # the other way round
    opt.save(tmp_path / 'run')
    assert built(**options)[0].load(tmp_path / 'run', strict=False).unexpected == [LINES[option]]


def test_what_a_function_of_a_mask_says_counts_and_not_its_name():
    saved = built(decay_mask={'w': True, 'b': False})[0].state_dict()
    of_names = built(decay_mask=lambda params: {name: name == 'w' for name in params})[0]
    assert of_names.load_state_dict(saved) == bo.LoadReport()
    assert built()[0].load_state_dict(built(decay_mask=True)[0].state_dict()) == bo.LoadReport()


def test_only_parameters_that_both_have_are_compared():
    saved = built('wb', decay_mask={'w': True, 'b': False})[0].state_dict()
    larger, _ = built('wbc', decay_mask={'w': True, 'b': False, 'c': False})
    report = larger.load_state_dict(saved, strict=False)
    assert report.missing and not report.unexpected
    smaller, _ = built('w', decay_mask={'w': True})
    report = smaller.load_state_dict(saved, strict=False)
    assert not any('decay_mask' in line for line in report.unexpected)


def test_renamed_parameters_keep_what_was_said_of_them():
    saved = built('wb', **OPTIONS)[0].state_dict()
    opt, _ = built('wd', **{**OPTIONS, 'decay_mask': {'w': True, 'd': False}})
    assert opt.load_state_dict(saved, rename={'b': 'd'}).renamed == {'b': 'd'}
    opt, _ = built('vb', **{**OPTIONS, 'decay_mask': {'v': True, 'b': False}, 'constrain': None})
    with pytest.raises(bo.IncompatibleCheckpoint, match='constrain of v was .*clip.* is None'):
        opt.load_state_dict(saved, rename={'w': 'v'})


def test_what_is_loaded_before_registration_is_compared_then():
    saved = built(**OPTIONS)[0].state_dict()
    opt = bo.AdamW(0.1, weight_decay=0.1, skip_nonfinite=True)
    assert opt.load_state_dict(saved).waiting
    with pytest.raises(bo.IncompatibleCheckpoint, match='decay_mask said False for b'):
        opt.register_trainable_weights({name: ParamState(jnp.ones(3)) for name in 'wb'})


def test_a_snapshot_from_before_it_was_written_still_loads():
    saved = built()[0].state_dict()
    del saved['fixed']
    assert built(**OPTIONS)[0].load_state_dict(saved) == bo.LoadReport()


@pytest.mark.parametrize(
    ('wrong', 'line'),
    [
        (3, 'fixed must be a dict, got int'),
        ({'skip_nonfinite': 1}, 'skip_nonfinite was 1, here it is True'),
        ({'undecayed': 3}, 'undecayed and constrained must have names of parameters'),
        ({'undecayed': [3]}, r'must have names of parameters, got \[3'),
        ({'undecayed': ['b', 'w']}, 'decay_mask said False for w, here it says True'),
        ({'constrained': ['w']}, 'constrained must be a dict, got list'),
        ({'constrained': {3: 'f'}}, 'must have names of parameters'),
        ({'constrained': {'w': 'f'}}, "constrain of w was 'f', here it is"),
    ],
)
def test_what_was_tampered_with_is_refused(wrong, line):
    opt, _ = built(**OPTIONS)
    saved = opt.state_dict()
    saved['fixed'] = {**saved['fixed'], **wrong} if isinstance(wrong, dict) else wrong
    with pytest.raises(bo.IncompatibleCheckpoint, match=line):
        opt.load_state_dict(saved)


def test_lists_that_came_back_as_dicts_are_lists():
    opt, _ = built(**OPTIONS)
    saved = opt.state_dict()
    saved['fixed'] = {
        **saved['fixed'],
        'undecayed': {'0': 'b'},
        'constrained': {'w': dict(zip('01234', saved['fixed']['constrained']['w'], strict=True))},
    }
    assert opt.load_state_dict(saved) == bo.LoadReport()
