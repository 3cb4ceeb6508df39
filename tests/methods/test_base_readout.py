"""Fitting a read-out to good images and their reconstructions."""

import pytest
import torch
import torch.nn.functional as F

from mendiff.methods.base_readout import fit_readout
from mendiff.scoring.readout import Readout, ReadoutConfig
from mendiff.types import Detection

CHANNELS = (12, 48)


def features(image):
    """Two layers without weights: blocks of 2 and of 4 pixels moved into channels."""
    return [F.pixel_unshuffle(image, 2), F.pixel_unshuffle(image, 4) ** 2]


def detected(readout):
    """Maps and scores of a read-out, as a method returns them."""

    def detect(image, reconstructions):
        anomaly_map = readout.anomaly_map(image, reconstructions, features)
        step = torch.zeros(len(image), dtype=torch.int64)
        return Detection(readout.score(anomaly_map), anomaly_map, reconstructions[0], step)

    return detect


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

    left_out = fit_readout(readout, features, reconstruct, detected(readout), batches(1, 2), batches(3))
    assert sorted(reconstructed) == expected
    assert left_out == []  # a single training image can't be left out


def test_training_images_are_scored_without_their_part_in_the_statistics(image):
    config = ReadoutConfig(
        distance="cosine", standardise=True, position_grid=4, bank_shares=(0.5,), bank_size=256
    )
    readout, seeds = Readout(config, CHANNELS), torch.arange(3)
    held, seen = image[:3], image[3:]

    left_out = fit_readout(
        readout,
        features,
        lambda some, _: [some * 0.9],
        detected(readout),
        lambda: [(held, seeds)],
        lambda: iter([(seen[:2], seeds[:2]), (seen[2:], seeds[2:])]),
    )

    within = readout.score(readout.anomaly_map(seen, [seen * 0.9], features))
    assert [score > float(own) for (score, _), own in zip(left_out, within, strict=True)] == [True] * 3
    assert all(peak >= score for score, peak in left_out)


def test_probes_are_reconstructed_only_for_several_bank_shares(pictures, monkeypatch):
    monkeypatch.setattr("mendiff.methods.base_readout.PROBES_PER_IMAGE", 3)
    reconstructed = []

    def reconstruct(image, seeds):
        reconstructed.extend(seeds.tolist())
        return [image.flip(0)]

    for shares, more in (((), 0), ((0.5,), 0), ((0.0, 0.5), 12)):
        reconstructed.clear()
        config = ReadoutConfig(distance="cosine", standardise=True, bank_shares=shares, bank_size=64)
        readout = Readout(config, CHANNELS)
        fit_readout(readout, features, reconstruct, detected(readout), lambda: [(pictures, torch.arange(4))])
        assert len(reconstructed) == 4 + more
        assert len(set(reconstructed)) == len(reconstructed)
