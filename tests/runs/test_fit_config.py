"""Settings of a fit: what is refused, with one sentence."""

import pytest
import torch
from safetensors.torch import save_file

from tests.commands import DIAD, RAN, settings

pytestmark = pytest.mark.filterwarnings(r"ignore:::lightning\..*")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--image-size", "35"], "--image-size: expected a multiple of"),
        (["--set", "zebra=3"], "expected some of image_size, crop"),
        (["--set", "zebra.stripes=3"], "--set: expected a field of the config"),
        (["--set", "training.steps=many"], "config.training.steps: expected int, got 'many'"),
        (["--set", "training.steps=0"], "training.steps: expected at least 1, got 0"),
        (["--set", "training.learning_rate=-1"], "training.learning_rate: expected at least 0, got -1.0"),
        (["--set", "crop=-5"], "crop: expected at least 0, got -5"),
        (["--set", "crop=20"], "--set crop: expected a multiple of 8, got 20; try 16."),
        (["--set", "denoiser.network={zebra: 3}"], "settings of diffusers' UNet2DModel, got 'zebra'"),
        (["--set", "codec.factor=0"], "codec.factor: expected at least 1, got 0"),
        (["--device", "cuda:99"], "--device: expected auto or a device of this machine (cpu"),
        (["--textures", "nowhere"], "nowhere: no such file or folder"),
        (["--textures", "."], ".: no images found; expected files of type"),
        (["--devices", "10000"], "--devices: expected 1"),
        (["--strategy", "zebra"], "--strategy: expected one of auto, ddp, fsdp, got 'zebra'."),
        (["--strategy", "fsdp", "--set", "training.ema=0.5"], "--strategy fsdp: expected training.ema=0"),
        (
            ["--strategy", "fsdp", "--set", "training.ema=0", "--set", "training.optimizer=adafactor"],
            "got adafactor; add --set training.optimizer=adamw",
        ),
        (["--set", "training.batch_size=3", "--set", "training.accumulate=2"], "expected a multiple of 2 ("),
        (["--nodes", "2", "--set", "training.batch_size=3"], "training.batch_size: expected a multiple of 2"),
        (["--device", "abacus"], "--device: expected auto or a device of this machine (cpu"),
        (["--method", "zebra"], "method: expected one of diad, glad, ran"),
        (["--preset", "zebra"], "preset: expected one of tiny"),
        (["--categories", "zebra"], "--categories: expected one of plate, got 'zebra'"),
        (["--features-weights", "w.safetensors"], "expected a safetensors file, but there is no such file"),
        (["--pretrained", "x/y"], "--pretrained: expected a method and preset"),
        (["--method", "diad", "--preset", "paper"], "--pretrained: expected Stable Diffusion v1"),
        (["--preset", "paper/mvtec/rope"], "preset: expected paper/mvtec/ and one of carpet"),
        (["--resume"], "--resume: expected an interrupted fit"),
    ],
)
def test_fit_refuses(refused, data, tmp_path, words, sentence):
    assert sentence in refused("fit", data, "-o", tmp_path / "model", *settings(), *words)


@pytest.mark.parametrize(
    ("name", "kind", "sentence"),
    [
        (None, "other", "--features-weights: expected --features, too, with timm's name of the backbone"),
        ("resnet18", "text", "expected a safetensors file, but it is damaged or of another format"),
        ("resnet18", "none", "expected a safetensors file, but there is no such file"),
        ("resnet18", "other", "expected those of timm's resnet18"),
        ("zebranet", "other", "expected the name of a timm backbone, got 'zebranet'"),
    ],
)
def test_fit_refuses_wrong_features(refused, data, tmp_path, name, kind, sentence):
    weights = tmp_path / "weights.safetensors"
    if kind == "text":
        weights.write_text("no weights")
    if kind == "other":
        save_file({"zebra.weight": torch.zeros(3)}, weights)
    options = [*(["--features", name] if name else []), "--features-weights", weights]
    assert sentence in refused("fit", data, "-o", tmp_path / "model", *settings(), *options)


def test_fit_asks_how_images_must_look_where_all_running_means_are_zero(refused, data, tmp_path):
    import timm

    weights = tmp_path / "folded.safetensors"
    save_file(timm.create_model("test_efficientnet", pretrained=False).state_dict(), weights)
    words = ("fit", data, "-o", tmp_path / "model", *settings())
    named = ("--features", "test_efficientnet", "--features-weights", weights)
    sentence = refused(*words, *named)
    assert "all running means are zero" in sentence
    assert "--features-input tflite" in sentence
    assert "--features-input timm" in sentence
    assert "expected one of timm, tflite, got 'caffe'" in refused(*words, *named, "--features-input", "caffe")
    assert "--features-input: expected --features, too" in refused(*words, "--features-input", "tflite")


def test_fit_without_the_hub_names_the_command_that_fetches_a_backbone(refused, data, tmp_path, cache):
    words = ("fit", data, "-o", tmp_path / "model", *settings())
    for name in (("--features", "resnet18"), ("--set", "features.name=resnet18")):
        sentence = refused(*words, *name)
        assert "hf download timm/resnet18.a1_in1k model.safetensors, or give --features-weights" in sentence


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("training.optimizer=sgd", "training.optimizer: expected one of adamw, adamw8bit, adafactor"),
        ("training.optimizer=adamw8bit", "expected CUDA and the package bitsandbytes for 'adamw8bit'"),
        ("training.precision=fp16", "training.precision: expected auto, float32 or bf16 on cpu, got 'fp16'"),
        (
            "training.lora_rank=4",
            "training.lora_rank: expected 0 for a network that is trained from scratch",
        ),
    ],
)
def test_savings_that_cannot_be_had_end_with_2(run, data, tmp_path, field, said):
    code, _, err = run("fit", data, "-o", tmp_path / "model", "--device", "cpu", *settings(), "--set", field)
    assert code == 2
    assert said in err.splitlines()[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cwd"]


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        (
            "start_timesteps=[1000]",
            "start_timesteps: expected timesteps from 1 to 999, got [1000].",
        ),
        ("codec.factor=4", "layers: expected feature maps no coarser than the denoiser's deepest level"),
        ("features.layers=[stage9]", "layers: expected some of stage0..stage4 for resnet18, got 'stage9'."),
    ],
)
def test_fit_refuses_what_ran_cannot_do(refused, data, tmp_path, setting, sentence):
    words = ("--set", "features.name=resnet18") if "stage9" in setting else ("--features", "none")
    assert sentence in refused("fit", data, "-o", tmp_path / "ran", *RAN, *words, "--set", setting)


def test_fit_refuses_what_diad_cannot_do(refused, data, tmp_path):
    words = ("fit", data, "-o", tmp_path / "diad", *DIAD)
    assert "--image-size: expected a multiple of 8, got 36" in refused(*words, "--image-size", "36")
    sentence = refused(*words, "--set", "image_size=8")
    assert "at least 2 positions at the SG network's lowest level" in sentence
    assert "--balance: expected one of image, category, got 'x'." in refused(*words, "--balance", "x")
