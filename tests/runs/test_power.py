"""The share of synthetic defects that a threshold finds."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mendiff.calibration import Calibration
from mendiff.data.geometry import Geometry
from mendiff.data.images import save_png
from mendiff.methods.base import find_method
from mendiff.model import Model
from mendiff.runs import power
from mendiff.runs.power import Power, estimate_power, pixel_of, power_of
from mendiff.types import Detection

POWER = Power((3.0, 5.0, 8.0, 20.0, 24.0, 60.0), (1.0, 3.0, 1.5, 2.5, 4.0, 9.0))


def test_defects_are_found_whose_score_is_above_the_threshold():
    assert [POWER.found(limit) for limit in (0.0, 2.0, 4.0, 9.0)] == [6, 4, 1, 0]


def test_defects_are_counted_by_size_and_empty_groups_are_left_out():
    assert POWER.by_size(2.0) == [("below 8 px", 1, 2), ("8 to 24 px", 1, 2), ("above 24 px", 2, 2)]
    assert Power((3.0,), (1.0,)).by_size(0.5) == [("below 8 px", 1, 1)]


def test_the_sentence_states_all_counts():
    assert POWER.sentence(2.0) == (
        "finds 4 of 6 synthetic defects in held-back images (1 of 2 below 8 px, 1 of 2 8 to 24 px, "
        "2 of 2 above 24 px; px of the resized image)"
    )


@pytest.mark.parametrize(
    ("geometry", "text"),
    [
        (Geometry(32), "px of the resized image, 1 px = 1.41 px of the original"),
        (Geometry(16, letterbox=True), "px of the resized image, 1 px = 4 px of the original"),
        (Geometry(16, tile=16), "px of the original image"),
    ],
)
def test_the_sentence_states_what_a_pixel_is(geometry, text, tmp_path):
    places = [tmp_path / "a.png", tmp_path / "b.png", tmp_path / "c.png"]
    for place, width in zip(places, (64, 64, 65), strict=True):
        save_png(np.zeros((32, width), np.uint8), place)
    assert replace(POWER, pixel=pixel_of(geometry, places[:2])).sentence(2.0).endswith(f"; {text})")
    assert pixel_of(geometry, places) == 0


def test_a_model_folder_states_its_power_or_has_none():
    assert power_of({"power": POWER.to_dict()}) == POWER
    assert power_of({"power": {"diameters": [3.0], "scores": [1.0]}}) == Power((3.0,), (1.0,))
    assert power_of({}) is None


@pytest.fixture
def model(tiny_config):
    method = find_method("ran")(tiny_config("ran"))
    return Model("ran", method.eval(), Calibration((0.1, 0.2)), {})


def test_defects_are_those_of_the_images_that_are_given_and_the_same_every_time(model, monkeypatch, rng):
    shown = []

    def scored(batches, explain):
        for batch in batches:
            shown.append(batch)
            yield Detection(batch.flatten(1).mean(1), batch[:, :1], batch, torch.zeros(len(batch)))

    monkeypatch.setattr(model, "predict_batches", scored)
    monkeypatch.setattr(power, "BATCH", 3)
    monkeypatch.setattr(power, "PER_IMAGE", 4)
    images = [torch.rand(3, 32, 32, generator=rng) for _ in range(2)]
    steps = []
    first = estimate_power(model, images, lambda title, done, total, note: steps.append((done, total)))
    again = estimate_power(model, images, lambda *_: None)

    assert first == again
    assert len(first.scores) == len(first.diameters) == 2 * power.PER_IMAGE
    assert steps == [(1, 3), (2, 3), (3, 3)]
    for number, image in enumerate(torch.cat(shown[:3])):
        changed = (image - images[number % 2]).abs().amax(0) > 1 / 255
        assert 0 < changed.float().mean() < 0.5
