"""How long a training becomes; times are made up here."""

import dataclasses
import json

import pytest

from mendiff.cli import main
from mendiff.data.images import save_png, to_picture
from mendiff.runs import length
from mendiff.runs.length import Length, chosen_length, read_length, seconds_per_step, write_length
from tests.networks import SMALL_UNET

TINY = {"image_size": 32, "crop": 0, "codec.factor": 4, "denoiser.network": SMALL_UNET}


@pytest.fixture
def fit_length(tiny_config, tmp_path, monkeypatch):
    """Steps of a plan for 100 steps in one minute, on a machine that needs so many seconds per step."""

    def steps(seconds, minutes=1.0, asked=0.0):
        monkeypatch.setattr(length, "seconds_per_step", lambda *_: seconds)
        monkeypatch.setattr(length, "OVERHEAD", 0.0)
        config = tiny_config("glad", {"training.steps": 100, "training.minutes": minutes})
        return chosen_length("glad", config, "cpu", minutes=asked).steps

    return steps


@pytest.mark.parametrize(
    ("seconds", "steps"),
    [(10.0, 100), (0.6, 100), (0.41, 100), (0.4, 150), (0.29, 200), (0.2, 300), (0.15, 400), (0.001, 400)],
)
def test_a_fast_machine_trains_longer_within_the_minutes_and_a_slow_one_no_less(fit_length, seconds, steps):
    assert fit_length(seconds) == steps


def test_without_minutes_the_steps_stay(fit_length):
    assert fit_length(0.001, minutes=0.0) == 100


@pytest.mark.parametrize(("seconds", "steps"), [(0.5, 60), (0.1, 300), (30.0, 1), (0.01, 3000)])
def test_minutes_that_are_asked_for_shorten_and_lengthen(fit_length, seconds, steps):
    assert fit_length(seconds, asked=0.5) == steps


def test_minutes_are_shared_out_among_the_stages(tiny_config, monkeypatch):
    monkeypatch.setattr(length, "seconds_per_step", lambda *_: 0.5)
    monkeypatch.setattr(length, "_codec_seconds", lambda *_: 50.0)
    monkeypatch.setattr(length, "OVERHEAD", 0.0)
    codec = {"kind": "tiny", "fit": {"images": 80}}
    config = tiny_config("glad", {"training.steps": 100, "training.minutes": 0.0, "codec": codec})
    assert chosen_length("glad", config, "cpu") == Length(100, 80, 100 / 60)
    halved = chosen_length("glad", config, "cpu", minutes=50 / 60)
    assert halved == Length(50, 40, 50 / 60)
    assert halved.of(config).training.steps == 50
    assert halved.of(config).codec.fit.images == 40


def test_a_resumed_training_stays_as_long_as_it_was(tmp_path):
    assert read_length(tmp_path) is None
    write_length(tmp_path, Length(150, 80))
    assert read_length(tmp_path) == Length(150, 80)
    (tmp_path / length.STEPS_FILE).write_text("150")  # as earlier versions wrote it
    assert read_length(tmp_path) == Length(150)


@pytest.mark.parametrize("name", ["glad", "ran"])
def test_a_step_is_measured_without_touching_a_later_model(name, tiny_method, tiny_config):
    method = tiny_method(name)
    before = {key: one.clone() for key, one in method.state_dict().items()}
    assert seconds_per_step(tiny_method(name), tiny_config(name), "cpu") > 0
    assert all(bool((one == before[key]).all()) for key, one in method.state_dict().items())


class Machine:
    """A processor of made-up speed: every step computes so long, and waits for others so long besides."""

    def __init__(self, monkeypatch, computing, waiting):
        self.now = self.worked = 0.0
        self.steps, self.computing, self.waiting = 0, computing, waiting
        monkeypatch.setattr(length.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(length.time, "thread_time", lambda: self.worked)
        monkeypatch.setattr(length.time, "sleep", self.sleep)

    def sleep(self, seconds):
        self.now += seconds

    def step(self):
        self.worked += self.computing
        self.now += self.computing + self.waiting(self.steps, self.now)
        self.steps += 1


def test_a_moments_load_does_not_slow_what_is_measured(monkeypatch):
    machine = Machine(monkeypatch, 0.1, lambda step, now: 0.9 if now < 6 else 0.0)

    taken, computed = length.timed(machine.step)

    assert (taken, computed) == (pytest.approx(0.1), pytest.approx(0.1))


def test_where_others_compute_all_the_time_the_time_by_itself_is_known(monkeypatch):
    machine = Machine(monkeypatch, 0.1, lambda step, now: 0.5)

    assert length.timed(machine.step) == (pytest.approx(0.6), pytest.approx(0.1))
    assert machine.steps == length.WARM_UP + length.ROUNDS * length.MEASURED


def test_measuring_slow_steps_comes_to_an_end(monkeypatch):
    machine = Machine(monkeypatch, 10.0, lambda step, now: 0.0)

    assert length.timed(machine.step) == (pytest.approx(10.0), pytest.approx(10.0))
    assert machine.steps == length.WARM_UP + length.MEASURED


@pytest.mark.parametrize(("taken", "told"), [(0.1, False), (0.12, False), (0.5, True)])
def test_a_busy_machine_is_told_in_one_line_and_does_not_change_the_choice(
    tiny_method, tiny_config, monkeypatch, taken, told
):
    lines = []
    monkeypatch.setattr(length, "timed", lambda step: (taken, 0.1))

    assert seconds_per_step(tiny_method(), tiny_config(), "cpu", lines.append) == 0.1

    assert [line.startswith("note: this machine is busy") for line in lines] == [True] * told


# From the command line: the number that was chosen, and how to have it again.


@pytest.fixture
def fit(tmp_path, pictures, monkeypatch, capsys):
    """(name, options) to exit code, what was told, and the model folder."""
    (tmp_path / "good").mkdir()
    for index in range(12):
        save_png(to_picture(pictures[index % 4] * (1 - 0.05 * index)), tmp_path / f"good/{index}.png")
    small = [f"{key}={json.dumps(value)}" for key, value in TINY.items()]

    def run(name, *options, seconds=10.0):
        monkeypatch.setattr(length, "seconds_per_step", lambda *_: seconds)
        out = tmp_path / name
        words = ["fit", str(tmp_path / "good"), "-o", str(out), "--device", "cpu", "--features", "none"]
        code = main([*words, *(word for one in small for word in ("--set", one)), *options])
        return code, capsys.readouterr().err, out

    return run


def steps_of(model):
    kept = json.loads((model / "config.json").read_text())
    assert kept["info"]["steps"] == kept["config"]["training"]["steps"]
    return kept["info"]["steps"]


def test_the_chosen_number_is_told_and_kept_and_with_the_seed_it_makes_the_same_model(fit, monkeypatch):
    from mendiff.methods.glad import Glad

    tiny = Glad.PRESETS["tiny"]
    plan = dataclasses.replace(tiny.training, steps=2, minutes=1.0)
    monkeypatch.setitem(Glad.PRESETS, "tiny", dataclasses.replace(tiny, training=plan))
    code, told, fast = fit("fast", "--seed", "3", seconds=1e-3)
    assert code == 0
    assert "8 steps on cpu, about 1 minute of training, then statistics (repeat with --steps 8)" in told
    assert steps_of(fast) == 8

    code, told, again = fit("again", "--seed", "3", "--steps", "8", seconds=100.0)
    assert code == 0
    assert "repeat with" not in told
    assert steps_of(again) == 8
    weights = [(one / "model.safetensors").read_bytes() for one in (fast, again)]
    assert weights[0] == weights[1]

    _, _, slow = fit("slow", "--seed", "3", seconds=100.0)
    assert steps_of(slow) == 2


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--steps", "0"], "--steps: expected at least 1, got 0."),
        (["--steps", "3", "--set", "training.steps=4"], "expected equal numbers, got 3 and 4"),
    ],
)
def test_a_number_of_steps_that_is_none_or_two_is_refused(fit, options, sentence):
    code, told, out = fit("model", *options)

    assert code == 2
    assert sentence in told
    assert not out.exists()
