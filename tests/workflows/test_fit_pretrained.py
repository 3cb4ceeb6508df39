"""`mendiff fit` with pretrained parts: presets of papers, prompts, codecs."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

import mendiff
from tests.commands import PAPER, shrink

pytestmark = pytest.mark.filterwarnings(r"ignore:::lightning\..*")


def test_fit_fills_a_papers_preset_with_pretrained_parts(
    run, data, tmp_path, hub, diffusion, shrunk, networks
):
    words = ("--pretrained", hub, "--prompt", diffusion / "prompts.safetensors", *PAPER, *shrink(shrunk))
    words += ("--features-weights", diffusion / "backbone.safetensors", "--set", "training.batch_size=2")
    code, out, err = run("fit", data, "-o", tmp_path / "model", *words)
    assert (code, out) == (0, ""), err
    loaded = [line.partition(":")[0] for line in err.splitlines()[1:5]]
    assert loaded == ["UNet", "autoencoder", "prompt 'a photo of sks'", "features, test_vit.r160_in1k"]
    model = mendiff.load(tmp_path / "model")
    assert model.info["pretrained"][0].endswith("unet/diffusion_pytorch_model.safetensors")
    assert model.method.config.threshold == 0.4
    unet, codec, backbone = networks
    # One step at the published rate moves no weight further than that, and frozen parts not at all.
    pairs = ((unet, model.method.denoiser.network, 1e-5), (codec, model.method.codec.network, 0))
    for theirs, ours, most in pairs:
        own = ours.state_dict()
        moved = max(float((own[key] - one).abs().max()) for key, one in theirs.state_dict().items())
        assert moved <= most
    assert torch.equal(model.method.features.backbone.cls_token, backbone.cls_token)


def test_one_model_has_a_prompt_for_every_category(run, refused, plates, tmp_path, diffusion, shrunk):
    embeddings = torch.randn(3, 1, 5, 6, generator=torch.Generator().manual_seed(2))
    names = ("dark", "light", "no_prompt")
    prompts = tmp_path / "prompts.safetensors"
    save_file({name: one.clone() for name, one in zip(names, embeddings, strict=True)}, prompts)
    words = ["fit", plates, "-o", tmp_path / "model", "--preset", "paper/mvtec", "--pretrained", diffusion]
    words += ["--prompt", prompts, *shrink(shrunk), "--set", "features.name=''", "--device", "cpu"]
    words += ["--set", "training.steps=1", "--set", "training.batch_size=2", "--set", "sampler_steps=2"]
    sentence = refused(*words)
    assert "--categories: expected categories with a prompt (carpet, grid," in sentence
    words += ["--set", "denoiser.categories=[dark, light]", "--set", "both_ways=[light]"]
    sentence = refused(*words)
    assert sentence.endswith("for a model with prompts per category, got global.")
    code, _, err = run(*words, "--statistics", "category")
    assert code == 0, err
    assert f"prompt 'a photo of sks' with 2 categories: {prompts}" in err
    plain, dark, light = (mendiff.load(tmp_path / "model", category=name) for name in (None, "dark", "light"))
    for model, expected in ((plain, embeddings[:2].mean(0)), (dark, embeddings[0]), (light, embeddings[1])):
        torch.testing.assert_close(model.method.denoiser.prompt, expected)
    assert [one.method.readout.config.backward for one in (plain, dark, light)] == ["none", "none", "mean"]
    image = plates / "dark/test/good/0.png"
    scores = [one.predict(image).score.item() for one in (plain, dark, light)]
    assert len(set(scores)) == 3
    out = tmp_path / "found"
    text = run("predict", tmp_path / "model", image, "-o", out, "--category", "light", "--json")[1]
    assert json.loads(text)["images"][0]["score"] == pytest.approx(scores[2])


def test_a_codec_of_ones_own_takes_the_place_of_the_pretrained_one(
    run, data, tmp_path, diffusion, shrunk, networks
):
    from mendiff.checkpoints.codecs import save_codec
    from mendiff.nets.codec_config import CodecConfig

    weights = {f"network.{key}": one * 2 for key, one in networks[1].state_dict().items()}
    (tmp_path / "codec").mkdir()
    save_codec(tmp_path / "codec", CodecConfig("kl", network=shrunk["codec.network"]), weights, {})
    shutil.rmtree(diffusion / "vae")
    words = (
        "--pretrained",
        diffusion,
        "--prompt",
        diffusion / "prompts.safetensors",
        *PAPER,
        *shrink(shrunk),
    )
    words += ("--set", "features.name=''", "--set", "training.batch_size=2", "--codec", tmp_path / "codec")
    code, _, err = run("fit", data, "-o", tmp_path / "model", *words)
    assert code == 0, err
    assert f"autoencoder: {tmp_path / 'codec'}" in err
    own = mendiff.load(tmp_path / "model").method.codec.state_dict()
    assert all(torch.equal(own[key], one) for key, one in weights.items())


def test_lora_without_peft_ends_with_2(run, data, tmp_path, diffusion, shrunk, monkeypatch):
    monkeypatch.setattr("mendiff.training.lora.find_spec", lambda name: None)
    words = (
        "--pretrained",
        diffusion,
        "--prompt",
        diffusion / "prompts.safetensors",
        *PAPER,
        *shrink(shrunk),
    )
    words += ("--features-weights", diffusion / "backbone.safetensors", "--set", "training.lora_rank=2")
    code, _, err = run("fit", data, "-o", tmp_path / "model", *words)
    assert code == 2
    assert "training.lora_rank: expected the package peft for LoRA, but it is not installed" in err
