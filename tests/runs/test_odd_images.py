"""Which good images `check` names because their features differ from all others."""

import json

import numpy as np
import pytest
from PIL import Image

from mendiff.data.images import save_png
from mendiff.data.outliers import FEWEST
from mendiff.data.samples import GOOD, Category, Sample
from mendiff.report.contact_sheet import MARK, SIDE, Entry, contact_sheet
from mendiff.runs.odd_images import odd_images, odd_notes


def part(seed, side=96):
    rng = np.random.default_rng(seed)
    y, x = np.indices((side, side)) / side - 0.5
    ring = 140 + 40 * np.exp(-(((np.hypot(x, y) - 0.3) / 0.05) ** 2)) + rng.normal(0, 4, (side, side))
    return np.repeat(ring.clip(0, 255).astype(np.uint8)[..., None], 3, 2)


def scratched(seed):
    image = part(seed)
    image[30:70, 40:43] = 30
    return image


@pytest.fixture
def folder(tmp_path):
    for number in range(14):
        save_png(part(number), tmp_path / f"{number:02}.png")
    return tmp_path


def category(folder):
    return Category("plate", folder, tuple(sorted(folder.glob("*.png"))), ())


def named(folder):
    return [
        path.name for note in odd_notes(category(folder), odd_images(category(folder))) for path in note.paths
    ]


def test_good_images_alone_are_not_named_and_a_small_defect_among_them_is(folder):
    assert named(folder) == []
    save_png(scratched(100), folder / "odd.png")
    assert named(folder) == ["odd.png"]
    first, second, *_ = odd_images(category(folder))
    assert (first.path.name, first.far, second.far) == ("odd.png", True, False)
    assert first.distance > 2 * second.distance


def test_a_defect_among_the_good_test_images_is_named(folder):
    save_png(scratched(100), folder / "odd.png")
    paths = sorted(folder.glob("*.png"))
    tests = (Sample(folder / "odd.png", GOOD, None), Sample(folder / "gone.png", "scratch", None))
    split = Category("plate", folder, tuple(path for path in paths if path.stem != "odd"), tests)
    odd = odd_images(split)
    assert (len(odd), odd[0].path.name, odd[0].far) == (15, "odd.png", True)
    assert [path.name for note in odd_notes(split, odd) for path in note.paths] == ["odd.png"]


def test_few_images_and_unreadable_ones_name_nothing(folder):
    (folder / "broken.png").write_bytes(b"no picture")
    assert len(odd_images(category(folder))) == 14
    few = Category("few", folder, category(folder).train[: FEWEST - 1], ())
    assert odd_images(few) == []


def test_check_writes_a_sheet_of_the_most_different_images_and_replaces_only_its_own(run, folder, tmp_path):
    save_png(scratched(100), folder / "odd.png")
    out = tmp_path / "checked"

    code, text, err = run("check", folder, "-o", out, "--json")

    assert (code, json.loads(text)["warnings"]) == (0, 1)
    assert json.loads((out / "check.json").read_text()) == json.loads(text)
    assert sorted(path.name for path in out.iterdir()) == ["check.json", f"{folder.name}.png"]
    sheet = np.asarray(Image.open(out / f"{folder.name}.png"))
    mark = tuple(int(MARK[at : at + 2], 16) for at in (1, 3, 5))
    assert (sheet == mark).all(2).sum() > 4 * SIDE
    # The sheet lies among the images that are checked, and is none of them.
    code, text, err = run("check", folder, "-o", out, "--overwrite")
    assert (code, err.count("error")) == (0, 0)
    assert "16" not in text.split("│")[3]
    code, _, err = run("check", folder, "-o", out)
    assert (code, "add --overwrite" in err) == (2, True)


def test_a_contact_sheet_has_every_image_and_its_text(tmp_path):
    entries = [
        Entry(np.full((40, 80 + 40 * n, 3), 40 * n, np.uint8), f"{n}.png: {n}", n == 2) for n in range(5)
    ]
    sheet = contact_sheet("plate: a title that is longer than the sheet is wide " * 3, entries)
    for n in range(1, 5):
        assert (sheet == 40 * n).all(2).sum() > SIDE * SIDE / 8
    assert contact_sheet("none", []).ndim == 3
