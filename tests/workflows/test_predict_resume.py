"""`mendiff predict` that is killed, continued, watched from outside, or meets another one."""

import json
import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image

import mendiff
import mendiff.model as mendiff_model
from mendiff.cli import main
from mendiff.data import images as data_images
from mendiff.runs import rows, watching
from mendiff.runs.locks import exclusive_output
from tests.commands import picture

pytestmark = pytest.mark.filterwarnings(r"ignore:::lightning\..*")
KILLED = 9


@pytest.fixture
def photos(tmp_path):
    """Seven images, two of them damaged, one of them with the name of the damaged one before it."""
    rng = np.random.default_rng(0)
    (tmp_path / "photos/b").mkdir(parents=True)
    for name in ("a.png", "b/c.png", "b/d.png", "e.png", "g.png"):
        Image.fromarray(picture(rng, defect=16 * (name == "e.png"))).save(tmp_path / "photos" / name)
    (tmp_path / "photos/e.bmp").write_bytes(b"BM")
    (tmp_path / "photos/f.png").write_bytes((tmp_path / "photos/a.png").read_bytes()[:100])
    return tmp_path / "photos"


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if not path.is_dir()
    }


def in_a_child(words, arrange):
    """Run a command line in a copy of this process that ends as `arrange` makes it; gives its exit code."""
    child = os.fork()
    if not child:
        try:
            arrange()
            os._exit(main([str(word) for word in words]))
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at_file(number):
    """End the process when it is about to rename the file of that number, its temporary file written."""

    def arrange():
        replace, calls = os.replace, []

        def ended(*paths):
            calls.append(paths)
            if len(calls) == number:
                os._exit(KILLED)
            replace(*paths)

        data_images.os.replace = ended

    return arrange


def killed_in_row(number):
    """End the process when half of the line of that row is on the disk."""

    def arrange():
        add, calls = rows.Findings.add, []

        def ended(findings, row):
            calls.append(row)
            if len(calls) == number:
                findings._lines.write(json.dumps(row).encode()[:40])
                findings._lines.flush()
                os._exit(KILLED)
            add(findings, row)

        rows.Findings.add = ended

    return arrange


@pytest.fixture
def whole(run, model, photos, tmp_path):
    """The findings of a run that nothing interrupts."""
    code, _, err = run("predict", model, photos, "-o", tmp_path / "whole", "--batch-size", "3", "--raw-maps")
    assert code == 3, err
    assert "2 more could not be read (" in err.splitlines()[-1]
    return content(tmp_path / "whole")


def test_a_run_killed_again_and_again_ends_with_the_files_of_an_uninterrupted_one(
    run, model, photos, whole, tmp_path
):
    out, part = tmp_path / "found", tmp_path / "found-unfinished"
    words = ("predict", model, photos, "-o", out, "--batch-size", "3", "--raw-maps", "--resume")
    before = 0
    ends = [*map(killed_at_file, (1, 2, 4, 6)), killed_in_row(1), killed_in_row(2), killed_at_file(9)]
    for arrange in ends:
        assert in_a_child(words, arrange) == KILLED
        assert not out.exists()
        found = list(rows.read_rows(part / "predictions.jsonl"))
        assert all((part / row["heat_map"]).is_file() for row in found if row["heat_map"])
        assert len(found) >= before
        before = len(found)
        if (part / "predictions.json").is_file():
            assert json.loads((part / "predictions.json").read_text())["complete"] is False
    assert 0 < before < 7
    code, told, err = run(*words, "--json")
    assert code == 3, err
    assert json.loads(told) == json.loads((out / "predictions.json").read_text())
    assert content(out) == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cwd", "found", "photos", "whole"]


def test_a_run_killed_while_its_folder_gets_its_name_loses_nothing(run, model, photos, whole, tmp_path):
    def arrange():
        from mendiff.runs import unfinished

        rename = os.rename

        def ended(*paths):
            rename(*paths)
            os._exit(KILLED)

        unfinished.os.rename = ended

    out = tmp_path / "found"
    words = ("predict", model, photos, "-o", out, "--batch-size", "3", "--raw-maps")
    assert in_a_child(words, arrange) == KILLED
    assert not out.exists()
    assert run(*words, "--resume")[0] == 3
    assert content(out) == whole


def test_finished_findings_take_new_images_and_keep_their_rows(run, model, photos, tmp_path):
    words = ("predict", model, photos, "-o", tmp_path / "found")
    assert run(*words)[0] == 3
    before = content(tmp_path / "found")
    shutil.copy(photos / "a.png", photos / "aa.png")
    Image.open(photos / "e.png").save(photos / "e.jpg")  # its name is taken by e.png's pictures
    assert run(*words, "--resume")[0] == 3
    after = content(tmp_path / "found")
    kept = {name for name in before if name not in after or before[name] != after[name]}
    assert {name.partition(".")[0] for name in kept} == {"predictions"}
    assert after["predictions.jsonl"].startswith(before["predictions.jsonl"])
    found = json.loads(after["predictions.json"])
    assert len(found["images"]) == len({row["heat_map"] for row in found["images"]}) == 7
    assert run(*words, "--resume")[0] == 3
    assert content(tmp_path / "found") == after


def test_an_unfinished_run_is_neither_lost_nor_continued_unasked(run, refused, model, photos, tmp_path):
    words = ("predict", model, photos, "-o", tmp_path / "found")
    assert in_a_child(words, killed_in_row(3)) == KILLED
    (tmp_path / ".found.lock").unlink()  # which the next command would take away
    sentence = refused(*words)
    assert "found-unfinished: expected no unfinished run into" in sentence
    assert "add --resume to continue it, or --overwrite to start again" in sentence
    others = refused("predict", model, photos / "b", "-o", tmp_path / "found", "--resume")
    assert "Partial results" not in others
    assert f"was begun with the images of {photos}, not of {photos / 'b'}; give the same, or start" in others
    sentence = refused(*words, "--resume", "--false-alarm-rate", "0.5")
    assert re.search(r"with a threshold of \S+, not of \S+; give the same --false-alarm-rate, or", sentence)
    assert "was begun without --raw-maps; leave it out, or" in refused(*words, "--resume", "--raw-maps")
    assert "or start again with --overwrite instead of --resume, or choose another -o." in sentence
    assert run(*words, "--overwrite")[0] == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cwd", "found", "photos"]


def test_a_folder_that_only_looks_like_an_unfinished_run_is_left_alone(refused, model, photos, tmp_path):
    (tmp_path / "found-unfinished").mkdir()
    (tmp_path / "found-unfinished/mine.txt").write_text("mine")
    for words in ((), ("--resume",), ("--overwrite",)):
        sentence = refused("predict", model, photos, "-o", tmp_path / "found", *words)
        assert "expected the folder of an unfinished run, but it has other files" in sentence


def test_old_findings_stay_until_new_ones_are_whole(run, model, photos, tmp_path):
    words = ("predict", model, photos, "-o", tmp_path / "found")
    assert run(*words)[0] == 3
    before = content(tmp_path / "found")
    (photos / "a.png").unlink()
    assert in_a_child([*words, "--overwrite"], killed_in_row(4)) == KILLED
    assert content(tmp_path / "found") == before
    assert run(*words, "--overwrite", "--resume")[0] == 3
    assert len(json.loads((tmp_path / "found/predictions.json").read_text())["images"]) == 4


def test_a_second_run_into_the_same_folder_is_refused_while_the_first_runs(refused, model, photos, tmp_path):
    with exclusive_output(tmp_path / "found", "prediction"):
        assert "another prediction into this folder is running" in refused(
            "predict", model, photos, "-o", tmp_path / "found"
        )


def test_rows_and_pictures_can_be_looked_at_while_a_run_goes_on(run, model, photos, tmp_path, monkeypatch):
    add, seen = rows.Findings.add, []

    def look(findings, row):
        add(findings, row)
        part = tmp_path / "found-unfinished"
        seen.append((len(list(rows.read_rows(part / "predictions.jsonl"))), row["image"]))
        assert row["mask"] is None or (part / row["mask"]).is_file()

    monkeypatch.setattr(rows.Findings, "add", look)
    assert run("predict", model, photos, "-o", tmp_path / "found")[0] == 3
    assert [number for number, _ in seen] == list(range(1, 8))


def test_one_image_without_a_finite_score_does_not_end_the_run(run, model, photos, tmp_path, monkeypatch):
    predict, bad = mendiff_model.Model.predict_batches, str(photos / "b/c.png")
    prepared = mendiff.load(model).prepare(bad)

    def fail(self, batches, **options):
        for batch in batches:
            hit = (batch == prepared).flatten(1).all(1)
            if hit.any():
                raise mendiff_model.NotFiniteError(hit.nonzero().flatten().tolist())
            yield from predict(self, [batch], **options)

    monkeypatch.setattr(mendiff_model.Model, "predict_batches", fail)
    code, out, _ = run("predict", model, photos, "-o", tmp_path / "found", "--json")
    result = json.loads(out)
    assert (code, len(result["images"]), len(result["unreadable"])) == (3, 4, 3)
    assert f"{bad}: expected finite scores and maps, got NaN or infinity" in result["unreadable"][0]


# ---- watching


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(watching, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(watching, "MOST_TRIES", 3)


def steps(monkeypatch, *actions):
    """Do one action after the other, a few looks apart; then press Ctrl-C."""
    look, left, looks = watching.Arrivals._look, list(actions), []

    def then(arrivals):
        looks.append(1)
        ready = look(arrivals)
        if len(looks) > 5:
            looks.clear()
            if not left:
                raise KeyboardInterrupt
            left.pop(0)()
        return ready

    monkeypatch.setattr(watching.Arrivals, "_look", then)


def test_watch_prints_a_line_per_image_as_it_comes_and_ends_with_a_summary(
    run, model, photos, tmp_path, monkeypatch, quick
):
    new, out = photos / "new.png", tmp_path / "found"
    data = (photos / "a.png").read_bytes()
    for name in ("e.bmp", "f.png"):
        (photos / name).unlink()

    def arrives_slowly():
        assert len(list(rows.read_rows(out / "predictions.jsonl"))) == 5
        new.write_bytes(data[:200])

    def is_there():
        assert len(list(rows.read_rows(out / "predictions.jsonl"))) == 5
        new.write_bytes(data)

    monkeypatch.setattr(watching, "MOST_TRIES", 20)
    steps(monkeypatch, arrives_slowly, is_there)
    code, told, err = run("predict", model, photos, "-o", out, "--watch", "--json")
    assert (code, err) == (0, "")
    lines = [json.loads(line) for line in told.splitlines()]
    assert [line["image"] for line in lines[5:]] == [str(new)]
    written = json.loads((out / "predictions.json").read_text())
    assert (written["images"], written["complete"]) == (lines, True)
    monkeypatch.undo()
    monkeypatch.setattr(watching, "POLL_SECONDS", 0.02)
    shutil.copy(new, photos / "newer.png")
    steps(monkeypatch)
    code, told, err = run("predict", model, photos, "-o", out, "--watch", "--resume")
    assert code == 0
    assert [line.partition(": ")[0] for line in told.splitlines()] == [str(photos / "newer.png")]
    assert err.splitlines()[-1].startswith("defective: ")
    assert " of 7 images " in err.splitlines()[-1]


def test_watch_starts_with_an_empty_folder_and_survives_bad_files_and_a_lost_folder(
    run, model, tmp_path, monkeypatch, quick
):
    photos, out = tmp_path / "photos", tmp_path / "found"
    photos.mkdir()

    def bad():
        (photos / "bad.png").write_bytes(b"no image")

    def back():
        photos.mkdir()
        Image.fromarray(picture(np.random.default_rng(0))).save(photos / "good.png")

    steps(monkeypatch, bad, lambda: shutil.rmtree(photos), back)
    code, told, err = run("predict", model, photos, "-o", out, "--watch")
    assert code == 3
    first, second = told.splitlines()
    assert first == f"{photos / 'bad.png'}: not an image that can be read; replace or remove it."
    assert second.startswith(f"{photos / 'good.png'}: ")
    assert "1 more could not be read" in err


def test_watch_that_is_killed_goes_on_with_nothing_twice(run, model, photos, tmp_path, monkeypatch, quick):
    out = tmp_path / "found"
    words = ("predict", model, photos, "-o", out, "--watch", "--batch-size", "2")
    assert in_a_child(words, killed_in_row(4)) == KILLED
    steps(monkeypatch)
    assert run(*words, "--resume")[0] == 3
    found = [row["image"] for row in rows.read_rows(out / "predictions.jsonl")]
    assert sorted(found) == sorted(str(path) for path in photos.rglob("*.*"))


def test_watch_refuses_a_folder_that_is_not_there(refused, model, tmp_path):
    words = ("predict", model, tmp_path / "nowhere", "-o", tmp_path / "found", "--watch")
    assert "no such file or folder" in refused(*words)
