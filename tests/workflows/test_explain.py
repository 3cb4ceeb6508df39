"""`mendiff explain` on models with random weights: files, words and exit codes."""

import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from mendiff.calibration import Calibration
from mendiff.checkpoints import store
from mendiff.cli import main
from mendiff.diffusion.random import content_seeds
from mendiff.methods.base import METHODS
from mendiff.model import Model
from mendiff.report.run import read_run
from mendiff.workflows import evaluate, explain
from mendiff.workflows.explain import informative_images

CALIBRATION = Calibration((1.0, 1.1, 1.2), (1.0, 1.1, 1.2))


@pytest.fixture(scope="module")
def models(tmp_path_factory, tiny_method, pictures):
    """A model folder of every method."""
    root = tmp_path_factory.mktemp("models")
    for name in METHODS:
        method = tiny_method(name)
        method.fit_statistics(lambda: iter([(pictures, content_seeds(pictures))]))
        store.save(
            root / name, name, method, Calibration((1.0, 1.1, 1.2), (1.0, 1.1, 1.2)), {"preset": "tiny"}
        )
    return root


@pytest.fixture
def photos(tmp_path):
    """Six images in two folders of a folder, of two proportions."""
    rng = np.random.default_rng(0)
    for number in range(6):
        place = tmp_path / "photos" / ("good" if number < 3 else "hole") / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 40 + 20 * (number % 2), 3), dtype=np.uint8)).save(place)
    return tmp_path / "photos"


@pytest.fixture
def run(capsys):
    """Runs a command line; gives (code, standard output, standard error)."""

    def call(*words):
        capsys.readouterr()
        code = main([str(word) for word in words])
        return (code, *capsys.readouterr())

    return call


@pytest.fixture
def refused(run, tmp_path):
    """Runs a command line that must end with one sentence and code 2, and write nothing; the sentence."""

    def call(*words):
        before = sorted(tmp_path.rglob("*"))
        code, out, err = run("explain", *words)
        assert (code, out) == (2, ""), err
        assert len(err.splitlines()) == 1
        assert sorted(tmp_path.rglob("*")) == before
        return err

    return call


def size(path):
    with Image.open(path) as image:
        return image.size


def test_every_image_has_a_strip_and_a_row_with_what_predict_finds(run, models, photos, tmp_path):
    code, out, err = run("explain", models / "glad", photos, "-o", tmp_path / "why", "--json")
    assert code == 0, err
    content = json.loads((tmp_path / "why/explain.json").read_text())
    assert json.loads(out) == content
    assert content["complete"] is True
    rows = content["images"]
    names = [f"{'good' if number < 3 else 'hole'}/{number}" for number in range(6)]
    assert [row["strip"] for row in rows] == [f"strips/{name}.png" for name in names]
    assert sorted(path.name for path in (tmp_path / "why").iterdir()) == ["explain.json", "strips"]
    loaded = store.load(models / "glad")
    for row in rows:
        found, told = loaded.predict(row["image"]), row["models"][0]
        assert told["score"] == float(found.score)
        assert told["stop_step"] == int(found.stop_step)
        assert told["defective"] == (told["score"] > told["threshold"])
        assert [panel["caption"] for panel in told["panels"]] == ["noised input", "estimate"] * 2
        assert size(tmp_path / "why" / row["strip"])[0] > 3 * 160


def test_several_models_stand_one_under_another(run, models, photos, tmp_path):
    image, folders = photos / "good/0.png", [models / name for name in METHODS]
    heights = []
    for given in (*([one] for one in folders), folders):
        out = tmp_path / f"why-{len(heights)}"
        assert run("explain", *given, image, "-o", out, "--json")[0] == 0
        heights.append(size(out / "strips/0.png")[1])
    content = json.loads((tmp_path / "why-3/explain.json").read_text())
    assert [one["method"] for one in content["models"]] == list(METHODS)
    assert [one["model"] for one in content["images"][0]["models"]] == [str(one) for one in folders]
    assert max(heights[:3]) < heights[3] < sum(heights[:3])


def test_models_and_images_may_come_in_any_order(run, models, photos, tmp_path):
    image = photos / "good/0.png"
    code, out, _ = run("explain", image, models / "glad", photos / "hole", "-o", tmp_path / "why", "--json")
    assert code == 0
    assert len(json.loads(out)["images"]) == 4


def test_limit_picks_images_of_all_folders_and_says_so(run, models, photos, tmp_path):
    code, _, err = run("explain", models / "glad", photos, "-o", tmp_path / "why", "--limit", 2)
    assert code == 0
    assert "note: 2 of 6 images, evenly spaced; --limit 0 for all." in err
    assert "2 strips; see " in err
    rows = json.loads((tmp_path / "why/explain.json").read_text())["images"]
    assert [row["strip"] for row in rows] == ["strips/good/0.png", "strips/hole/3.png"]
    assert run("explain", models / "glad", photos, "-o", tmp_path / "all", "--limit", 0)[0] == 0
    assert len(list((tmp_path / "all/strips").rglob("*.png"))) == 6


def test_side_sets_the_size_of_the_single_pictures(run, models, photos, tmp_path):
    widths = {}
    for side in (64, 128):
        out = tmp_path / str(side)
        assert run("explain", models / "diad", photos / "good/0.png", "-o", out, "--side", side)[0] == 0
        widths[side] = size(out / "strips/0.png")[0]
    assert widths[128] > widths[64] + 2 * 64


def test_an_unreadable_image_is_named_and_counted_and_the_others_are_drawn(run, models, photos, tmp_path):
    (photos / "good/1.png").write_bytes(b"no image")
    code, _, err = run("explain", models / "glad", photos, "-o", tmp_path / "why")
    assert code == 3
    assert f"warning: {photos / 'good/1.png'}" in err
    assert "5 strips; 1 of 6 images could not be read or drawn; see " in err
    content = json.loads((tmp_path / "why/explain.json").read_text())
    assert content["complete"] is False
    (lost,) = [row for row in content["images"] if row["error"]]
    assert (lost["image"], lost["strip"], lost["models"]) == (str(photos / "good/1.png"), None, [])


def test_without_any_readable_image_nothing_is_written(refused, models, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    words = (models / "glad", tmp_path / "bad.png", "-o", tmp_path / "why", "--json")
    code = main(["explain", *map(str, words)])
    assert code == 2
    assert not (tmp_path / "why").exists()


def test_a_strip_that_cannot_be_written_is_that_images_own(run, models, photos, tmp_path, monkeypatch):
    keep = explain.save_png

    def fail(picture, path):
        if path.name == "0.png":
            raise OSError(5, "Input/output error")
        keep(picture, path)

    monkeypatch.setattr(explain, "save_png", fail)
    code, _, err = run("explain", models / "glad", photos, "-o", tmp_path / "why")
    assert code == 3
    assert "its strip can't be written (OSError: Input/output error)." in err
    rows = json.loads((tmp_path / "why/explain.json").read_text())["images"]
    assert rows[0]["strip"] is None
    assert rows[0]["models"][0]["score"] is not None
    assert all(row["strip"] for row in rows[1:])


def test_what_was_drawn_before_an_interrupt_is_kept(run, models, photos, tmp_path, monkeypatch):
    trace, seen = Model.trace, []

    def interrupted(self, image):
        seen.append(image)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return trace(self, image)

    monkeypatch.setattr(Model, "trace", interrupted)
    code, _, err = run("explain", models / "glad", photos, "-o", tmp_path / "why")
    assert code == 130
    kept = tmp_path / "why-unfinished"
    assert f"Partial results are in {kept}." in err
    content = json.loads((kept / "explain.json").read_text())
    assert content["complete"] is False
    assert [row["strip"] for row in content["images"]] == ["strips/good/0.png", "strips/good/1.png"]
    assert len(list((kept / "strips").rglob("*.png"))) == 2


def test_it_overwrites_its_own_output_alone_and_only_when_told(run, refused, models, photos, tmp_path):
    words = (models / "glad", photos / "good/0.png", "-o", tmp_path / "why")
    assert run("explain", *words)[0] == 0
    assert "add --overwrite" in refused(*words)
    (tmp_path / "why/old.txt").write_text("old")
    assert run("explain", *words, "--overwrite")[0] == 0
    assert not (tmp_path / "why/old.txt").exists()
    sentence = refused(*words[:-1], models / "glad", "--overwrite")
    assert "only replaces explanations here, but this folder holds a model" in sentence


def test_its_strips_are_no_images_of_parts(run, models, photos, tmp_path):
    assert run("explain", models / "glad", photos, "-o", photos / "why")[0] == 0
    code, out, _ = run("explain", models / "glad", photos, "-o", tmp_path / "again", "--json")
    assert code == 0
    assert len(json.loads(out)["images"]) == 6


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "expected MODELS, one or more model folders"),
        (["{glad}"], "expected IMAGES, image files or folders"),
        (["{glad}", "{diad}"], "IMAGES: expected image files or folders after the models, got only models."),
        (["{photos}", "{photos}"], "photos: expected a model folder with config.json"),
        (["nothing", "{photos}"], "nothing: expected a model folder written by 'mendiff fit -o'"),
        (["{glad}", "nothing"], "nothing"),
        (["{glad}", "{photos}", "--side", "20"], "--side: expected at least 64, got 20."),
        (["{glad}", "{photos}", "--side", "5000"], "--side: expected at most 1024, got 5000."),
        (["{glad}", "{photos}", "--limit", "-1"], "--limit: expected at least 0, got -1."),
        (["{glad}", "{photos}", "--device", "cuda:99"], "--device: expected auto or a device of"),
        (["{glad}", "{photos}", "--category", "bolts"], "category: expected a category of"),
    ],
)
def test_slips_are_one_sentence(refused, models, photos, tmp_path, words, sentence):
    places = {"glad": models / "glad", "diad": models / "diad", "photos": photos}
    assert sentence in refused(*(word.format(**places) for word in words), "-o", tmp_path / "why")


# The images that a report explains.


@pytest.mark.parametrize(
    ("defective", "scores", "chosen"),
    [
        ([True, True, True, False, False, False], [0.9, 0.7, 0.2, 0.3, 0.1, 0.6], [0, 2, 3]),
        ([True, True], [0.9, 0.7], [0]),
        ([True, True], [0.3, 0.1], [1]),
        ([False], [0.9], [0]),
        ([], [], []),
    ],
)
def test_the_best_found_and_worst_missed_defect_and_a_usual_good_part_are_explained(
    defective, scores, chosen
):
    assert [index for index, _ in informative_images(defective, scores, 0.5)] == chosen


@pytest.fixture
def parts(photos, tmp_path):
    """The photos as a data set without masks."""
    for place in ("train/good", "test/good", "test/hole"):
        shutil.copytree(photos / place.rpartition("/")[2], tmp_path / "parts" / place)
        for path in (tmp_path / "parts" / place).iterdir():
            shade = 3 * len(place) + int(path.stem)  # no picture is there twice
            Image.fromarray(np.asarray(Image.open(path)) // 2 + np.uint8(shade)).save(path)
    return tmp_path / "parts"


def test_a_run_explains_a_few_verdicts_and_a_huge_one_none(run, models, parts, tmp_path, monkeypatch):
    code, _, err = run("evaluate", models / "glad", parts, "-o", tmp_path / "run")
    assert code == 0, err
    (category,) = read_run(tmp_path / "run").categories
    names = [strip.name for strip in category.strips]
    assert 2 <= len(names) <= 3
    assert {name.partition("/")[0] for name in names} == {"good", "hole"}
    known = {row.name: row for row in category.images}
    assert all(name in known for name in names)
    for strip in category.strips:
        with Image.open(io.BytesIO(strip.picture)) as shown:
            assert shown.size == strip.size
        assert strip.size[0] <= 1180
    monkeypatch.setattr(evaluate, "MOST_IMAGES", 5)
    assert run("evaluate", models / "glad", parts, "-o", tmp_path / "huge")[0] == 0
    assert read_run(tmp_path / "huge").categories[0].strips == []


def test_a_category_goes_to_the_models_that_know_it(models, photos, tmp_path, run, tiny_method, pictures):
    method = tiny_method("diad")
    method.fit_statistics(lambda: iter([(pictures, content_seeds(pictures))]))
    own = Model("diad", method, Calibration((7.0, 7.1, 7.2), (7.0, 7.1, 7.2)), {})
    store.save(tmp_path / "two", "diad", method, CALIBRATION, {}, [("bolts", own)])
    words = (models / "glad", tmp_path / "two", photos / "good", "--category", "bolts")
    code, out, err = run("explain", *words, "-o", tmp_path / "why", "--json")
    assert code == 0, err
    told = json.loads(out)["models"]
    assert [one["category"] for one in told] == [None, "bolts"]
    assert told[1]["threshold"] == pytest.approx(own.threshold)
    assert told[1]["threshold"] > 7
