"""The package from Python: check, fit, evaluate, tune and benchmark as functions."""

import html
import logging
import shutil

import numpy as np
import pytest
import torch

import mendiff
from mendiff.data.images import save_png, to_picture
from mendiff.methods.glad import Glad
from mendiff.runs.reporting import Reporter
from mendiff.workflows import tune as tuning
from tests.networks import SMALL_UNET

SMALL = {
    "image_size": 32,
    "crop": 0,
    "codec.factor": 4,
    "training.steps": 2,
    "readout.bank_size": 200,
    "readout.enlarge": 0,
    "denoiser.network": SMALL_UNET,
}


@pytest.fixture(scope="module")
def part(tmp_path_factory, pictures):
    """A category with 14 good images, and two good and two defective test images."""
    root = tmp_path_factory.mktemp("data") / "plate"
    for index in range(14):
        save(pictures[index % 4] * (1 - 0.02 * index), root / f"train/good/{index}.png")
    for index in range(2):
        save(pictures[index] * 0.9, root / f"test/good/{index}.png")
        broken = pictures[index].clone()
        broken[:, 8:20, 8:20] = 1 - broken[:, 8:20, 8:20]
        save(broken, root / f"test/bent/{index}.png")
        mask = torch.zeros(3, 32, 32)
        mask[:, 8:20, 8:20] = 1
        save(mask, root / f"ground_truth/bent/{index}_mask.png")
    return root


def save(image, place):
    place.parent.mkdir(parents=True, exist_ok=True)
    save_png(to_picture(image), place)


@pytest.fixture(scope="module")
def model(part):
    return mendiff.fit(part, settings=SMALL)


def test_check_tells_what_the_command_tells_and_shows_it(part, tmp_path):
    part = shutil.copytree(part, tmp_path / "plate")
    (part / "ground_truth/bent/1_mask.png").unlink()
    found = mendiff.check(part, tmp_path / "checked")
    (written,) = found.categories
    assert (written["name"], written["train"], written["masks"]) == ("plate", 14, 1)
    (fault,) = found.faults
    assert fault.paths == (part / "test/bent/1.png", part / "ground_truth/bent/1_mask.png")
    assert fault in found.findings
    assert html.escape(fault.sentence) in found._repr_html_()
    assert (tmp_path / "checked/check.json").is_file()


def test_images_and_masks_are_read_from_the_front(part):
    assert mendiff.read_image(part / "test/bent/0.png").shape == (32, 32, 3)
    assert mendiff.read_mask(part / "ground_truth/bent/0_mask.png").sum() == 12 * 12


def test_fit_gives_a_model_that_predicts_and_is_kept_where_it_is_saved(model, part, tmp_path):
    found = model.predict([part / "test/bent/0.png"])
    assert found.score.shape == (1,)
    model.save(tmp_path / "kept")
    again = mendiff.load(tmp_path / "kept").predict([part / "test/bent/0.png"])
    assert torch.equal(again.score, found.score)


def test_fit_writes_the_folder_that_was_asked_for_and_is_the_fit_of_the_command(model, part, tmp_path):
    written = mendiff.fit(str(part), tmp_path / "model", settings=SMALL)
    assert (tmp_path / "model/config.json").is_file()
    assert written.threshold == model.threshold


def test_evaluation_holds_metrics_by_category_and_shows_them_as_a_table(model, part):
    found = mendiff.evaluate(model, part, controls=True)
    assert set(found.categories) == {"plate"}
    assert 0 <= found.mean["image_auroc"] <= 1
    assert set(found.controls) == {"median colour", "memory bank", "untrained"}
    shown = found._repr_html_()
    assert f"{found.categories['plate']['image_auroc']:.3f}" in shown
    assert shown.count("<tr>") == 2


def test_tune_gives_a_model_and_all_trials(model, part, monkeypatch):
    monkeypatch.setattr(Glad, "SEARCHED", {"start_timesteps": [[900]]})
    monkeypatch.setattr(tuning, "FEWEST", 4)
    tuned = mendiff.tune(model, part, repetitions=2)
    assert [one["value"] for one in tuned.trials] == [[50, 200], [900]]
    assert tuned.changes in ({}, {"start_timesteps": [900]})
    assert tuned.model.info["tuned"] == tuned.changes
    assert tuned.model.predict(part / "train/good/0.png").score.isfinite().all()


def test_tune_needs_six_held_back_images(model, part):
    with pytest.raises(mendiff.InputError, match="at least 6 held-back good images"):
        mendiff.tune(model, part)


def test_benchmark_gives_figures_and_tables(part, tmp_path, one_process):
    found = mendiff.benchmark(part.parent, tmp_path / "runs", methods=["median-colour"])
    assert {one["label"] for one in found.figures} == {"median-colour"}
    assert all(place.is_file() for place in found.tables)
    assert "median-colour" in found._repr_html_()


def test_what_is_no_option_is_named(part):
    with pytest.raises(mendiff.InputError, match="stepz: expected one of the options"):
        mendiff.fit(part, stepz=3)


def test_progress_goes_to_a_reporter_and_news_to_logging(part, caplog):
    class Counter(Reporter):
        def __init__(self):
            self.titles = []

        def bar(self, title):
            self.titles.append(title)
            return super().bar(title)

    counter = Counter()
    with caplog.at_level(logging.INFO, "mendiff"):
        mendiff.fit(part, settings=SMALL, reporter=counter)
    assert "fitting: steps" in counter.titles
    assert "fitting statistics: batches" in counter.titles
    assert any("threshold" in one for one in caplog.messages)


def test_arrays_are_judged_as_the_files_they_came_from(model, part):
    from PIL import Image

    place = part / "test/bent/0.png"
    array = np.asarray(Image.open(place))
    torch.testing.assert_close(model.predict(array).score, model.predict(place).score)
