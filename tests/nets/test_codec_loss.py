import dataclasses

import pytest
import torch

from mendiff.errors import InputError
from mendiff.nets.codec import CodecConfig
from mendiff.nets.codec_loss import CodecLossConfig, CodecParts, CodecTraining, latent_scale

KL = CodecConfig(
    "kl",
    network={
        "block_out_channels": [8, 8],
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "latent_channels": 2,
        "norm_num_groups": 4,
    },
)


def training(codec, **loss):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CodecTraining(CodecParts(codec=codec, loss=CodecLossConfig(**loss)))


@pytest.mark.parametrize("codec", [None, KL], ids=["tiny", "kl"])
def test_training_brings_codec_and_image_together(codec, small_codec, pictures, rng):
    model = training(codec or small_codec)
    optimizer = torch.optim.AdamW(model.codec.parameters(), lr=3e-3)
    with torch.no_grad():
        before = (model.codec.decode(model.codec.encode(pictures)) - pictures).abs().mean()
    for _ in range(60):
        optimizer.zero_grad()
        model(pictures, rng).backward()
        optimizer.step()
    with torch.no_grad():
        after = (model.codec.decode(model.codec.encode(pictures)) - pictures).abs().mean()
    assert float(after) < 0.6 * float(before)


def test_terms_of_the_loss(pictures):
    plain = training(KL, perceptual_weight=0.0, kl_weight=0.0)
    seeded = torch.Generator().manual_seed(3)
    posterior = plain.codec.network.encode(pictures * 2 - 1).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(3))
    sample = posterior.mean + posterior.std * noise
    pixels = (plain.codec.network.decode(sample).sample / 2 + 0.5 - pictures).abs().mean()
    torch.testing.assert_close(plain(pictures, seeded), pixels)
    divergence = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
    weighted = training(KL, perceptual_weight=0.0, kl_weight=0.25)
    torch.testing.assert_close(
        weighted(pictures, torch.Generator().manual_seed(3)), pixels + 0.25 * divergence, rtol=1e-4, atol=1e-5
    )
    assert float(plain.perceptual(pictures, pictures)) == 0
    assert float(plain.perceptual(pictures, pictures.flip(3)).detach()) > 0


def test_gradients_reach_the_codec_alone(small_codec, pictures, rng):
    model = training(small_codec)
    # Blocks begin as identities: what is before their last layer learns as soon as that one has moved.
    with torch.no_grad():
        for one in model.codec.parameters():
            one.add_(0.01 * torch.randn(one.shape, generator=rng))
    model(pictures, rng).backward()
    assert all(one.grad is not None and bool(one.grad.any()) for one in model.codec.parameters())


def test_the_root_of_the_squared_error_is_taken_of_every_image(small_codec, pictures, rng):
    with torch.no_grad():
        model = training(small_codec, perceptual_weight=0.0, pixel="rms")
        error = model.codec.decode_raw(model.codec.encode(pictures)) / 2 + 0.5 - pictures
        expected = error.square().mean((1, 2, 3)).sqrt().mean()
        torch.testing.assert_close(model(pictures, rng), expected, rtol=1e-3, atol=1e-5)
    with pytest.raises(InputError, match=r"loss\.pixel: expected one of l1, rms, got 'l2'"):
        training(small_codec, pixel="l2")


def test_scaled_latents_have_unit_deviation(small_codec, pictures):
    codec = training(small_codec).codec.eval()
    scale = latent_scale(codec, pictures)
    network = {**small_codec.network, "scaling_factor": scale}
    scaled = training(dataclasses.replace(small_codec, network=network)).codec.eval()
    with torch.no_grad():
        assert float(scaled.encode(pictures).std()) == pytest.approx(1, rel=1e-4)


def test_lossless_codecs_have_nothing_to_train():
    with pytest.raises(
        InputError, match="codec: expected one of kl, tiny, which can be trained, got 'pixels'"
    ):
        training(CodecConfig("pixels"))
