"""Distillation of a fitted model into one that samples in few steps; networks here are random and small."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from mendiff.calibration import Calibration
from mendiff.checkpoints.store import load, save
from mendiff.cli import main
from mendiff.model import Model
from mendiff.training.split import held_back_and_seen
from mendiff.workflows import distill

SEARCH = {
    "start_timesteps": (600,),
    "sampler_steps": 4,
    "adaptive": True,
    "min_timestep": 200,
    "training.steps": 9,
    "training.batch_size": 2,
    "readout.bank_shares": (),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Twelve striped pictures, of which four are held back."""
    folder, rng = tmp_path_factory.mktemp("good"), np.random.default_rng(0)
    for number in range(12):
        image = np.full((32, 32, 3), 120, np.uint8) + rng.integers(0, 9, (32, 32, 3), dtype=np.uint8)
        image[:, ::8] += 60
        Image.fromarray(image).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def teacher(tiny_method, good, tmp_path_factory):
    model = Model("glad", tiny_method("glad", SEARCH), Calibration((1.0, 2.0)), {"preset": "small"})
    model = model.calibrated(*held_back_and_seen([model.prepare(path) for path in sorted(good.iterdir())]))
    folder = tmp_path_factory.mktemp("teacher") / "model"
    save(folder, model.name, model.method, model.calibration, model.info)
    return folder


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(distill, "PROBES", 6)
    monkeypatch.setattr(distill, "TIMED", 1)


def test_a_student_samples_in_few_steps_and_is_compared_with_its_teacher(teacher, good, tmp_path, capsys):
    assert main(["distill", str(teacher), str(good), "-o", str(tmp_path / "fast"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "fast/distillation.json").read_text())["rows"] == result["rows"]
    assert [row["model"] for row in result["rows"]] == ["teacher", "teacher in few steps", "distilled"]
    assert result["rows"][0]["psnr"] is None
    assert result["rows"][1]["psnr"] != result["rows"][2]["psnr"]
    student, old = load(tmp_path / "fast/model"), load(teacher)
    assert (student.method.config.adaptive, student.method.config.sampler_steps) == (False, 2)
    assert student.method.config.start_timesteps == (result["start_timestep"],)
    assert result["steps"] == 3
    assert student.info["distilled"] == {
        "sampler_steps": 2,
        "start_timestep": result["start_timestep"],
        "steps": 3,
    }
    before, after = (dict(one.method.named_parameters()) for one in (old, student))
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"denoiser"}
    assert not (tmp_path / ".fast.fit").exists()


def test_an_interrupted_distillation_resumes_to_the_same_model(teacher, good, tmp_path, monkeypatch):
    from mendiff.training import loop

    words = ["distill", str(teacher), str(good), "--steps", "4", "--sampler-steps", "1", "-o"]
    assert main([*words, str(tmp_path / "whole")]) == 0
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    written, descend = loop.save_checkpoint, []

    def stop_after_two(checkpoint, learners, step, metadata=None):
        written(checkpoint, learners, step, metadata)
        descend.append(step)
        if step == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save_checkpoint", stop_after_two)
    assert main([*words, str(tmp_path / "parts")]) == 130
    monkeypatch.setattr(loop, "save_checkpoint", written)
    assert main([*words, str(tmp_path / "parts"), "--resume"]) == 0
    whole, parts = (load(tmp_path / name / "model").method.state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize(
    ("name", "changes", "sentence"),
    [
        ("ran", {}, "expected a GLAD model, got ran"),
        ("glad", {}, "expected several sampler steps from a single start timestep"),
        ("glad", {**SEARCH, "resize": "letterbox"}, "expected a model of whole square images"),
    ],
)
def test_models_that_cannot_be_distilled_are_refused(
    name, changes, sentence, tiny_method, good, tmp_path, capsys
):
    model = Model(name, tiny_method(name, changes), Calibration((1.0, 2.0), (1.0, 2.0)), {})
    save(tmp_path / "model", model.name, model.method, model.calibration, model.info)
    assert main(["distill", str(tmp_path / "model"), str(good), "-o", str(tmp_path / "fast")]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "fast").exists()


def test_the_student_starts_where_the_search_typically_stops(teacher, good):
    model = load(teacher)
    images = torch.stack([model.prepare(path) for path in sorted(good.iterdir())[:3]])
    assert distill._typical_stop(model, images) in (150, 300, 450, 600)
