"""What Model.predict returns: the raw finding with images and threshold."""

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mendiff.inspection import MOST, SIDE, Inspection

LOSS = 3
"""Levels by which compression may change a flat region."""


def inspection(count, threshold=0.5):
    """Images with a bright square that the reconstruction lacks; scores rise from 0 to 1."""
    image = torch.full((count, 3, 32, 32), 0.25)
    reconstruction = image.clone()
    image[:, :, 8:16, 8:16] = 1.0
    heat = torch.zeros(count, 1, 32, 32)
    heat[:, :, 8:16, 8:16] = 1.0
    return Inspection(
        score=torch.linspace(0, 1, count),
        anomaly_map=heat,
        reconstruction=reconstruction,
        stop_step=torch.zeros(count, dtype=torch.int64),
        image=image,
        threshold=threshold,
        heat_range=(0.5, 0.1),
        sizes=((32, 32),) * count,
    )


def pictures(page):
    found = re.findall(r"data:image/webp;base64,([^\"]+)", page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(one)))).astype(int) for one in found]


def test_parts_above_the_threshold_are_defective():
    assert inspection(5).defective.tolist() == [False, False, False, True, True]


def test_its_text_counts_images_and_defective_ones():
    assert repr(inspection(5)) == "Inspection(5 images, 2 above the threshold of 0.5)"


def test_a_notebook_shows_image_anomaly_map_and_reconstruction_beside_the_decision():
    page = inspection(2)._repr_html_()
    assert page.count("<tr>") == 3
    assert "good: 0 (threshold 0.5)" in page
    assert "defective: 1 (threshold 0.5)" in page
    image, heat, reconstruction = pictures(page)[:3]
    assert image.shape == heat.shape == reconstruction.shape == (SIDE, SIDE, 3)
    middle, corner = (60, 60), (140, 140)
    assert image[middle].tolist() == pytest.approx([255, 255, 255], abs=LOSS)
    for place in (middle, corner):
        assert reconstruction[place].tolist() == pytest.approx([64, 64, 64], abs=LOSS)
    assert abs(heat[middle] - image[middle]).max() > 10 * LOSS
    assert heat[corner].tolist() == pytest.approx(image[corner].tolist(), abs=LOSS)


def test_a_notebook_shows_the_first_images_and_counts_the_others():
    page = inspection(MOST + 3)._repr_html_()
    assert len(pictures(page)) == 3 * MOST
    assert "3 more images are not shown" in page


def test_a_notebook_of_grainy_images_stays_small():
    found = inspection(2)
    grain = 0.05 * torch.randn(2, 3, 320, 320, generator=torch.Generator().manual_seed(0))
    large = (torch.nn.functional.interpolate(one, 320) for one in (found.image, found.reconstruction))
    image, reconstruction = ((one + grain).clamp(0, 1) for one in large)
    heat = torch.nn.functional.interpolate(found.anomaly_map, 320)
    shown = replace(
        found, image=image, reconstruction=reconstruction, anomaly_map=heat, sizes=((320, 320),) * 2
    )
    assert len(shown._repr_html_()) / 2 < 25 * 1024
