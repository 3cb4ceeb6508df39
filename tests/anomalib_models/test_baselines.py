import inspect
from urllib.error import URLError

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from mendiff.anomalib_models import baselines
from mendiff.anomalib_models.baselines import Baseline, baseline_class, fit_baseline, make_baseline
from mendiff.errors import InputError
from mendiff.nets.features import FeatureExtractor, FeaturesConfig

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


def backbone_of(module):
    named = (one for name, one in module.named_modules() if name.endswith(".feature_extractor"))
    found = [one for one in named if type(one).__module__.startswith("timm.")]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("name", ["patchcore", "padim", "cflow", "dfkde"])
def test_models_of_anomalib_have_the_local_weights(weights, tmp_path, name):
    module = make_baseline(Baseline(name, {}, CONFIG, weights), {}, 64, tmp_path)
    state = backbone_of(module).state_dict()
    assert set(state) <= set(weights)
    assert all(torch.equal(one, weights[key]) for key, one in state.items())
    assert all(vars(one).get("pre_trained", True) for one in module.modules())


def test_a_backbones_arguments_reach_anomalib(tmp_path):
    config = FeaturesConfig("mobilenetv2_100", network={"pad_type": "same"})
    weights = timm.create_model("mobilenetv2_100", pretrained=False).state_dict()
    module = make_baseline(Baseline("patchcore", {}, config, weights), {}, 64, tmp_path)
    stem = backbone_of(module).conv_stem
    assert torch.equal(stem.weight, weights["conv_stem.weight"])
    assert type(stem).__name__ == "Conv2dSame"


def test_timm_is_the_same_meanwhile(weights, tmp_path, monkeypatch):
    """Other threads may be making networks: nothing of timm's may be changed, not even for a moment."""
    original, seen = timm.create_model, []

    monkeypatch.setattr(baselines, "baseline_class", lambda name: watched_class(baseline_class(name), seen))
    make_baseline(Baseline("patchcore", {}, CONFIG, weights), {}, 64, tmp_path)
    assert seen == [original]


def watched_class(kind, seen):
    """The class, noting timm's function while it is made."""

    class Watched(kind):
        __signature__ = inspect.signature(kind)

        def __init__(self, *args, **options):
            seen.append(timm.create_model)
            super().__init__(*args, **options)

    return Watched


def test_weights_draw_nothing_of_what_the_model_draws_later(weights, tmp_path):
    torch.manual_seed(5)
    FeatureExtractor(CONFIG)  # tells how the input is normalised
    baseline_class("patchcore")(backbone=NAME, layers=[2, 3], pre_trained=False)
    expected = torch.rand(1)
    torch.manual_seed(5)
    make_baseline(Baseline("patchcore", {}, CONFIG, weights), {}, 64, tmp_path)
    assert torch.equal(torch.rand(1), expected)


def test_weights_that_lack_something_are_refused(weights, tmp_path):
    some = {key: value for key, value in weights.items() if not key.startswith("layer1.0.conv1")}
    with pytest.raises(InputError, match=r"of the backbone: .*layer1\.0\.conv1\.weight is missing"):
        make_baseline(Baseline("patchcore", {}, CONFIG, some), {}, 64, tmp_path)


def test_weights_of_stages_that_nobody_looks_at_may_lack(weights, tmp_path):
    some = {key: value for key, value in weights.items() if not key.startswith(("layer4", "fc"))}
    make_baseline(Baseline("patchcore", {}, CONFIG, some), {}, 64, tmp_path)


@pytest.mark.parametrize("name", ["stfpm", "uflow"])
def test_a_model_that_fetches_its_backbone_by_itself_is_refused(weights, tmp_path, name):
    with pytest.raises(InputError, match=f"{name}: expected .*downloads its own; omit the model"):
        make_baseline(Baseline(name, {}, CONFIG, weights), {}, 64, tmp_path)


def test_padim_scores_images_with_the_local_backbone(weights, good, tmp_path):
    fitted = fit_baseline(
        Baseline("padim", {"n_features": 8}, CONFIG, weights), good, 64, tmp_path / "trainer"
    )
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
        ("glass", {}, "glass: expected the layer names of a ResNet"),
    ],
)
def test_bad_input_is_one_sentence(weights, tmp_path, name, settings, sentence):
    with pytest.raises(InputError, match=sentence):
        make_baseline(Baseline(name, {}, CONFIG, weights), settings, 64, tmp_path)


def test_draem_pastes_noise_where_there_are_no_textures(tmp_path):
    draem = make_baseline(Baseline("draem"), {}, 64, tmp_path)

    draem.augmenter.probability = 1.0

    image, mask = draem.augmenter(torch.full((1, 3, 64, 64), 0.5))

    assert draem.augmenter.anomaly_source_paths == []
    assert (image != 0.5).any()
    assert torch.equal(image != 0.5, (image != 0.5) & mask.bool())


@pytest.mark.slow
def test_draem_learns_without_a_folder_of_textures(good, tmp_path):
    fitted = fit_baseline(
        Baseline("draem", {"max_steps": 1, "batch_size": 2}), good[:2], 64, tmp_path / "trainer"
    )

    scores, maps = fitted.predict(torch.rand(1, 3, 64, 64))

    assert fitted.steps == 1
    assert scores.shape == (1,)
    assert maps.shape == (1, 1, 64, 64)


def test_a_model_that_needs_features_says_so(good, tmp_path):
    with pytest.raises(InputError, match="expected a pretrained backbone"):
        fit_baseline(Baseline("patchcore"), good, 64, tmp_path / "trainer")


def test_a_model_that_downloads_in_vain_says_so(good, tmp_path, monkeypatch):
    def offline(*_):
        raise URLError("unknown host")

    monkeypatch.setattr(baselines, "make_baseline", offline)

    with pytest.raises(InputError, match=r"efficient_ad: .* does not answer \(unknown host\)"):
        fit_baseline(Baseline("efficient_ad"), good, 64, tmp_path / "trainer")


def test_names_are_anomalibs_with_or_without_underscores():
    assert baseline_class("efficient_ad") is baseline_class("efficientad")
