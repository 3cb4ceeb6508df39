import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import mendiff
from mendiff.checkpoints.import_glad import find_unet
from mendiff.cli import main
from mendiff.errors import InputError
from mendiff.types import Detection

PRESET = "paper/mvtec/cable"


@pytest.fixture
def published(networks, diffusion, tmp_path):
    """What the authors publish for one category, at tiny size: UNet, tuned autoencoder, tuned DINO."""
    unet, codec, backbone = networks
    root = tmp_path / "cable_4000step_bs32_eps_anomaly2_0"
    for steps, shift in ((500, 1.0), (1500, 0.0)):
        (root / f"checkpoint-{steps}").mkdir(parents=True)
        weights = {key: one + shift for key, one in unet.state_dict().items()}
        torch.save(weights, root / f"checkpoint-{steps}/pytorch_model.bin")
    tuned = {key: one * 1.5 for key, one in codec.state_dict().items()}
    rest = {"loss.logvar": torch.zeros(()), "loss.discriminator.main.0.weight": torch.zeros(2)}
    torch.save({"state_dict": tuned | rest, "epoch": 69}, tmp_path / "epoch=000069.ckpt")
    torch.save({key: one * 2 for key, one in backbone.state_dict().items()}, tmp_path / "epoch7.pth")
    return root


@pytest.fixture
def good(tmp_path):
    (tmp_path / "good").mkdir()
    rng = np.random.default_rng(0)
    for number in range(8):
        picture = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(picture).resize((32, 32)).save(tmp_path / "good" / f"{number}.png")
    return tmp_path / "good"


@pytest.fixture
def convert(good, shrunk, tmp_path, capsys):
    """Run mendiff convert glad; gives (code, output or the sentence, model folder)."""

    def run(place, *words, preset=PRESET, **changes):
        fields = shrunk | {
            "sampler_steps": 2,
            **{key.replace("__", "."): one for key, one in changes.items()},
        }
        settings = [word for key, one in fields.items() for word in ("--set", f"{key}={json.dumps(one)}")]
        out = tmp_path / "model"
        options = [
            "-o",
            out,
            "--good",
            good,
            "--preset",
            preset,
            "--device",
            "cpu",
            "--json",
            *words,
            *settings,
        ]
        code = main(["convert", "glad", str(place), *map(str, options)])
        text, sentence = capsys.readouterr()
        return code, json.loads(text) if code == 0 else sentence, out

    return run


def networks_of(method):
    """(outputs of the UNet, latents, decoded pixels, features) for fixed inputs."""
    rng = torch.Generator().manual_seed(0)
    x_t, image = torch.randn(2, 4, 8, 8, generator=rng), torch.rand(2, 3, 32, 32, generator=rng)
    with torch.no_grad():
        raw = method.denoiser.raw(x_t, torch.tensor([5, 700]))
        latents = method.codec.encode(image)
        return raw, latents, method.codec.decode_raw(x_t), method.features.unnormalised(image)[0]


def test_published_weights_go_through_and_compute_what_they_did(
    convert, published, networks, diffusion, tmp_path, pictures
):
    unet, codec, _ = networks
    prompts = load_file(diffusion / "prompts.safetensors")
    words = ("--pretrained", diffusion, "--prompt", diffusion / "prompts.safetensors")
    words += ("--features-weights", diffusion / "backbone.safetensors")
    code, result, out = convert(published, *words)
    assert code == 0, result
    model = mendiff.load(out)
    assert model.threshold == result["threshold"]
    assert [line.partition(":")[0] for line in result["pretrained"]] == [
        "UNet",
        "autoencoder",
        "prompt 'a photo of sks'",
        "features, test_vit.r160_in1k",
    ]
    assert result["pretrained"][0].endswith("checkpoint-1500/pytorch_model.bin")
    config = model.method.config
    assert (config.threshold, config.start_timesteps, config.min_timestep) == (0.4, (750,), 350)
    # The networks by themselves, as diffusers runs them.
    raw, latents, pixels, _ = networks_of(model.method)
    rng = torch.Generator().manual_seed(0)
    x_t, image = torch.randn(2, 4, 8, 8, generator=rng), torch.rand(2, 3, 32, 32, generator=rng)
    with torch.no_grad():
        expected = unet(x_t, torch.tensor([5, 700]), prompts["prompt"].expand(2, -1, -1)).sample
        torch.testing.assert_close(raw, expected)
        torch.testing.assert_close(latents, codec.encode(image * 2 - 1).latent_dist.mean * 0.3)
        torch.testing.assert_close(pixels, codec.decode(x_t / 0.3).sample)
    found = model.predict(pictures)
    assert isinstance(found, Detection)
    assert bool(found.anomaly_map.isfinite().all())


def test_tuned_parts_take_the_place_of_stable_diffusions(
    convert, published, diffusion, networks, cache, tmp_path
):
    _, codec, backbone = networks
    cache("timm/test_vit.r160_in1k", "model.safetensors", diffusion / "backbone.safetensors")
    words = ("--codec", tmp_path / "epoch=000069.ckpt", "--features-weights", tmp_path / "epoch7.pth")
    words += ("--prompt", diffusion / "prompts.safetensors")
    file = published / "checkpoint-500/pytorch_model.bin"
    code, result, out = convert(file, *words, preset="paper/pcbbank/pcb1", readout__resolution=32)
    assert code == 0, result
    method = mendiff.load(out).method
    own = method.codec.network.state_dict()
    assert all(torch.equal(own[key], one * 1.5) for key, one in codec.state_dict().items())
    # The read-out's extractor is the tuned one, the stop rule's is not.
    assert torch.equal(method.features.backbone.cls_token, backbone.cls_token * 2)
    assert torch.equal(method.stop_features.backbone.cls_token, backbone.cls_token)


def test_weights_that_several_processes_wrote_load_alike(convert, published, diffusion):
    file = published / "checkpoint-1500/pytorch_model.bin"
    weights = torch.load(file, weights_only=True)
    torch.save({f"module.{key}": one for key, one in weights.items()}, file)
    words = ("--pretrained", diffusion, "--prompt", diffusion / "prompts.safetensors")
    code, result, out = convert(published, *words, features__name="")
    assert code == 0, result
    own = mendiff.load(out).method.denoiser.network.state_dict()
    assert all(torch.equal(own[key], one) for key, one in weights.items())


# Bad input.


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda weights: weights.pop("conv_in.bias"), "it lacks 'conv_in.bias'"),
        (lambda weights: weights.update(strange=torch.zeros(1)), "it has the unknown 'strange'"),
        (
            lambda weights: weights.update({"conv_in.bias": torch.zeros(3)}),
            "it has another shape of 'conv_in",
        ),
    ],
)
def test_missing_unknown_and_misshapen_weights_are_named(convert, published, diffusion, change, sentence):
    file = published / "checkpoint-1500/pytorch_model.bin"
    weights = torch.load(file, weights_only=True)
    change(weights)
    torch.save(weights, file)
    words = ("--pretrained", diffusion, "--prompt", diffusion / "prompts.safetensors")
    code, answer, out = convert(published, *words, features__name="")
    assert code == 2
    assert f"pytorch_model.bin: expected the weights of Stable Diffusion's UNet, but {sentence}" in answer
    assert len(answer.splitlines()) == 1
    assert not out.exists()


def test_a_wrong_autoencoder_is_named(convert, published, diffusion, tmp_path):
    words = ("--prompt", diffusion / "prompts.safetensors", "--codec", tmp_path / "ae.ckpt")
    torch.save({"encoder.down_blocks.0.x": torch.zeros(8)}, words[3])
    code, answer, _ = convert(published, *words, features__name="")
    assert code == 2
    assert "ae.ckpt: expected the weights of this configuration" in answer
    assert "it lacks 'network.decoder.conv_in.bias' and" in answer


def test_what_the_weights_do_not_hold_is_asked_for(convert, published, diffusion):
    code, answer, _ = convert(published)
    assert code == 2
    assert (
        "--pretrained: expected Stable Diffusion for the autoencoder, which published GLAD weights" in answer
    )
    code, answer, _ = convert(published, "--codec", diffusion / "vae/diffusion_pytorch_model.safetensors")
    assert code == 2
    assert "--pretrained: expected Stable Diffusion for the prompt" in answer


def test_the_unet_is_found_in_every_place_it_may_lie(tmp_path):
    def place(name):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
        return tmp_path / name

    with pytest.raises(
        InputError, match="expected published GLAD weights, but there is no such file or folder"
    ):
        find_unet(tmp_path / "absent", 1)
    with pytest.raises(InputError, match=r"expected pytorch_model.bin or model.safetensors, as written by"):
        find_unet(tmp_path, 1)
    only = place("checkpoint-4000/model.safetensors")
    assert find_unet(tmp_path, 1) == only
    assert find_unet(only, 1) == only
    assert find_unet(only.parent, 1) == only
    other = place("checkpoint-500/pytorch_model.bin")
    assert find_unet(tmp_path, 500) == other
    with pytest.raises(
        InputError, match=r"expected checkpoint-1 with .* found checkpoint-4000, checkpoint-500"
    ):
        find_unet(tmp_path, 1)
    assert find_unet(tmp_path, 4000) == only
    assert find_unet(place("pytorch_model.bin"), 4000).parent == tmp_path


def test_safetensors_of_newer_accelerate_serve_too(convert, published, diffusion):
    file = published / "checkpoint-1500/pytorch_model.bin"
    save_file(torch.load(file, weights_only=True), file.with_name("model.safetensors"))
    file.unlink()
    words = ("--pretrained", diffusion, "--prompt", diffusion / "prompts.safetensors")
    code, result, _ = convert(published, *words, features__name="")
    assert code == 0, result
    assert result["pretrained"][0].endswith("model.safetensors")
