import pytest
import torch
import torch.nn.functional as F

from mendiff.errors import InputError
from mendiff.scoring.residuals import ResidualDistances

CHANNELS, STRIDES = (2, 3), (4, 8)


def make(**changes):
    settings = {"by_layer": True, "coarse": True, "position_grid": 8, "whiten": True}
    return ResidualDistances(CHANNELS, STRIDES, **settings | changes)


@pytest.fixture
def residuals(rng):
    """Differences of 24 good images, correlated, with a common wave."""
    wave = 8 * torch.cos(torch.linspace(0, torch.pi, 8))
    mixed = torch.einsum(
        "dc,bchw->bdhw", torch.randn(5, 5, generator=rng), torch.randn(24, 5, 8, 8, generator=rng)
    )
    return mixed + wave


def test_squared_distances_are_mean_squares_of_layers_and_of_their_averages(residuals):
    fine, all_fine, coarse = make(whiten=False, position_grid=0)(residuals)
    torch.testing.assert_close(fine, residuals[:, :2].square().mean(1, keepdim=True))
    torch.testing.assert_close(all_fine, residuals[:, 2:].square().mean(1, keepdim=True))
    # Three positions of the layer with stride 8 are six of the finest grid: a window of seven around one.
    wide = F.avg_pool2d(residuals[:, 2:], 7, 1, 3, count_include_pad=False)
    near = F.avg_pool2d(residuals[:, :2], 3, 1, 1, count_include_pad=False)
    torch.testing.assert_close(coarse, torch.cat([near, wide], 1).square().mean(1, keepdim=True))


def test_single_distance_of_all_layers_is_the_mean_square(residuals):
    distances = make(by_layer=False, coarse=False, whiten=False, position_grid=0)
    assert (distances.fine, distances.count) == (1, 1)
    torch.testing.assert_close(distances(residuals)[0], residuals.square().mean(1, keepdim=True))


def test_good_images_have_distances_of_one_on_average(residuals):
    distances = make()
    distances.fit(lambda: residuals.split(5))
    means = distances(residuals).mean((1, 2, 3, 4))
    assert means.tolist() == pytest.approx([1, 1, 1], abs=0.1)


def test_mean_residual_of_good_images_is_subtracted(residuals):
    plain, placed = make(coarse=False, position_grid=0), make(coarse=False)
    for one in (plain, placed):
        one.fit(lambda: residuals.split(24))
    rim, middle = ((slice(None), slice(None), slice(None), slice(None), at) for at in (0, 3))
    ratios = [float(one(residuals)[rim].mean() / one(residuals)[middle].mean()) for one in (plain, placed)]
    assert ratios[0] > 2
    assert ratios[1] - 1 < (ratios[0] - 1) / 2


def test_only_the_coarse_distance_detects_a_faint_wide_difference(residuals):
    distances = make(position_grid=0)
    distances.fit(lambda: [residuals])
    wide = residuals + 1.0
    gains = (distances(wide).mean((1, 2, 3, 4)) / distances(residuals).mean((1, 2, 3, 4))).tolist()
    assert gains[2] - 1 > 2 * (max(gains[:2]) - 1)


def test_fit_without_images_is_refused():
    for distances in (make(), make(position_grid=0)):
        with pytest.raises(InputError, match="expected at least one good image"):
            distances.fit(lambda: [])
