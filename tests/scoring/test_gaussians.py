import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import LedoitWolf

from mendiff.errors import InputError
from mendiff.scoring.gaussians import PositionGaussians, squared_mahalanobis

DIMS = torch.tensor([0, 2, 3, 5])


@pytest.fixture
def layers(rng):
    """Two feature layers of twenty good images: (20,4,6,6) and (20,3,3,3)."""
    return [torch.randn(20, 4, 6, 6, generator=rng) * 3 + 1, torch.randn(20, 3, 3, 3, generator=rng)]


@pytest.fixture
def gaussians(layers):
    fitted = PositionGaussians(DIMS, (3, 3))
    fitted.fit([[one[:8] for one in layers], [one[8:] for one in layers]])
    return fitted


def described(layers):
    pooled = torch.nn.functional.avg_pool2d(layers[0], 2)
    return torch.cat([pooled, layers[1]], dim=1)[:, DIMS]


def test_distance_equals_scipy_at_every_position(rng):
    features, mean = torch.randn(2, 5, 3, 4, generator=rng), torch.randn(5, 3, 4, generator=rng)
    root = torch.randn(12, 5, 5, generator=rng)
    inverse = root @ root.mT
    got = squared_mahalanobis(features, mean, inverse)
    for y in range(3):
        for x in range(4):
            expected = mahalanobis(features[1, :, y, x], mean[:, y, x], inverse[4 * y + x]) ** 2
            assert float(got[1, y, x]) == pytest.approx(expected, rel=1e-4)


def test_every_position_has_its_mean_and_ledoit_wolf_covariance(layers, gaussians):
    features = described(layers).double()
    torch.testing.assert_close(gaussians.mean.double(), features.mean(0), rtol=0, atol=1e-6)
    residual = features - features.mean(0)
    floor = 0.01 * float(residual.square().mean())
    own = LedoitWolf(assume_centered=True).fit(residual[:, :, 1, 2].numpy()).covariance_
    expected = np.linalg.inv(own + floor * np.eye(4))
    np.testing.assert_allclose(gaussians.inverse_covariance[5].numpy(), expected, rtol=1e-4, atol=1e-5)


def test_good_images_have_distance_one_and_a_defect_is_far(layers, gaussians, rng):
    assert float(gaussians(layers).mean()) == pytest.approx(1, abs=0.2)
    defect = [one.clone() for one in layers]
    defect[1][:, :, 2, 0] += 9
    distance = gaussians(defect) - gaussians(layers)
    assert float(distance[:, 0, 2, 0].min()) > 5
    distance[:, 0, 2, 0] = 0
    assert float(distance.abs().max()) < 1e-4


def test_constant_position_is_finite(layers):
    still = [one.clone() for one in layers]
    still[0][:, :, :2, :2] = 0
    still[1][:, :, 0, 0] = 0
    gaussians = PositionGaussians(DIMS, (3, 3))
    gaussians.fit([still])
    assert bool(gaussians(still).isfinite().all())


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_images_share_a_covariance_of_all_positions(layers, count):
    gaussians = PositionGaussians(DIMS, (3, 3))
    gaussians.fit([[one[:count] for one in layers]])
    features = described([one[:count] for one in layers]).double()
    apart = (features - features.mean((0, 2, 3), keepdim=True)).permute(0, 2, 3, 1).flatten(0, 2)
    own = LedoitWolf(assume_centered=True).fit(apart.numpy()).covariance_
    expected = np.linalg.inv(own + 0.01 * float(apart.square().mean()) * np.eye(4))
    for inverse in gaussians.inverse_covariance.numpy():
        np.testing.assert_allclose(inverse, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gaussians.mean.double(), features.mean(0), rtol=0, atol=1e-6)
    # Others are near, since one image says nothing of how much a position varies.
    assert float(gaussians([one[10:] for one in layers]).mean()) < 4


def test_no_images_are_refused():
    with pytest.raises(InputError, match="expected good images for PaDiM's Gaussians, got none"):
        PositionGaussians(DIMS, (3, 3)).fit([])
