"""Which good images `check` names because they look unlike all others."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mendiff.data.images import save_png
from mendiff.data.outliers import FEWEST, describe, unlike_images
from mendiff.data.samples import Category


def part(rng, side=48):
    place = np.indices((side, side)).sum(0) / (2 * side)
    grey = 120 + 60 * place + rng.normal(0, 5, (side, side)) + rng.normal(0, 4)
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, 2)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(30):
        save_png(part(rng), tmp_path / f"{number:02}.png")
    return tmp_path


def named(folder):
    found = unlike_images(Category("plate", folder, tuple(sorted(folder.glob("*.png"))), ()))
    assert all(not finding.hard for finding in found)
    return [finding.paths[0].name for finding in found]


def test_ordinary_images_are_passed_over(folder):
    assert named(folder) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda image: np.zeros_like(image),
        lambda image: 255 - image,
        lambda image: image * np.array([1, 1, 0], np.uint8),
        lambda image: np.where(np.indices(image.shape[:2])[0][..., None] < 8, 0, image).astype(np.uint8),
    ],
    ids=["black", "negative", "another colour", "a black band"],
)
def test_one_that_looks_otherwise_is_named(folder, spoil):
    save_png(spoil(part(np.random.default_rng(1))), folder / "odd.png")
    assert named(folder) == ["odd.png"]


def test_a_second_kind_of_part_is_no_outlier(folder):
    rng = np.random.default_rng(2)
    for number in range(15):
        save_png(255 - part(rng), folder / f"other{number}.png")
    assert named(folder) == []


def test_equal_images_and_few_ones_name_nothing(tmp_path):
    image = part(np.random.default_rng(0))
    for number in range(FEWEST - 1):
        save_png(image, tmp_path / f"{number}.png")
    save_png(255 - image, tmp_path / "odd.png")
    paths = sorted(tmp_path.glob("*.png"))
    assert unlike_images(Category("plate", tmp_path, tuple(paths[1:]), ())) == []
    for number in range(FEWEST):
        save_png(image, tmp_path / f"same{number}.png")
    assert named(tmp_path) == ["odd.png"]
    (tmp_path / "odd.png").unlink()
    assert named(tmp_path) == []


def test_unreadable_images_are_left_to_others(folder):
    (folder / "broken.png").write_bytes(b"no picture")
    assert named(folder) == []
    assert unlike_images(Category("none", folder, (Path("gone.png"),), ())) == []


def test_a_description_does_not_depend_on_where_things_are():
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    turned = describe(image.flip(2))
    torch.testing.assert_close(describe(image), turned)
    assert float((describe(image) - describe(1 - image)).abs().max()) < 0.1
    assert float((describe(image) - describe(image / 2)).abs().max()) > 0.4
