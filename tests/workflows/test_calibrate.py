"""`mendiff calibrate` and the false-alarm rate: what is kept, what changes, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import mendiff
from mendiff.calibration import Calibration
from mendiff.checkpoints import store
from mendiff.checkpoints.model_folder import categories_of
from mendiff.cli import main
from mendiff.cli.terminal import Terminal
from mendiff.data.images import resize, save_png
from mendiff.data.reading import read_image
from mendiff.diffusion.random import content_seeds
from mendiff.model import Model
from mendiff.runs.common import MOST_WARNINGS
from mendiff.runs.thresholds import warn_of_outliers

SIDE = 32


def draw(folder, count, seed=0, defect=False):
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for number in range(count):
        image = np.full((SIDE, SIDE, 3), 120, np.uint8) + rng.integers(0, 20, (SIDE, SIDE, 3), dtype=np.uint8)
        if defect:
            image[8:20, 8:20] = 255
        save_png(image, folder / f"{number}.png")
    return folder


@pytest.fixture
def fresh(tmp_path):
    return draw(tmp_path / "fresh", 6)


@pytest.fixture
def fitted(tiny_method, tmp_path):
    """A model folder with made-up scores, one threshold for all."""
    return written(tmp_path / "model", tiny_method(), {"images": 9})


@pytest.fixture
def categories(tiny_method, tmp_path):
    """A model folder with statistics of their own for bolts and nuts."""
    method, own = tiny_method(), []
    for number, name in enumerate(("bolts", "nuts")):
        other = tiny_method()
        with torch.no_grad():
            next(other.buffers()).add_(number + 1)
        own.append((name, Model("glad", other, Calibration((2.0 + number, 3.0, 4.0), (5.0, 6.0, 7.0)), {})))
    return written(tmp_path / "model", method, {"images": 9}, own)


def written(folder, method, info, own=()):
    store.save(folder, "glad", method, Calibration((1.0, 1.1, 1.3, 1.2), (2.0, 2.1, 2.2, 2.3)), info, own)
    return folder


@pytest.fixture
def run(capsys):
    """Run a command line; gives (code, standard output, standard error)."""

    def go(*words):
        capsys.readouterr()
        code = main([str(word) for word in words])
        return code, *capsys.readouterr()

    return go


def tensors(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.safetensors")}


def test_new_scores_come_from_the_images_and_nothing_else_changes(run, fitted, fresh, tmp_path):
    before = {path: path.read_bytes() for path in fitted.rglob("*") if path.is_file()}
    code, out, err = run("calibrate", fitted, fresh, "-o", tmp_path / "new", "--json", "--device", "cpu")
    assert code == 0, err
    made, old = mendiff.load(tmp_path / "new"), mendiff.load(fitted)
    assert tensors(tmp_path / "new") == tensors(fitted)
    found = old.predict(sorted(fresh.iterdir()))
    assert made.calibration.scores == tuple(found.score.tolist())
    assert made.calibration.pixel_scores == tuple(found.anomaly_map.flatten(1).amax(1).tolist())
    assert made.calibration.false_alarm_rate == old.calibration.false_alarm_rate
    result = json.loads(out)
    assert result["threshold"] == made.threshold
    assert (result["images"], made.info["calibrated"]["images"]) == (6, 6)
    assert before == {path: path.read_bytes() for path in fitted.rglob("*") if path.is_file()}


def test_a_rate_alone_keeps_the_scores(run, fitted, tmp_path):
    code, _, err = run("calibrate", fitted, "-o", tmp_path / "new", "--false-alarm-rate", "0.001")
    assert code == 0
    made, old = mendiff.load(tmp_path / "new"), mendiff.load(fitted)
    assert made.calibration == replace(old.calibration, false_alarm_rate=0.001)
    assert made.threshold > old.threshold
    assert "the false-alarm rate of 0.1 % is extrapolated and may be several times as high; about 999" in err


def test_images_and_a_rate_go_together(run, fitted, fresh, tmp_path):
    assert run("calibrate", fitted, fresh, "-o", tmp_path / "new", "--false-alarm-rate", "0.2")[0] == 0
    made = mendiff.load(tmp_path / "new").calibration
    assert (made.false_alarm_rate, len(made.scores)) == (0.2, 6)


def test_categories_keep_their_thresholds_unless_there_are_images_of_theirs(run, categories, tmp_path):
    draw(tmp_path / "data/nuts/train/good", 3, seed=1)
    draw(tmp_path / "data/washers/train/good", 3, seed=2)
    words = ("calibrate", categories, tmp_path / "data", "-o", tmp_path / "new", "--device", "cpu")
    code, _, err = run(*words, "--false-alarm-rate", "0.05")
    assert code == 0, err
    assert "note: the model has no separate threshold for washers, only for bolts, nuts." in err
    assert categories_of(tmp_path / "new") == ["bolts", "nuts"]
    new, old = (
        {name: mendiff.load(folder, category=name) for name in (None, "bolts", "nuts")}
        for folder in (tmp_path / "new", categories)
    )
    assert len(new[None].calibration.scores) == 6
    assert new["bolts"].calibration == replace(old["bolts"].calibration, false_alarm_rate=0.05)
    nuts = sorted((tmp_path / "data/nuts/train/good").iterdir())
    assert new["nuts"].calibration.scores == tuple(old["nuts"].predict(nuts).score.tolist())
    assert tensors(tmp_path / "new") == tensors(categories)


def test_predict_and_evaluate_take_a_rate_for_one_run(run, fitted, fresh, tmp_path):
    before = (fitted / "calibration.json").read_bytes()
    strict = mendiff.load(fitted).with_false_alarm_rate(0.3).threshold
    words = ("--false-alarm-rate", "0.3", "--json", "--device", "cpu")
    code, out, _ = run("predict", fitted, fresh, "-o", tmp_path / "out", *words)
    assert code == 0
    assert json.loads(out)["threshold"] == strict
    root = tmp_path / "data/part"
    draw(root / "train/good", 2)
    draw(root / "test/good", 2, seed=3)
    draw(root / "test/spot", 2, seed=4, defect=True)
    code, out, _ = run("evaluate", fitted, root, *words)
    assert code == 0
    assert json.loads(out)["at_threshold"]["part"]["threshold"] == strict
    assert (fitted / "calibration.json").read_bytes() == before


def test_images_of_the_fit_are_refused_but_those_it_held_back_alone_are_not(
    run, tiny_method, fresh, tmp_path
):
    paths = sorted(fresh.iterdir())
    seeds = [int(content_seeds(resize(read_image(path), SIDE)[None])) for path in paths]
    model = written(tmp_path / "model", tiny_method(), {"fitted": known(seeds[:2])})
    code, _, err = run("calibrate", model, fresh, "-o", tmp_path / "new")
    assert code == 2
    assert "2 of these 6 are held-back images of the model's fit" in err
    assert not (tmp_path / "new").exists()
    for path in paths[2:]:
        path.unlink()
    assert run("calibrate", model, fresh, "-o", tmp_path / "new")[0] == 0


def known(held_back):
    return {"held_back": held_back, "data": "", "images": 6, "image_size": SIDE}


def test_good_images_that_stand_out_are_named_a_few_by_a_warning_each(capsys):
    sound = np.random.default_rng(0).normal(10, 1, 57).tolist()
    paths = [Path(f"{number}.png") for number in range(64)]
    names = warn_of_outliers(
        Calibration((*sound, *(90.0 - number for number in range(7)))), paths, Terminal()
    )
    assert names == [f"{number}.png" for number in range(57, 64)]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == MOST_WARNINGS + 1
    assert lines[0].startswith(
        "warning: 57.png: outlier among the good images (score 90, highest of the others"
    )
    assert lines[-1] == "warning: 2 more outliers among the good images: see standing_out with --json."
    assert warn_of_outliers(Calibration(tuple(sound)), paths, Terminal()) == []
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "expected good images, or --false-alarm-rate to change only the rate, got neither"),
        (
            ("--false-alarm-rate", "0"),
            "--false-alarm-rate: expected a share between 0 and 1, such as 0.01, got 0.",
        ),
        (("--false-alarm-rate", "1.5"), "--false-alarm-rate: expected a share between 0 and 1"),
        (("--batch-size", "0", "--false-alarm-rate", "0.1"), "--batch-size: expected at least 1, got 0"),
    ],
)
def test_calibrate_refuses(run, fitted, tmp_path, words, sentence):
    code, out, err = run("calibrate", fitted, "-o", tmp_path / "new", *words)
    assert (code, out) == (2, "")
    assert sentence in err
    assert not (tmp_path / "new").exists()


def test_calibrate_needs_two_different_images_and_a_folder_of_its_own(run, fitted, fresh, tmp_path):
    for path in sorted(fresh.iterdir())[1:]:
        path.write_bytes((fresh / "0.png").read_bytes())
    code, _, err = run("calibrate", fitted, fresh, "-o", tmp_path / "new")
    assert code == 2
    assert "expected at least 2 different good images, got 1" in err
    words = ("calibrate", fitted, "-o", fitted, "--overwrite", "--false-alarm-rate", "0.1")
    assert "expected another folder than the model's" in run(*words)[2]


@pytest.mark.parametrize("command", ["fit", "predict", "evaluate"])
def test_other_commands_refuse_a_rate_that_is_none(run, fitted, fresh, tmp_path, command):
    first = (fresh,) if command == "fit" else (fitted, fresh)
    code, _, err = run(command, *first, "-o", tmp_path / "new", "--false-alarm-rate", "2")
    assert code == 2
    assert "--false-alarm-rate: expected a share between 0 and 1, such as 0.01, got 2." in err


# From Python.


def test_a_model_can_be_saved_with_another_rate(fitted, tmp_path):
    model = mendiff.load(fitted)
    model.with_false_alarm_rate(0.2).save(tmp_path / "one")
    model.calibration = replace(model.calibration, false_alarm_rate=0.2)
    model.save(tmp_path / "two")
    for name in ("one", "two"):
        saved = mendiff.load(tmp_path / name)
        assert saved.calibration == model.calibration
        assert saved.info == model.info
        assert tensors(tmp_path / name) == tensors(fitted)


@pytest.mark.parametrize("category", [None, "nuts"])
def test_saving_keeps_the_categories_of_the_folder(categories, tmp_path, category):
    mendiff.load(categories, category=category).with_false_alarm_rate(0.2).save(tmp_path / "new")
    assert tensors(tmp_path / "new") == tensors(categories)
    for name in (None, "bolts", "nuts"):
        old, new = (mendiff.load(folder, category=name) for folder in (categories, tmp_path / "new"))
        assert new.calibration == replace(old.calibration, false_alarm_rate=0.2)


def test_calibrating_anew_keeps_the_rate(fitted, pictures):
    model = mendiff.load(fitted).with_false_alarm_rate(0.2)
    assert model.calibrated(list(pictures)).calibration.false_alarm_rate == 0.2


def test_training_images_left_out_of_the_statistics_join_the_held_back_images(fitted, pictures):
    made = mendiff.load(fitted).calibrated(pictures[:1], pictures[1:])
    assert (len(made.calibration.scores), made.calibration.left_out, made.calibration.seen) == (4, 3, 0)
    assert made.predict(pictures[0]).score.tolist() == [made.calibration.scores[0]]
    # Without themselves in the statistics, images score higher.
    plain = made.predict(pictures[1:]).score.tolist()
    assert all(own < alone for own, alone in zip(plain, made.calibration.scores[1:], strict=True))


def test_training_images_that_score_lower_are_no_part_of_the_threshold(fitted, pictures, monkeypatch):
    monkeypatch.setattr("mendiff.methods.calibrate.are_lower", lambda scores, others: True)
    made = mendiff.load(fitted).calibrated(pictures[:2], pictures[2:])
    assert (len(made.calibration.scores), made.calibration.left_out, made.calibration.lower) == (2, 0, 2)
    note = "from 2 held-back images (2 training images score lower and are not used): the"
    assert note in made.calibration.worth
    # A single held-back image gives no threshold: training images join it as they are.
    alone = mendiff.load(fitted).calibrated(pictures[:1], pictures[1:])
    assert (len(alone.calibration.scores), alone.calibration.seen, alone.calibration.lower) == (4, 3, 0)
