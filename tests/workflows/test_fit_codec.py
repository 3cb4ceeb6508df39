"""`mendiff fit-codec`."""

import json

import pytest
import torch

import mendiff
from mendiff.checkpoints.codecs import open_codec, read_codec
from mendiff.training import codec_loss, loop
from tests.commands import DIAD, RAN, interrupted_after_three

pytestmark = pytest.mark.filterwarnings(r"ignore:::lightning\..*")


def test_codec_is_fitted_and_taken_by_fit(run, refused, data, tmp_path):
    codec = tmp_path / "codec"
    small = ("--set", "training.steps=12", "--set", "crop=0", "--set", "image_size=32")
    code, text, _ = run("fit-codec", data, "-o", codec, "--json", *small)
    assert code == 0
    result = json.loads(text)
    assert result["after"]["psnr"] > result["before"]["psnr"]
    assert result["config"]["network"]["scaling_factor"] != 1.0
    assert not (tmp_path / ".codec.fit").exists()
    again = tmp_path / "again"
    code, text, _ = run("fit-codec", data, "-o", again, "--start", codec, "--json", *small)
    assert code == 0
    assert json.loads(text)["before"]["psnr"] == pytest.approx(result["after"]["psnr"], abs=1e-3)
    assert json.loads(text)["config"]["network"] == result["config"]["network"]
    out = tmp_path / "on_latents"
    code, text, _ = run("fit", data, "-o", out, "--codec", codec, "--json", *DIAD)
    assert code == 0
    assert json.loads(text)["config"]["codec"] == result["config"]
    fitted = mendiff.load(out).method.codec.state_dict()
    assert all(torch.equal(one, fitted[name]) for name, one in open_codec(codec).state_dict().items())
    assert "RAN works on pixels" in refused("fit", data, "-o", tmp_path / "ran", "--codec", codec, *RAN)
    sentence = refused("fit", data, "-o", tmp_path / "no", "--codec", data, *DIAD)
    assert "expected a codec folder with config.json and codec.safetensors" in sentence


def test_a_codec_says_what_it_was_tuned_on_and_is_refused_for_other_pixels(run, refused, data, tmp_path):
    small = ("--set", "training.steps=2", "--set", "crop=0", "--set", "image_size=32", "--json")
    for pixels in ("symmetric", "imagenet"):
        words = (*small, "--set", f"codec.pixels={pixels}")
        code, text, _ = run("fit-codec", data, "-o", tmp_path / pixels, *words)
        assert code == 0
        assert json.loads(text)["config"]["pixels"] == read_codec(tmp_path / pixels)[0].pixels == pixels
    fit = ("fit", data, "-o", tmp_path / "no", *DIAD)
    sentence = refused(*fit, "--codec", tmp_path / "symmetric", "--set", "normalised=true")
    assert "expected an autoencoder tuned on 'imagenet' pixels, got 'symmetric'" in sentence
    assert "or fit with --set normalised=false." in sentence
    sentence = refused(*fit, "--codec", tmp_path / "imagenet")
    assert "expected an autoencoder tuned on 'symmetric' pixels, got 'imagenet'" in sentence
    sentence = refused("fit", data, "-o", tmp_path / "no", "--codec", tmp_path / "imagenet")
    assert sentence.endswith("tune it with mendiff fit-codec --set codec.pixels=symmetric.")
    out = tmp_path / "model"
    words = ("--codec", tmp_path / "imagenet", "--set", "normalised=true", "--json")
    assert run("fit", data, "-o", out, *DIAD, *words)[0] == 0
    assert mendiff.load(out).method.config.codec.pixels == "imagenet"


@pytest.mark.parametrize("rivals", [(), ("--set", "loss.adversarial_weight=0.5")], ids=["alone", "rivals"])
def test_interrupted_codec_goes_on_to_the_same_weights(run, data, tmp_path, monkeypatch, rivals):
    words = ("--set", "training.steps=6", "--set", "crop=0", "--set", "image_size=32", "--json", *rivals)
    assert run("fit-codec", data, "-o", tmp_path / "whole", *words)[0] == 0
    kept = interrupted_after_three(monkeypatch)
    assert run("fit-codec", data, "-o", tmp_path / "broken", *words)[0] == 130
    assert run("fit-codec", data, "-o", tmp_path / "broken", "--resume", *words)[0] == 0
    assert kept == [1, 2, 3, 4, 5, 6]
    one, other = (open_codec(tmp_path / name).state_dict() for name in ("whole", "broken"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_an_interrupted_codec_says_how_to_go_on_or_leaves_nothing(run, refused, data, tmp_path, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    words = ("fit-codec", data, "-o", tmp_path / "codec", "--set", "crop=0", "--set", "image_size=32")
    with monkeypatch.context() as patch:
        patch.setattr(codec_loss, "random_crops", stop)
        code, _, err = run(*words)
    assert code == 130
    assert err.endswith("mendiff fit-codec: interrupted.\n")
    assert [path.name for path in tmp_path.iterdir()] == ["cwd"]
    keep = loop.save_checkpoint
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(loop, "save_checkpoint", lambda *arguments: (keep(*arguments), stop()))
    code, _, err = run(*words)
    assert code == 130
    assert "interrupted; run the same command with --resume to continue" in err
    assert (tmp_path / ".codec.fit/last.safetensors").is_file()
    refused(*words, "--set", "training.steps=0")
    sentence = refused(*words, "--resume", "--set", "codec.network.latent_channels=3")
    assert "--resume: expected the inputs of the interrupted training, but" in sentence
    assert "config.codec.network.latent_channels was 8 and is 3" in sentence


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--set", "image_size=70"), "--set image_size: expected a multiple of 4, got 70; try 72."),
        (("--set", "image_size=-8"), "--set image_size: expected a multiple of 4, got -8; try 4."),
        (("--set", "crop=30"), "--set crop: expected a multiple of 4, got 30; try 32."),
        (("--set", "training.steps=0"), "training.steps: expected at least 1, got 0."),
        (("--preset", "huge"), "--preset: expected one of tiny, kl, got 'huge'."),
        (
            ("--features", "resnet18"),
            "expected both, got one; or --features auto",
        ),
        (("--start", "nowhere"), "nowhere: expected a codec folder"),
        (("--resume",), "--resume: expected an interrupted fit of"),
    ],
)
def test_fit_codec_refuses(refused, data, tmp_path, words, sentence):
    assert sentence in refused("fit-codec", data, "-o", tmp_path / "codec", *words)
