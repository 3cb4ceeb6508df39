"""Images of several lights, from check and fit to predict, evaluate, calibrate and info."""

import json

import numpy as np
import pytest
import tifffile
from PIL import Image

import mendiff
from tests.commands import settings

pytestmark = pytest.mark.filterwarnings(r"ignore:::lightning\..*")

CHANNELS = ("--channels", 0, 2, 5)


def draw(root, pages):
    """Parts under six lights, a page or a sample for each; a spot shows in the last light only."""
    rng = np.random.default_rng(0)
    for place, count in (("train/good", 9), ("more", 5), ("test/good", 2), ("test/spot", 2)):
        (root / place).mkdir(parents=True)
        for index in range(count):
            part = rng.integers(100, 140, (6, 40, 40), dtype=np.uint8)
            if place == "test/spot":
                part[5, 10:30, 10:30] = 250
            values = part if pages else part.transpose(1, 2, 0)
            planar = {} if pages else {"planarconfig": "contig"}
            tifffile.imwrite(root / place / f"{index}.tif", values, photometric="minisblack", **planar)
    return root


@pytest.fixture(scope="module", params=[False, True], ids=["samples", "pages"])
def fitted(request, tmp_path_factory):
    """(data, model folder) of parts under six lights."""
    from mendiff.cli import main

    root = draw(tmp_path_factory.mktemp("lights") / "parts", request.param)
    words = ["fit", root, "-o", root.parent / "model", *CHANNELS, "--json", *settings()]
    assert main([str(word) for word in words]) == 0
    return root, root.parent / "model"


def test_a_model_keeps_the_channels_that_it_was_fitted_with(fitted, run, tmp_path):
    data, place = fitted
    model = mendiff.load(place)
    path = data / "test/spot/0.tif"
    stored = tifffile.imread(path)
    stored = stored if stored.shape[2] == 6 else stored.transpose(1, 2, 0)
    assert model.reading.channels == (0, 2, 5)
    assert np.array_equal(model.read(path), stored[..., [0, 2, 5]])
    assert model.predict(path).score == model.predict(stored).score

    code, out, err = run("predict", place, data / "test", "-o", tmp_path / "findings", "--json")
    assert (code, "frame" in err) == (0, False), err
    scores = {row["image"]: row["score"] for row in json.loads(out)["images"]}
    assert scores[str(path)] == pytest.approx(float(model.predict(path).score))
    code, out, _ = run("evaluate", place, data, "--json")
    assert code == 0
    assert json.loads(out)["mean"]["image_auroc"] == 1
    code, _, err = run("calibrate", place, data / "more", "-o", tmp_path / "again")
    assert (code, "frame" in err) == (0, False), err
    assert mendiff.load(tmp_path / "again").reading == model.reading
    _, out, _ = run("info", place)
    assert "channels 0, 2, 5 of the files" in " ".join(out.replace("│", "").split())


def test_check_reads_the_chosen_channels(fitted, run):
    data, _ = fitted
    code, out, _ = run("check", data, *CHANNELS)
    assert code == 0
    assert "warnings: 0" in out
    found = mendiff.check(data, channels=[0, 2, 5])
    assert found.findings == ()


def test_an_image_that_lacks_a_channel_is_named(fitted, run, refused, tmp_path):
    data, place = fitted
    sentence = refused("fit", data, "-o", tmp_path / "model", "--channels", 0, 2, 6, *settings())
    assert "expected good images of parts, found none that can be read" in sentence
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    code, _, err = run("predict", place, tmp_path / "a.png", "-o", tmp_path / "findings")
    assert code == 2
    assert "a.png: expected channel 5, counted from 0, got an image of 3 channels" in err
    assert "channels: expected the numbers of one or three channels" in refused(
        "fit", data, "-o", tmp_path / "model", "--channels", 0, 2, *settings()
    )


def test_images_of_several_lights_are_refused_with_the_option_that_reads_them(tmp_path, run):
    code, out, _ = run("check", draw(tmp_path / "parts", pages=False))
    assert code == 2
    assert (
        "expected a grey or RGB image, got 6 channels; choose up to three of them, such as --channels" in out
    )
