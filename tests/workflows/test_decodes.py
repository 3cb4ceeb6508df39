"""How often a command decodes, checks and hashes its data."""

import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from mendiff.checkpoints.files import sha256_of
from mendiff.data import checks
from mendiff.data.dataset import open_data
from mendiff.methods.glad_config import PRESETS
from mendiff.runs import common
from mendiff.runs.reporting import Silent
from mendiff.workflows import choice, identity
from mendiff.workflows.job import run as run_job
from mendiff.workflows.queue import prepared
from mendiff.workflows.spec import CONTENTS, Job, read_moved
from tests.commands import RAN

FORMATS = ("png", "jpg", "bmp")
COUNT = 9
WIDTH = 41


@pytest.fixture
def good(tmp_path):
    """Good images of three formats that all begin with the same rows, so that to compare them takes all."""
    folder = tmp_path / "good"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(COUNT):
        pixels = rng.integers(0, 255, (48, WIDTH, 3), dtype=np.uint8)
        pixels[:24] = 90
        Image.fromarray(pixels).save(folder / f"{index}.{FORMATS[index % 3]}")
    return folder


@pytest.fixture
def decoded(monkeypatch):
    """Counts the images of WIDTH whose pixels are decoded."""
    counted, load = Counter(), ImageFile.ImageFile.load

    def counting(image):
        if image.tile and image.size[0] == WIDTH:
            counted["images"] += 1
        return load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", counting)
    return counted


@pytest.fixture
def looked_at(monkeypatch):
    """Counts the checks of data, and how often every image file is hashed."""
    counted, check = Counter(), checks.check_data

    def checking(*arguments):
        counted["checks"] += 1
        return check(*arguments)

    def hashing(path):
        counted[Path(path).name] += 1
        return sha256_of(path)

    monkeypatch.setattr(identity, "_HASHES", {})
    monkeypatch.setattr(common, "check_data", checking)
    monkeypatch.setattr(identity, "sha256_of", hashing)
    return counted


@pytest.mark.parametrize("more", [(), ("--statistics", "category")])
def test_a_fit_decodes_an_image_once(more, good, decoded, run, tmp_path):
    assert run("fit", good, *RAN, *more, "-o", tmp_path / "model")[0] == 0
    assert decoded["images"] == COUNT


def test_a_codecs_fit_decodes_an_image_once(good, decoded, run, tmp_path):
    words = ("--set", "crop=0", "--set", "image_size=32", "--set", "training.steps=2")
    assert run("fit-codec", good, *words, "-o", tmp_path / "codec")[0] == 0
    assert decoded["images"] == COUNT


def test_auto_checks_and_hashes_the_data_once(good, looked_at, run, tmp_path, monkeypatch, tiny_config):
    config = tiny_config("glad")
    config = replace(config, training=replace(config.training, steps=2, minutes=0))
    for name in choice.CANDIDATES:
        monkeypatch.setitem(PRESETS, name, config)
    figures = dict.fromkeys(("image_auroc", "pixel_auroc", "pixel_ap"), 0.5)
    monkeypatch.setattr(choice, "defect_metrics", lambda *_: figures)
    assert run("fit", good, "--preset", "auto", "-o", tmp_path / "model")[0] == 0
    assert looked_at.pop("checks") == 1
    assert [looked_at[path.name] for path in good.iterdir()] == [1] * COUNT


def test_a_job_neither_checks_nor_hashes_what_the_benchmark_has(data, looked_at, tmp_path):
    data = shutil.copytree(data, tmp_path / "plate")
    categories = open_data(data)
    job = Job("median-colour", {"a": {}}, str(data), [categories[0].name])
    job = replace(job, identity=identity.identity(job, categories))
    folders = [prepared(tmp_path, name, job) for name in ("first", "second")]
    identity.note_contents(folders[0].parent / CONTENTS, categories[0].train[:1])
    identity._HASHES.clear()
    looked_at.clear()

    run_job(read_moved(folders[0]), folders[0], Silent())
    assert looked_at["checks"] == 0
    assert not [name for name in looked_at if name.endswith(".png")]

    identity._HASHES.clear()
    os.utime(categories[0].train[0], (1, 1))
    run_job(read_moved(folders[1]), folders[1], Silent())
    assert looked_at["checks"] == 1
    assert looked_at[categories[0].train[0].name] >= 1
