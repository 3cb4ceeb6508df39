import json
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from mendiff.checkpoints.names import load_exactly
from mendiff.checkpoints.pretrained import find_pretrained, load_diffusion, load_features, load_pretrained
from mendiff.checkpoints.stable_diffusion import STABLE_DIFFUSION, Sources
from mendiff.errors import InputError
from mendiff.methods.base import find_method, find_preset
from mendiff.methods.config import override

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def make(shrunk):
    """(method, further changes) to a shrunk paper preset with fresh weights."""

    def build(name="glad", changes=None, preset="paper"):
        changes = shrunk | ({"guide.fusion": "none"} if name == "diad" else {}) | (changes or {})
        return find_method(name)(override(find_preset(name, preset), changes)).eval()

    return build


def sources(folder, **changes):
    return Sources(
        **{
            "diffusion": str(folder),
            "prompt": folder / "prompts.safetensors",
            "features": folder / "backbone.safetensors",
            **changes,
        }
    )


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def equals(method, networks):
    """Whether a GLAD's networks compute what diffusers' and timm's own do."""
    unet, codec, backbone = networks
    rng = torch.Generator().manual_seed(0)
    x_t, image = torch.randn(2, 4, 8, 8, generator=rng), torch.rand(2, 3, 32, 32, generator=rng)
    t, prompt = torch.tensor([5, 700]), method.denoiser.prompt
    with torch.no_grad():
        eps = unet(x_t, t, prompt.expand(2, -1, -1)).sample
        latents = codec.encode(image * 2 - 1).latent_dist.mean * 0.3
        pixels = codec.decode(latents / 0.3).sample
        torch.testing.assert_close(method.denoiser.raw(x_t, t), eps)
        torch.testing.assert_close(method.codec.encode(image), latents)
        torch.testing.assert_close(method.codec.decode_raw(latents), pixels)
    own = method.features.backbone.state_dict()
    return all(torch.equal(own[key], backbone.state_dict()[key]) for key in own)


# Where parts come from.


def test_a_folder_fills_unet_autoencoder_prompts_and_features(make, networks, diffusion):
    method = make()
    lines = load_pretrained(method, sources(diffusion))
    assert equals(method, networks)
    prompts = load_file(diffusion / "prompts.safetensors")
    assert torch.equal(method.denoiser.prompt, prompts["prompt"])
    assert torch.equal(method.denoiser.no_prompt, prompts["no_prompt"])
    assert lines == [
        f"UNet: {diffusion / 'unet' / WEIGHTS}",
        f"autoencoder: {diffusion / 'vae' / WEIGHTS}",
        f"prompt 'a photo of sks': {diffusion / 'prompts.safetensors'}",
        f"features, test_vit.r160_in1k: {diffusion / 'backbone.safetensors'}",
    ]


def test_half_precision_files_serve_where_there_are_no_others(make, networks, diffusion):
    full = diffusion / "unet" / WEIGHTS
    halves = {key: one.half() for key, one in load_file(full).items()}
    save_file(halves, diffusion / "unet/diffusion_pytorch_model.fp16.safetensors")
    full.unlink()
    method = make()
    load_diffusion(method, sources(diffusion))
    own = method.denoiser.network.state_dict()
    assert all(torch.equal(own[key], one.float()) for key, one in halves.items())


def test_autoencoders_with_diffusers_older_names_load_alike(make, networks, diffusion):
    path = diffusion / "vae" / WEIGHTS
    renamed = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for key, value in load_file(path).items():
        for new, name in renamed.items():
            key = key.replace(f".{new}.", f".{name}.")
        old[key] = value
    assert sum("query" in key for key in old) == 4
    save_file(old, path)
    method = make()
    load_pretrained(method, sources(diffusion))
    assert equals(method, networks)


def test_sg_network_starts_from_the_pretrained_encoder(make, diffusion):
    method = make("diad", {"normalised": False})
    before = method.denoiser.guide.network.conv_in.weight.clone()
    load_pretrained(method, sources(diffusion))
    unet, guide = method.denoiser.unet.network, method.denoiser.guide.network
    assert not torch.equal(guide.conv_in.weight, before)
    for part in ("conv_in", "time_embedding", "down_blocks", "mid_block"):
        own = getattr(guide, part).state_dict()
        assert all(torch.equal(own[key], one) for key, one in getattr(unet, part).state_dict().items())


def test_hub_id_is_served_from_the_cache_without_network(make, networks, hub, diffusion):
    method = make()
    lines = load_pretrained(method, sources(diffusion, diffusion=hub))
    assert equals(method, networks)
    assert "models--somebody--tiny-diffusion" in lines[0]


def test_backbone_comes_from_timms_own_repository_in_the_cache(make, networks, cache, diffusion):
    place = cache("timm/test_vit.r160_in1k", "model.safetensors", diffusion / "backbone.safetensors")
    method = make(changes={"own_stop_features": True})
    lines = load_pretrained(method, sources(diffusion, features=None))
    assert equals(method, networks)
    assert lines[-2:] == [
        f"features, test_vit.r160_in1k: {place}",
        f"stop features, test_vit.r160_in1k: {place}",
    ]
    stop, own = method.stop_features.state_dict(), method.features.state_dict()
    assert all(torch.equal(stop[key], own[key]) for key in own)


def test_given_features_are_the_read_outs_alone(make, cache, diffusion):
    cache("timm/test_vit.r160_in1k", "model.safetensors", diffusion / "backbone.safetensors")
    method = make(changes={"own_stop_features": True})
    tuned = {key: one + 1 for key, one in load_file(diffusion / "backbone.safetensors").items()}
    load_features(method, (tuned, "tuned.pth"))
    read_out, stop = method.features.backbone, method.stop_features.backbone
    torch.testing.assert_close(read_out.cls_token, stop.cls_token + 1)


def test_parts_that_come_from_elsewhere_are_left_alone(make, diffusion):
    method = make()
    before = {key: one.clone() for key, one in method.state_dict().items()}
    lines = load_diffusion(method, sources(diffusion, unet=False, codec=False))
    changed = {key for key, one in method.state_dict().items() if not torch.equal(one, before[key])}
    assert changed == {"denoiser.prompt", "denoiser.no_prompt"}
    assert len(lines) == 1


# What is wrong with them.


@pytest.mark.parametrize(
    ("path", "changes", "sentence"),
    [
        ("unet", {"attention_head_dim": 4}, "expected attention_head_dim 2 as in the preset, got 4"),
        ("unet", {"cross_attention_dim": 1024}, "expected cross_attention_dim 6 as in the preset, got"),
        ("unet", {"_class_name": "UNet2DModel"}, "expected the settings of a UNet2DConditionModel, got a"),
        ("vae", {"scaling_factor": 0.13025}, "expected scaling_factor 0.3 as in the preset, got 0.13025"),
    ],
)
def test_another_architecture_is_refused_by_its_settings(make, diffusion, path, changes, sentence):
    edit(diffusion / path / "config.json", **changes)
    with pytest.raises(InputError, match=rf"{path}/config.json: {sentence}"):
        load_diffusion(make(), sources(diffusion))


def test_settings_that_change_nothing_may_differ(make, networks, diffusion):
    edit(diffusion / "unet/config.json", sample_size=64, upcast_attention=True, _diffusers_version="0.6.0")
    method = make()
    load_pretrained(method, sources(diffusion))
    assert equals(method, networks)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda weights: weights.pop("conv_in.bias"), "lacks 'conv_in.bias'"),
        (lambda weights: weights.update(strange=torch.zeros(1)), "has the unknown 'strange'"),
        (lambda weights: weights.update({"conv_in.bias": torch.zeros(3)}), "has another shape of"),
    ],
)
def test_missing_unknown_and_misshapen_weights_are_named(make, diffusion, change, sentence):
    path = diffusion / "unet" / WEIGHTS
    weights = load_file(path)
    change(weights)
    save_file(weights, path)
    with pytest.raises(
        InputError, match=f"expected the weights of Stable Diffusion's UNet, but it {sentence}"
    ):
        load_diffusion(make(), sources(diffusion))


def test_more_than_one_wrong_weight_is_counted(tmp_path):
    with pytest.raises(InputError, match=r"x: expected the weights of two, but it lacks 'bias' and 1 more\."):
        load_exactly(torch.nn.Linear(1, 1), {}, "x", "two")


def test_a_missing_file_is_answered_with_the_command_that_fetches_it(make, diffusion):
    path = diffusion / "vae" / WEIGHTS
    path.unlink()
    command = f"hf download {STABLE_DIFFUSION} vae/{WEIGHTS} --local-dir {diffusion}"
    with pytest.raises(InputError) as error:
        load_diffusion(make(), sources(diffusion))
    assert str(error.value).endswith(f"but there is no such file; download: {command}")
    path.with_name("diffusion_pytorch_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(
        InputError, match=r"there is only diffusion_pytorch_model.bin, a pickle; download: hf"
    ):
        load_diffusion(make(), sources(diffusion))


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({}, "text_encoder/model.safetensors"),
        ({"prompt": "given"}, "vae/diffusion_pytorch_model.safetensors"),
        ({"prompt": "given", "codec": False}, None),
    ],
)
def test_missing_files_are_found_before_anything_is_built(diffusion, cache, changes, missing):
    wanted = sources(diffusion, **{"prompt": None, **changes})
    if "prompt" in changes:
        (diffusion / "vae" / WEIGHTS).unlink()
    if missing is None:
        found = find_pretrained(wanted, {"features": "test_vit.r160_in1k"})
        assert found == {
            "unet": diffusion / "unet" / WEIGHTS,
            "prompt": wanted.prompt,
            "features": wanted.features,
        }
        return
    with pytest.raises(InputError, match=f"{missing}: expected this file of Stable Diffusion"):
        find_pretrained(wanted, {"features": "test_vit.r160_in1k"})


def test_a_missing_backbone_is_found_before_anything_is_built(diffusion, cache):
    with pytest.raises(InputError, match="hf download timm/test_vit"):
        find_pretrained(Sources(), {"features": "test_vit.r160_in1k"})
    assert find_pretrained(Sources(), {}) == {}


def test_the_stop_rules_backbone_is_found_before_anything_is_built_too(diffusion, cache):
    own = sources(diffusion).features
    with pytest.raises(InputError, match="hf download timm/test_vit"):
        find_pretrained(
            Sources(features=own), {"features": "test_vit.r160_in1k", "stop_features": "test_vit.r160_in1k"}
        )


def test_truncated_and_pickled_weights_are_refused(make, diffusion):
    path = diffusion / "unet" / WEIGHTS
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=f"{WEIGHTS}: expected a safetensors file, but it is damaged"):
        load_diffusion(make(), sources(diffusion))
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(InputError, match=f"{WEIGHTS}: expected a safetensors file, but it is a pickle"):
        load_diffusion(make(), sources(diffusion))


def test_hub_without_network_is_answered_with_the_command(make, diffusion, hub, cache):
    with pytest.raises(InputError) as error:
        load_features(make())
    assert str(error.value) == (
        "timm/test_vit.r160_in1k: expected model.safetensors in the hub's cache, but it is not there, and "
        "HF_HUB_OFFLINE disables the network; where there is a network: hf download "
        "timm/test_vit.r160_in1k model.safetensors, or give --features-weights, a safetensors file of timm's "
        "test_vit.r160_in1k."
    )
    with pytest.raises(
        InputError, match=r"where there is a network: hf download some/other unet/config\.json"
    ):
        load_diffusion(make(), sources(diffusion, diffusion="some/other"))


@pytest.mark.parametrize("source", ["nowhere", "a/b/c", "../sd", "models/sd.safetensors"])
def test_a_source_that_is_nothing_is_refused(make, diffusion, source):
    with pytest.raises(
        InputError, match="--pretrained: expected a folder in diffusers' layout, a single-file"
    ):
        load_diffusion(make(), sources(diffusion, diffusion=source))


def test_a_single_file_without_the_part_is_refused(make, diffusion):
    path = diffusion / "other.safetensors"
    save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(
        InputError, match=r"expected Stable Diffusion's UNet in a single-file checkpoint \(names"
    ):
        load_diffusion(make(), sources(diffusion, diffusion=str(path)))


def test_methods_without_stable_diffusion_have_no_use_for_it(tiny_method, diffusion):
    with pytest.raises(
        InputError, match="--pretrained: expected a method and preset with Stable Diffusion's"
    ):
        load_diffusion(tiny_method("ran"), sources(diffusion))


def test_weights_for_features_that_the_config_has_not_are_refused(tiny_method):
    with pytest.raises(InputError, match=r"w.safetensors: expected a config with features.name"):
        load_features(tiny_method("glad"), ({}, "w.safetensors"))
    assert load_features(tiny_method("glad")) == []


def test_prompts_of_another_shape_are_refused(make, diffusion):
    save_file({"prompt": torch.zeros(1, 77, 6)}, diffusion / "prompts.safetensors")
    with pytest.raises(
        InputError, match=r"expected prompt embeddings of shape \(1, 5, 6\), got \(1, 77, 6\)"
    ):
        load_diffusion(make(), sources(diffusion))


def test_a_prompt_without_transformers_is_answered_with_what_helps(make, diffusion, monkeypatch):
    (diffusion / "text_encoder").mkdir()
    save_file({"text_model.x": torch.zeros(1)}, diffusion / "text_encoder/model.safetensors")
    monkeypatch.setitem(sys.modules, "transformers", None)
    method = make(changes={"denoiser.prompt": ""})
    with pytest.raises(InputError, match=r"pip install 'mendiff\[convert\]', or give --prompt"):
        load_diffusion(method, sources(diffusion, prompt=None))
