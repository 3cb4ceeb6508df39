import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis

from mendiff.errors import InputError
from mendiff.scoring.whitening import Whitening


@pytest.fixture
def vectors(rng):
    """Correlated Gaussian vectors with a mean, (6,5,20,20)."""
    mixing = torch.randn(5, 5, generator=rng)
    white = torch.randn(6, 20, 20, 5, generator=rng)
    return (white @ mixing + torch.randn(5, generator=rng)).permute(0, 3, 1, 2)


def fitted(vectors, **options):
    whitening = Whitening(vectors.shape[1], **options)
    for one in vectors.split(2):
        whitening.update(one)
    whitening.finish()
    return whitening


def test_without_shrinkage_it_is_the_mahalanobis_distance(vectors):
    flat = vectors.double().permute(0, 2, 3, 1).reshape(-1, 5).numpy()
    inverse = np.linalg.inv(np.cov(flat.T, bias=True))
    got = fitted(vectors, shrinkage=0.0)(vectors[:1]).flatten()[:20]
    expected = [mahalanobis(one, flat.mean(0), inverse) ** 2 / 5 for one in flat[:20]]
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-3)


def test_mean_distance_of_good_vectors_is_one(vectors):
    assert float(fitted(vectors, shrinkage=0.0)(vectors).mean()) == pytest.approx(1, abs=1e-4)
    assert 0.5 < float(fitted(vectors)(vectors).mean()) < 1


def test_other_vectors_lie_further_away(vectors):
    whitening = fitted(vectors)
    assert float(whitening(vectors + 5).mean()) > 2 * float(whitening(vectors).mean())


def test_pieces_give_the_same_as_all_at_once(vectors):
    whole = Whitening(5)
    whole.update(vectors)
    whole.finish()
    torch.testing.assert_close(whole.root, fitted(vectors).root, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(whole.mean, fitted(vectors).mean, rtol=1e-5, atol=1e-6)


def test_fitting_again_forgets_the_first_time(vectors):
    whitening = fitted(vectors * 100)
    whitening.update(vectors)
    whitening.finish()
    torch.testing.assert_close(whitening(vectors), fitted(vectors)(vectors), rtol=1e-4, atol=1e-5)


def test_before_fitting_it_is_the_mean_square(vectors):
    torch.testing.assert_close(Whitening(5)(vectors), vectors.square().mean(1, keepdim=True))


def test_channels_without_variance_give_finite_distances(vectors):
    flat = vectors.clone()
    flat[:, 2] = 0
    assert bool(fitted(flat)(flat).isfinite().all())
    assert bool(fitted(torch.zeros(1, 5, 2, 2))(flat).isfinite().all())


def test_nothing_seen_is_refused():
    with pytest.raises(InputError, match="at least one good image"):
        Whitening(5).finish()
