import math

import pytest
import torch

from mendiff.errors import InputError
from mendiff.scoring.scales import LOG_FLOOR, MapScales, logarithm


@pytest.fixture
def maps(rng):
    """Three maps of five images, of very different size, (3,5,1,6,7)."""
    sizes = torch.tensor([1.0, 100.0, 1e-3])[:, None, None, None, None]
    return (torch.rand(3, 5, 1, 6, 7, generator=rng) + 1) * sizes


def test_fitted_maps_of_any_magnitude_have_mean_0_and_deviation_1(maps):
    scales = MapScales(3)
    scales.fit(maps.split(2, dim=1))
    standard = scales(maps).flatten(1)
    torch.testing.assert_close(standard.mean(1), torch.zeros(3), rtol=0, atol=1e-4)
    torch.testing.assert_close(standard.std(1, correction=0), torch.ones(3), rtol=1e-3, atol=0)


def test_mean_normal_map_is_subtracted(rng):
    border = torch.ones(16, 16)
    border[:, :4] = 10
    good = torch.rand(2, 30, 1, 16, 16, generator=rng) + border
    scales = MapScales(2, position_grid=16)
    scales.fit_mean_maps(good[:, :20].split(6, dim=1))
    scales.fit([good[:, 20:]])
    standard = scales(good[:, 20:])
    torch.testing.assert_close(standard[..., :2].mean(), standard[..., 8:].mean(), rtol=0, atol=0.1)
    defect = good[:, :1].clone()
    defect[..., 8, 12] += 5
    assert int(scales(defect)[0].argmax()) == 8 * 16 + 12
    assert int(defect[0].argmax()) != 8 * 16 + 12


def test_without_an_image_the_mean_normal_maps_are_those_of_the_others(rng):
    maps = torch.rand(2, 6, 1, 16, 16, generator=rng)
    scales, others = MapScales(2, position_grid=16), MapScales(2, position_grid=16)
    scales.fit_mean_maps(maps.split(4, dim=1))
    others.fit_mean_maps([maps[:, [0, 1, 2, 4, 5]]])
    every = scales.usual.clone()

    with scales.without(maps[:, 3:4]):
        torch.testing.assert_close(scales.usual, others.usual)

    assert torch.equal(scales.usual, every)


def test_divide_divides_by_the_mean_normal_map(rng):
    normal = torch.tensor([1.0, 10.0]).repeat_interleave(8).expand(16, 16)
    good = torch.rand(1, 40, 1, 16, 16, generator=rng) * normal
    scales = MapScales(1, position_grid=16, divide=True)
    scales.fit_mean_maps(good[:, :30].split(6, dim=1))
    scales.fit([good[:, 30:]])
    standard = scales(good[:, 30:])
    for half in (standard[..., :6], standard[..., 10:]):  # away from the step, which is smoothed
        assert abs(float(half.mean())) < 0.2
        assert abs(float(half.std()) - 1) < 0.2
    nowhere = MapScales(1, position_grid=4, divide=True)
    nowhere.fit_mean_maps([torch.zeros(1, 2, 1, 4, 4)])
    assert bool(nowhere(torch.rand(1, 1, 1, 4, 4, generator=rng)).isfinite().all())


def test_mean_normal_map_applies_to_other_image_sizes(maps):
    scales = MapScales(3, position_grid=2)
    scales.fit_mean_maps([maps])
    scales.fit([maps])
    assert scales(torch.rand(3, 1, 1, 20, 10)).shape == (3, 1, 1, 20, 10)


def test_constant_map_is_finite():
    scales = MapScales(1)
    scales.fit([torch.full((1, 2, 1, 3, 3), 0.7)])
    assert bool(scales(torch.rand(1, 2, 1, 3, 3)).isfinite().all())


def test_fit_without_images_is_refused():
    with pytest.raises(InputError, match="held back from training, got none"):
        MapScales(2).fit([])
    with pytest.raises(InputError, match="held back from training, got none"):
        MapScales(2, position_grid=3).fit_mean_maps([])


def test_logarithm_is_finite_at_and_below_zero():
    got = logarithm(torch.tensor([-1e-9, 0.0, 1.0]))
    expected = [math.log(LOG_FLOOR), math.log(LOG_FLOOR), math.log(1 + LOG_FLOOR)]
    assert got.tolist() == pytest.approx(expected, abs=1e-6)
