import pytest
import timm
import torch

from mendiff.errors import InputError
from mendiff.nets.features import FeatureExtractor, FeaturesConfig, PixelPyramid, make_features

CNN = "resnet10t"
VIT = "vit_tiny_patch16_224"
SMALL_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 12, "depth": 4, "num_heads": 2}


def seeded(build):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build()


def cnn(*layers):
    return seeded(lambda: FeatureExtractor(FeaturesConfig(CNN, layers or ("stage1", "stage2", "stage3"))))


def vit(*layers, **changes):
    config = FeaturesConfig(VIT, layers or ("block2", "block4"), network=SMALL_VIT, **changes)
    return seeded(lambda: FeatureExtractor(config))


@pytest.fixture(scope="module")
def whole_cnn():
    return seeded(lambda: timm.create_model(CNN, pretrained=False)).eval()


@pytest.fixture(scope="module")
def whole_vit():
    return seeded(lambda: timm.create_model(VIT, pretrained=False, **SMALL_VIT)).eval()


def normalised(extractor, image):
    return (image - extractor.mean) / extractor.std


# What comes out.


@torch.no_grad()
def test_stages_of_a_convolutional_backbone_equal_timms(whole_cnn, pictures):
    extractor = cnn()
    extractor.load_backbone(whole_cnn.state_dict(), "test")
    # Stage 0 is the stem, 1 to 4 the residual stages.
    outputs = {}
    for number in (1, 2, 3):
        layer = getattr(whole_cnn, f"layer{number}")
        layer.register_forward_hook(lambda _, __, output, number=number: outputs.__setitem__(number, output))
    whole_cnn(normalised(extractor, pictures))
    got = extractor(pictures)
    assert [tuple(one.shape) for one in got] == [(4, c, 32 // s, 32 // s) for c, s in _sizes(extractor)]
    for one, number in zip(got, (1, 2, 3), strict=True):
        torch.testing.assert_close(one, outputs[number], rtol=1e-5, atol=1e-5)


def _sizes(extractor):
    return zip(extractor.channels, extractor.strides, strict=True)


@torch.no_grad()
def test_blocks_of_a_transformer_equal_timms(whole_vit, pictures):
    extractor = vit("block1", "block3")
    extractor.load_backbone(whole_vit.state_dict(), "test")
    outputs = []
    for index in (0, 2):
        whole_vit.blocks[index].register_forward_hook(lambda _, __, tokens: outputs.append(tokens))
    whole_vit(normalised(extractor, pictures))
    for got, tokens in zip(extractor(pictures), outputs, strict=True):
        assert got.shape == (4, 12, 4, 4)
        torch.testing.assert_close(got.flatten(2).transpose(1, 2), tokens[:, 1:], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_layers_come_in_the_asked_order(pictures):
    forward, backward = cnn("stage1", "stage3"), cnn("stage3", "stage1")
    backward.load_state_dict(forward.state_dict())
    assert backward.channels == forward.channels[::-1]
    assert backward.strides == forward.strides[::-1]
    for one, other in zip(forward(pictures), backward(pictures)[::-1], strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("position_resampling", ["timm", "dino"])
@torch.no_grad()
def test_a_transformer_takes_other_sizes(position_resampling, rng):
    extractor = vit(position_resampling=position_resampling)
    got = extractor(torch.rand(2, 3, 48, 64, generator=rng))
    assert [tuple(one.shape) for one in got] == [(2, 12, 6, 8)] * 2
    table = extractor.backbone.pos_embed
    assert extractor.position_embedding((4, 4)) is table
    fitted = extractor.position_embedding((6, 8))
    assert fitted.shape == (1, 1 + 48, 12)
    assert torch.equal(fitted[:, :1], table[:, :1])


def test_a_constant_position_embedding_stays_constant_at_every_size():
    for position_resampling in ("timm", "dino"):
        extractor = vit(position_resampling=position_resampling)
        extractor.backbone.pos_embed.fill_(0.25)
        fitted = extractor.position_embedding((7, 5))
        torch.testing.assert_close(fitted, torch.full_like(fitted, 0.25), rtol=0, atol=1e-6)


@torch.no_grad()
def test_normalising_happens_inside(pictures):
    extractor = seeded(
        lambda: FeatureExtractor(FeaturesConfig(CNN, ("stage1",), mean=(0.1, 0.2, 0.3), std=(0.5, 0.4, 0.3)))
    )
    mean, std = torch.tensor([0.1, 0.2, 0.3])[:, None, None], torch.tensor([0.5, 0.4, 0.3])[:, None, None]
    expected = extractor.unnormalised((pictures - mean) / std)[0]
    torch.testing.assert_close(extractor(pictures)[0], expected, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(extractor.unnormalised(pictures)[0], expected, atol=1e-3)


def test_normalisation_is_timms_unless_told():
    stated = timm.create_model(CNN, pretrained=False).default_cfg
    extractor = cnn()
    assert extractor.mean.flatten().tolist() == pytest.approx(stated["mean"])
    assert extractor.std.flatten().tolist() == pytest.approx(stated["std"])


# Frozen.


@pytest.mark.parametrize("build", [cnn, vit])
def test_extractor_stays_frozen_and_in_evaluation_mode(build, pictures):
    extractor = build()
    before = {key: value.clone() for key, value in extractor.state_dict().items()}
    parent = torch.nn.Sequential(extractor).train()
    assert parent.training
    assert not any(one.training for one in extractor.modules())
    extractor(pictures)
    assert not any(one.requires_grad for one in extractor.parameters())
    after = extractor.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_gradients_still_reach_the_image(pictures):
    image = pictures.clone().requires_grad_()
    cnn()(image)[0].square().sum().backward()
    assert float(image.grad.abs().sum()) > 0


# Names.


@pytest.mark.parametrize(
    ("name", "layers", "message"),
    [
        (CNN, ("stage9",), "stage0..stage4 for resnet10t, got 'stage9'"),
        (CNN, ("block1",), "got 'block1'"),
        (CNN, ("layer1",), "got 'layer1'"),
        (CNN, (), "got none"),
        (VIT, ("block0",), "block1..block12 for vit_tiny_patch16_224, got 'block0'"),
        (VIT, ("stage1",), "got 'stage1'"),
        ("resnet_of_nobody", ("stage1",), "got 'resnet_of_nobody'; close names: .*resnet"),
        ("zzz", ("stage1",), "got 'zzz'; close names: see timm.list_models"),
    ],
)
def test_unknown_names_are_refused(name, layers, message):
    with pytest.raises(InputError, match=message):
        FeatureExtractor(FeaturesConfig(name, layers))


def test_an_unknown_position_resampling_is_refused():
    with pytest.raises(InputError, match="timm, dino, got 'nearest'"):
        vit(position_resampling="nearest")


# Weights.


@pytest.mark.parametrize(("build", "whole"), [(cnn, "whole_cnn"), (vit, "whole_vit")])
@torch.no_grad()
def test_weights_of_the_whole_network_load_head_included(build, whole, request, pictures):
    weights = request.getfixturevalue(whole).state_dict()
    heads = [key for key in weights if key.startswith(("fc.", "head."))]
    assert heads
    with_head, without = build(), build()
    with_head.load_backbone(weights, "test")
    without.load_backbone({key: value for key, value in weights.items() if key not in heads}, "test")
    for one, other in zip(with_head(pictures), without(pictures), strict=True):
        assert torch.equal(one, other)


def test_half_precision_weights_load_as_full_precision(whole_cnn, pictures):
    full, half = cnn(), cnn()
    weights = whole_cnn.state_dict()
    full.load_backbone(weights, "test")
    half.load_backbone(
        {key: value.half() if value.is_floating_point() else value for key, value in weights.items()}, "test"
    )
    assert {one.dtype for one in half.parameters()} == {torch.float32}
    for one, other in zip(full(pictures), half(pictures), strict=True):
        assert not torch.equal(one, other)
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.05)


def test_a_missing_weight_is_named(whole_vit):
    weights = dict(whole_vit.state_dict())
    del weights["blocks.1.attn.qkv.weight"]
    with pytest.raises(InputError, match=r"weights w.bin: .* blocks.1.attn.qkv.weight is missing"):
        vit().load_backbone(weights, "w.bin")


def test_an_unknown_weight_is_named(whole_cnn):
    weights = whole_cnn.state_dict() | {"decoder.weight": torch.zeros(1)}
    with pytest.raises(InputError, match=r"decoder.weight is not part of the network"):
        cnn().load_backbone(weights, "w.bin")


def test_a_weight_of_another_shape_is_named(whole_cnn):
    weights = whole_cnn.state_dict() | {"conv1.0.weight": torch.zeros(3)}
    with pytest.raises(InputError, match=r"conv1.0.weight has another shape"):
        cnn().load_backbone(weights, "w.bin")


def test_a_refused_file_changes_nothing(whole_cnn):
    extractor = cnn()
    before = {key: value.clone() for key, value in extractor.state_dict().items()}
    with pytest.raises(InputError):
        extractor.load_backbone(
            {key: torch.zeros_like(value) for key, value in whole_cnn.state_dict().items()}
            | {"stranger": torch.zeros(1)},
            "w.bin",
        )
    assert all(torch.equal(value, before[key]) for key, value in extractor.state_dict().items())


# Without weights.


def test_pyramid_has_the_stated_shapes(pictures):
    pyramid = make_features(FeaturesConfig())
    assert isinstance(pyramid, PixelPyramid)
    assert not list(pyramid.parameters())
    got = pyramid(pictures)
    assert [tuple(one.shape) for one in got] == [(4, c, 32 // s, 32 // s) for c, s in _sizes(pyramid)]
    for one, other in zip(got, pyramid.unnormalised(pictures * 2 - 1), strict=True):
        assert torch.equal(one, other)


def test_pyramid_sees_colour_contrast_and_edges():
    image = torch.zeros(1, 3, 16, 16)
    image[:, 0, :, 7:] = 1  # a red edge inside the second column of blocks
    fine = PixelPyramid()(image)[0][0]
    assert fine[:3, 0, 0].tolist() == [-1, -1, -1]
    assert fine[:3, 0, 3].tolist() == [1, -1, -1]
    across = fine[6:9, 0]
    assert across[0, 1] == pytest.approx(2 * 4 / 16)
    assert float(across[1:].abs().max()) == 0
    assert float(fine[3:6].abs().max()) == 0
    torch.testing.assert_close(fine[9:15], fine[3:9].abs())


def test_arguments_that_a_backbone_does_not_take_are_refused():
    with pytest.raises(
        InputError, match=r"features\.network: .* timm's resnet18 takes, got .*pad_type.*another"
    ):
        make_features(FeaturesConfig("resnet18", network={"pad_type": "same"}))
