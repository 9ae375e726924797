"""What a closure reaches through the code of a library, or without naming it, is never stale."""

import gc
import logging
import weakref
from array import array
from collections import UserDict, deque
from dataclasses import asdict, dataclass, fields
from functools import wraps
from operator import attrgetter
from types import MappingProxyType, SimpleNamespace

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import two_groups as elsewhere
from brainstate import ParamState

import braintools_optim as bo
from braintools_optim.engine.meaning import Meaning


class Layer(brainstate.nn.Module):
    """Called by brainstate, by a name that no code of the user's reads."""

    def __init__(self):
        super().__init__()
        self.x = 1.0

    def update(self, y):
        return y * self.x


class Item:
    """Read by entry."""

    def __init__(self):
        self.x = 1.0

    def __getitem__(self, key):
        return self.x


class Amount(Item):
    """Added by an operator."""

    def __radd__(self, other):
        return other + self.x


def decorated(function):
    @wraps(function)
    def inner(*args):
        return function(*args)

    return inner


def layer(wrap):
    module = Layer()
    net = wrap(module)
    return lambda w: net(w), lambda: setattr(module, 'x', 3.0)


def entry(mapping, key):
    return lambda w: w * mapping[key], lambda: mapping.__setitem__(key, 3.0)


def attribute(wrap):
    held = SimpleNamespace(x=1.0)
    call = wrap(lambda w: w * held.x)
    return lambda w: call(w), lambda: setattr(held, 'x', 3.0)


def operand(thing, read):
    return lambda w: read(w, thing), lambda: setattr(thing, 'x', 3.0)


def linear():
    net = brainstate.nn.Linear(3, 3, w_init=jnp.eye(3), b_init=None, w_mask=jnp.ones((3, 3)))
    return lambda w: w * net(jnp.ones(3)), lambda: setattr(net, 'w_mask', 3 * jnp.ones((3, 3)))


WAYS = {
    'module': lambda: layer(lambda m: m),
    'sequential': lambda: layer(brainstate.nn.Sequential),
    'attribute of a library': linear,
    'user dict': lambda: entry(UserDict(x=1.0), 'x'),
    'deque': lambda: entry(deque([0.0, 1.0]), -1),
    'getattr': lambda: operand(SimpleNamespace(x=1.0), lambda w, thing: w * getattr(thing, 'x')),  # noqa: B009
    'item': lambda: operand(Item(), lambda w, thing: w * thing[0]),
    'operator': lambda: operand(Amount(), lambda w, thing: w + thing - 1.0),
    'vmap': lambda: attribute(jax.vmap),
    'value_and_grad': lambda: attribute(lambda f: jax.grad(lambda w: f(w * w / 2).sum())),
    'decorator': lambda: attribute(decorated),
}


@pytest.mark.parametrize('way', WAYS)
def test_what_a_closure_uses_is_never_stale(way):
    read, change = WAYS[way]()
    w = ParamState(jnp.ones(3))
    opt = bo.LBFGS(max_iter=1).register_trainable_weights({'w': w})
    traces = []

    def closure():
        traces.append(None)
        return read(w.value).sum()

    def step():
        w.value = jnp.ones(3)
        return float(opt.step(closure))

    before = [step() for _ in range(3)]
    once = len(traces)
    assert before == [3.0] * 3 and step() == 3.0 and len(traces) == once
    change()
    assert step() == 9.0
    twice = len(traces)
    assert step() == 9.0 and len(traces) == twice > once


class Counting:
    """As a class of a library that counts its calls."""

    __module__ = 'brainstate.nn'

    def __init__(self):
        self.x, self.calls = 1.0, 0

    def __call__(self, y):
        self.calls = self.calls + 1
        return y * self.x


def test_what_a_library_writes_itself_hides_nothing():
    w, module = ParamState(jnp.ones(3)), Counting()
    opt = bo.LBFGS(max_iter=1).register_trainable_weights({'w': w})

    def step():
        w.value = jnp.ones(3)
        return float(opt.step(lambda: module(w.value).sum()))

    assert (step(), step()) == (3.0, 3.0)
    calls, module.x = module.calls, 3.0
    assert (step(), step()) == (9.0, 9.0) and module.calls == 2 * calls


def test_what_no_code_reads_does_not_matter():
    """Such as the history that a trainer keeps, or what methods read that are not called."""

    class Trainer(brainstate.nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.history, self.epoch = ParamState(jnp.ones(3)), [], 0

        def update(self):
            return self.w.value.sum()

        def __eq__(self, other):
            return self.epoch == other.epoch

        __hash__ = brainstate.nn.Module.__hash__

        def report(self):
            return self.history[-1]

    trainer = Trainer()
    means = lambda: Meaning(lambda: trainer(), {}).key  # noqa: E731
    before = means()
    trainer.history.append(1.0)
    trainer.epoch = 1
    assert means() == before
    trainer.w = ParamState(jnp.ones(3))
    assert means() != before


def test_the_functions_that_a_library_wraps_are_known():
    held = np.zeros(3)
    for wrap in (jax.vmap, jax.grad, jax.jit, decorated):
        function = wrap(lambda x: (x * held).sum())
        before = Meaning(function, {}).key
        assert Meaning(function, {}).key == before
        held[0] += 1.0
        assert Meaning(function, {}).key != before, wrap


class Namespace(dict):
    """A dict with an attribute."""

    x = 1.0


class Twice:
    """A descriptor."""

    def __get__(self, owner, kind):
        return 2 * owner.x


class Described:
    twice = Twice()

    def __init__(self):
        self.x = 1.0


@dataclass
class Settings:
    x: float = 1.0


class Measure(Settings):
    def __floordiv__(self, other):
        return self.x // other

    def __gt__(self, other):
        return self.x > other


class Below:
    x = 1.0

    def read(self):
        return self.x


class Lowest(Below):
    def read(self):
        return super().read()


def by_attribute(thing, function):
    return function, lambda: setattr(thing, 'x', 3.0)


def with_attribute():
    def function():
        return function.x

    function.x = 1.0
    return by_attribute(function, function)


def by_entry(held, key, read):
    return lambda: read(held), lambda: held.__setitem__(key, 3.0)


def far_down():
    held = [1.0] * 20_000
    return lambda: held[15_000], lambda: held.__setitem__(15_000, 3.0)


def reached(thing, read):
    return lambda: by_attribute(thing, lambda: read(thing))


REACHED = {
    'attribute of a dict': reached(Namespace(), lambda thing: thing.x),
    'attribute of a function': with_attribute,
    'far down a list': far_down,
    'a view of a dict': lambda: by_entry(held := {'x': 1.0}, 'x', lambda _: MappingProxyType(held)),
    'an array of Python': lambda: by_entry(array('d', [1.0]), 0, lambda held: held[0]),
    'a descriptor': reached(Described(), lambda thing: thing.twice),
    'floor division': reached(Measure(), lambda thing: thing // 2),
    'a comparison': reached(Measure(), lambda thing: 2 if 2 < thing else 3),
    'equality': reached(Measure(), lambda thing: thing == Measure()),
    'vars': reached(SimpleNamespace(x=1.0), lambda thing: vars(thing)['x']),
    'fields': reached(Settings(), lambda thing: asdict(thing)['x']),
    'names of fields': reached(
        Settings(), lambda thing: [getattr(thing, f.name) for f in fields(thing)]
    ),
    'what is overridden': reached(Lowest(), lambda thing: thing.read()),
    'a getter': reached(SimpleNamespace(x=1.0), lambda thing: attrgetter('x')(thing)),
    'a name in a variable': reached(
        SimpleNamespace(x=1.0), lambda thing, name='x': getattr(thing, name)
    ),
}


@pytest.mark.parametrize('way', REACHED)
def test_what_a_function_reaches_is_part_of_its_meaning(way):
    function, change = REACHED[way]()
    before = Meaning(function, {}).key
    assert Meaning(function, {}).key == before
    change()
    assert Meaning(function, {}).key != before


def test_a_method_of_a_dict_means_what_is_in_it():
    held = {'x': 1.0}
    read = held.__getitem__

    def closure():
        return read('x')

    before = Meaning(closure, {}).key
    assert Meaning(closure, {}).key == before
    held['x'] = 3.0
    assert Meaning(closure, {}).key != before


def test_what_a_closure_writes_hides_nothing_beside_it():
    """Neither other entries of a dict, nor attributes of that name elsewhere."""
    w, seen = ParamState(jnp.ones(3)), brainstate.ShortTermState(jnp.zeros(()))
    counted, amount = {'calls': 0, 'scale': 1.0}, SimpleNamespace(value=1.0)
    opt = bo.LBFGS(max_iter=1).register_trainable_weights({'w': w})

    def closure():
        seen.value = seen.value + 1.0
        counted['calls'] += 1
        return w.value.sum() * counted['scale'] * amount.value

    def step():
        w.value = jnp.ones(3)
        return float(opt.step(closure))

    assert (step(), step()) == (3.0, 3.0)
    calls = counted['calls']
    assert step() == 3.0 and counted['calls'] == calls  # nothing was traced again
    counted['scale'] = 2.0
    assert step() == 6.0
    amount.value = 3.0
    assert step() == 18.0


def test_what_closures_wrote_into_is_let_go_with_them():
    w = ParamState(jnp.ones(3))
    opt = bo.LBFGS(max_iter=1).register_trainable_weights({'w': w})

    class Log(list):
        """A list that can be referred to weakly."""

    def closure_with(log):
        def closure():
            log.append(None)
            return w.value.sum()

        return closure

    logs = []
    for _ in range(20):
        log = Log()
        opt.step(closure_with(log))
        logs.append(weakref.ref(log))
        del log
    gc.collect()
    assert sum(ref() is not None for ref in logs) <= 16


def imported():
    from two_groups import trained

    return trained


def assigned_within():
    def own():
        elsewhere = 1.0  # which is a module outside

        def again():
            nonlocal elsewhere
            elsewhere = 2.0

        return again

    return own, elsewhere.trained


@pytest.mark.parametrize('function', [imported, assigned_within])
def test_what_a_function_imports_or_calls_otherwise_within_is_part_of_its_meaning(
    function, monkeypatch
):
    before = Meaning(function, {}).key
    assert Meaning(function, {}).key == before
    monkeypatch.setattr(elsewhere, 'trained', None)
    assert Meaning(function, {}).key != before


class Sized:
    """Its constructor reads what code outside does not name."""

    def __init__(self):
        self.size = Settings.x


def test_calling_a_class_means_what_its_constructor_does():
    def size():
        return Sized().size

    before = Meaning(size, {}).key
    assert Meaning(size, {}).key == before
    Settings.x, first = 3.0, Settings.x
    try:
        assert Meaning(size, {}).key != before
    finally:
        Settings.x = first


def test_what_loggers_do_is_not_looked_into():
    """It would take seconds, and leads everywhere."""
    log = logging.getLogger('somewhere')
    meaning = Meaning(lambda: log.debug('x'), {})
    assert len(meaning.inside) < 10


def test_a_text_is_not_a_dataclass():
    """Else all attributes would count, of which one changes in each step."""
    held = SimpleNamespace(name='a_b', history=[])

    def closure():
        return held.name.replace('_', '-')

    before = Meaning(closure, {}).key
    held.history.append(1.0)
    assert Meaning(closure, {}).key == before
    held.name = 'b'
    assert Meaning(closure, {}).key != before


def test_imports_in_odd_code_have_a_meaning():
    names = ''.join(f'    if 0 > z: a{i}\n' for i in range(300))
    code = f'def f():\n{names}    import math\n    from ...nothing import x\n    return math.pi\n'
    space = {'z': 1, '__package__': 'package'}
    exec(code, space)  # noqa: S102  # more names than an instruction can tell, and no such package
    assert Meaning(space['f'], {}).key == Meaning(space['f'], {}).key


def test_odd_objects_have_a_meaning():
    class Odd:
        def __init__(self):
            vars(self)[1] = 'not a name'

    odd, table = Odd(), {1: 'a', 'b': (1, 'c'), (2, 3): None}

    def means():
        return Meaning(both, {}).key

    def both():
        return vars(odd), table

    before = means()
    assert means() == before
    table[2, 3] = 1.0
    changed = means()
    vars(odd)[1] = 'still not'
    assert len({before, changed, means()}) == 3
