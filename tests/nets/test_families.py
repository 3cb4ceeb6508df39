"""Backbones of timm's families give what timm's whole networks compute inside."""

import pytest
import timm
import torch

from mendiff.errors import InputError
from mendiff.nets.features import FeatureExtractor, FeaturesConfig, make_features

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2}
SWIN = {"img_size": 64, "embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2), "window_size": 2}
CONVNEXT = {"depths": (1, 1, 1, 1), "dims": (8, 12, 16, 20)}
# Name, arguments that make it small, layers, and the modules of timm's network that put these out.
FAMILIES = {
    "ViT": ("vit_tiny_patch16_224", VIT, {"block1": "blocks.0", "block3": "blocks.2"}),
    "DeiT distilled": ("deit_tiny_distilled_patch16_224", VIT, {"block2": "blocks.1"}),
    "DINO": ("vit_small_patch16_224.dino", VIT, {"block2": "blocks.1"}),
    "DINOv2 with registers": ("vit_small_patch14_reg4_dinov2", VIT, {"block2": "blocks.1"}),
    "without class token": ("vit_base_patch16_siglip_224", VIT, {"block2": "blocks.1"}),
    "EVA-02": ("eva02_tiny_patch14_224", VIT, {"block1": "blocks.0", "block2": "blocks.1"}),
    "DINOv3": ("vit_small_patch16_dinov3", VIT, {"block2": "blocks.1"}),
    "BEiT": ("beit_base_patch16_224", VIT, {"block2": "blocks.1"}),
    "Swin": ("swin_tiny_patch4_window7_224", SWIN, {"stage0": "layers.0", "stage2": "layers.2"}),
    "ConvNeXt": ("convnext_atto", CONVNEXT, {"stage0": "stages.0", "stage2": "stages.2"}),
    "MobileNet": ("mobilenetv3_small_050", {}, {"stage1": "blocks.0", "stage2": "blocks.1"}),
    "ResNet": ("resnet10t", {}, {"stage1": "layer1", "stage3": "layer3"}),
    "RegNet": ("regnetx_002", {}, {"stage1": "s1", "stage2": "s2"}),
}
OF_ONE_SIZE = ("BEiT",)
OTHERS = [name for name in FAMILIES if name not in OF_ONE_SIZE]


def make(name, **changes):
    """(extractor, timm's whole network with the same weights)."""
    backbone, arguments, layers = FAMILIES[name]
    config = FeaturesConfig(backbone, tuple(layers), network=arguments, **changes)
    dynamic = {"dynamic_img_size": True} if "img_size" in arguments and name not in OF_ONE_SIZE else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        extractor = make_features(config)
        whole = timm.create_model(backbone, pretrained=False, **arguments, **dynamic).eval()
    extractor.load_backbone(whole.state_dict(), "test")
    return extractor, whole


def told(whole, pixels, modules):
    """What some modules of a network put out, without tokens that stand for no place, as (B,C,h,w)."""
    seen = {}
    for one in modules:
        whole.get_submodule(one).register_forward_hook(lambda _m, _i, out, one=one: seen.update({one: out}))
    whole(pixels)
    return [in_places(whole, seen[one], pixels) for one in modules]


def in_places(whole, found, pixels):
    if found.ndim == 3:
        patch = whole.patch_embed.patch_size[0]
        grid = (pixels.shape[-2] // patch, pixels.shape[-1] // patch)
        return found[:, whole.num_prefix_tokens :].transpose(1, 2).unflatten(2, grid)
    return found.permute(0, 3, 1, 2) if hasattr(whole, "patch_embed") else found  # Swin's channels come last


def side_of(name):
    return FAMILIES[name][1].get("img_size", 64)


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_a_family_gives_what_timm_computes(name, rng):
    extractor, whole = make(name)
    pixels = torch.randn(2, 3, side_of(name), side_of(name), generator=rng)
    expected = told(whole, pixels, FAMILIES[name][2].values())
    for got, other, width, stride in zip(
        extractor.unnormalised(pixels), expected, extractor.channels, extractor.strides, strict=True
    ):
        assert got.shape == (2, width, side_of(name) // stride, side_of(name) // stride)
        torch.testing.assert_close(got, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", OTHERS)
@torch.no_grad()
def test_a_family_that_takes_every_size_gives_what_timm_computes_there(name, rng):
    extractor, whole = make(name)
    pixels = torch.randn(1, 3, 64, 96, generator=rng)
    expected = told(whole, pixels, FAMILIES[name][2].values())
    for got, other in zip(extractor.unnormalised(pixels), expected, strict=True):
        torch.testing.assert_close(got, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", OF_ONE_SIZE)
@torch.no_grad()
def test_a_family_of_one_size_refuses_others_in_a_sentence(name):
    extractor, _ = make(name)
    with pytest.raises(InputError, match=r"expected images of 32x32 pixels, the fixed .*, got 48x64; choose"):
        extractor.unnormalised(torch.zeros(1, 3, 48, 64))


@pytest.mark.parametrize("name", ["DeiT distilled", "DINO", "DINOv2 with registers", "without class token"])
@torch.no_grad()
def test_dinos_way_differs_from_timms_in_the_positions_alone(name, rng):
    extractor, whole = make(name, position_resampling="dino")
    pixels = torch.randn(1, 3, 48, 64, generator=rng)
    fitted = extractor.position_embedding((6, 8))
    assert not torch.equal(fitted, make(name)[0].position_embedding((6, 8)))
    made = timm.create_model(
        FAMILIES[name][0], pretrained=False, **(FAMILIES[name][1] | {"img_size": (48, 64)})
    ).eval()
    made.load_state_dict(whole.state_dict() | {"pos_embed": fitted})
    expected = told(made, pixels, FAMILIES[name][2].values())
    for got, other in zip(extractor.unnormalised(pixels), expected, strict=True):
        torch.testing.assert_close(got, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["EVA-02", "BEiT", "Swin", "ResNet"])
def test_dinos_way_is_refused_where_there_is_nothing_to_fit(name):
    with pytest.raises(InputError, match=r"position_resampling: expected 'timm' for .*, got 'dino'"):
        make(name, position_resampling="dino")


def test_asking_what_a_backbone_takes_draws_nothing():
    """A seed stands for the same new weights as timm's own."""
    name, arguments, layers = FAMILIES["ViT"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        timm.create_model(name, pretrained=False, num_classes=0, **arguments)
        expected = torch.rand(1)
        torch.manual_seed(0)
        make_features(FeaturesConfig(name, tuple(layers), network=arguments))
        assert torch.equal(torch.rand(1), expected)


@torch.no_grad()
def test_pixels_that_fill_no_patch_are_left_out(rng):
    extractor, _ = make("ViT")
    pixels = torch.randn(1, 3, 37, 46, generator=rng)
    for got, other in zip(
        extractor.unnormalised(pixels), extractor.unnormalised(pixels[..., :32, :40]), strict=True
    ):
        assert torch.equal(got, other)


@torch.no_grad()
def test_a_library_that_changes_timms_resampling_changes_nothing_here(rng, monkeypatch):
    """anomalib switches antialiasing off for the whole process."""
    from timm.models import vision_transformer

    extractor, _ = make("ViT")
    pixels = torch.randn(1, 3, 16, 24, generator=rng)
    expected = extractor.unnormalised(pixels)
    monkeypatch.setattr(vision_transformer, "resample_abs_pos_embed", lambda *_, **__: 1 / 0)
    for got, other in zip(extractor.unnormalised(pixels), expected, strict=True):
        assert torch.equal(got, other)


def test_an_extractor_of_any_family_can_be_written_and_read(tmp_path, rng):
    extractor, _ = make("DINOv2 with registers", position_resampling="dino")
    torch.save(extractor, tmp_path / "extractor.pt")
    read = torch.load(tmp_path / "extractor.pt", weights_only=False)
    pixels = torch.randn(1, 3, 48, 48, generator=rng)
    assert isinstance(read, FeatureExtractor)
    assert torch.equal(read.unnormalised(pixels)[0], extractor.unnormalised(pixels)[0])
