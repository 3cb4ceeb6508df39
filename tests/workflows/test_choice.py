"""`fit --preset auto`: which presets are fitted, which one is kept, and what an interruption leaves."""

import json
from dataclasses import replace

import pytest
import torch

from mendiff.checkpoints.store import load
from mendiff.cli import main
from mendiff.cli.terminal import Terminal
from mendiff.data.images import save_png, to_picture
from mendiff.methods.glad_config import PRESETS
from mendiff.runs.length import Length
from mendiff.types import Detection
from mendiff.workflows import choice

GOOD, POOR = ({"image_auroc": one, "pixel_auroc": one, "pixel_ap": one} for one in (0.9, 0.5))


@pytest.fixture
def good(tmp_path, pictures, monkeypatch, tiny_config):
    """A folder of good images; both presets are as small as can be, and take two steps."""
    config = tiny_config("glad")
    config = replace(config, training=replace(config.training, steps=2, minutes=0))
    for name in choice.CANDIDATES:
        monkeypatch.setitem(PRESETS, name, config)
    folder = tmp_path / "good"
    folder.mkdir()
    for index in range(8):
        save_png(to_picture(pictures[index % 4] * (1 - 0.05 * index)), folder / f"{index}.png")
    return folder


@pytest.fixture
def judged(monkeypatch):
    """What both presets shall be judged to find, and the names of those that were judged."""

    class Judge:
        tiny, small, asked = GOOD, POOR, []

        def __call__(self, model, paths, seed, terminal, title):
            self.asked = [*self.asked, title]
            found = getattr(self, title)
            if isinstance(found, BaseException):
                raise found
            return found

    judge = Judge()
    monkeypatch.setattr(choice, "defect_metrics", judge)
    return judge


def fit(folder, out, *more):
    return main(["fit", str(folder), "-o", str(out), "--preset", "auto", *more])


@pytest.mark.parametrize(
    ("tiny", "small", "kept"),
    [(POOR, GOOD, "small"), (GOOD, POOR, "tiny"), (GOOD, dict.fromkeys(GOOD, 0.905), "tiny")],
)
def test_the_slower_preset_is_kept_where_it_finds_clearly_more_flaws(
    tiny, small, kept, good, judged, tmp_path, capsys
):
    judged.tiny, judged.small = tiny, small
    assert fit(good, tmp_path / "model", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    model = load(tmp_path / "model", "cpu")
    assert told["preset"] == model.info["preset"] == kept
    assert {name: one["metrics"] for name, one in model.info["tried"].items()} == {
        "tiny": tiny,
        "small": small,
    }
    assert not list(tmp_path.glob(".*auto*"))


def test_a_preset_that_takes_too_long_is_named_and_left_out(good, judged, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(choice, "chosen_length", lambda *_: Length(2, minutes=45))
    judged.tiny, judged.small = POOR, GOOD
    assert fit(good, tmp_path / "model", "--minutes", "10") == 0
    assert judged.asked == ["tiny"]
    assert "small is skipped: it takes about 45 minutes here, and 10 are left" in capsys.readouterr().err
    assert load(tmp_path / "model", "cpu").info["preset"] == "tiny"


def test_what_was_fitted_before_an_interruption_is_not_fitted_again(good, judged, tmp_path, capsys):
    judged.tiny, judged.small = POOR, KeyboardInterrupt()
    assert fit(good, tmp_path / "model") == 130
    assert "--resume to continue" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
    times = {one: one.stat().st_mtime_ns for one in tmp_path.rglob("model.safetensors")}
    assert len(times) == 2

    judged.small = GOOD
    assert fit(good, tmp_path / "model", "--resume", "--seed", "1") == 2
    assert "seed was 0 and is 1" in capsys.readouterr().err
    assert times == {one: one.stat().st_mtime_ns for one in times}
    assert fit(good, tmp_path / "model", "--resume") == 0
    assert "fitting" not in capsys.readouterr().err
    assert load(tmp_path / "model", "cpu").info["preset"] == "small"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--steps", "5"], "expected --minutes instead of a number of steps"),
        (["--resume"], "expected an interrupted fit"),
        (["--method", "none"], "expected one of"),
    ],
)
def test_what_makes_no_sense_with_it_is_refused(more, said, good, tmp_path, capsys):
    assert fit(good, tmp_path / "model", *more) == 2
    assert said in capsys.readouterr().err
    assert sorted(one.name for one in tmp_path.iterdir()) == ["good"]


def test_a_model_is_judged_by_flaws_in_what_its_fit_held_back(good, tmp_path, monkeypatch):
    monkeypatch.setattr(choice, "DEFECTS", 6)
    assert main(["fit", str(good), "-o", str(tmp_path / "model"), "--preset", "tiny"]) == 0
    model, paths = load(tmp_path / "model", "cpu"), sorted(good.iterdir())
    first, again, other = (
        choice.defect_metrics(model, paths, seed, Terminal(True), "x") for seed in (0, 0, 1)
    )
    assert first == again != other
    assert all(0 <= one <= 1 for one in first.values())

    class Oracle:
        """Scores an image by what differs from the nearest good one."""

        def __getattr__(self, name):
            return getattr(model, name)

        def predict_batch(self, images):
            known = torch.stack([model.prepare(path) for path in paths])
            nearest = [known[int((one - known).abs().mean((1, 2, 3)).argmin())] for one in images]
            maps = (images - torch.stack(nearest)).abs().amax(1, keepdim=True)
            return Detection(maps.flatten(1).amax(1), maps, images, torch.zeros(len(images)))

    assert choice.defect_metrics(Oracle(), paths, 0, Terminal(True), "x")["image_auroc"] == 1
