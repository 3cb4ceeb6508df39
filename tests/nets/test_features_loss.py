"""The loss that a feature extractor is tuned by."""

import pytest
import torch
import torch.nn.functional as F

from mendiff.nets.features import FeaturesConfig
from mendiff.nets.features_loss import FeaturesTuning, distance


@pytest.fixture
def tuning():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = FeaturesTuning(FeaturesConfig("test_resnet", ("stage1", "stage2")), 0.5)
        with torch.no_grad():
            for one in made.tuned.backbone.parameters():
                one.add_(0.1 * torch.randn_like(one))  # fresh networks have branches that begin at zero
    made.original.load_backbone(made.tuned.backbone.state_dict(), "the other")
    return made


def test_distance_is_one_minus_the_mean_cosine():
    first = torch.tensor([[1.0, 0.0], [0.0, 2.0]])[..., None, None]
    second = torch.tensor([[3.0, 0.0], [1.0, 0.0]])[..., None, None]
    torch.testing.assert_close(distance(first, second), torch.tensor(0.5))


def test_an_untuned_network_has_not_drifted_and_an_image_is_like_itself(tuning, pictures):
    likeness, drift = tuning.terms(pictures, pictures)
    torch.testing.assert_close(torch.stack([likeness, drift]), torch.zeros(2), rtol=0, atol=1e-5)


def test_terms_are_sums_over_layers_of_both_pictures(tuning, pictures):
    rebuilt = pictures.flip(0)
    with torch.no_grad():
        for one in tuning.tuned.backbone.parameters():
            one.add_(0.01 * one.flip(0))
    with torch.no_grad():
        likeness, drift = tuning.terms(pictures, rebuilt)
        torch.testing.assert_close(tuning(pictures, rebuilt), likeness + 0.5 * drift)
        expected = expected_terms(tuning, pictures, rebuilt)
    torch.testing.assert_close(torch.stack([likeness, drift]), torch.tensor(expected))


def expected_terms(tuning, pictures, rebuilt):
    """The same by the formula, layer by layer."""
    expected = [0.0, 0.0]
    for layer in range(2):
        ours, theirs = tuning.tuned(pictures)[layer], tuning.tuned(rebuilt)[layer]
        before = [tuning.original(one)[layer] for one in (pictures, rebuilt)]
        expected[0] += float((1 - F.cosine_similarity(ours, theirs)).mean())
        for now, then in zip((ours, theirs), before, strict=True):
            expected[1] += float((1 - F.cosine_similarity(now, then)).mean())
    return expected


def test_only_the_tuned_backbone_learns_and_batch_norms_stay_in_evaluation_mode(tuning, pictures):
    tuning.train()
    assert not any(one.training for part in (tuning.tuned, tuning.original) for one in part.modules())
    statistics = {name: one.clone() for name, one in tuning.named_buffers()}
    tuning(pictures, pictures.flip(0)).backward()
    assert all(one.grad is None for one in tuning.original.parameters())
    assert all(bool(one.grad.any()) for one in tuning.tuned.backbone.parameters())
    assert all(torch.equal(one, statistics[name]) for name, one in tuning.named_buffers())
