from urllib.error import URLError

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from mendiff.anomalib_models import peers
from mendiff.anomalib_models.peers import Peer, fit_peer, make_peer, peer_class
from mendiff.errors import InputError
from mendiff.nets.features import FeaturesConfig, local_backbone

pytestmark = pytest.mark.filterwarnings(r"ignore:::lightning\..*")

NAME = "resnet10t"
CONFIG = FeaturesConfig(NAME, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@pytest.fixture(scope="module")
def weights():
    """A backbone's tensors that nobody else has."""
    torch.manual_seed(3)
    return timm.create_model(NAME, pretrained=False).state_dict()


@pytest.fixture
def good(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(6):
        Image.fromarray(rng.integers(90, 140, (48, 40, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
    return sorted(tmp_path.iterdir())


def test_inside_the_block_a_pretrained_backbone_has_the_local_weights(weights):
    original = timm.create_model

    with local_backbone(CONFIG, weights):
        ours = timm.create_model(NAME, pretrained=True, features_only=True, out_indices=(1, 2))
        untrained = timm.create_model(NAME, pretrained=False)

    assert torch.equal(ours.state_dict()["layer1.0.conv1.weight"], weights["layer1.0.conv1.weight"])
    assert not torch.equal(untrained.state_dict()["conv1.0.weight"], weights["conv1.0.weight"])
    assert timm.create_model is original


def test_other_backbones_are_left_alone(weights):
    with local_backbone(CONFIG, weights):
        other = timm.create_model("resnet18", pretrained=False, features_only=True)

    assert other.feature_info.channels()[-1] == 512


def test_weights_that_lack_something_are_refused(weights):
    some = {key: value for key, value in weights.items() if not key.startswith("layer1.0.conv1")}

    with (
        pytest.raises(InputError, match=r"layer1\.0\.conv1\.weight is missing"),
        local_backbone(CONFIG, some),
    ):
        timm.create_model(NAME, pretrained=True)
    assert timm.create_model.__name__ == "create_model"


def test_padim_scores_images_with_the_local_backbone(weights, good, tmp_path):
    fitted = fit_peer(Peer("padim", {"n_features": 8}, CONFIG, weights), good, 64, tmp_path / "trainer")
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 64, 64, generator=rng) * 0.1 + 0.4
    images[1, :, 20:40, 20:40] = 1.0

    scores, maps = fitted.predict(images)

    extractor = fitted.module.model.feature_extractor.feature_extractor.state_dict()
    assert torch.equal(extractor["layer1.0.conv1.weight"], weights["layer1.0.conv1.weight"])
    assert scores.shape == (2,)
    assert maps.shape == (2, 1, 64, 64)
    assert scores[1] > scores[0]
    assert maps[1, 0, 30, 30] > maps[1, 0, 60, 60]


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("patchkore", {}, "expected one of anomalib's"),
        ("patchcore", {"ratio": 1}, "expected settings among"),
    ],
)
def test_bad_input_is_one_sentence(weights, tmp_path, name, settings, sentence):
    with pytest.raises(InputError, match=sentence):
        make_peer(Peer(name, {}, CONFIG, weights), settings, 64, tmp_path)


def test_draem_pastes_noise_where_there_are_no_textures(tmp_path):
    draem = make_peer(Peer("draem"), {}, 64, tmp_path)

    draem.augmenter.probability = 1.0

    image, mask = draem.augmenter(torch.full((1, 3, 64, 64), 0.5))

    assert draem.augmenter.anomaly_source_paths == []
    assert (image != 0.5).any()
    assert torch.equal(image != 0.5, (image != 0.5) & mask.bool())


@pytest.mark.slow
def test_draem_learns_without_a_folder_of_textures(good, tmp_path):
    fitted = fit_peer(Peer("draem", {"max_steps": 1, "batch_size": 2}), good[:2], 64, tmp_path / "trainer")

    scores, maps = fitted.predict(torch.rand(1, 3, 64, 64))

    assert fitted.steps == 1
    assert scores.shape == (1,)
    assert maps.shape == (1, 1, 64, 64)


def test_a_model_that_needs_features_says_so(good, tmp_path):
    with pytest.raises(InputError, match="expected a pretrained backbone"):
        fit_peer(Peer("patchcore"), good, 64, tmp_path / "trainer")


def test_a_model_that_downloads_in_vain_says_so(good, tmp_path, monkeypatch):
    def offline(*_):
        raise URLError("unknown host")

    monkeypatch.setattr(peers, "make_peer", offline)

    with pytest.raises(InputError, match=r"efficient_ad: .* does not answer \(unknown host\)"):
        fit_peer(Peer("efficient_ad"), good, 64, tmp_path / "trainer")


def test_names_are_anomalibs_with_or_without_underscores():
    assert peer_class("efficient_ad") is peer_class("efficientad")
