"""Fitting a read-out to what a method makes of good images."""

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
        ({"distance": "cosine", "standardise": True}, [1, 2]),  # scales come from held-back images alone
        ({"distance": "cosine"}, []),
    ],
)
def test_every_good_image_that_something_is_learned_from_is_mended_once(image, settings, expected):
    readout = Readout(ReadoutConfig(**settings), CHANNELS)
    mended = []

    def mend(image, seeds):
        mended.extend(seeds.tolist())
        return [image * 0.9]

    def batches(*seeds):
        return lambda: ((image[:1], torch.tensor([seed])) for seed in seeds)

    fit_readout(readout, features, mend, batches(1, 2), batches(3))
    assert sorted(mended) == expected


def test_flaws_are_mended_only_where_there_is_a_choice(pictures, monkeypatch):
    monkeypatch.setattr("mendiff.methods.base.PROBES_PER_IMAGE", 3)
    mended = []

    def mend(image, seeds):
        mended.extend(seeds.tolist())
        return [image.flip(0)]

    for shares, more in (((), 0), ((0.5,), 0), ((0.0, 0.5), 12)):
        mended.clear()
        config = ReadoutConfig(distance="cosine", standardise=True, bank_shares=shares, bank_size=64)
        readout = Readout(config, CHANNELS)
        fit_readout(readout, features, mend, lambda: [(pictures, torch.arange(4))])
        assert len(mended) == 4 + more
        assert len(set(mended)) == len(mended)
