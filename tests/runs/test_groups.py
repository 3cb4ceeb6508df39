"""Metrics of groups of test images."""

import numpy as np
import pytest
import torch
from PIL import Image

from mendiff.data.samples import Category, Sample, Saturation
from mendiff.evaluation.metrics import SPRO, image_and_pixel_metrics
from mendiff.evaluation.spro import Region, au_spro
from mendiff.runs.groups import measure_groups
from mendiff.runs.testing import TestSet

SIDE = 16


@pytest.fixture
def tests(tmp_path):
    """Two good images, two of each defect type in two lights, with masks, maps and scores."""
    rng = np.random.default_rng(0)
    samples, masks = [], []
    for number, (label, condition) in enumerate(
        [
            ("good", "dark"),
            ("good", "light"),
            ("bent", "dark"),
            ("bent", "light"),
            ("wet", "dark"),
            ("wet", "light"),
        ]
    ):
        mask = np.zeros((2 * SIDE, 2 * SIDE), np.uint8)
        if label != "good":
            mask[4 : 4 + 2 * number, 6:20] = 200 + (label == "wet")
        path = tmp_path / f"{number}_mask.png"
        Image.fromarray(mask).save(path)
        samples.append(
            Sample(tmp_path / f"{number}.png", label, None if label == "good" else path, condition=condition)
        )
        masks.append(mask[::2, ::2] > 0)
    truth = torch.tensor(np.stack(masks))[:, None]
    labels = torch.tensor([not sample.is_good for sample in samples])
    found = TestSet(samples, torch.zeros(6, 3, SIDE, SIDE), labels, truth)
    maps = torch.tensor(rng.normal(0, 1, truth.shape), dtype=torch.float32) + truth
    return found, maps.amax((1, 2, 3)), maps


def category(tests, grouped, saturations=()):
    return Category("x", tests.samples[0].path.parent, (), tuple(tests.samples), "", (), grouped, saturations)


def test_a_defect_type_is_compared_with_all_good_images(tests):
    found, scores, maps = tests
    grouped = measure_groups(category(found, "label"), found, scores, maps)
    rows = [0, 1, 4, 5]
    expected = image_and_pixel_metrics(scores[rows], found.labels[rows], maps[rows], found.masks[rows])
    assert list(grouped.groups) == ["bent", "wet"]
    assert grouped.groups["wet"] == expected
    assert grouped.own == {}


def test_a_condition_has_its_own_good_and_defective_images(tests):
    found, scores, maps = tests
    grouped = measure_groups(category(found, "condition"), found, scores, maps)
    rows = [1, 3, 5]
    expected = image_and_pixel_metrics(scores[rows], found.labels[rows], maps[rows], found.masks[rows])
    assert list(grouped.groups) == ["dark", "light"]
    assert grouped.groups["light"] == expected
    assert measure_groups(category(found, ""), found, scores, maps).groups == {}


def test_saturations_are_shares_of_the_defect_in_the_original_image(tests):
    found, scores, maps = tests
    saturations = (Saturation(200, 14, False), Saturation(201, 0.25, True))
    grouped = measure_groups(category(found, "label", saturations), found, scores, maps)
    shares = [14 / (14 * 4), 14 / (14 * 6), 0.25, 0.25]
    regions = [Region(at, found.masks[at, 0], share) for at, share in zip(range(2, 6), shares, strict=True)]
    assert grouped.own == {SPRO: au_spro(maps, found.masks, regions)}
    assert grouped.own[SPRO] > au_spro(maps, found.masks, [Region(r.image, r.mask, 1.0) for r in regions])
    rows = [0, 1, 2, 3]
    bent = au_spro(maps[rows], found.masks[rows], regions[:2])
    assert grouped.groups["bent"][SPRO] == bent
