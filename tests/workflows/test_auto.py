"""What "auto" comes to: the bundled networks in plans, models, benchmarks and variants."""

from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from mendiff.checkpoints.bundled import FEATURES, bundled_features, codec_folder
from mendiff.checkpoints.codecs import open_codec
from mendiff.checkpoints.store import load
from mendiff.data.images import save_png, to_picture
from mendiff.errors import InputError
from mendiff.nets.student import StudentFeatures
from mendiff.runs.backbone import backbone_changes, backbone_input
from mendiff.runs.fit_config import Plan, make_config
from mendiff.runs.variants import variant_of
from mendiff.workflows.baselines import anomalib_baseline, features_config, simple_baseline
from mendiff.workflows.job import Job
from mendiff.workflows.training_run import prepared

SMALL = {"training.steps": 2, "denoiser.network.layers_per_block": 1}


@pytest.fixture
def paths(tmp_path, pictures):
    (tmp_path / "good").mkdir()
    for index in range(12):
        save_png(to_picture(pictures[index % 4] * (1 - 0.05 * index)), tmp_path / f"good/{index}.png")
    return sorted((tmp_path / "good").iterdir())


@pytest.mark.parametrize(
    ("features", "weights", "found"),
    [(None, None, {}), ("auto", None, {"features.name": "auto"})],
)
def test_backbone_changes(features, weights, found):
    assert backbone_changes(features, weights) == found


@pytest.mark.parametrize(
    ("features", "weights"), [("auto", Path("x")), ("resnet18", None), (None, Path("x"))]
)
def test_backbone_changes_refuse_halves(features, weights):
    with pytest.raises(InputError, match="--features auto without a file"):
        backbone_changes(features, weights)


HALF, SAME = [0.5, 0.5, 0.5], {"pad_type": "same"}
TFLITE = {"features.mean": HALF, "features.std": HALF, "features.network": SAME}


@pytest.fixture
def folded(tmp_path):
    """A file whose running means are all zero."""
    weights = timm.create_model("test_efficientnet", pretrained=False).state_dict()
    save_file(weights, tmp_path / "folded.safetensors")
    return tmp_path / "folded.safetensors"


def test_a_backbones_input_is_what_was_told(folded):
    assert backbone_input(folded, "tflite") == TFLITE
    assert backbone_input(folded, "timm") == {}
    assert backbone_input(folded, None, {"features.mean": HALF}) == {}
    assert backbone_input(None, None) == {}
    with pytest.raises(
        InputError, match=r"folded.safetensors: expected --features-input, since .* --features-input tflite"
    ):
        backbone_input(folded, None, {"features.layers": ["stage1"]})


def test_trained_running_means_need_no_telling(folded):
    weights = load_file(folded)
    save_file({key: one + 1 if key.endswith("running_mean") else one for key, one in weights.items()}, folded)
    assert backbone_input(folded, None) == {}
    assert backbone_input(folded, "tflite") == TFLITE


def test_what_was_told_reaches_plan_and_job(paths, folded):
    plan = Plan(features="test_efficientnet", features_weights=folded, features_input="tflite")
    config = make_config(plan, paths)
    assert (config.features.mean, config.features.network) == (tuple(HALF), SAME)
    own = replace(plan, settings={"features.mean": [0.1, 0.2, 0.3]})
    assert make_config(own, paths).features.mean == (0.1, 0.2, 0.3)
    job = Job(
        "padim",
        {},
        "",
        [],
        features="test_efficientnet",
        features_weights=str(folded),
        features_input="tflite",
    )
    assert features_config(job).network == SAME
    with pytest.raises(InputError, match="running means are zero"):
        features_config(replace(job, features_input=None))


def test_plan_may_name_both(paths, bundled):
    config = make_config(Plan(features="auto", codec=Path("auto"), settings=dict(SMALL)), paths)
    assert (config.features.name, config.codec.kind) == ("auto", "tiny")
    assert config.image_size == 64  # eight pixels per latent position, eight of them for the UNet


def test_plan_refuses_a_file_for_auto(paths, bundled):
    plan = Plan(features="auto", features_weights=bundled / FEATURES)
    with pytest.raises(InputError, match="--features-weights: expected --features, too"):
        make_config(plan, paths)


@pytest.mark.parametrize("changes", [{"features": "auto"}, {"settings": {"features.name": "auto"}}])
def test_plan_with_auto_makes_a_model_that_needs_no_bundled_file_to_open(changes, paths, bundled, tmp_path):
    plan = Plan(image_size=32, **changes)
    module, lines = prepared(plan, make_config(plan, paths))
    assert lines == ["features: the network that comes with mendiff"]
    own = module.method.features.backbone.state_dict()
    assert all(torch.equal(own[name], one) for name, one in bundled_features().items())
    assert module.config.features.name == module.hparams["config"]["features"]["name"] == "bundled"
    assert module.config.features.network["widths"] == (8, 24, 48, 96)


def test_model_with_auto_is_saved_and_opened_without_bundled_files(tiny_config, bundled, tmp_path):
    from mendiff.anomalib_models import Glad
    from mendiff.calibration import Calibration

    module = Glad(tiny_config("glad", {"features.name": "auto"}))
    module.calibration = Calibration((0.1, 0.2), (0.1, 0.2))
    module.save(tmp_path / "model")
    (bundled / FEATURES).unlink()
    opened = load(tmp_path / "model").method.features
    assert isinstance(opened, StudentFeatures)
    image = torch.rand(1, 3, 32, 32)
    for ours, theirs in zip(opened(image), module.method.features(image), strict=True):
        assert torch.equal(ours, theirs)


def test_altered_file_stops_a_fit_before_it_starts(paths, bundled):
    (bundled / FEATURES).write_bytes(b"other")
    plan = Plan(image_size=32, features="auto")
    with pytest.raises(InputError, match="SHA-256 differs"):
        prepared(plan, make_config(plan, paths))


def test_a_presets_crop_is_widened_to_what_another_codec_takes_but_not_one_that_was_asked_for(paths, bundled):
    plan = Plan(codec=Path("auto"), image_size=256)
    assert make_config(Plan(image_size=256), paths).crop == 96
    assert make_config(plan, paths).crop == 128
    with pytest.raises(InputError, match=r"--set crop: expected a multiple of 64, got 96; try 128"):
        make_config(replace(plan, settings={"crop": 96}), paths)


def test_codec_by_the_name_auto_is_loaded(paths, bundled):
    plan = Plan(features="none", codec=Path("auto"), image_size=64)
    module, lines = prepared(plan, make_config(plan, paths))
    theirs = open_codec(codec_folder("auto")).state_dict()
    own = module.method.codec.state_dict()
    assert all(torch.equal(own[name], one) for name, one in theirs.items())
    assert lines == ["autoencoder: auto"]


@pytest.mark.parametrize("features", ["auto", None])
def test_memory_bank_control_takes_the_bundled_features(paths, bundled, features):
    job = Job("memory-bank", {"bank": {}}, data="", categories=[], features=features)
    predict, _ = simple_baseline(job, paths, 32)
    scores, maps = predict(torch.rand(2, 3, 32, 32))
    assert scores.shape == (2,)
    assert maps.shape == (2, 1, 32, 32)


@pytest.mark.parametrize("features", ["auto", None])
def test_baselines_want_a_backbone_of_timm(paths, tmp_path, features):
    job = Job("patchcore", {"patchcore": {}}, data="", categories=[], features=features)
    with pytest.raises(InputError, match="patchcore: expected a pretrained backbone; give --features"):
        anomalib_baseline(job, paths, 32, tmp_path)


def test_variant_takes_other_layers_of_the_bundled_network(tiny_config, bundled, pictures):
    from mendiff.anomalib_models import Glad
    from mendiff.calibration import Calibration

    module = Glad(tiny_config("glad", {"features.name": "auto"}))
    module.calibration = Calibration((0.1, 0.2), (0.1, 0.2))
    images = list(pictures)
    changed = variant_of(module.as_model(), {"features.layers": ["stage2"]}, images, images)
    assert changed.method.features.channels == (32,)
    own = changed.method.features.backbone.state_dict()
    assert all(torch.equal(own[name], one) for name, one in bundled_features().items())
