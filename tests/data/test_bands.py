"""Pictures in bands of rows: the same numbers and pixels as all at once, in less memory."""

import io
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mendiff.data import bands, images

# Prints by how many bytes the peak of memory grew while a picture was resized, and drawn on and saved.
GROWTH = """
import resource, sys
from pathlib import Path
import numpy as np, torch
from mendiff.workflows.images import ImageOutput
from mendiff.data.images import resize

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def draw(picture):
    output = ImageOutput(Path(sys.argv[1]), "x.png", raw_maps=True)
    list(output.write(picture, torch.rand(1, 64, 64), torch.rand(3, 64, 64), (2.0, 0.75)))

resize(np.full((300, 400, 3), 90, np.uint8), 64), draw(np.full((300, 400, 3), 90, np.uint8))
picture = np.full((4000, 6000, 3), 90, np.uint8)
before = peak()
resize(picture, 64)
resized = peak()
draw(picture[:2000, :2000].copy())
print(resized - before, peak() - resized)
"""


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 200), st.integers(0, 2**32 - 1))
def test_bands_hold_every_row_once(height, width, room, seed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bands, "BAND_PIXELS", room)
        rows = [row for part in bands.bands(height, width) for row in range(height)[part]]
    assert rows == list(range(height))


@pytest.mark.parametrize(("lowest", "outside"), [(0.5, 0.0), (-2.0, -2.0)])
def test_an_enlarged_map_is_zero_or_lowest_outside_of_an_area(rng, lowest, outside):
    small = lowest + torch.rand(1, 4, 5, generator=rng)
    small[0, 0, 0] = lowest
    inside = np.zeros((40, 50), np.bool_)
    inside[5:20, 10:30] = True
    plain, cut = (bands.Enlarged(small, 40, 50, where)[slice(0, 40)][0] for where in (None, inside))
    assert torch.equal(cut[inside], plain[inside])
    assert cut[~inside].unique().tolist() == [outside]


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 200), st.integers(0, 2**32 - 1))
def test_a_map_written_in_bands_as_tiff_reads_back_as_it_was(height, width, room, seed):
    values = np.random.default_rng(seed).standard_normal((height, width)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(bands, "BAND_PIXELS", room)
        file = Path(folder) / "map.tiff"
        images.save_float_tiff(file, height, width, (values[rows] for rows in bands.bands(height, width)))
        assert (tifffile.imread(file) == values).all()


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 200), st.integers(0, 2**32 - 1))
def test_a_png_written_in_bands_reads_back_as_it_was(height, width, room, seed):
    rng = np.random.default_rng(seed)
    picture = (rng.integers(0, 256, (height, width, 3)) * rng.integers(0, 2)).astype(np.uint8)
    file = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bands, "BAND_PIXELS", room)
        bands.write_png(file, height, width, (picture[rows] for rows in bands.bands(height, width)))
    np.testing.assert_array_equal(np.array(Image.open(file)), picture)


def test_a_png_of_smooth_content_is_about_as_small_as_pillows():
    rows, columns = np.mgrid[:300, :400]
    waves = 120 + 60 * np.sin(rows / 40) + 40 * np.cos(columns / 25)
    picture = np.repeat(waves.astype(np.uint8)[..., None], 3, axis=2)
    ours, theirs = io.BytesIO(), io.BytesIO()
    bands.write_png(ours, 300, 400, [picture])
    Image.fromarray(picture).save(theirs, "PNG")
    assert len(ours.getvalue()) < 1.3 * len(theirs.getvalue())


@pytest.mark.parametrize(("height", "width"), [(40, 40), (64, 64), (200, 70), (31, 400), (1, 1)])
def test_rows_of_a_map_are_those_that_interpolation_gives(height, width, monkeypatch):
    monkeypatch.setattr(bands, "BAND_PIXELS", 1000)
    small = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    whole = F.interpolate(small[None], size=(height, width), mode="bilinear", align_corners=False)[0]
    enlarged = bands.Enlarged(small, height, width)
    got = torch.cat([enlarged[rows] for rows in bands.bands(height, width)], dim=1)
    torch.testing.assert_close(got, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(90, 70), (300, 64), (64, 300), (33, 500), (500, 33), (20, 20), (64, 64)])
def test_a_picture_is_resized_to_the_same_bits_in_bands_and_at_once(shape, monkeypatch):
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    x = torch.from_numpy(picture).permute(2, 0, 1).contiguous().float()[None] / 255
    whole = F.interpolate(x, size=(64, 64), mode="bilinear", antialias=True, align_corners=False)[0]
    for room in (1, 500, 7000, 2**20):
        monkeypatch.setattr(bands, "BAND_PIXELS", room)
        assert torch.equal(images.resize(picture, 64), whole.clamp(0, 1))


def test_an_overlay_is_the_same_in_bands_and_at_once(monkeypatch):
    rng = np.random.default_rng(0)
    picture, heat = rng.integers(0, 256, (50, 30, 3), dtype=np.uint8), rng.random((50, 30))
    whole = images.overlay(picture, heat)
    monkeypatch.setattr(bands, "BAND_PIXELS", 100)
    np.testing.assert_array_equal(images.overlay(picture, heat), whole)


def test_a_large_picture_is_resized_and_drawn_on_without_another_copy_of_it(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-c", GROWTH, str(tmp_path)], capture_output=True, text=True, check=True
    )
    resized, drawn = map(int, ended.stdout.split())
    picture = 4000 * 6000 * 3
    assert resized < picture
    # Of four megapixels, copied for the purpose, a float64 copy alone would take 96 MB.
    assert drawn < 72e6
