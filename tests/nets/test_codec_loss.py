import dataclasses

import pytest
import torch

from mendiff.errors import InputError
from mendiff.nets.codec import MEAN, STD, as_seen, as_tuned
from mendiff.nets.codec_config import CodecConfig
from mendiff.nets.codec_fit import CodecLossConfig
from mendiff.nets.codec_loss import CodecParts, CodecTraining, latent_scale
from mendiff.nets.discriminator import PatchDiscriminator, adaptive_weight, hinge_loss

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


# Pixels in ImageNet's normalisation.


@pytest.mark.parametrize("codec", [None, KL], ids=["tiny", "kl"])
@torch.no_grad()
def test_a_codec_for_imagenets_pixels_is_shown_those(codec, small_codec, pictures, rng):
    model = training(dataclasses.replace(codec or small_codec, pixels="imagenet"), perceptual_weight=0.0)
    seen = []
    model.codec.network.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(pictures, rng)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    torch.testing.assert_close(seen[0], (pictures - mean) / std, rtol=0, atol=1e-5)
    latents = model.codec.encode(as_tuned(pictures, "imagenet"))
    torch.testing.assert_close(seen[1], seen[0], rtol=0, atol=1e-5)
    scale = latent_scale(model.codec, pictures, "imagenet")
    assert scale == pytest.approx(model.codec.network.config["scaling_factor"] / float(latents.std()))


@pytest.mark.parametrize("pixels", ["", "symmetric", "imagenet"])
def test_pixels_come_back_as_they_were(pictures, pixels):
    decoded = as_tuned(pictures, pixels) * 2 - 1
    torch.testing.assert_close(as_seen(decoded, pixels), pictures, rtol=0, atol=1e-6)


# The discriminator.


def adversarial(codec, start=0, **loss):
    model = training(codec, adversarial_weight=0.5, adversarial_start=start, **loss)
    return model.train()


@pytest.mark.parametrize("codec", [None, KL], ids=["tiny", "kl"])
def test_the_adversarial_term_moves_the_decoder_as_far_as_its_weight_says(codec, small_codec, pictures, rng):
    # Only the weight differs, so that what is left of the gradients is the adversarial term's.
    gradients = []
    for model in (training(codec or small_codec).train(), adversarial(codec or small_codec)):
        model(pictures, torch.Generator().manual_seed(2)).backward()
        last = [one for one in model.codec.network.decoder.modules() if isinstance(one, torch.nn.Conv2d)][-1]
        gradients.append(last.weight.grad)
    plain, both = gradients
    # The divergence of "kl" does not reach the decoder: all of `plain` is what the weight adapts to.
    assert float((both - plain).norm()) == pytest.approx(0.5 * float(plain.norm()), rel=2e-2)


def test_the_adversarial_term_rests_before_its_start(small_codec, pictures):
    plain, model = training(small_codec), adversarial(small_codec, start=3)
    for step, rests in ((0, True), (2, True), (3, False), (4, False)):
        model.step = step
        ours, theirs = (one(pictures, torch.Generator().manual_seed(2)) for one in (plain, model))
        assert torch.equal(ours, theirs) == rests
        assert (model.rival_loss() is None) == rests


def test_the_discriminator_learns_and_lets_the_codec_be(small_codec, pictures, rng):
    model, losses = adversarial(small_codec), []
    optimizer = torch.optim.Adam(model.discriminator.parameters(), lr=2e-4)
    for _ in range(12):
        model(pictures, rng)
        loss = model.rival_loss()
        optimizer.zero_grad()
        model.codec.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert all(one.grad is None or not bool(one.grad.any()) for one in model.codec.parameters())
    assert losses[-1] < 0.7 * losses[0]
    assert model.rival_loss() is None  # a batch counts once


def test_hinge_loss_and_adaptive_weight_are_those_of_the_formulas(rng):
    real, made = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.0])
    assert float(hinge_loss(real, made)) == pytest.approx(0.5 * (0.25 + 0.5))
    last = torch.randn(5, generator=rng, requires_grad=True)
    other, adversarial = 3 * last.sum(), (last * torch.arange(5.0)).sum()
    expected = 3 * 5**0.5 / (30**0.5 + 1e-4)
    assert float(adaptive_weight(other, adversarial, last)) == pytest.approx(expected, rel=1e-5)
    assert float(adaptive_weight(1e9 * last.sum(), 0 * last.sum(), last)) == 1e4


def test_patches_of_70_pixels_are_judged(rng):
    discriminator = PatchDiscriminator(8).eval()
    image = torch.rand(1, 3, 128, 128, generator=rng, requires_grad=True)
    judged = discriminator(image)
    assert judged.shape == (1, 1, 14, 14)
    judged[0, 0, 7, 7].backward()
    rows, columns = (image.grad.abs().sum((0, 1, axis)).nonzero() for axis in (3, 2))
    assert (len(rows), len(columns)) == (70, 70)
    with pytest.raises(InputError, match="at least 24 pixels for its discriminator, got 16x32"):
        discriminator(torch.zeros(1, 3, 16, 32))
    assert discriminator(torch.zeros(1, 3, 24, 24)).shape == (1, 1, 1, 1)


@pytest.mark.parametrize("field", ["adversarial_weight", "adversarial_start"])
def test_negative_weights_and_starts_are_refused(field):
    with pytest.raises(InputError, match=rf"loss\.{field}: expected at least 0, got -1"):
        CodecLossConfig(**{field: -1})


def test_noise_on_latents_is_a_share_of_their_own_deviation_and_goes_to_the_decoder_alone(small_codec, rng):
    model = training(small_codec, latent_noise=0.5)
    latents = torch.randn(400, 2, 6, 6, generator=rng) * torch.tensor([1.0, 100.0])[:, None, None]
    noise = model._disturbed(latents, rng) - latents
    by_image = noise.flatten(2).std(2) / latents.std((0, 2, 3))
    assert 0 < float(by_image.min()) < 0.05
    assert 0.4 < float(by_image.max()) < 0.75  # of 36 positions
    assert torch.allclose(by_image.mean(0), torch.full((2,), 0.25), atol=0.03)
    plain = training(small_codec)
    assert plain._disturbed(latents, rng) is latents


def test_large_latents_cost_where_there_is_no_posterior(small_codec, pictures, rng):
    weights = {"perceptual_weight": 0.0}
    free, dear = (training(small_codec, kl_weight=one, **weights) for one in (0.0, 2.0))
    with torch.no_grad():
        square = free.codec.encode(pictures).square().mean()
        assert torch.allclose(dear(pictures, rng), free(pictures, rng) + 2 * square, rtol=1e-5)
