"""The stage of a fit in which the codec learns the good images."""

import pytest
import torch

from mendiff.nets.codec import make_codec
from mendiff.nets.codec_config import CodecConfig
from mendiff.nets.codec_fit import CodecFitConfig
from mendiff.training.codec_stage import CodecStage, fit_codec

NETWORK = {
    "encoder_block_out_channels": [8, 8],
    "decoder_block_out_channels": [8, 8],
    "num_encoder_blocks": [1, 1],
    "num_decoder_blocks": [1, 1],
    "upsampling_scaling_factor": 2,
    "latent_channels": 6,
}
FIT = CodecFitConfig(images=240, crop=32, batch_size=8, anomalies=4, learning_rate=5e-3)
CONFIG = CodecConfig("tiny", network=NETWORK, normalise=True, fit=FIT)


@pytest.fixture
def images():
    coarse = torch.rand(6, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    large = torch.nn.functional.interpolate(coarse, size=(64, 64), mode="bicubic").clamp(0, 1)
    return (large * 255).round().to(torch.uint8)


def fresh():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make_codec(CONFIG)


def error(codec, images):
    with torch.no_grad():
        x = images.float() / 255
        return float((codec.decode(codec.encode(x)) - x).square().mean())


def test_the_codec_learns_the_images_and_is_frozen_afterwards(images):
    codec = fresh()
    before = error(codec, images)
    seen = []
    fit_codec(codec, CONFIG, images, 0, CodecStage(progress=lambda *told: seen.append(told[:2])))
    assert error(codec, images) < before / 2
    assert not any(one.requires_grad for one in codec.parameters())
    assert seen[-1] == (30, 30)


def test_it_learns_in_half_precision_inside_anothers_autocast_too(images, monkeypatch):
    monkeypatch.setattr("mendiff.nets.placement.multiplies_bf16", lambda device: True)
    codec = fresh()
    before = error(codec, images)
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        fit_codec(codec, CONFIG, images, 0, CodecStage())
    assert error(codec, images) < before / 2


def test_every_channel_of_the_latents_is_standardised_afterwards(images):
    codec = fresh()
    fit_codec(codec, CONFIG, images, 0, CodecStage())
    latents = codec.encode(images.float() / 255).transpose(0, 1).flatten(1)
    assert torch.allclose(latents.mean(1), torch.zeros(6), atol=1e-4)
    assert torch.allclose(latents.std(1), torch.ones(6), atol=1e-3)


def test_an_interrupted_stage_goes_on_as_if_it_had_not_been(images, tmp_path, monkeypatch):
    monkeypatch.setattr("mendiff.training.loop.CHECKPOINT_SECONDS", 0.0)
    whole = fresh()
    fit_codec(whole, CONFIG, images, 3, CodecStage())

    def stop(step, steps, note):
        if step == 12:
            raise KeyboardInterrupt

    halved, file = fresh(), tmp_path / "codec.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fit_codec(halved, CONFIG, images, 3, CodecStage(file, progress=stop))
    resumed = fresh()
    fit_codec(resumed, CONFIG, images, 3, CodecStage(file, resume=True))
    for name, one in whole.state_dict().items():
        assert torch.equal(one, resumed.state_dict()[name]), name


def test_the_global_random_numbers_are_untouched(images, global_rng_untouched):
    codec = fresh()
    with global_rng_untouched():
        fit_codec(codec, CONFIG, images, 0, CodecStage())
