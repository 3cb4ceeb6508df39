"""Tuning on good images and synthetic anomalies; networks here are random and small."""

import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
from PIL import Image

from mendiff.calibration import Calibration
from mendiff.checkpoints.store import load, save
from mendiff.cli import main
from mendiff.data.inspected import InspectedArea
from mendiff.errors import InputError
from mendiff.methods.glad import Glad
from mendiff.model import Model
from mendiff.runs.variants import split_as_fitted, variant, variant_of
from mendiff.training.split import held_back_and_seen
from mendiff.workflows import tune
from mendiff.workflows.tune import Trial


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Fourteen striped pictures, of which four are held back."""
    folder, rng = tmp_path_factory.mktemp("good"), np.random.default_rng(0)
    for number in range(14):
        image = np.full((32, 32, 3), 120, np.uint8) + rng.integers(0, 9, (32, 32, 3), dtype=np.uint8)
        image[:, ::8] += 60
        Image.fromarray(image).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def fitted(tiny_method, good):
    """A calibrated GLAD with random weights."""
    model = Model("glad", tiny_method("glad"), Calibration((1.0, 2.0)), {"preset": "tiny"})
    return model.calibrated(*held_back_and_seen([model.prepare(path) for path in sorted(good.iterdir())]))


@pytest.fixture
def folder(fitted, tmp_path):
    save(tmp_path / "model", fitted.name, fitted.method, fitted.calibration, fitted.info)
    return tmp_path / "model"


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(Glad, "SEARCHED", {"start_timesteps": [[50], [900]], "threshold": [0.3]})
    monkeypatch.setattr(tune, "FEWEST", 4)


def trial(*merits):
    return Trial("field", 1, {}, list(merits), 0.0)


def test_a_candidate_must_be_better_beyond_chance():
    assert trial(0.6, 0.7, 0.5).beats(trial(0.5, 0.6, 0.4))
    assert not trial(0.9, 0.2, 0.6).beats(trial(0.5, 0.5, 0.5))
    assert not trial(0.5, 0.6, 0.4).beats(trial(0.5, 0.6, 0.4))


def test_the_model_is_written_with_what_was_best(folder, good, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Trial, "beats", lambda self, other: self.value == [900])

    assert (
        main(["tune", str(folder), str(good), "-o", str(tmp_path / "out"), "--repetitions", "2", "--json"])
        == 0
    )

    told = json.loads(capsys.readouterr().out)
    assert told["changes"] == {"start_timesteps": [900]}
    tuned = load(tmp_path / "out/model")
    assert tuned.method.config.start_timesteps == (900,)
    assert tuned.info["tuned"] == {"start_timesteps": [900]}
    before = load(folder)
    for name, value in before.method.denoiser.state_dict().items():
        assert torch.equal(value, tuned.method.denoiser.state_dict()[name])
    assert json.loads((tmp_path / "out/tuning.json").read_text())["trials"] == told["trials"]


@pytest.mark.parametrize("changes", [{"resize": "letterbox"}, {"tile": 32}], ids=["letterbox", "tile"])
def test_letterboxed_images_and_tiles_are_tuned_as_network_inputs(fitted, tmp_path, monkeypatch, changes):
    rng, good = np.random.default_rng(1), tmp_path / "good"
    good.mkdir()
    for number in range(40):
        Image.fromarray(rng.integers(100, 140, (32, 72, 3), dtype=np.uint8)).save(good / f"{number:02}.png")
    paths = sorted(good.iterdir())
    model = variant_of(fitted, changes, paths[:4], paths[4:8])
    half = np.zeros((32, 72), bool)
    half[:, :40] = True
    save(
        tmp_path / "model",
        model.name,
        model.method,
        model.calibration,
        model.info,
        area=InspectedArea(half),
    )
    beds, search = [], tune.search
    monkeypatch.setattr(tune, "search", lambda *given: (beds.append(given), search(*given))[1])
    monkeypatch.setattr(Trial, "beats", lambda self, other: self.value == [900])

    words = ["tune", str(tmp_path / "model"), str(good), "-o", str(tmp_path / "out"), "--repetitions", "2"]
    assert main(words) == 0

    ((searched, bed, _),) = beds
    assert searched.plain
    assert {tuple(one.shape) for one in [*bed.calibrating, *bed.testing, *bed.seen]} == {(3, 32, 32)}
    assert len(bed.calibrating) >= 3
    tuned = load(tmp_path / "out/model")
    assert np.array_equal(tuned.area.mask, half)
    assert (tuned.method.config.start_timesteps, tuned.geometry) == ((900,), model.geometry)
    held_back, seen = split_as_fitted(model, paths)
    again = tuned.calibrated([*held_back[::2], *held_back[1::2]], seen)
    assert tuned.calibration.scores == pytest.approx(again.calibration.scores, rel=1e-4)


def test_without_a_gain_the_settings_stay(folder, good, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Trial, "beats", lambda self, other: False)

    assert (
        main(["tune", str(folder), str(good), "-o", str(tmp_path / "out"), "--repetitions", "2", "--json"])
        == 0
    )

    assert json.loads(capsys.readouterr().out)["changes"] == {}
    assert load(tmp_path / "out/model").method.config == load(folder).method.config


def test_every_candidate_is_tried_once_and_drawn(folder, good, tmp_path, capsys):
    assert (
        main(["tune", str(folder), str(good), "-o", str(tmp_path / "out"), "--repetitions", "2", "--json"])
        == 0
    )

    trials = json.loads(capsys.readouterr().out)["trials"]
    # The preset does not stop adaptively, so there is no threshold to choose.
    assert [one["value"] for one in trials] == [[50, 200], [50], [900]]
    assert all(0 <= one["metrics"][key] <= 1 for one in trials for key in tune.METRICS)
    drawn = ET.parse(tmp_path / "out/tuning.svg").getroot()
    assert drawn.tag.endswith("svg")


def test_a_variant_keeps_the_networks_and_learns_the_rest_anew(fitted, good):
    changed = variant(fitted, {"readout.pixel_share": 0.9}, sorted(good.iterdir()))

    old, new = fitted.method.state_dict(), changed.method.state_dict()
    assert all(torch.equal(old[name], new[name]) for name in old if name.startswith("denoiser."))
    assert changed.calibration != fitted.calibration
    assert variant(fitted, {}, []) is fitted


def test_a_variant_that_needs_other_networks_is_refused(fitted, good):
    with pytest.raises(InputError, match="need a separate fit"):
        variant(fitted, {"codec.factor": 2}, sorted(good.iterdir()))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--repetitions", "1"], "--repetitions: expected at least 2"),
        (["--device", "tpu"], "--device: expected"),
    ],
)
def test_bad_input_is_one_sentence(folder, good, tmp_path, capsys, options, sentence):
    assert main(["tune", str(folder), str(good), "-o", str(tmp_path / "out"), *options]) == 2

    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_too_few_good_images_are_refused(folder, good, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tune, "FEWEST", 6)

    assert main(["tune", str(folder), str(good), "-o", str(tmp_path / "out")]) == 2

    assert "expected at least 6 held-back good images" in capsys.readouterr().err
