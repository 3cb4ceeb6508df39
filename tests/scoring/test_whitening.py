import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis

from mendiff.errors import InputError
from mendiff.scoring.whitening import ChannelWhitening, ConditionalWhitening


@pytest.fixture
def vectors(rng):
    """Correlated Gaussian vectors with a mean, (6,5,20,20)."""
    mixing = torch.randn(5, 5, generator=rng)
    white = torch.randn(6, 20, 20, 5, generator=rng)
    return (white @ mixing + torch.randn(5, generator=rng)).permute(0, 3, 1, 2)


@pytest.fixture
def unrelated(rng):
    """Reconstructions that tell nothing about the vectors."""
    return torch.randn(6, 5, 20, 20, generator=rng)


def fitted(features, rebuilt, **options):
    whitening = ConditionalWhitening(features.shape[1], **options)
    for ours, theirs in zip(features.split(2), rebuilt.split(2), strict=True):
        whitening.update(ours, theirs)
    whitening.finish()
    return whitening


def test_constant_reconstruction_gives_the_mahalanobis_distance(vectors):
    blank = torch.zeros_like(vectors)
    flat = vectors.double().permute(0, 2, 3, 1).reshape(-1, 5).numpy()
    covariance = np.cov(flat.T, bias=True)
    lift = 5 / len(flat) * covariance.diagonal().mean()  # what few positions add against chance
    inverse = np.linalg.inv(covariance + lift * np.eye(5))
    got = fitted(vectors, blank, shrinkage=0.0)(vectors[:1], blank[:1]).flatten()[:20]
    expected = [mahalanobis(one, flat.mean(0), inverse) ** 2 / 5 for one in flat[:20]]
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-3)


def test_mean_distance_of_good_vectors_is_one(vectors, unrelated):
    exact = fitted(vectors, unrelated, shrinkage=0.0)
    assert float(exact(vectors, unrelated).mean()) == pytest.approx(1, abs=0.02)
    assert 0.5 < float(fitted(vectors, unrelated)(vectors, unrelated).mean()) < 1


def test_differences_predicted_from_the_reconstruction_have_a_small_distance(vectors, rng):
    """Features that are a linear function of the reconstruction's, plus a little noise of their own."""
    mixing = torch.randn(5, 5, generator=rng)
    small = 0.2 * torch.randn(vectors.shape, generator=rng)
    features = torch.einsum("cd,bdhw->bchw", mixing, vectors) + 3 + small
    whitening = fitted(features, vectors, ridge=1e-6)
    assert float(whitening(features, vectors).mean()) == pytest.approx(1, abs=0.1)
    defect = features.clone()
    defect[:, :, 8:12, 8:12] += 2
    assert float(whitening(defect, vectors)[:, :, 8:12, 8:12].mean()) > 10
    assert float(whitening(defect, vectors)[:, :, 14:].mean()) < 2


def test_prediction_is_ridge_regression_on_position_and_context(vectors, rng):
    from sklearn.linear_model import Ridge

    features = vectors.roll(1, dims=1) * 2 + torch.randn(vectors.shape, generator=rng)
    around = [torch.nn.functional.avg_pool2d(vectors, k, 1, k // 2, count_include_pad=False) for k in (3, 7)]
    known = torch.cat([vectors, *around], dim=1).double().permute(0, 2, 3, 1).flatten(0, 2).numpy()
    wanted = features.double().permute(0, 2, 3, 1).flatten(0, 2).numpy()
    lift = (0.01 + 15 / len(known)) * known.var(0).mean()
    expected = Ridge(alpha=lift * len(known)).fit(known, wanted).coef_
    got = fitted(features, vectors).weight + torch.eye(5, 15)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-3, atol=1e-4)


def test_batches_give_the_same_as_all_images_together(vectors, unrelated):
    whole = ConditionalWhitening(5)
    whole.update(vectors, unrelated)
    whole.finish()
    for name, value in fitted(vectors, unrelated).state_dict().items():
        torch.testing.assert_close(whole.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_second_fit_replaces_the_first(vectors, unrelated):
    whitening = fitted(vectors * 100, unrelated)
    whitening.update(vectors, unrelated)
    whitening.finish()
    expected = fitted(vectors, unrelated)(vectors, unrelated)
    torch.testing.assert_close(whitening(vectors, unrelated), expected, rtol=1e-3, atol=1e-4)


def test_unfitted_distance_is_the_mean_squared_difference(vectors, unrelated):
    expected = (vectors - unrelated).square().mean(1, keepdim=True)
    torch.testing.assert_close(ConditionalWhitening(5)(vectors, unrelated), expected)


def test_channels_without_variance_give_finite_distances(vectors, unrelated):
    flat = vectors.clone()
    flat[:, 2] = 0
    assert bool(fitted(flat, unrelated)(flat, unrelated).isfinite().all())
    blank = torch.zeros(1, 5, 2, 2)
    assert bool(fitted(blank, blank)(flat, unrelated).isfinite().all())


def test_conditional_fit_without_images_is_refused():
    with pytest.raises(InputError, match="at least one good image"):
        ConditionalWhitening(5).finish()


def white(features):
    whitening = ChannelWhitening(features.shape[1], shrinkage=1e-6)
    for one in features.split(2):
        whitening.update(one)
    whitening.finish()
    return whitening


def test_whitened_channels_have_mean_0_and_unit_covariance_on_the_fitted_images(vectors):
    flat = white(vectors)(vectors).transpose(0, 1).flatten(1).double()
    torch.testing.assert_close(flat.mean(1), torch.zeros(5).double(), rtol=0, atol=1e-4)
    torch.testing.assert_close(torch.cov(flat, correction=0), torch.eye(5).double(), rtol=0, atol=1e-3)


def test_independent_channels_are_only_scaled(rng):
    independent = torch.randn(4, 3, 40, 40, generator=rng) * torch.tensor([1.0, 5.0, 0.2])[:, None, None]
    root = white(independent).root
    torch.testing.assert_close(root.diagonal(), torch.tensor([1.0, 0.2, 5.0]), rtol=0.05, atol=0)
    assert float((root - root.diagonal().diag()).abs().max()) < 0.2


def test_unfitted_whitening_is_the_identity(vectors):
    torch.testing.assert_close(ChannelWhitening(5)(vectors), vectors)


def test_fit_without_images_is_refused():
    with pytest.raises(InputError, match="at least one good image"):
        ChannelWhitening(5).finish()


def test_undo_restores_differences_of_the_original_features(vectors):
    whitening = ChannelWhitening(5)
    whitening.update(vectors)
    whitening.finish()
    one, other = vectors[:3], vectors[3:]
    torch.testing.assert_close(
        whitening.undo(whitening(one) - whitening(other)), one - other, rtol=1e-3, atol=1e-4
    )
