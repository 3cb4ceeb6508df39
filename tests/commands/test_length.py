"""How long a training becomes; times are made up here."""

import pytest

from mendiff.commands import length
from mendiff.commands.length import lengthened, seconds_per_step


@pytest.fixture
def fit_length(tiny_config, tmp_path, monkeypatch):
    """Steps of a plan for 100 steps in one minute, on a machine that needs so many seconds per step."""

    def steps(seconds, minutes=1.0, resume=False):
        monkeypatch.setattr(length, "seconds_per_step", lambda *_: seconds)
        monkeypatch.setattr(length, "OVERHEAD", 0.0)
        config = tiny_config("glad", {"training.steps": 100, "training.minutes": minutes})
        return lengthened("glad", config, "cpu", tmp_path, resume=resume).training.steps

    return steps


@pytest.mark.parametrize(
    ("seconds", "steps"),
    [(10.0, 100), (0.6, 100), (0.41, 100), (0.4, 150), (0.29, 200), (0.2, 300), (0.15, 400), (0.001, 400)],
)
def test_a_fast_machine_trains_longer_within_the_minutes_and_a_slow_one_no_less(fit_length, seconds, steps):
    assert fit_length(seconds) == steps


def test_without_minutes_the_steps_stay(fit_length):
    assert fit_length(0.001, minutes=0.0) == 100


def test_a_resumed_training_stays_as_long_as_it_was(fit_length, tmp_path):
    (tmp_path / length.STEPS_FILE).write_text("150")
    assert fit_length(0.001, resume=True) == 150
    assert fit_length(0.001, resume=False) == 400


@pytest.mark.parametrize("name", ["glad", "ran"])
def test_a_step_is_measured_without_touching_a_later_model(name, tiny_method, tiny_config):
    method = tiny_method(name)
    before = {key: one.clone() for key, one in method.state_dict().items()}
    assert seconds_per_step(tiny_method(name), tiny_config(name), "cpu") > 0
    assert all(bool((one == before[key]).all()) for key, one in method.state_dict().items())
