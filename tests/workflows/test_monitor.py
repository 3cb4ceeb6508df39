"""`mendiff monitor`: what it says of findings with and without drift, what it reads, and what it refuses."""

import csv
import json
import random

import pytest

import mendiff
from mendiff.calibration import Calibration
from mendiff.checkpoints import store
from mendiff.runs.findings import COLUMNS
from tests.commands import size

KNOWN = [random.Random(number).gauss(10, 1) for number in range(60)]
CALIBRATION = Calibration(tuple(KNOWN), tuple(KNOWN), false_alarm_rate=0.02)


@pytest.fixture
def fitted(tiny_method, tmp_path):
    store.save(tmp_path / "model", "glad", tiny_method(), CALIBRATION, {"images": 60})
    return tmp_path / "model"


def write(folder, scores):
    """Findings as predict writes them, of images that are not there; a score of None is unreadable."""
    folder.mkdir()
    rows = []
    for number, score in enumerate(scores):
        known = {} if score is None else {"score": score, "p_value": CALIBRATION.p_value(score)}
        rows.append(dict.fromkeys(COLUMNS) | {"image": f"{folder.name}/{number}.png", **known})
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with (folder / "predictions.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        table.writerows(rows)
    return folder


def normal(count, shift=0.0, seed=1):
    rng = random.Random(seed)
    return [rng.gauss(10 + shift, 1) for _ in range(count)]


def test_findings_like_the_calibration_set_show_no_drift(run, fitted, tmp_path):
    found = write(tmp_path / "found", [*normal(40), None, *normal(40, seed=2), 99.0, 99.0])
    code, out, err = run("monitor", fitted, found)
    assert code == 0
    sentence = " ".join(out.split())
    assert sentence.startswith(
        "no sign of drift: the scores of 82 images match those of the 60 held-back images"
    )
    assert err == f"picture: {found / 'monitor.png'}\n"
    assert size(found / "monitor.png") == (1080, 624)


def test_drift_is_told_with_its_first_image_and_another_exit_code(run, fitted, tmp_path):
    monday, tuesday = write(tmp_path / "monday", normal(50)), write(tmp_path / "tuesday", normal(40, 3.0))
    code, out, _ = run("monitor", fitted, monday, tuesday, "--json", "-o", tmp_path / "drift.png")
    result = json.loads(out)
    assert (code, result["drift"], result["direction"]) == (4, True, "higher")
    assert result["since"]["image"].startswith(("tuesday/", "monday/4"))
    assert result["since"]["time"] is None
    assert 50 < result["alarm"] < 80
    assert f"drift since image {result['since']['number']} (" in result["sentence"]
    assert len(result["p_values"]) == len(result["martingale"]["log10"]) == 90
    assert max(result["martingale"]["log10"]) > 2 > max(result["martingale"]["log10"][:50])
    assert (tmp_path / "drift.png").is_file()
    assert not (monday / "monitor.png").exists()


def test_the_time_of_the_first_image_is_told_if_it_is_still_there(run, fitted, tmp_path):
    found = write(tmp_path / "found", normal(60, -3.0))
    (tmp_path / "cwd/found").mkdir()
    for number in range(60):
        (tmp_path / f"cwd/found/{number}.png").touch()
    result = json.loads(run("monitor", fitted, found, "--json")[1])
    assert result["direction"] == "lower"
    assert len(result["since"]["time"]) == len("2026-01-01 00:00:00")
    assert result["since"]["time"] in result["sentence"]
    assert "defective" not in result["sentence"]


def test_a_table_gives_the_same_as_the_lines(run, fitted, tmp_path):
    found = write(tmp_path / "found", [*normal(30), None])
    results = [
        json.loads(run("monitor", fitted, place, "--json")[1])
        for place in (found, found / "predictions.jsonl", found / "predictions.csv")
    ]
    assert results[0] == results[1] == results[2]


def test_findings_of_another_model_are_warned_of(run, fitted, tiny_method, tmp_path):
    found = write(tmp_path / "found", normal(10))
    other = Calibration(tuple(score + 1 for score in KNOWN), tuple(KNOWN))
    store.save(tmp_path / "other", "glad", tiny_method(), other, {"images": 60})
    assert "are of another model" in run("monitor", tmp_path / "other", found)[2]
    assert "warning" not in run("monitor", fitted, found)[2]


def test_scores_of_training_images_are_not_compared_which_is_said(run, fitted, tiny_method, tmp_path):
    found = write(tmp_path / "found", normal(30))
    part = Calibration(tuple(KNOWN), tuple(KNOWN), false_alarm_rate=0.02, left_out=40)
    store.save(tmp_path / "part", "glad", tiny_method(), part, {"images": 60})
    _, out, err = run("monitor", tmp_path / "part", found)
    assert "match those of the 20 held-back images" in " ".join(out.split())
    assert "note: 40 calibration scores of training images are left out here" in err
    assert "note:" not in run("monitor", fitted, found)[2]


def test_the_picture_goes_into_a_folder_that_exists(run, refused, fitted, tmp_path):
    found = write(tmp_path / "found", normal(5))
    (tmp_path / "pictures").mkdir()
    assert run("monitor", fitted, found, "-o", tmp_path / "pictures")[0] == 0
    assert (tmp_path / "pictures/monitor.png").is_file()
    for other in ("drift", "drift.jpg"):
        assert "--out: expected a PNG file such as drift.png, or an existing folder, got drift" in refused(
            "monitor", fitted, found, "-o", other
        )


def test_monitor_refuses(refused, fitted, tiny_method, tmp_path):
    found = write(tmp_path / "found", normal(3))
    assert "--defects: expected a share from 0 to below 1" in refused(
        "monitor", fitted, found, "--defects", "1"
    )
    assert "there is no such file" in refused("monitor", fitted, tmp_path / "nowhere")
    assert "expected images with scores, got none" in refused(
        "monitor", fitted, write(tmp_path / "none", [None])
    )
    (found / "other.csv").write_text("a,b\n1,2\n")
    assert "expected a table of 'mendiff predict'" in refused("monitor", fitted, found / "other.csv")
    text = (found / "predictions.csv").read_text()
    (found / "odd.csv").write_text(text.replace(str(normal(1)[0]), "high"))
    assert "line 2: expected a score and a p-value, got 'high'" in refused(
        "monitor", fitted, found / "odd.csv"
    )
    assert "category: expected a category of" in refused("monitor", fitted, found, "--category", "bolts")
    seen = Calibration((1.0, 2.0, 3.0), (1.0, 2.0, 3.0), seen=2)
    store.save(tmp_path / "few", "glad", tiny_method(), seen, {"images": 3})
    assert "calibrate the model with 'mendiff calibrate' first" in refused("monitor", tmp_path / "few", found)


def test_monitor_from_python_shows_itself_in_a_notebook(fitted, tmp_path):
    result = mendiff.monitor(fitted, write(tmp_path / "found", normal(30)), defects=0.01)
    assert not result.drift
    assert repr(result) == f"Monitoring({result.sentence!r})"
    assert '<img src="data:image/png;base64,' in result._repr_html_()
    assert not (tmp_path / "found/monitor.png").exists()
