import json
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mendiff.errors import InputError
from mendiff.methods.base import METHODS, find_method
from mendiff.methods.config import LARGEST, config_from_dict, config_to_dict, override


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    names: tuple[str, ...] = ("a", "b")


@dataclass(frozen=True)
class Outer:
    count: int = 3
    word: str = "x"
    on: bool = False
    limit: float | None = None
    sizes: tuple[int, ...] = (1, 2)
    extra: dict[str, Any] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
finite = st.floats(allow_nan=False, allow_infinity=False)
configs = st.builds(
    Outer,
    count=st.integers(-LARGEST, LARGEST),
    word=st.text(),
    on=st.booleans(),
    limit=st.none() | finite,
    sizes=st.lists(st.integers(-LARGEST, LARGEST), max_size=3).map(tuple),
    extra=st.dictionaries(st.text(max_size=3), json_values, max_size=3),
    inner=st.builds(Inner, rate=finite, names=st.lists(st.text(), max_size=3).map(tuple)),
)


@settings(max_examples=25)
@given(configs)
def test_config_survives_json(config):
    assert config_from_dict(Outer, json.loads(json.dumps(config_to_dict(config)))) == config


@given(st.dictionaries(st.sampled_from([*Outer.__dataclass_fields__, "other"]), json_values, max_size=4))
def test_any_json_is_a_config_or_an_input_error(data):
    try:
        config = config_from_dict(Outer, data)
    except InputError:
        return
    assert config_from_dict(Outer, config_to_dict(config)) == config


def test_missing_fields_keep_their_defaults():
    assert config_from_dict(Outer, {"inner": {"rate": 2.0}}) == Outer(inner=Inner(rate=2.0))


def test_integers_are_valid_floats():
    config = config_from_dict(Outer, {"limit": 1, "inner": {"rate": 2}})
    assert (type(config.limit), type(config.inner.rate)) == (float, float)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"counts": 1}, "config: expected some of count, word, .*, got 'counts'"),
        ({"inner": {"rates": 1}}, "config.inner: expected some of rate, names, got 'rates'"),
        ({"inner": 5}, "config.inner: expected a group of fields, got 5"),
        ({"count": 1.5}, "config.count: expected int, got 1.5"),
        ({"count": True}, "config.count: expected int, got True"),
        ({"count": "1"}, "config.count: expected int, got '1'"),
        ({"on": 1}, "config.on: expected bool, got 1"),
        ({"word": None}, "config.word: expected str, got None"),
        ({"word": False}, "config.word: expected a text, got false .yes, no, on and off mean true"),
        ({"limit": "high"}, "config.limit: expected float, got 'high'"),
        ({"inner": {"rate": True}}, "config.inner.rate: expected float, got True"),
        ({"sizes": 1}, "config.sizes: expected a list"),
        ({"sizes": "12"}, "config.sizes: expected a list"),
        ({"sizes": [1, "2"]}, "config.sizes: expected int, got '2'"),
        ({"extra": [1]}, "config.extra: expected a mapping"),
    ],
)
def test_invalid_values_are_refused_with_the_name_of_their_field(data, message):
    with pytest.raises(InputError, match=message):
        config_from_dict(Outer, data)


@pytest.mark.parametrize("data", [5, None, [1], "text"])
def test_data_other_than_a_mapping_is_refused(data):
    with pytest.raises(InputError, match="expected a group of fields"):
        config_from_dict(Outer, data)


def test_override_replaces_by_dotted_name():
    config = Outer(extra={"a": {"b": 1}})
    changed = override(config, {"inner.rate": 2, "count": 9, "extra.a.b": 4, "sizes": [7], "extra.c": 1})
    assert changed == Outer(count=9, sizes=(7,), extra={"a": {"b": 4}, "c": 1}, inner=Inner(rate=2.0))
    assert config == Outer(extra={"a": {"b": 1}})


@pytest.mark.parametrize("name", ["inner.rat", "rate", "nothing.here", "count.more", "sizes.0", ""])
def test_override_of_an_unknown_field_is_refused(name):
    with pytest.raises(InputError):
        override(Outer(), {name: 1})


def test_override_does_not_change_its_argument(tiny_config):
    network = {"block_out_channels": [8, 16]}
    tiny_config("glad", {"denoiser.network": network, "denoiser.network.block_out_channels": [4]})
    assert network == {"block_out_channels": [8, 16]}


RENAMED = [(name, *pair) for name in METHODS for pair in find_method(name).Config.RENAMED.items()]


@pytest.mark.parametrize(("name", "old", "new"), RENAMED)
def test_old_name_of_a_field_is_refused_with_the_current_name(name, old, new):
    config = find_method(name).Config()
    attrgetter(new)(config)
    with pytest.raises(AttributeError):
        attrgetter(old)(config)
    with pytest.raises(InputError, match=rf"^{old}: expected {new}; the field was renamed\.$"):
        override(config, {old: 5})
