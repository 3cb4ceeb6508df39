"""Glad, Diad and Ran as anomalib's models: construction, look-up by name, its command line."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from anomalib.models import get_model
from safetensors.torch import save_file

from mendiff.anomalib_models import Glad, Ran, module_class
from mendiff.checkpoints.bundled import resolved
from mendiff.errors import InputError
from mendiff.methods.base import TrainingConfig
from mendiff.methods.glad_config import PRESETS
from mendiff.nets.features import FeaturesConfig
from tests.parts import CONFIG, NETWORK, same_tensors

pytestmark = pytest.mark.filterwarnings(r"ignore:::lightning\..*")


def test_initial_weights_follow_the_seed_and_global_generator_stays():
    before = torch.get_rng_state()
    first, again, other = Glad(CONFIG, seed=3), Glad(CONFIG, seed=3), Glad(CONFIG, seed=4)
    assert torch.equal(before, torch.get_rng_state())
    assert same_tensors(first.method.state_dict(), again.method.state_dict())
    assert not same_tensors(first.method.state_dict(), other.method.state_dict())


def test_images_own_size_becomes_256():
    assert PRESETS["tiny"].image_size == 0
    model = Glad(preset="tiny")
    assert model.config == replace(resolved(PRESETS["tiny"]), image_size=256)
    assert model.pre_processor.transform.size == [256, 256]


@pytest.mark.parametrize("name", ["glad", "Glad"])
def test_get_model_finds_it_by_name(name):
    model = get_model(name, config=CONFIG)
    assert type(model) is Glad
    assert model.config == CONFIG


def test_module_class_is_the_methods_own_where_it_has_one():
    assert module_class("glad") is Glad
    with pytest.raises(InputError, match="method: expected one of"):
        module_class("nonesuch")


def test_unknown_preset_and_foreign_config_are_input_errors():
    with pytest.raises(InputError, match="preset: expected one of"):
        Glad(preset="huge")
    with pytest.raises(InputError, match="expected a GladConfig, got a TrainingConfig"):
        Glad(config=TrainingConfig())


def test_features_weights_are_loaded_from_a_local_file(tmp_path):
    config = replace(CONFIG, features=FeaturesConfig("mobilenetv2_050", layers=("stage1",)))
    weights = {key: value + 0.5 for key, value in Glad(config).method.features.backbone.state_dict().items()}
    save_file(weights, tmp_path / "backbone.safetensors")
    model = Glad(config, features_weights=str(tmp_path / "backbone.safetensors"))
    loaded = model.method.features.backbone.state_dict()
    assert all(torch.equal(loaded[key], weights[key].to(loaded[key])) for key in loaded)
    with pytest.raises(InputError, match=r"expected a config with features\.name"):
        Glad(CONFIG, features_weights=str(tmp_path / "backbone.safetensors"))


DEEPER = {
    **NETWORK,
    "block_out_channels": [8, 8, 16],
    "down_block_types": ["DownBlock2D"] * 3,
    "up_block_types": ["UpBlock2D"] * 3,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (Glad, {"denoiser.network": NETWORK, "adaptive": "false", "synthesis.grid": 4}),
        (Ran, {"denoiser.network": DEEPER, "codec.factor": 4, "start_timesteps": [20], "gradient.dims": 6}),
    ],
)
def test_anomalib_command_line_trains_it(kind, changes, folder, tmp_path):
    arguments = ["train", "--model", f"mendiff.{kind.__name__}", "--data", "Folder", "--data.name", "parts"]
    arguments += ["--data.root", str(folder), "--data.normal_dir", "good", "--data.abnormal_dir", "bad"]
    arguments += ["--data.normal_test_dir", "good_test", "--data.mask_dir", "mask", "--data.num_workers", "0"]
    arguments += ["--trainer.accelerator", "cpu", "--default_root_dir", str(tmp_path)]
    small = {"image_size": 32, "training.steps": 2, "codec.kind": "space_to_depth"}
    for name, value in {**small, **changes}.items():
        arguments += [f"--model.config.{name}", str(value)]
    code = "from anomalib.cli.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = tmp_path.rglob("v0/weights/lightning/model.ckpt")
    assert kind.load_from_checkpoint(path).calibration is not None
