"""`mendiff predict`: tables, pictures, damaged images, and which folders are replaced."""

import csv
import errno
import json
import os
import re
import shutil
import unicodedata

import numpy as np
import pytest
from PIL import Image

import mendiff.model as mendiff_model
from mendiff.checkpoints.store import load
from mendiff.workflows import images as drawing
from tests.commands import draw, picture, size

pytestmark = pytest.mark.filterwarnings(r"ignore:::lightning\..*")


def test_predict_writes_tables_and_pictures(run, model, data, tmp_path):
    code, out, err = run("predict", model, data / "test", "-o", tmp_path / "found", "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert result == json.loads((tmp_path / "found/predictions.json").read_text())
    assert set(result) == {"model", "threshold", "images", "unreadable", "left_out", "complete"}
    rows = list(csv.DictReader((tmp_path / "found/predictions.csv").read_text().splitlines()))
    assert [row["image"] for row in rows] == [row["image"] for row in result["images"]]
    assert [float(row["score"]) for row in rows] == [row["score"] for row in result["images"]]
    assert len(rows) == 4
    for row in result["images"]:
        assert row["defective"] == (row["score"] > result["threshold"])
        assert 0 < row["p_value"] <= 1
        assert size(tmp_path / "found" / row["heat_map"]) == (40, 40)
        assert size(tmp_path / "found" / row["reconstruction"]) == (40, 40)


def test_predict_writes_masks_regions_and_raw_maps_at_the_size_of_the_picture(run, model, data, tmp_path):
    import tifffile

    Image.fromarray(picture(np.random.default_rng(1))[:30]).save(tmp_path / "wide.png")
    found = tmp_path / "found"
    code, out, err = run(
        *("predict", model, tmp_path / "wide.png", data / "test", "-o", found, "--raw-maps", "--json"),
        *("--false-alarm-rate", 0.9),  # a low threshold, so that there are regions
    )
    assert (code, err) == (0, "")
    rows = json.loads(out)["images"]
    assert [json.loads(line) for line in (found / "predictions.jsonl").read_text().splitlines()] == rows
    table = list(csv.DictReader((found / "predictions.csv").read_text().splitlines()))
    assert [int(row["regions"]) for row in table] == [len(row["regions"]) for row in rows]
    assert (rows[0]["width"], rows[0]["height"]) == (40, 30)
    limit = load(model, "cpu").with_false_alarm_rate(0.9).calibration.pixel_threshold
    for row in rows:
        heat = tifffile.imread(found / row["raw_map"])
        mask = np.asarray(Image.open(found / row["mask"]))
        assert heat.shape == mask.shape == (row["height"], row["width"])
        assert heat.dtype == np.float32
        assert (mask == np.where(heat > limit, 255, 0)).all()
        assert sum(region["area"] for region in row["regions"]) == (mask > 0).sum()
        for region in row["regions"]:
            x, y, width, height = region["box"]
            assert region["score"] == pytest.approx(heat[y : y + height, x : x + width].max())
    coco = json.loads((found / "predictions.coco.json").read_text())
    assert [one["file_name"] for one in coco["images"]] == [row["image"] for row in rows]
    boxes = [(rows[one["image_id"] - 1]["image"], one["bbox"]) for one in coco["annotations"]]
    assert boxes == [(row["image"], region["box"]) for row in rows for region in row["regions"]]
    assert boxes
    assert len({one["id"] for one in coco["annotations"]}) == len(boxes)


def test_predict_takes_images_of_all_kinds(run, model, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    upright = picture(np.random.default_rng(0))[:30]
    Image.fromarray(upright[:, :, 0]).save(photos / "grey.png")
    Image.fromarray(upright[:, :, 0].astype(np.uint16) * 257).save(photos / "deep.png")
    Image.fromarray(np.dstack([upright, np.full((30, 40), 255, np.uint8)])).save(photos / "alpha.png")
    Image.fromarray(upright).save(photos / "plain.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter clockwise
    Image.fromarray(np.ascontiguousarray(np.rot90(upright))).save(photos / "turned.png", exif=exif)
    code, out, err = run("predict", model, photos, "-o", tmp_path / "found", "--json")
    assert (code, err) == (0, "")
    rows = {row["heat_map"]: row["score"] for row in json.loads(out)["images"]}
    score = {name: rows[f"heat_maps/{name}.png"] for name in ("grey", "deep", "alpha", "plain", "turned")}
    # Equal up to rounding, which depends on an image's place in the batch.
    assert [score["alpha"], score["turned"]] == pytest.approx([score["plain"]] * 2, rel=1e-5)
    assert score["deep"] == pytest.approx(score["grey"], rel=1e-5)
    assert size(tmp_path / "found/heat_maps/turned.png") == (40, 30)


def test_images_of_one_name_get_pictures_of_their_own(run, model, tmp_path):
    first = draw(tmp_path / "a", 1)
    second = draw(tmp_path / "b", 1, defect=16)
    shutil.copy(second / "0.png", second / "0-2.png")
    code, out, err = run("predict", model, first, second, "-o", tmp_path / "found", "--json")
    assert code == 0, err
    assert len({row["heat_map"] for row in json.loads(out)["images"]}) == 3
    assert len(list((tmp_path / "found/heat_maps").iterdir())) == 3


def test_predict_takes_names_of_all_kinds_and_keeps_what_is_written_apart(run, model, data, tmp_path):
    photos, picture = tmp_path / "photos", (data / "test/good/0.png").read_bytes()
    names = [
        *("a.jpg", "a.png/x.jpg", "A.jpg", "=1+1.png", "-2.png", "@x/new\nline.png", "\x1b[31mred.png"),
        *("L" * 230 + ".png", "L" * 231 + ".png", "検" * 80 + ".png", "検" * 80 + "/x.png", "plain.png"),
        *(unicodedata.normalize(form, "Tür.png") for form in ("NFC", "NFD")),
        os.fsdecode(b"caf\xe9.png"),
        os.fsdecode(b"caf\xe8.png"),
    ]
    for name in names:
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        (photos / name).write_bytes(picture)
    code, out, err = run("predict", model, photos, "-o", tmp_path / "found", "--json")
    assert (code, err) == (0, "")
    rows = json.loads(out)["images"]
    assert {row["image"] for row in rows} == {str(photos / name) for name in names}
    for kind in ("heat_map", "reconstruction"):
        places = [row[kind] for row in rows]
        assert all(size(tmp_path / "found" / place) == (40, 40) for place in places)
        # As file systems without capitals and with one form of Unicode see them.
        assert len({unicodedata.normalize("NFD", place).casefold() for place in places}) == len(names)
        assert all(place.isprintable() for place in places)
        assert max(len(part.encode()) for place in places for part in place.split("/")) <= 255
    written = (tmp_path / "found/predictions.csv").read_text(encoding="utf-8")
    assert len(list(csv.DictReader(written.splitlines(keepends=True)))) == len(names)
    assert "caf\\udce9.png" in written


def test_no_cell_of_a_table_begins_like_a_formula(run, model, data, tmp_path, monkeypatch):
    for name in ("=1+1.png", "+1.png", "-1.png", "@x.png", "\tx.png", "plain.png"):
        shutil.copy(data / "test/good/0.png", tmp_path / "cwd" / name)
    (tmp_path / "cwd/-cut.png").write_bytes(b"no image")
    assert run("predict", model, ".", "-o", tmp_path / "found")[0] == 3
    with (tmp_path / "found/predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7
    for row in rows:
        assert not any(value.startswith(("=", "+", "-", "@", "\t", "\r")) for value in row.values())
    assert {row["image"] for row in rows} >= {"'=1+1.png", "plain.png"}


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("Invalid data"), "the image can't be read (RuntimeError: Invalid data)."),
        (MemoryError(), "the image can't be read (MemoryError)."),
        (OSError(errno.ESTALE, "Stale file handle"), "the image can't be read (OSError: Stale file handle)."),
    ],
)
def test_what_goes_wrong_with_one_image_is_that_ones_own(
    run, model, data, tmp_path, monkeypatch, error, told
):
    read, bad = mendiff_model.Model.read, str(data / "test/good/1.png")

    def fail(model, path):
        if str(path) == bad:
            raise error
        return read(model, path)

    monkeypatch.setattr(mendiff_model.Model, "read", fail)
    code, out, err = run("predict", model, data / "test", "-o", tmp_path / "found", "--json")
    result = json.loads(out)
    assert (code, len(result["images"]), result["complete"]) == (3, 3, False)
    assert result["unreadable"] == [f"{bad}: {told}"]
    assert err == f"warning: {bad}: {told}\n"
    rows = list(csv.DictReader((tmp_path / "found/predictions.csv").read_text().splitlines()))
    assert [row["error"] for row in rows if row["image"] == bad] == [f"{bad}: {told}"]
    assert [row["score"] == "" for row in rows] == [row["image"] == bad for row in rows]


def test_an_image_whose_pictures_cannot_be_written_keeps_its_score(run, model, data, tmp_path, monkeypatch):
    save = drawing.save_bands

    def fail(path, *args):
        if path.parts[-3:] == ("reconstructions", "scratch", "0.png"):
            raise OSError(errno.EINVAL, "Invalid argument", str(path))
        save(path, *args)

    monkeypatch.setattr(drawing, "save_bands", fail)
    code, _, err = run("predict", model, data / "test", "-o", tmp_path / "found")
    assert code == 3
    assert "the pictures of 1 could not be written" in err.splitlines()[-1]
    rows = list(csv.DictReader((tmp_path / "found/predictions.csv").read_text().splitlines()))
    row = next(row for row in rows if row["error"])
    assert row["image"].endswith("scratch/0.png")
    assert float(row["score"]) >= 0
    assert (row["heat_map"], row["reconstruction"]) == ("heat_maps/scratch/0.png", "")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG])
def test_a_full_disk_keeps_what_was_found_so_far(run, model, data, tmp_path, monkeypatch, number):
    save = drawing.save_bands

    def full(path, *args):
        if path.parts[-3:] == ("heat_maps", "scratch", "1.png"):
            raise OSError(number, os.strerror(number), str(path))
        save(path, *args)

    monkeypatch.setattr(drawing, "save_bands", full)
    code, _, err = run("predict", model, data / "test", "-o", tmp_path / "found")
    kept, sentence = tmp_path / "found-unfinished", err.splitlines()[-1]
    assert code == 2
    assert " at 1.png" in sentence
    assert "choose another folder." in sentence
    assert sentence.endswith(f"Partial results are in {kept}; add --resume to continue.")
    assert len((kept / "predictions.csv").read_text().splitlines()) == 1 + 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cwd", "found-unfinished"]


def test_large_pictures_are_read_again_and_come_out_the_same(run, model, data, tmp_path, monkeypatch):
    assert run("predict", model, data / "test", "-o", tmp_path / "kept", "--json")[0] == 0
    monkeypatch.setattr(drawing, "KEPT_BYTES", 0)
    assert run("predict", model, data / "test", "-o", tmp_path / "again", "--json")[0] == 0
    written = sorted(path.relative_to(tmp_path / "kept") for path in (tmp_path / "kept").rglob("*.*"))
    assert len(written) == 5 + 3 * 4
    for path in written:
        assert (tmp_path / "kept" / path).read_bytes() == (tmp_path / "again" / path).read_bytes()


def test_both_pictures_of_an_oblong_image_have_its_size(run, model, tmp_path):
    wide = np.random.default_rng(0).integers(0, 256, (30, 90, 3), dtype=np.uint8)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert run("predict", model, tmp_path / "wide.png", "-o", tmp_path / "found")[0] == 0
    for kind in ("heat_maps", "reconstructions"):
        assert size(tmp_path / "found" / kind / "wide.png") == (90, 30)


def test_hidden_files_that_are_no_images_are_passed_over_without_a_word(run, model, data, tmp_path):
    parts = shutil.copytree(data / "test/good", tmp_path / "parts")
    (parts / ".DS_Store").write_bytes(b"0")
    code, _, err = run("predict", model, parts, "-o", parts / "found", "--json")  # locks a file beside it
    assert (code, err) == (0, "")


def test_predict_names_and_counts_the_files_that_it_passes_over(run, model, data, tmp_path, monkeypatch):
    left = [(data / "a.pgm", "type .pgm"), (data / "b.pgm", "type .pgm"), (data / "c", "broken link")]
    monkeypatch.setattr("mendiff.runs.findings.images_left_out", lambda folder: left)
    code, out, err = run("predict", model, data / "test", "-o", tmp_path / "found", "--json")
    assert code == 0
    assert err == "warning: 3 files are skipped: 2 (type .pgm), 1 (broken link).\n"
    told = [{"path": str(path), "reason": reason} for path, reason in left]
    assert json.loads(out)["left_out"] == told
    assert json.loads((tmp_path / "found/predictions.json").read_text())["left_out"] == told


def test_a_folder_that_comes_up_while_predict_runs_stays_and_the_findings_too(
    run, model, data, tmp_path, monkeypatch
):
    out, save = tmp_path / "found", drawing.save_bands

    def meanwhile(*args):
        out.mkdir(exist_ok=True)
        (out / "mine").write_text("mine")
        save(*args)

    monkeypatch.setattr(drawing, "save_bands", meanwhile)
    code, told, err = run("predict", model, data / "test", "-o", out, "--json")
    assert (code, told) == (2, "")
    assert err.endswith(f"the result (findings) is in {tmp_path / 'found-2'}.\n")
    assert [path.name for path in out.iterdir()] == ["mine"]
    assert len((tmp_path / "found-2/predictions.csv").read_text().splitlines()) == 1 + 4


def test_predict_names_damaged_images_and_goes_on(run, refused, model, data, tmp_path):
    photos = shutil.copytree(data / "test/scratch", tmp_path / "photos")
    (photos / "cut.png").write_bytes((photos / "0.png").read_bytes()[:200])
    code, out, err = run("predict", model, photos, "-o", tmp_path / "found", "--json")
    assert code == 3
    assert err.startswith(f"warning: {photos / 'cut.png'}: ")
    assert len(err.splitlines()) == 1
    assert len(json.loads(out)["images"]) == 2
    assert "cut.png" in json.loads(out)["unreadable"][0]
    rows = list(csv.DictReader((tmp_path / "found/predictions.csv").read_text().splitlines()))
    assert [(row["image"], row["score"]) for row in rows if row["error"]] == [(str(photos / "cut.png"), "")]
    code, _, err = run("predict", model, photos, "-o", tmp_path / "again")
    assert code == 3
    assert re.search(r"defective: \d of 2 images", err)
    assert f"; 1 more could not be read ({photos / 'cut.png'}); see " in err


def test_predict_without_any_readable_image_ends_with_2_and_writes_nothing(run, model, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"")
    code, out, err = run("predict", model, tmp_path / "bad.png", "-o", tmp_path / "found")
    assert (code, out) == (2, "")
    assert "No image could be read" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.png", "cwd"]


def test_predict_never_replaces_a_model(refused, own_model, data):
    sentence = refused("predict", own_model, data / "test", "-o", own_model, "--overwrite")
    assert "--overwrite only replaces findings here, but this folder holds a model" in sentence


def test_predict_overwrites_only_when_told(run, refused, model, data, tmp_path):
    words = ("predict", model, data / "test/good", "-o", tmp_path / "found")
    assert run(*words)[0] == 0
    assert "add --overwrite" in refused(*words)
    (tmp_path / "found/old.txt").write_text("old")
    assert run(*words, "--overwrite")[0] == 0
    assert not (tmp_path / "found/old.txt").exists()


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda m: (m / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda m: (m / "config.json").write_text("{}"), "config.json was not written by mendiff"),
        (lambda m: (m / "config.json").write_text("{"), "expected JSON, but it is damaged"),
        (
            lambda m: (m / "config.json").write_text('{"format": "mendiff", "version": 99}'),
            "expected a model of version 3 or older, got version 99",
        ),
        (
            lambda m: (m / "model.safetensors").write_bytes(b"short"),
            "expected the file that was written with this model, but it is damaged",
        ),
        (lambda m: shutil.rmtree(m), "there is no such folder"),
    ],
)
def test_damaged_model_is_refused(refused, own_model, data, tmp_path, damage, sentence):
    damage(own_model)
    assert sentence in refused("predict", own_model, data / "test", "-o", tmp_path / "found")


@pytest.mark.parametrize("words", [["--device", "cuda:99"], ["--batch-size", "0"]])
def test_predict_and_evaluate_refuse(refused, model, data, tmp_path, words):
    assert words[0] in refused("predict", model, data / "test", "-o", tmp_path / "found", *words)
    assert words[0] in refused("evaluate", model, data, *words)


def test_offloaded_prediction_is_the_same_and_halved_one_is_close(run, model, data, tmp_path):
    scores = {}
    for name, flags in {"plain": [], "offload": ["--offload"], "half": ["--half"]}.items():
        code, told, err = run("predict", model, data / "test", "-o", tmp_path / name, "--json", *flags)
        assert code == 0, err
        scores[name] = [row["score"] for row in json.loads(told)["images"]]
    assert scores["offload"] == scores["plain"]
    assert scores["half"] != scores["plain"]
    # Scores have their zero at the median of good images, where a relative difference means nothing.
    assert scores["half"] == pytest.approx(scores["plain"], rel=0.02, abs=0.01 * max(scores["plain"]))
