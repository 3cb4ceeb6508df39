"""The papers' presets on the meta device against the names and shapes of Stable Diffusion v1-5 and DiAD."""

import json

import pytest
import torch

from mendiff.checkpoints.pretrained import load_diffusion
from mendiff.checkpoints.stable_diffusion import Sources
from mendiff.methods.base import find_method, find_preset
from mendiff.methods.diad import Diad
from mendiff.methods.diad_config import DiadConfig
from mendiff.nets.codec_config import CodecConfig
from mendiff.nets.denoiser import DenoiserConfig
from mendiff.nets.semantic_guided import GuideConfig

PARTS = {
    "unet": ("model.diffusion_model", "unet"),
    "autoencoder": ("first_stage_model", "vae"),
    "sg network": ("control_model", "controlnet"),
}


@pytest.fixture(scope="module")
def layout(reference_file):
    """(part) to diffusers' names and shapes of the published weights."""
    listed = json.loads(reference_file("diad/official_keys.json").read_text())["keys"]
    renamed = json.loads(reference_file("diad/diffusers_key_map.json").read_text())

    def read(part):
        prefix, group = PARTS[part]
        return {name: tuple(listed[prefix][published]) for name, published in renamed[group].items()}

    return read


def squeezed(shapes):
    """Shapes without trailing ones: convolutions of one pixel in the one layout are matrices in the other."""
    return {
        name: shape[:2] if len(shape) == 4 and shape[2:] == (1, 1) else shape
        for name, shape in shapes.items()
    }


def shapes_of(network):
    return squeezed({name: tuple(one.shape) for name, one in network.state_dict().items()})


@pytest.mark.parametrize("name", ["glad", "diad"])
def test_full_size_networks_have_stable_diffusions_names_and_shapes(layout, name):
    with torch.device("meta"):
        method = find_method(name)(find_preset(name, "paper"))
    denoiser = method.denoiser if name == "glad" else method.denoiser.unet
    assert len(layout("unet")) == 686
    assert shapes_of(denoiser.network) == squeezed(layout("unet"))
    assert len(layout("autoencoder")) == 248
    assert shapes_of(method.codec.network) == squeezed(layout("autoencoder"))


def test_full_size_sg_network_has_the_published_names_and_shapes(layout):
    with torch.device("meta"):
        guide = Diad(find_preset("diad", "paper")).denoiser.guide
    ours = shapes_of(guide.network)
    ours |= {f"controlnet_cond_embedding.{key}": shape for key, shape in shapes_of(guide.hint).items()}
    assert ours == squeezed(layout("sg network"))
    assert [tuple(one.shape) for one in guide.fusion.state_dict().values()] == [
        *[(1280, 640, 3, 3)] * 3,
        *[(1280, 1280, 3, 3)] * 6,
    ]


def test_single_file_fills_unet_and_autoencoder_as_the_importer_does(reference_group, tmp_path):
    from safetensors.torch import save_file

    from mendiff.checkpoints.import_diad import convert_diad

    group = reference_group("diad/weights")
    configs, length = group.notes["configs"], group.notes["tokens"]["context_length"]
    widths = "conditioning_embedding_out_channels"
    config = DiadConfig(
        codec=CodecConfig("kl", network=configs["diffusers_vae"]),
        denoiser=DenoiserConfig("conditional_unet", "eps", configs["diffusers_unet"], prompt_length=length),
        guide=GuideConfig(network={widths: configs["diffusers_controlnet"][widths]}),
    )
    expected = convert_diad(group.tensors, config, "reference values")
    width = configs["diffusers_unet"]["cross_attention_dim"]
    save_file({"prompt": torch.ones(1, length, width)}, tmp_path / "prompt.safetensors")
    inside = {
        key: one.contiguous() for key, one in group.tensors.items() if not key.startswith("control_model.")
    }
    save_file(inside, tmp_path / "sd.safetensors")
    torch.save({"state_dict": inside}, tmp_path / "sd.ckpt")
    for name in ("sd.safetensors", "sd.ckpt"):
        method = Diad(config)
        lines = load_diffusion(method, Sources(str(tmp_path / name), tmp_path / "prompt.safetensors"))
        assert lines[0] == f"UNet: {tmp_path / name}"
        own = method.state_dict()
        for key, value in expected.items():
            if not key.startswith("denoiser.guide."):
                assert torch.equal(own[key].view_as(value), value), key
