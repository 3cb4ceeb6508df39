from dataclasses import replace

import pytest
import torch

from mendiff.errors import InputError
from mendiff.nets.codec import check_size, make_codec, widened
from mendiff.nets.codec_config import BUNDLED_NETWORK, CodecConfig

KL = {
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "block_out_channels": [8, 8, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "latent_channels": 4,
    "scaling_factor": 0.18215,
}
TINY = {
    "encoder_block_out_channels": [8, 8],
    "decoder_block_out_channels": [8, 8],
    "num_encoder_blocks": [1, 1],
    "num_decoder_blocks": [1, 1],
    "latent_channels": 5,
    "scaling_factor": 0.5,
}
CONFIGS = {
    "pixels": (CodecConfig("pixels"), 3, 1),
    "space_to_depth": (CodecConfig("space_to_depth", factor=4), 48, 4),
    "kl": (CodecConfig("kl", network=KL), 4, 4),
    "tiny": (CodecConfig("tiny", network=TINY), 5, 2),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_latents_have_the_stated_channels_and_factor(kind, pictures):
    config, channels, factor = CONFIGS[kind]
    codec = make_codec(config)
    assert (codec.channels, codec.factor) == (channels, factor)
    z0 = codec.encode(pictures)
    assert z0.shape == (4, channels, 32 // factor, 32 // factor)
    assert codec.decode_raw(z0).shape == pictures.shape
    decoded = codec.decode(10 * z0)
    assert float(decoded.min()) >= 0
    assert float(decoded.max()) <= 1


@pytest.mark.parametrize("kind", ["pixels", "space_to_depth"])
def test_moving_pixels_loses_nothing(kind, pictures):
    codec = make_codec(CONFIGS[kind][0])
    z0 = codec.encode(pictures)
    assert float(z0.min()) >= -1
    assert float(z0.max()) <= 1
    torch.testing.assert_close(codec.decode(z0), pictures, rtol=0, atol=1e-6)
    assert torch.equal(codec.encode(pictures, torch.ones_like(z0)), z0)


def test_blocks_of_pixels_become_channels(pictures):
    z0 = make_codec(CodecConfig("space_to_depth", factor=4)).encode(pictures)
    assert torch.equal(z0[:, :16, 2, 3], pictures[:, 0, 8:12, 12:16].flatten(1) * 2 - 1)


def test_autoencoder_gets_and_gives_pixels_between_minus_one_and_one(pictures):
    codec = make_codec(CONFIGS["kl"][0])
    with torch.no_grad():
        posterior = codec.network.encode(pictures * 2 - 1).latent_dist
        z0 = codec.encode(pictures)
        torch.testing.assert_close(z0, posterior.mode() * 0.18215, rtol=0, atol=1e-7)
        noise = torch.randn(z0.shape, generator=torch.Generator().manual_seed(0))
        sample = (posterior.mean + posterior.logvar.mul(0.5).exp() * noise) * 0.18215
        torch.testing.assert_close(codec.encode(pictures, noise), sample, rtol=1e-5, atol=1e-6)
        raw = codec.network.decode(posterior.mode()).sample
        torch.testing.assert_close(codec.decode_raw(z0), raw, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(codec.decode(z0), (raw / 2 + 0.5).clamp(0, 1), rtol=1e-4, atol=1e-5)


def test_tiny_autoencoder_scales_its_latents(pictures):
    codec = make_codec(CONFIGS["tiny"][0])
    with torch.no_grad():
        latents = codec.network.encode(pictures * 2 - 1).latents
        torch.testing.assert_close(codec.encode(pictures), latents * 0.5)
        torch.testing.assert_close(codec.decode_raw(latents * 0.5), codec.network.decode(latents).sample)


def test_an_autoencoder_is_frozen(small_codec):
    parameters = list(make_codec(small_codec).parameters())
    assert parameters
    assert not any(one.requires_grad for one in parameters)


def test_a_size_that_cannot_be_halved_is_refused_with_one_that_can():
    codec = make_codec(CodecConfig("space_to_depth", factor=4))
    check_size(codec, torch.empty(1, 3, 32, 64), 4)
    with pytest.raises(InputError, match=r"multiples of 16 .* got 40x64; choose 48x64"):
        check_size(codec, torch.empty(1, 3, 40, 64), 4)
    with pytest.raises(InputError, match="choose 16x32"):
        check_size(codec, torch.empty(1, 3, 1, 17), 4)


def test_an_unknown_codec_is_refused():
    with pytest.raises(InputError, match="pixels, space_to_depth, kl, tiny, auto, got 'vq'"):
        make_codec(CodecConfig("vq"))


def test_a_decoded_image_does_not_depend_on_its_batch_nor_on_gradients():
    codec = _seeded(CONFIGS["kl"][0])
    z0 = torch.randn(3, codec.channels, 6, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        together = codec.decode_raw(z0)
        alone = [codec.decode_raw(one) for one in z0.split(1)]
    assert together.is_contiguous()
    assert torch.equal(together, torch.cat(alone))
    torch.testing.assert_close(together, codec.decode_raw(z0), rtol=0, atol=1e-5)


def test_slices_give_the_same_latents_and_pixels(pictures):
    for kind in ("kl", "tiny"):
        whole, sliced = (_seeded(replace(CONFIGS[kind][0], slicing=on)) for on in (False, True))
        seen = []
        sliced.network.encoder.register_forward_pre_hook(
            lambda _, inputs, seen=seen: seen.append(len(inputs[0]))
        )
        z0 = whole.encode(pictures)
        torch.testing.assert_close(sliced.encode(pictures), z0)
        torch.testing.assert_close(sliced.decode(z0), whole.decode(z0))
        assert seen == [1, 1, 1, 1]


def test_tiles_bound_what_the_autoencoder_sees(pictures):
    whole, tiled = (_seeded(replace(CONFIGS["kl"][0], tiling=side)) for side in (0, 16))
    sides = set()
    tiled.network.encoder.register_forward_pre_hook(lambda _, inputs: sides.add(max(inputs[0].shape[-2:])))
    tiled.network.decoder.register_forward_pre_hook(
        lambda _, inputs: sides.add(4 * max(inputs[0].shape[-2:]))
    )
    z0 = tiled.encode(pictures)
    assert z0.shape == whole.encode(pictures).shape
    assert tiled.decode_raw(z0).shape == pictures.shape
    assert max(sides) == 16


def test_tiles_are_whole_latents():
    with pytest.raises(InputError, match=r"codec.tiling: expected a multiple of 16 pixels, got 24"):
        make_codec(replace(CONFIGS["kl"][0], tiling=24))


def _seeded(config):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make_codec(config).eval()


@torch.no_grad()
def test_a_fresh_tiny_autoencoder_lets_brightness_and_colours_through(rng):
    """PyTorch's own fresh weights leave 0.0001 to 0.0005 of it: training stays grey for long."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        codec = make_codec(CodecConfig("tiny", network=BUNDLED_NETWORK))
    tint = torch.tensor([1.0, 0.0, -1.0])[:, None, None]
    middle = 0.5 + 0.2 * torch.rand(1, 3, 64, 64, generator=rng)
    changes = [codec.decode_raw(codec.encode(middle + 0.2 * tint)), codec.decode_raw(codec.encode(middle))]
    assert 0.01 < float((changes[0] - changes[1]).std()) < 3


def narrow_and_wide(small_codec):
    wide = replace(small_codec, network={**small_codec.network, "latent_channels": 6}, normalise=True)
    return _seeded(small_codec), _seeded(wide)


@torch.no_grad()
def test_normalised_latents_are_standard_in_every_channel_and_decode_to_the_same(small_codec, pictures):
    _, codec = narrow_and_wide(small_codec)
    plain = codec.decode_raw(codec.encode(pictures))
    codec.normalise_by(pictures)
    latents = codec.encode(pictures).transpose(0, 1).flatten(1)
    assert torch.allclose(latents.mean(1), torch.zeros(6), atol=1e-4)
    assert torch.allclose(latents.std(1), torch.ones(6), atol=1e-3)
    assert torch.allclose(codec.decode_raw(codec.encode(pictures)), plain, atol=1e-4)
    again = {name: one.clone() for name, one in codec.state_dict().items()}
    codec.normalise_by(pictures)  # a second time changes nothing
    assert all(torch.allclose(one, again[name], atol=1e-4) for name, one in codec.state_dict().items())


@torch.no_grad()
def test_a_widened_codec_keeps_the_channels_it_had(small_codec, pictures):
    narrow, wide = narrow_and_wide(small_codec)
    fresh = wide.state_dict()["network.decoder.layers.0.weight"].clone()
    wide.load_state_dict(widened(wide, narrow.state_dict()))
    assert torch.allclose(wide.encode(pictures)[:, :2], narrow.encode(pictures), atol=1e-5)
    entrance = wide.state_dict()["network.decoder.layers.0.weight"]
    assert torch.equal(entrance[:, :2], narrow.state_dict()["network.decoder.layers.0.weight"])
    assert torch.allclose(entrance[:, 2:], 0.1 * fresh[:, 2:])
