"""Which files are images of parts, and what is said of the others."""

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mendiff.data.image_files import NO_IMAGE, find_images, left_out
from mendiff.data.outputs import BENCHMARK, MADE
from mendiff.errors import InputError


@pytest.fixture
def put(tmp_path):
    """(name) to a small picture of that name below the folder; its format by its extension."""

    def write(name: str, **options) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 5, 3), 90, np.uint8)).save(path, **options)
        return path

    return write


def test_every_type_that_a_single_file_may_have_is_found_in_folders_as_well(put, tmp_path):
    names = [
        "a.JPG",
        "b.jfif",
        "c.pgm",
        "d.ppm",
        "e.gif",
        "f.jp2",
        "g.tga",
        "h.png",
        "i.tif",
        "j.webp",
        "k.bmp",
    ]
    for name in names:
        put(name)

    assert [path.name for path in find_images(tmp_path)] == names
    assert left_out(tmp_path) == []


def test_what_is_passed_over_is_named_with_its_reason(put, tmp_path):
    put("a.png")
    put("@eaDir/a.png/THUMB.jpg")
    put("x/__MACOSX/b.png")
    put("x/._c.png")
    put(".hidden/d.png")
    put("Thumbnails/d.png")
    Path(put("e.png")).rename(tmp_path / "no_extension")
    for name in (
        "photo.heic",
        "raw.DNG",
        "readme.txt",
        "LICENSE",
        "provenance.csv",
        "Thumbs.db",
        ".DS_Store",
    ):
        (tmp_path / name).touch()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")

    assert find_images(tmp_path) == [tmp_path / "a.png"]
    told = {path.relative_to(tmp_path).as_posix(): reason for path, reason in left_out(tmp_path)}
    assert {name: reason for name, reason in told.items() if reason != NO_IMAGE} == {
        "@eaDir/a.png/THUMB.jpg": "system folder @eaDir",
        "x/__MACOSX/b.png": "system folder __MACOSX",
        "x/._c.png": "hidden",
        ".hidden/d.png": "hidden",
        "Thumbnails/d.png": "system folder Thumbnails",
        "no_extension": "image without an extension",
        "photo.heic": "type .heic",
        "raw.DNG": "type .dng",
        "gone.png": "broken link",
    }
    assert {name for name, reason in told.items() if reason == NO_IMAGE} == {
        *("readme.txt", "LICENSE", "provenance.csv", "Thumbs.db", ".DS_Store"),
    }


def test_every_image_is_either_found_or_named(put, tmp_path):
    for index in range(4):
        put(f"{index}/a.png")
        put(f"{index}/.b.png")
        (tmp_path / f"{index}/c.xyz").touch()

    found, passed = find_images(tmp_path), [path for path, _ in left_out(tmp_path)]

    assert sorted([*found, *passed]) == sorted(path for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize(("what", "marker", "fields"), [*MADE, BENCHMARK])
def test_folders_that_mendiff_wrote_are_passed_over_but_not_the_folder_itself(
    put, tmp_path, what, marker, fields
):
    put("a.png")
    put("findings/heat_maps/a.png")
    content = {key: "mendiff" if value is ... else value for key, value in fields.items()}
    (tmp_path / "findings" / marker).write_text(json.dumps(content))

    assert find_images(tmp_path) == [tmp_path / "a.png"]
    assert (
        tmp_path / "findings/heat_maps/a.png",
        f"{what.removeprefix('a ')} that mendiff wrote",
    ) in left_out(tmp_path)
    assert find_images(tmp_path / "findings/heat_maps") == [tmp_path / "findings/heat_maps/a.png"]


def test_findings_are_no_images_of_parts(put, tmp_path):
    put("heat_maps/a.png")
    (tmp_path / "predictions.json").write_text('{"threshold": 1, "unreadable": []}')

    with pytest.raises(InputError, match="expected images of parts, got findings that mendiff wrote"):
        find_images(tmp_path)


@pytest.mark.parametrize("text", ["", "[1", "[]", "3", '{"threshold": 1}', "\udcff"])
def test_a_file_that_only_has_a_markers_name_marks_nothing(put, tmp_path, text):
    put("b/a.png")
    (tmp_path / "b/predictions.json").write_bytes(text.encode("utf-8", "surrogateescape"))

    assert find_images(tmp_path) == [tmp_path / "b/a.png"]


def test_links_are_followed_once_and_never_in_a_circle(put, tmp_path):
    put("data/real/a.png")
    put("elsewhere/b.png")
    (tmp_path / "data/a_first_link").symlink_to(tmp_path / "data/real")
    (tmp_path / "data/up").symlink_to(tmp_path)
    (tmp_path / "data/other").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/file.png").symlink_to(tmp_path / "elsewhere/b.png")

    found = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path / "data")]

    assert "data/real/a.png" in found  # under its own name, not the link's
    assert "data/file.png" in found
    assert "data/other/b.png" in found or "data/up/elsewhere/b.png" in found
    assert len(found) == 3
    reasons = [reason for _, reason in left_out(tmp_path / "data")]
    assert reasons == ["a link to a folder that has been read"] * len(reasons)
    assert len(reasons) >= 2


@pytest.mark.parametrize("kind", ["tiff", "gif", "webp", "png"])
def test_further_frames_are_counted(tmp_path, kind):
    frames = [Image.fromarray(np.full((6, 6, 3), 40 * n, np.uint8)) for n in range(4)]
    frames[0].save(tmp_path / f"a.{kind}", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / f"one.{kind}")

    assert left_out(tmp_path) == [(tmp_path / f"a.{kind}", "3 further frames")]
    assert left_out(tmp_path / f"a.{kind}") == [(tmp_path / f"a.{kind}", "3 further frames")]


def test_a_folder_of_nothing_but_other_types_names_them(tmp_path):
    for index in range(3):
        (tmp_path / f"{index}.heic").touch()
    (tmp_path / "readme.txt").touch()

    with pytest.raises(
        InputError, match=r"no images found; expected files of type .*, found 3 of type \.heic\.$"
    ):
        find_images(tmp_path)


def test_names_that_are_not_utf_8_are_found(put, tmp_path):
    put("a.png")
    os.rename(tmp_path / "a.png", os.fsencode(tmp_path) + b"/\xff\xfe.png")

    assert [os.fsencode(path.name) for path in find_images(tmp_path)] == [b"\xff\xfe.png"]


def test_a_folder_that_may_not_be_read_is_named(put, tmp_path, monkeypatch):
    put("a.png")
    put("locked/b.png")
    scan = os.scandir

    def scandir(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr("mendiff.data.image_files.os.scandir", scandir)

    assert find_images(tmp_path) == [tmp_path / "a.png"]
    assert left_out(tmp_path) == [(tmp_path / "locked", "a folder without read permission")]


def test_a_damaged_file_has_no_further_frames(tmp_path):
    (tmp_path / "a.tif").write_bytes(struct.pack("<2sHI", b"II", 42, 8))

    assert find_images(tmp_path) == [tmp_path / "a.tif"]
    assert left_out(tmp_path) == []
