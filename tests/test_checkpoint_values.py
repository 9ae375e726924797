"""What no run could have saved is refused, and no number goes to a group that it is not of."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from brainstate import ParamState
from cases import CASES, build, make_params
from looking import digest

import braintools_optim as bo
from braintools_optim.checkpoint.export import named_slots


def trained(make, *groups, dtype=jnp.float32):
    """Return an optimizer over one vector for each letter, after two steps."""
    params = {k: ParamState(jnp.ones((2, 3), dtype)) for letters, _ in groups for k in letters}
    opt = make()
    for i, (letters, rate) in enumerate(groups):
        own = {k: params[k] for k in letters}
        if i:
            opt.add_param_group(own, lr=rate)
        else:
            opt.register_trainable_weights(own)
            opt.param_groups[0]['lr'] = rate
    for _ in range(2):
        opt.step({k: jnp.full((2, 3), 0.5, dtype) for k in params})
    return opt, params


def refusal(run, saved, **options):
    """Return why a snapshot is refused; nothing may have changed."""
    opt, params = run
    before = digest(opt, params)
    with pytest.raises(bo.IncompatibleCheckpoint) as error:
        opt.load_state_dict(saved, **options)
    assert digest(opt, params) == before
    return error.value.differences


@pytest.mark.parametrize(
    'here',
    [
        [('b', 0.01), ('a', 0.1)],
        [('c', 0.5), ('a', 0.1), ('b', 0.01)],
        [('cd', 0.5), ('ae', 0.1), ('b', 0.01)],
        [('a', 0.1), ('c', 0.5), ('b', 0.01)],
        [('ab', 0.1), ('c', 0.5)],
    ],
    ids=['exchanged', 'one in front', 'larger ones', 'one between', 'one in its place'],
)
def test_groups_in_another_order_are_refused(here):
    """Even where parameters may come and go: each would get the numbers of another group."""
    saved = trained(bo.SGD, ('a', 0.1), ('b', 0.01))[0].state_dict()
    says = refusal(trained(bo.SGD, *here), saved, strict=False)
    assert any('and the checkpoint has it in group' in line for line in says)
    renamed = {'a': 'first', 'b': 'second'}
    other = [
        (['first' if k == 'a' else 'second' if k == 'b' else k for k in x], r) for x, r in here
    ]
    says = refusal(trained(bo.SGD, *other), saved, strict=False, rename=renamed)
    assert any('and the checkpoint has it in group' in line for line in says)


def test_a_parameter_does_not_get_the_group_of_another_one():
    saved = trained(bo.SGD, ('ad', 0.1), ('b', 0.01))[0].state_dict()
    says = refusal(trained(bo.SGD, ('d', 0.5), ('a', 0.5)), saved, strict=False)
    assert says == [
        'a is in group 1, and the checkpoint has it in group 0: build the groups in their old '
        'order, new ones last'
    ]


def test_a_parameter_may_get_a_group_of_its_own():
    saved = trained(bo.SGD, ('ab', 0.1))[0].state_dict()
    opt, _ = trained(bo.SGD, ('a', 0.5), ('b', 0.25))
    opt.load_state_dict(saved, strict=False)
    assert [float(group['lr']) for group in opt.param_groups] == [0.1, 0.25]


@pytest.mark.parametrize(
    'here',
    [
        [('a', 0.5), ('b', 0.5), ('c', 0.5)],  # a group came
        [('a', 0.5), ('c', 0.5)],  # all of a group was exchanged
        [('ac', 0.5), ('b', 0.5)],
    ],
)
def test_what_came_or_went_may(here):
    saved = trained(bo.SGD, ('a', 0.1), ('b', 0.01))[0].state_dict()
    opt, _ = trained(bo.SGD, *here)
    opt.load_state_dict(saved, strict=False)
    assert [float(group['lr']) for group in opt.param_groups[:2]] == pytest.approx([0.1, 0.01])


# ---- numbers that no chain of this library has ---------------------------------------------------

ADDED_UP = {
    'Adam': (lambda: bo.Adam(0.1, amsgrad=True), ['nu', 'nu_max']),
    'Adagrad': (lambda: bo.Adagrad(0.1), ['sum']),
    'Adadelta': (lambda: bo.Adadelta(0.1), ['e_g', 'e_x']),
    'RMSprop': (lambda: bo.RMSprop(0.1), ['nu']),
    'SM3': (lambda: bo.SM3(0.1), ['accumulators']),
    'Adafactor': (lambda: bo.Adafactor(0.1), ['row', 'col']),
    'Quad': (lambda: bo.Quad(0.1), ['Ll', 'Lr']),
    'Mars': (lambda: bo.Mars(0.1, amsgrad=True), ['nu.now', 'nu.top']),
    'Fromage': (lambda: bo.Fromage(0.1, p_bound=1.0), ['initial']),
    'Lookahead': (lambda: bo.Lookahead(bo.Yogi(0.1)), ['fast.nu']),
}


@pytest.mark.parametrize(('make', 'names'), ADDED_UP.values(), ids=ADDED_UP)
def test_no_sum_of_squares_is_negative(make, names):
    run = trained(make, ('a', 0.1))
    for name in names:
        saved = run[0].state_dict()
        slot = next(s for s in saved['opt_state']['0'] if s == name or s.endswith(f'.{name}'))
        entry = saved['opt_state']['0'][slot]
        entry['a'] = np.ones_like(entry['a'])
        entry['a'].flat[0] = -1.0
        (line,) = refusal(run, saved)
        assert line == f'group 0: {slot} of a must not be negative anywhere, got -1.0'
        entry['a'] = np.full_like(entry['a'], np.nan)  # as a run has it that did not end well
        run[0].load_state_dict(saved)


def test_the_names_in_a_chain_of_somebody_else_mean_what_they_mean_there():
    """What is saved can be loaded, and only counts are known by their names."""

    def chain():
        def init(params):
            del params
            return {'slot': jnp.int32(-1), 'nu': jnp.float32(-2.0), 'count': jnp.int32(0)}

        return optax.GradientTransformation(init, lambda g, s, p=None: (g, s))

    class Own(bo.OptaxOptimizer):
        def transform(self, h):
            return optax.chain(chain(), optax.scale_by_learning_rate(h.lr))

    made = [Own, lambda: bo.OptaxOptimizer(tx=optax.chain(chain(), optax.sgd(0.1)))]
    for make in (*made, lambda: bo.Lookahead(Own())):
        run = trained(make, ('a', 0.001))
        saved = run[0].state_dict()
        assert run[0].load_state_dict(saved) == bo.LoadReport()
        slot = next(s for s in saved['opt_state']['0'] if s.endswith('count'))
        saved['opt_state']['0'][slot][''] = np.array(-1, np.int32)
        assert refusal(run, saved) == [f'group 0: {slot} of the group must be a count, got -1']


def test_what_is_never_negative_is_said_by_each_class_that_keeps_it():
    said = {name for cls in vars(bo).values() for name in getattr(cls, 'never_negative', ())}
    for case in CASES:
        opt = build(case, make_params(), groups=1)
        (group,) = opt._groups
        if group.fixed_chain is None:
            slots, _ = named_slots(opt, group, anew=True)
            fields = {part for slot in slots for part in slot.name.split('.')}
            assert fields & said <= set(opt.never_negative), case


class Summing(bo.OptaxOptimizer):
    def transform(self, h):
        return optax.chain(optax.scale_by_rss(), optax.scale_by_learning_rate(h.lr))


class Sums(Summing):
    never_negative = ('sum_of_squares',)


class OtherChain(Sums):
    def transform(self, h):
        return optax.chain(optax.scale_by_rss(), optax.scale(-h.lr))


def test_a_class_of_ones_own_says_what_is_never_negative():
    for cls, refused in ((Summing, False), (Sums, True), (OtherChain, False)):
        for make in (cls, lambda cls=cls: bo.Lookahead(cls())):
            run = trained(make, ('a', 0.1))
            saved = run[0].state_dict()
            entry = next(v for k, v in saved['opt_state']['0'].items() if 'sum_of' in k)
            entry['a'] = np.full_like(entry['a'], -1.0)
            if refused:
                (line,) = refusal(run, saved)
                assert line.endswith('sum_of_squares of a must not be negative anywhere, got -1.0')
            else:
                assert run[0].load_state_dict(saved) == bo.LoadReport()


def test_a_product_of_fractions_is_kept_as_it_was():
    run = trained(lambda: bo.NAdam(0.1), ('a', 0.1))
    saved = run[0].state_dict()
    products = saved['opt_state']['0']['leaf_products']
    for wrong, says in (
        (-0.5, 'must be numbers, got [-0.5]'),
        (0.1, 'is float64[1], here it is float32[1]'),  # which float32 rounds
        (1e300, 'is float64[1], here it is float32[1]'),
    ):
        products['a'] = wrong
        assert refusal(run, saved) == [f'group 0: leaf_products {says}']
    products['a'] = 0.1
    report = run[0].load_state_dict(saved, cast=True)
    assert report.cast == ['group 0: leaf_products from float64 to float32']
    products['a'] = 1e300
    says = refusal(run, saved, cast=True)
    assert says[0] == 'group 0: leaf_products has values of float64 that float32 cannot hold'


# ---- schedulers ----------------------------------------------------------------------------------


def test_a_best_metric_is_a_number():
    opt, _ = run = trained(lambda: bo.SGD(bo.ReduceLROnPlateau(0.1)), ('a', 0.1))
    saved = opt.state_dict()
    saved['schedulers'][0]['best'] = float('nan')
    assert refusal(run, saved) == ['ReduceLROnPlateau: best must be a number, not nan, got nan']


def test_what_is_scheduled_has_a_value_where_it_goes_on():
    table = [0.1, 0.2, 0.3]
    opt, _ = run = trained(bo.AdamW, ('a', 0.1))
    scheduler = bo.ParamScheduler(opt, 'weight_decay', lambda epoch: table[epoch])
    saved = opt.state_dict()
    for epoch, why in ((9, 'IndexError: list index out of range'), (1, 'ValueError: AdamW needs')):
        table[1] = -1.0
        saved['schedulers'][-1]['last_epoch'] = epoch
        (line,) = refusal(run, saved)
        assert line.startswith(f'ParamScheduler of weight_decay at epoch {epoch}: {why}')
        with pytest.raises(bo.IncompatibleCheckpoint, match=why):
            scheduler.load_state_dict(saved['schedulers'][-1])


def test_a_scheduler_takes_what_other_encoders_make_of_its_numbers():
    """Integers for floats, and arrays for numbers and lists of them, change nothing."""
    ends = []
    for form in (float, int, np.array, lambda x: jnp.asarray(x, jnp.float32)):
        opt, _ = trained(lambda: bo.SGD(bo.ExponentialLR(1.0, gamma=0.9)), ('a', 1.0))
        whole = opt.state_dict()
        for part, load in (
            (opt.lr.state_dict(), opt.lr.load_state_dict),
            (whole['schedulers'][0], lambda _, opt=opt, whole=whole: opt.load_state_dict(whole)),
        ):
            for key in ('base_lrs', 'starts', 'written'):
                part[key] = list(map(form, part[key]))
            part['last_epoch'] = np.array(0)
            load(part)
            for _ in range(5):
                opt.lr.step()
            ends.append(opt.lr.get_last_lr())
    assert ends == [ends[0]] * 8 and ends[0] == pytest.approx([0.9**5])


@pytest.mark.parametrize('wrong', ['garbage', 3, [0.2], [0.1, 0.1]])
def test_a_composed_scheduler_has_the_base_of_its_part(wrong):
    def make():
        parts = [bo.LinearLR(0.1, total_iters=2), bo.ExponentialLR(gamma=0.9)]
        return bo.SGD(bo.SequentialLR(parts, milestones=[2]))

    opt, _ = run = trained(make, ('a', 0.1))
    saved = opt.state_dict()
    assert opt.load_state_dict(saved) == bo.LoadReport()
    saved['schedulers'][0]['base_lrs'] = wrong
    (line,) = refusal(run, saved)
    assert line.startswith('SequentialLR: base_lrs must be those of a part, [[0.1], [0.1]], got')
