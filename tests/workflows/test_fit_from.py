"""`mendiff fit --from`: a fitted model goes on with good images of a new variant."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import mendiff
from mendiff.anomalib_models import GoodImages, training
from mendiff.checkpoints.provenance import fitted_of
from mendiff.checkpoints.store import save
from mendiff.data.inspected import InspectedArea
from tests.commands import RAN, settings

pytestmark = pytest.mark.filterwarnings(r"ignore:::lightning\..*")

COLOURS = {"grey": (120, 120, 120), "green": (40, 150, 70)}


def draw_plates(folder, count, colour, seed, defect=0):
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for index in range(count):
        image = np.asarray(colour, np.uint8) + rng.integers(0, 20, (40, 40, 3), dtype=np.uint8)
        image[8 : 8 + defect, 8 : 8 + defect] = 255
        Image.fromarray(image).save(folder / f"{seed}-{index}.png")
    return folder


def fitted(root, *words):
    """A model of the grey plates."""
    pairs = dict(word.split("=", 1) for word in words if "=" in word)
    options = {"method": words[1]} if words[0] == "--method" else {}
    changes = {key: yaml.safe_load(value) for key, value in pairs.items()}
    return mendiff.fit(root / "grey/good", root / "model", settings=changes, false_alarm_rate=0.02, **options)


@pytest.fixture(scope="module")
def plates(tmp_path_factory):
    """Good and defective plates of two colours, and a model of the grey ones."""
    root = tmp_path_factory.mktemp("variants")
    for seed, (name, colour) in enumerate(COLOURS.items()):
        draw_plates(root / name / "good", 12 - 4 * seed, colour, 10 * seed)
        draw_plates(root / name / "new", 6, colour, 10 * seed + 1)
        draw_plates(root / name / "bad", 6, colour, 10 * seed + 2, defect=8)
    fitted(root, *settings(training__steps=20, readout__bank_shares="[0.5]"))
    return root


@pytest.fixture
def words(plates, tmp_path):
    """The command that goes on from the model of the grey plates with green ones."""
    start = ("--from", plates / "model", "--old", plates / "grey/good")
    return ("fit", plates / "green/good", *start, "-o", tmp_path / "model-2")


def flagged(folder, images):
    return int(mendiff.load(folder).predict(sorted(images.iterdir())).defective.sum())


def seeds(folder):
    return {identity.seed for identity in GoodImages(sorted(folder.iterdir()), 32).identities}


@pytest.mark.parametrize("more", [(), ("--steps", "0")])
def test_parts_of_a_new_variant_pass_and_defects_of_both_are_found(run, plates, words, tmp_path, more):
    assert flagged(plates / "model", plates / "grey/new") == 0
    assert flagged(plates / "model", plates / "green/new") == 6
    code, _, err = run(*words, *more)
    assert code == 0, err
    assert f"glad (tiny) from {plates / 'model'}: 12 old and 8 new good images of good, 32 pixels, " in err
    assert ("networks unchanged" if more else "2 steps on cpu") in err  # a tenth of the model's 20
    for colour in COLOURS:
        assert flagged(tmp_path / "model-2", plates / colour / "new") == 0
        assert flagged(tmp_path / "model-2", plates / colour / "bad") == 6

    old, new = mendiff.load(plates / "model"), mendiff.load(tmp_path / "model-2")
    before, after = old.method.state_dict(), new.method.state_dict()
    trained = [name for name in before if not old.method.is_statistic(name)]
    assert all(torch.equal(before[name], after[name]) for name in trained) == bool(more)
    assert new.method.config == old.method.config
    assert new.calibration.false_alarm_rate == 0.02
    assert new.info["started_from"] == {"old": 12, "new": 8}
    assert new.info["steps"] == (0 if more else 2)
    assert list(fitted_of(new.info).files) == ["model"]
    told = run("info", tmp_path / "model-2")[1].replace("│", " ")
    assert "with 12 old and 8 new images" in " ".join(told.split())


def test_no_training_image_of_the_model_is_held_back_and_some_of_the_new_are(run, plates, words, tmp_path):
    assert run(*words, "--steps", "0")[0] == 0
    before = set(fitted_of(mendiff.load(plates / "model").info).held_back)
    after = set(fitted_of(mendiff.load(tmp_path / "model-2").info).held_back)
    assert before <= after
    assert (after - before) <= seeds(plates / "green/good")
    assert len(after - before) == 4


def test_a_model_that_went_on_can_go_on(run, plates, words, tmp_path):
    assert run(*words, "--steps", "0")[0] == 0
    more = draw_plates(tmp_path / "more", 4, (150, 60, 60), 30)
    (tmp_path / "old").mkdir()
    for colour in COLOURS:
        shutil.copytree(plates / colour / "good", tmp_path / "old" / colour)
    model = mendiff.fit(more, from_model=tmp_path / "model-2", old=tmp_path / "old")
    assert model.info["started_from"] == {"old": 20, "new": 4}
    assert model.info["steps"] == 2


def test_an_interrupted_training_is_resumed(run, plates, words, tmp_path, monkeypatch):
    words = (*words, "--steps", "4", "--json")
    assert run(*words)[0] == 0
    whole = mendiff.load(tmp_path / "model-2")
    shutil.rmtree(tmp_path / "model-2")
    check, steps = training._Watcher.on_train_batch_end, []

    def interrupted(watcher, trainer, *others):
        check(watcher, trainer, *others)
        steps.append(trainer.global_step)
        if steps == [1, 2]:
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(training._Watcher, "on_train_batch_end", interrupted)
    assert run(*words)[0] == 130
    code, _, err = run(*words, "--resume")
    assert code == 0, err
    assert steps == [1, 2, 3, 4]
    resumed = mendiff.load(tmp_path / "model-2").method.state_dict()
    assert all(torch.equal(one, resumed[name]) for name, one in whole.method.state_dict().items())


def test_exchanged_and_other_images_are_no_continuation(run, plates, words, tmp_path, monkeypatch):
    check = training._Watcher.on_train_batch_end

    def interrupted(*arguments):
        check(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(training._Watcher, "on_train_batch_end", interrupted)
    old = shutil.copytree(plates / "grey/good", tmp_path / "grey")
    words = [old if word == plates / "grey/good" else word for word in words]
    assert run(*words)[0] == 130
    exchanged = [{plates / "green/good": old, old: plates / "green/good"}.get(word, word) for word in words]
    code, _, err = run(*exchanged, "--resume")
    assert code == 2
    assert "but DATA and the images of --old are exchanged; give the same inputs" in err
    next(iter(old.iterdir())).unlink()
    code, _, err = run(*words, "--resume")
    assert code == 2
    assert "inputs of the interrupted training, but old.grey has changed; give the same inputs" in err


def test_the_scales_that_ran_was_trained_with_stay(plates, tmp_path):
    shutil.copytree(plates / "grey/good", tmp_path / "grey/good")
    old = fitted(tmp_path, *RAN)
    model = mendiff.fit(plates / "green/good", from_model=tmp_path / "model", old=tmp_path / "grey/good")
    assert model.info["started_from"] == {"old": 12, "new": 8}
    for name in ("target_whitening", "contrast"):
        kept, now = (getattr(one.method, name).state_dict() for one in (old, model))
        assert all(torch.equal(kept[key], now[key]) for key in kept)


def test_the_inspected_area_stays(plates, tmp_path):
    mask = np.zeros((40, 40), bool)
    mask[:, :20] = True
    model = replace(mendiff.load(plates / "model"), area=InspectedArea(mask))
    save(tmp_path / "model", model.name, model.method, model.calibration, model.info, area=model.area)
    options = {"from_model": tmp_path / "model", "old": plates / "grey/good", "steps": 0}
    assert (mendiff.fit(plates / "green/good", **options).area.mask == mask).all()


def test_images_of_another_fit_are_refused_as_the_old_ones(refused, run, plates, words):
    words = [plates / "grey/new" if word == plates / "grey/good" else word for word in words]
    sentence = refused(*words)
    assert (
        f"--old: expected the good images from which {plates / 'model'} was fitted, but only 0 of" in sentence
    )


def test_old_images_alone_are_refused(refused, plates, words):
    words = [plates / "grey/good" if word == plates / "green/good" else word for word in words]
    assert "expected at least 2 different good images that are not among those of --old, got 0" in refused(
        *words
    )


def test_old_images_and_the_model_are_needed_together(refused, plates, words):
    assert "--from: expected --old with the good images from which" in refused(*words[:4], *words[6:])
    assert "--old: expected --from with it" in refused(*words[:2], *words[4:])


@pytest.mark.parametrize(
    ("option", "text"),
    [
        (("--method", "ran"), "--method: expected no value with --from, which keeps that of the model"),
        (("--preset", "auto"), "--preset: expected no value with --from"),
        (("--bit-depth", "12"), "--bit-depth: expected no value with --from"),
        (
            ("--set", "readout.bank_size=9"),
            "--set readout.bank_size: expected a field of training with --from",
        ),
        (("--steps", "-1"), "--steps: expected at least 0, got -1"),
    ],
)
def test_what_the_model_determines_is_refused(refused, words, option, text):
    assert text in refused(*words, *option)


def test_models_without_a_list_of_held_back_images_are_refused(refused, plates, words, tmp_path):
    model = mendiff.load(plates / "model")
    del model.info["fitted"]
    model.save(tmp_path / "old-model")
    words = [tmp_path / "old-model" if word == plates / "model" else word for word in words]
    assert "expected a model of mendiff fit for --from, which lists its held-back images" in refused(*words)


def test_models_with_statistics_per_category_are_refused(refused, plates, words, tmp_path):
    model = mendiff.load(plates / "model")
    save(tmp_path / "own", model.name, model.method, model.calibration, model.info, [("good", model)])
    words = [tmp_path / "own" if word == plates / "model" else word for word in words]
    assert "expected a model with common statistics for --from" in refused(*words)
