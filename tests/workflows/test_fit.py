"""`mendiff fit`: what it writes and says, and which images it takes."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mendiff
from mendiff.anomalib_models import GoodImages
from mendiff.runs.locks import exclusive_output
from mendiff.training.split import choose
from tests.commands import DIAD, METRICS, RAN, TOLD, draw, picture, settings

pytestmark = pytest.mark.filterwarnings(r"ignore:::lightning\..*")


def test_fit_and_evaluate_take_a_list_of_folders(run, data, tmp_path):
    (tmp_path / "parts.yaml").write_text(
        f"plate: {{train: {data}/train/good, good: {data}/test/good, defective: {data}/test/scratch, "
        f"masks: {data}/ground_truth}}"
    )
    code, out, err = run("fit", tmp_path / "parts.yaml", "-o", tmp_path / "model", "--json", *settings())
    assert code == 0, err
    assert json.loads(out)["categories"] == ["plate"]
    listed = run("evaluate", tmp_path / "model", tmp_path / "parts.yaml", "--json")
    assert listed == run("evaluate", tmp_path / "model", data, "--json", "--layout", "mvtec")
    assert listed[0] == 0


def test_a_second_fit_into_a_place_is_refused_while_the_first_runs(refused, data, tmp_path):
    with exclusive_output(tmp_path / "model", "training"):
        sentence = refused("fit", data, "-o", tmp_path / "model", *settings())
        assert "another training into this folder is running; wait for its end" in sentence
        for command in ("fit-codec", "fit-features", "benchmark", "demo"):
            words = ("--model", tmp_path) if command == "fit-features" else ()
            data_of = () if command == "demo" else (data,)
            assert "into this folder is running" in refused(
                command, *data_of, "-o", tmp_path / "model", *words
            )


def test_a_model_folder_that_comes_up_during_a_fit_stays_and_the_model_too(run, data, tmp_path, monkeypatch):
    from mendiff.runs import by_category

    out, save = tmp_path / "model", by_category.save

    def meanwhile(*args):
        out.mkdir()
        (out / "mine").write_text("mine")
        save(*args)

    monkeypatch.setattr(by_category, "save", meanwhile)
    code, _, err = run("fit", data, "-o", out, "--json", *settings())
    assert code == 2
    assert err.endswith(f"the result (a model) is in {tmp_path / 'model-2'}.\n")
    assert (out / "mine").read_text() == "mine"
    assert mendiff.load(tmp_path / "model-2").info["images"] == 9
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cwd", "model", "model-2"]


def test_fit_writes_a_model_and_says_so(run, data, tmp_path):
    code, out, err = run("fit", data / "train/good", "-o", tmp_path / "model", *settings())
    assert (code, out) == (0, "")
    assert "9 good images of good, 32 pixels, 2 steps on cpu" in err
    assert f"model: {tmp_path / 'model'}" in err
    assert re.search(r"power: the threshold finds \d+ of \d+ synthetic defects in held-back images \(", err)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cwd", "model"]


def test_fit_needs_images(run, refused, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "no images found" in refused("fit", tmp_path / "empty", "-o", tmp_path / "m", *settings())
    assert "no such folder" in refused("fit", tmp_path / "none", "-o", tmp_path / "m", *settings())
    one = draw(tmp_path / "one", 1)
    sentence = refused("fit", one, "-o", tmp_path / "m", *settings())
    assert "expected at least 2 good images, for training and for the threshold, got 1" in sentence
    shutil.copy(one / "0.png", one / "same.png")
    code, _, err = run("fit", one, "-o", tmp_path / "m", *settings())
    assert code == 2
    assert "expected at least 2 different good images" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cwd", "empty", "one"]


FEW = "from 2 good images, 1 of which are training images"
ROUGH = "extrapolated and may be several times as high"
LEFT_OUT = "training images that were left out of the statistics"


@pytest.mark.parametrize(
    ("method", "count", "words"),
    [
        ("ran", 2, f"{FEW}: the false-alarm rate of 1 % is a guess"),
        (
            "ran",
            3,
            "from 3 good images, 2 of which are training images: the false-alarm rate of 1 % is a guess",
        ),
        ("ran", 7, "from 3 held-back images: the false-alarm rate of 1 % is a guess"),
        ("glad", 2, f"{FEW}: the false-alarm rate of 1 % is a guess"),
        ("glad", 3, f"from 1 held-back image and 2 {LEFT_OUT}: the false-alarm rate of 1 % is a guess"),
        ("glad", 5, f"from 2 held-back images and 3 {LEFT_OUT}: the false-alarm rate of 1 % is {ROUGH}"),
    ],
)
def test_few_images_are_fitted_with_one_word_of_what_the_threshold_is_worth(
    run, tmp_path, method, count, words
):
    few = draw(tmp_path / "few", count)
    chosen = RAN if method == "ran" else settings()
    code, out, err = run("fit", few, "-o", tmp_path / "model", "--json", *chosen)
    assert code == 0, err
    assert words in json.loads(out)["worth"]
    assert err.count("warning:") == 1
    assert words in err
    assert words in " ".join(run("info", tmp_path / "model")[1].replace("│", " ").split())
    assert mendiff.load(tmp_path / "model").predict(sorted(few.iterdir())).score.isfinite().all()


def test_fit_says_that_a_rate_is_extrapolated_and_keeps_the_one_that_was_asked_for(run, data, tmp_path):
    words = ("--false-alarm-rate", "0.05", *settings())
    code, out, err = run("fit", data, "-o", tmp_path / "model", *words)
    assert (code, out) == (0, "")
    assert (
        "warning: threshold from 4 held-back images (5 training images score lower and are not used)" in err
    )
    assert f"the false-alarm rate of 5 % is {ROUGH}; about 19 images are needed to measure it" in err
    model = mendiff.load(tmp_path / "model")
    assert model.calibration.false_alarm_rate == 0.05
    assert model.threshold < model.with_false_alarm_rate(0.01).threshold
    assert "for a false-alarm rate of 5%" in " ".join(run("info", tmp_path / "model")[1].split())


@pytest.mark.parametrize(
    ("held_back", "what", "ignored"),
    [
        (True, "outlier among the good images (score ", "The threshold ignores this image."),
        (False, "some of its features are like those of no other good image", "The statistics ignore this"),
    ],
)
def test_fit_names_a_defect_among_the_good_images_and_passes_over_it(run, tmp_path, held_back, what, ignored):
    good = draw(tmp_path / "good", 30)
    # Whether it is held back depends on its content.
    for seed in range(100):
        Image.fromarray(picture(np.random.default_rng(1000 + seed), defect=24)).save(good / "odd.png")
        seeds = {Path(name).name: at for at, name, _ in GoodImages(sorted(good.iterdir()), 32).identities}
        if (seeds["odd.png"] in choose(list(seeds.values()))) == held_back:
            break
    code, out, err = run("fit", good, "-o", tmp_path / "model", "--json", *settings(training__steps="30"))
    assert code == 0
    assert f"warning: {good / 'odd.png'}: {what}" in err
    assert ignored in err
    assert json.loads(out)["standing_out"] == [str(good / "odd.png")]
    model = mendiff.load(tmp_path / "model")
    assert model.threshold < model.predict(good / "odd.png").score


def test_fit_goes_on_without_images_that_are_damaged(run, data, tmp_path):
    good = shutil.copytree(data / "train/good", tmp_path / "good")
    whole = (good / "0.png").read_bytes()
    (good / "cut.png").write_bytes(whole[: len(whole) // 2])
    (good / "text.jpg").write_text("no image")
    code, out, err = run("fit", good, "-o", tmp_path / "model", "--json", *settings())
    assert code == 0, err
    assert json.loads(out)["images"] == 9
    assert f"warning: {good / 'cut.png'}: the image is truncated or damaged" in err
    assert f"warning: {good / 'text.jpg'}: not an image that can be read" in err
    assert f"the false-alarm rate of 1 % is {ROUGH}" in err
    assert len(err.splitlines()) == 3


def test_output_folder_in_use_needs_overwrite_and_foreign_files_stay(refused, run, data, own_model, tmp_path):
    fit = ("fit", data, *settings(), "-o")
    assert "it holds files; add --overwrite" in refused(*fit, own_model)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    assert "has other files" in refused(*fit, tmp_path / "mine", "--overwrite")
    assert "it is a file" in refused(*fit, tmp_path / "mine/letter.txt")
    code, out, err = run(*fit, own_model, "--overwrite", "--seed", "5", "--json")
    assert code == 0, err
    assert json.loads((own_model / "config.json").read_text())["info"]["seed"] == 5
    assert json.loads(out)["model"] == str(own_model)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_ran_goes_through_fit_predict_with_explanations_and_evaluate(run, data, tmp_path):
    code, out, _ = run("fit", data, "-o", tmp_path / "ran", "--json", *RAN)
    assert code == 0
    assert json.loads(out)["config"]["start_timesteps"] == [20, 90]
    scores, pictures = [], []
    for words in ([], ["--explain"]):
        out = tmp_path / f"found{len(words)}"
        code, text, _ = run("predict", tmp_path / "ran", data / "test", "-o", out, "--json", *words)
        assert code == 0
        scores.append([row["score"] for row in json.loads(text)["images"]])
        pictures.append((out / "reconstructions/good/0.png").read_bytes())
    assert scores[0] == scores[1]
    assert pictures[0] != pictures[1]
    code, text, _ = run("evaluate", tmp_path / "ran", data, "--json")
    assert code == 0
    assert list(json.loads(text)["mean"]) == METRICS


def test_diad_learns_several_categories_and_evaluate_prints_their_mean_and_pool(run, plates, tmp_path):
    out = tmp_path / "diad"
    words = ("--categories", "all", "--balance", "category", "--json")
    code, text, _ = run("fit", plates, "-o", out, *words, *DIAD)
    assert code == 0
    assert json.loads(text)["categories"] == ["dark", "light"]
    code, text, _ = run("evaluate", out, plates, "--json")
    assert code == 0
    result = json.loads(text)
    assert list(result) == ["mean", "categories", "pooled", *TOLD[2:]]
    assert list(result["pooled"]) == METRICS
    code, text, _ = run("evaluate", out, plates)
    metrics, _, at_threshold = text.partition("at the threshold")
    rows = [line.split()[1] for line in metrics.splitlines() if line.startswith("│")]
    assert rows == ["dark", "light", "mean", "pooled"]
    assert [line.split()[1] for line in at_threshold.splitlines() if line.startswith("│")] == [
        "dark",
        "light",
    ]
    code, text, _ = run("evaluate", out, plates, "--categories", "dark", "--json")
    assert "pooled" not in json.loads(text)
