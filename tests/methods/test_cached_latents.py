"""training.cache_gigabytes: where it applies, and that it changes nothing but the work."""

import pytest
import torch

from mendiff.errors import InputError

AUTOENCODER = {
    "codec.kind": "tiny",
    "codec.network": {
        "encoder_block_out_channels": [8, 8],
        "decoder_block_out_channels": [8, 8],
        "num_encoder_blocks": [1, 1],
        "num_decoder_blocks": [1, 1],
        "latent_channels": 2,
    },
    "training.cache_gigabytes": 1.0,
}


@pytest.mark.parametrize(("name", "encoded"), [("glad", 4 + 8), ("diad", 4)])
def test_good_image_is_encoded_once(name, encoded, tiny_method, pictures, streams, monkeypatch):
    cached, plain = (
        tiny_method(name, {**AUTOENCODER, "training.cache_gigabytes": room}) for room in (1.0, 0.0)
    )
    counts = []
    encode = cached.codec.encode
    monkeypatch.setattr(
        cached.codec, "encode", lambda image, *a: counts.append(len(image)) or encode(image, *a)
    )
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        losses = [one.training_loss(pictures[order], streams()) for one in (cached, plain)]
        torch.testing.assert_close(losses[0], losses[1])
    assert sum(counts) == encoded  # GLAD's synthetic anomalies are new at every step


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("glad", {"crop": 16}, "crops of 16 pixels are new at every step"),
        ("diad", {"reference": True}, "the latents are drawn anew at every step"),
        ("glad", {"codec.kind": "space_to_depth"}, "'space_to_depth' latents cost nothing"),
        ("ran", {"crop": 16, "window": 0}, "crops of 16 pixels are new at every step; use window"),
    ],
)
def test_cache_is_refused_for_latents_that_change_or_take_no_time(name, changes, reason, tiny_config):
    codec = {} if name == "ran" else AUTOENCODER
    with pytest.raises(InputError, match=f"training.cache_gigabytes: expected 0, got 1, although {reason}"):
        tiny_config(name, {**codec, "training.cache_gigabytes": 1.0, **changes})
