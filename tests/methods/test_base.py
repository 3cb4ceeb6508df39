import pytest

from mendiff.errors import InputError
from mendiff.methods.base import METHODS, Method, MethodConfig, TrainingConfig, find_method, find_preset


def test_every_name_is_a_method():
    for name in METHODS:
        assert issubclass(find_method(name), Method)


def test_unknown_method_is_refused_with_the_known_methods():
    with pytest.raises(InputError, match=f"expected one of .*{next(iter(METHODS))}.*, got 'gan'"):
        find_method("gan")


@pytest.mark.parametrize(
    ("preset", "sentence"),
    [
        (
            "papre",
            "expected one of tiny, small, paper, paper/mvtec, .* got 'papre'; did you mean paper",
        ),
        ("cable", "got 'cable'; did you mean paper/mvtec/cable"),
        ("mpdd/tubes", "got 'mpdd/tubes'; did you mean paper/mpdd/tubes"),
        ("paper/visa/rope", "expected paper/visa/ and one of candle, .* for glad, got 'paper/visa/rope'"),
        ("paper/mpdd/cable", "expected paper/mpdd/ and one of bracket_black, .* got 'paper/mpdd/cable'"),
    ],
)
def test_unknown_preset_is_refused_with_suggestions(preset, sentence):
    with pytest.raises(InputError, match=f"preset: .*{sentence}"):
        find_preset("glad", preset)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"steps": 0}, "training.steps: expected at least 1, got 0."),
        ({"batch_size": -2}, "training.batch_size: expected at least 1, got -2."),
        ({"learning_rate": -1.0}, "training.learning_rate: expected at least 0, got -1.0."),
        ({"warmup": -3}, "training.warmup: expected at least 0, got -3."),
        ({"ema": 2.0}, "training.ema: expected 0 to 1, got 2.0."),
    ],
)
def test_invalid_training_settings_are_refused(changes, sentence):
    with pytest.raises(InputError, match=f"^{sentence}$"):
        TrainingConfig(**changes)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_refuses_negative_sides(name):
    for kind in (MethodConfig, find_method(name).Config):
        with pytest.raises(InputError, match="crop: expected at least 0, got -5"):
            kind(crop=-5)
