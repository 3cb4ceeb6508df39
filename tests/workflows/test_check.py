"""`mendiff check`, and the same checks before a fit and an evaluation."""

import json
import shutil

import pytest

from tests.commands import settings

pytestmark = pytest.mark.filterwarnings(r"ignore:::lightning\..*")


def test_check_counts_what_is_there_and_ends_with_0_when_it_is_clean(run, data, plates):
    code, out, err = run("check", plates)
    assert (code, err) == (0, "")
    assert "dark" in out
    assert "faults: 0, warnings: 0" in out
    code, out, err = run("check", data, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "data": str(data),
        "faults": 0,
        "warnings": 0,
        "categories": [
            {"name": "plate", "layout": "mvtec", "train": 9, "test_good": 2, "test_defective": 2, "masks": 2}
        ],
        "findings": [],
    }


def test_check_tells_all_faults_and_ends_with_2(run, refused, data, tmp_path):
    wrong = shutil.copytree(data, tmp_path / "set" / "wrong")
    (tmp_path / "set" / "hollow").mkdir()
    for mask in (wrong / "ground_truth/scratch").iterdir():
        mask.unlink()
    shutil.copy(wrong / "train/good/0.png", wrong / "test/good/copy.png")
    code, out, err = run("check", tmp_path / "set")
    assert (code, err) == (2, "")
    assert out.count("fault: ") == 3
    assert out.count("warning: ") == 1
    assert "faults: 3, warnings: 1" in out
    code, out, err = run("check", tmp_path / "set", "--json")
    assert (code, err) == (2, "")
    result = json.loads(out)
    assert (result["faults"], result["warnings"]) == (3, 1)
    kinds = [(finding["kind"], finding["hard"]) for finding in result["findings"]]
    assert kinds == [("empty", True), ("missing mask", True), ("missing mask", True), ("overlap", False)]
    assert result["findings"][3]["paths"] == [
        str(wrong / "test/good/copy.png"),
        str(wrong / "train/good/0.png"),
    ]
    assert "no such folder" in refused("check", tmp_path / "absent")
    assert "--layout: expected one of auto, bmad, " in refused("check", data, "--layout", "zebra")


def test_warnings_alone_do_not_make_check_fail(run, data, tmp_path):
    twice = shutil.copytree(data, tmp_path / "twice")
    shutil.copy(twice / "train/good/0.png", twice / "train/good/copy.png")
    code, out, _ = run("check", twice)
    assert code == 0
    assert "faults: 0, warnings: 1" in out


def test_fit_and_evaluate_refuse_faults_and_tell_a_few_warnings_of_each_kind(
    run, refused, model, data, tmp_path
):
    wrong = shutil.copytree(data, tmp_path / "wrong")
    for index in range(7):
        shutil.copy(wrong / f"train/good/{index}.png", wrong / f"train/good/copy{index}.png")
        (wrong / f"train/good/empty{index}.png").touch()
    code, _, err = run("evaluate", model, wrong, "--json")
    assert code == 0
    assert err.count(": equal to ") == 1
    assert ", and 6 more duplicated images; keep one." in err
    assert err.count("the file is empty") == 5
    assert err.splitlines()[-1] == "warning: 2 more of this kind (unreadable): see 'mendiff check'."
    for mask in (wrong / "ground_truth/scratch").iterdir():
        mask.write_bytes(mask.read_bytes()[:60])
    fit = ("fit", wrong, "-o", tmp_path / "m", *settings())
    for words in (fit, ("evaluate", model, wrong)):
        sentence = refused(*words)
        assert "0_mask.png: the image is truncated or damaged" in sentence
        assert sentence.endswith("1 more: see 'mendiff check'.")


def test_a_category_named_twice_or_empty_is_one_sentence(refused, model, plates, tmp_path):
    for words in (("fit", plates, "-o", tmp_path / "m", *settings()), ("evaluate", model, plates)):
        sentence = refused(*words, "--categories", "dark", "dark")
        assert "dark: 2 categories have this name" in sentence
    shutil.copytree(plates, tmp_path / "set")
    (tmp_path / "set/empty/train/good").mkdir(parents=True)
    for words in (("fit", tmp_path / "set", "-o", tmp_path / "m"), ("evaluate", model, tmp_path / "set")):
        assert "empty/train/good: no images found" in refused(*words)
    shutil.rmtree(tmp_path / "set/empty/train")
    for words in (("fit", tmp_path / "set", "-o", tmp_path / "m"), ("evaluate", model, tmp_path / "set")):
        assert "empty: an empty folder among categories" in refused(*words)
