"""Letterboxed images, tiles and an inspected area, with every method."""

import dataclasses

import numpy as np
import pytest
import torch

import mendiff
from mendiff.calibration import Calibration
from mendiff.data.inspected import InspectedArea
from mendiff.errors import InputError
from mendiff.methods.base import METHODS
from mendiff.model import Model, calibrated
from mendiff.types import Detection

pytestmark = pytest.mark.parametrize("name", METHODS)
SEEDS = torch.arange(4)


@pytest.fixture
def model(name, tiny_method):
    """(changes) to a model with random weights."""
    return lambda **changes: Model(name, tiny_method(name, changes), Calibration((0.1, 0.2)), {})


@pytest.fixture
def wide(rng):
    """A picture of 24 x 72 pixels, smooth enough for random networks."""
    coarse = torch.rand(1, 3, 4, 9, generator=rng)
    return torch.nn.functional.interpolate(coarse, size=(24, 72), mode="bicubic")[0].clamp(0, 1)


def same(one, other, **tolerance):
    for field in dataclasses.fields(Detection):
        torch.testing.assert_close(getattr(one, field.name), getattr(other, field.name), **tolerance)


def half(size, columns):
    mask = np.zeros(size, np.bool_)
    mask[:, columns] = True
    return InspectedArea(mask)


def test_the_score_is_that_of_the_map(model, pictures):
    method = model().method
    found = method.predict(pictures, SEEDS)
    torch.testing.assert_close(method.score(found.anomaly_map, 32 * 32), found.score)


def test_a_score_of_a_part_does_not_depend_on_low_pixels_around_it(model, pictures):
    method = model().method
    values = method.predict(pictures, SEEDS).anomaly_map
    lowest = float(values.min())
    wider = torch.nn.functional.pad(values, (0, 40, 0, 70), value=lowest)
    torch.testing.assert_close(method.score(wider, 32 * 32), method.score(values, 32 * 32))


def test_a_square_image_is_the_same_stretched_letterboxed_and_as_a_tile(model, pictures):
    whole = model().predict(list(pictures))
    for changes in ({"resize": "letterbox"}, {"tile": 32}):
        same(model(**changes).predict(list(pictures)), whole, rtol=1e-5, atol=1e-5)


def test_padding_of_a_letterboxed_image_is_in_no_result(model, wide):
    made = model(resize="letterbox")
    found = made.predict(wide)
    canvas = made.geometry.whole(wide)
    inner = made.predict_batch(canvas[None])
    assert found.sizes == ((11, 32),)
    assert found.anomaly_map.shape == (1, 1, 11, 32)
    torch.testing.assert_close(found.anomaly_map, inner.anomaly_map[:, :, :11], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.reconstruction, inner.reconstruction[:, :, :11], rtol=1e-5, atol=1e-5)
    assert float(found.score) <= float(found.anomaly_map.max()) + 1e-5


def test_tiles_do_not_depend_on_batches_and_other_images(model, wide, pictures):
    made = model(tile=32)
    alone = made.predict(wide)
    assert alone.anomaly_map.shape == (1, 1, 24, 72)
    same(made.predict(wide, batch_size=1), alone, rtol=1e-5, atol=1e-5)
    together = made.predict([pictures[0], wide])
    assert together.sizes == ((32, 32), (24, 72))
    assert not together.anomaly_map[0, 0, :, 32:].any()
    torch.testing.assert_close(together.anomaly_map[1:, :, :24], alone.anomaly_map, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(together.score[1:], alone.score, rtol=1e-5, atol=1e-5)


def test_a_small_defect_is_the_highest_place_of_a_large_image(model, wide):
    made = model(tile=32)
    good = wide.repeat(1, 4, 2)
    flawed = good.clone()
    flawed[:, 50:56, 100:106] = 1 - flawed[:, 50:56, 100:106].round()
    difference = made.predict(flawed).anomaly_map - made.predict(good).anomaly_map
    row, column = divmod(int(difference.abs().argmax()), good.shape[-1])
    assert abs(row - 53) <= 16
    assert abs(column - 103) <= 16


def test_nothing_outside_of_the_inspected_area_counts(model, wide):
    for changes in ({}, {"resize": "letterbox"}, {"tile": 32}):
        free = model(**changes)
        everywhere = free.predict(wide)
        made = dataclasses.replace(free, area=half((24, 72), slice(0, 36)))
        found = made.predict(wide)
        height, width = found.sizes[0]
        inside = made.area.at(height, width)
        outside = found.anomaly_map[0][~inside]
        assert torch.equal(found.anomaly_map[0][inside], everywhere.anomaly_map[0][inside])
        assert len(outside.unique()) == 1
        assert float(outside[0]) == min(0.0, float(found.anomaly_map[0][inside].min()))
        assert float(found.score) <= float(found.anomaly_map[0][inside].max()) + 1e-5
        assert torch.equal(found.reconstruction, everywhere.reconstruction)


def test_an_image_of_another_shape_than_the_area_is_refused(model, pictures):
    made = dataclasses.replace(model(), area=half((24, 72), slice(0, 36)))
    with pytest.raises(InputError, match="aspect ratio of the image, 32x32, got 72x24"):
        made.predict(pictures[0])


@pytest.mark.parametrize("changes", [{"resize": "letterbox"}, {"tile": 32}], ids=["letterbox", "tile"])
def test_thresholds_come_from_whole_images_and_are_stored_with_the_geometry(
    name, tiny_method, wide, tmp_path, changes
):
    good = [wide, wide.flip(-1), wide.flip(-2), 0.9 * wide]
    area = half((24, 72), slice(0, 36))
    fitted = calibrated(name, tiny_method(name, changes), {}, good[:2], good[2:], area=area)
    scores = fitted.predict(good[:2]).score.tolist()
    assert fitted.calibration.scores == pytest.approx(scores, rel=1e-5)
    fitted.save(tmp_path / "model")
    loaded = mendiff.load(tmp_path / "model")
    assert loaded.geometry == fitted.geometry
    assert np.array_equal(loaded.area.mask, area.mask)
    same(loaded.predict(good), fitted.predict(good), rtol=0, atol=0)
    (tmp_path / "model/region.png").write_bytes((tmp_path / "model/region.png").read_bytes() + b" ")
    with pytest.raises(InputError, match=r"region.png: expected the file that was written with this model"):
        mendiff.load(tmp_path / "model")
    again = loaded.calibrated(good[2:])
    assert (again.geometry, again.area is loaded.area) == (loaded.geometry, True)


def test_a_trace_shows_the_tile_with_the_highest_value(model, wide):
    made = model(tile=32)
    traced, whole = made.trace(wide), made.predict(wide)
    top, left, bottom, right = traced.box
    assert (bottom - top, right - left) == (24, 32)
    assert float(traced.found.score) == pytest.approx(float(whole.score), rel=1e-5)
    assert float(traced.found.anomaly_map.max()) == pytest.approx(float(whole.anomaly_map.max()), rel=1e-5)
    assert traced.found.anomaly_map.shape == (1, 1, 24, 32)
    for panel in traced.panels:
        assert panel.pixels.shape[-2] == round(24 / 32 * panel.pixels.shape[-1])


def test_tiles_have_no_statistics_by_position(name, tiny_config):
    config = tiny_config(name).for_tiles()
    assert config.readout.position_grid == 0
    assert config.upright == "never"
