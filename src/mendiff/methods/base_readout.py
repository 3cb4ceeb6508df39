"""The fit of a read-out to good images and their reconstructions, for methods that have both."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from mendiff.diffusion.random import content_seeds
from mendiff.methods.base import Batches, Progress, Scores, no_progress, track
from mendiff.scoring.readout import Features, Readout, first_images
from mendiff.synthesis.probes import probes
from mendiff.types import Detection

FITTING, PROBING = "fitting statistics: batches", "reconstructing synthetic defects: batches"
LEAVING_OUT = "scoring left-out training images"
"""Progress titles, which end with the unit."""
PROBES, PROBES_PER_IMAGE, PROBE_SEED = 120, 15, 0
"""Held-back images with a synthetic defect for the choice of a read-out: largest number, largest number per
image, and seed."""


def fit_readout(
    readout: Readout,
    features: Features,
    reconstruct: Callable[[Tensor, Tensor], list[Tensor]],
    detect: Callable[[Tensor, list[Tensor]], Detection],
    held_back: Batches,
    seen: Batches | None = None,
    progress: Progress = no_progress,
    *,
    leave_out: bool = True,
) -> Scores:
    """Fit a read-out to good images and their reconstructions, if it has statistics.

    Returns scores of the reconstructed training images, each with statistics without this image; none without
    `leave_out`.

    Args:
        readout: changed in place.
        features: see Readout.anomaly_map.
        reconstruct: (images, seeds) to the reconstruction of every run.
        detect: (images, reconstruction of every run) to the result, with this read-out.
        held_back: images that were not used for training.
        seen: training images. The first are reconstructed if the read-out needs that; all are candidates for
            the memory bank.
        progress: progress callback, called per batch.
        leave_out: see Method.fit_statistics.
    """
    if not readout.needs_fit:
        return []
    # Sampling dominates the cost: every image is reconstructed once for all passes of the read-out.
    some = list(first_images(seen)()) if seen and readout.needs_training_images else []
    batches = track([*held_back(), *some], FITTING, progress)
    pairs = [(image, reconstruct(image, seeds)) for image, seeds in batches]
    held, trained = pairs[: len(pairs) - len(some)], pairs[len(pairs) - len(some) :]
    images = (lambda: (image for image, _ in seen())) if seen else None
    readout.fit(lambda: held, features, (lambda: trained) if trained else None, images)
    if len(readout.config.bank_shares) > 1:
        good = torch.cat([image for image, _ in held])
        count = min(PROBES, PROBES_PER_IMAGE * len(good))
        defective, masks = probes(good.cpu(), count, Generator("cpu").manual_seed(PROBE_SEED))
        parts = track(defective.to(good).split(len(held[0][0])), PROBING, progress)
        probed = [(part, reconstruct(part, content_seeds(part))) for part in parts]
        readout.choose_bank_share(lambda: held, lambda: probed, masks, features)
    return _left_out(readout, features, detect, trained, progress) if leave_out else []


def _left_out(
    readout: Readout,
    features: Features,
    detect: Callable[[Tensor, list[Tensor]], Detection],
    trained: Sequence[tuple[Tensor, list[Tensor]]],
    progress: Progress,
) -> Scores:
    """Scores of training images, each with statistics without this image; none for fewer than two."""
    images = [
        (image[None], [one[row][None] for one in reconstructions])
        for batch, reconstructions in trained
        for row, image in enumerate(batch)
    ]
    found: Scores = []
    for number, pair in enumerate(track(images if len(images) > 1 else [], LEAVING_OUT, progress)):
        with readout.without(number, *pair, features):
            one = detect(*pair)
        found.append((float(one.score), float(one.anomaly_map.amax())))
    return found
