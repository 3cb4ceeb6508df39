"""Fitting a read-out to good images and their reconstructions."""

import pytest
import torch
import torch.nn.functional as F

from mendiff.methods.base import fit_readout
from mendiff.scoring.readout import Readout, ReadoutConfig

CHANNELS = (12, 48)


def features(image):
    """Two layers without weights: blocks of 2 and of 4 pixels moved into channels."""
    return [F.pixel_unshuffle(image, 2), F.pixel_unshuffle(image, 4) ** 2]


@pytest.fixture
def image(rng):
    return torch.rand(6, 3, 16, 16, generator=rng)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"distance": "whitened", "standardise": True}, [1, 2, 3]),
        ({"distance": "cosine", "standardise": True, "position_grid": 2}, [1, 2, 3]),
        ({"distance": "cosine", "standardise": True}, [1, 2]),  # scales use held-back images only
        ({"distance": "cosine"}, []),
    ],
)
def test_good_images_are_reconstructed_at_most_once_and_only_if_needed(image, settings, expected):
    readout = Readout(ReadoutConfig(**settings), CHANNELS)
    reconstructed = []

    def reconstruct(image, seeds):
        reconstructed.extend(seeds.tolist())
        return [image * 0.9]

    def batches(*seeds):
        return lambda: ((image[:1], torch.tensor([seed])) for seed in seeds)

    fit_readout(readout, features, reconstruct, batches(1, 2), batches(3))
    assert sorted(reconstructed) == expected


def test_probes_are_reconstructed_only_for_several_bank_shares(pictures, monkeypatch):
    monkeypatch.setattr("mendiff.methods.base.PROBES_PER_IMAGE", 3)
    reconstructed = []

    def reconstruct(image, seeds):
        reconstructed.extend(seeds.tolist())
        return [image.flip(0)]

    for shares, more in (((), 0), ((0.5,), 0), ((0.0, 0.5), 12)):
        reconstructed.clear()
        config = ReadoutConfig(distance="cosine", standardise=True, bank_shares=shares, bank_size=64)
        readout = Readout(config, CHANNELS)
        fit_readout(readout, features, reconstruct, lambda: [(pictures, torch.arange(4))])
        assert len(reconstructed) == 4 + more
        assert len(set(reconstructed)) == len(reconstructed)
