"""Robustness of codecs to imprecise latents: PSNR on good test images with noise on their latents.

    python benchmarks/codec_noise.py DATA auto runs/other-codec --size 256 --images 8

Each codec is a folder, or auto for the bundled one. Noise levels are relative to each channel's standard
deviation. Prints a Markdown table; column 0 is the quality without noise.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Generator, Tensor

from mendiff.checkpoints.bundled import codec_folder
from mendiff.checkpoints.codecs import open_codec
from mendiff.data.dataset import GOOD, open_data
from mendiff.data.images import resize
from mendiff.data.reading import read_image
from mendiff.nets.codec import Codec
from mendiff.workflows.fit_codec import quality

SHARES = (0.0, 0.1, 0.25, 0.5)


@torch.no_grad()
def psnrs(codec: Codec, images: Tensor) -> list[float]:
    """PSNR in decibels at every noise level."""
    latents = codec.encode(images)
    deviation, rng = latents.std((0, 2, 3), keepdim=True), Generator().manual_seed(0)
    found = []
    for share in SHARES:
        noise = share * deviation * torch.randn(latents.shape, generator=rng)
        error = (codec.decode(latents + noise) - images).square().mean((1, 2, 3))
        found.append(float(-10 * error.log10().mean()))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="one category with test images")
    parser.add_argument("codecs", nargs="+", help="folders, or auto")
    parser.add_argument("--size", type=int, default=256, help="of the images in pixels (%(default)s)")
    parser.add_argument("--images", type=int, default=8, help="how many, at most (%(default)s)")
    options = parser.parse_args()
    (category,) = open_data(options.data)
    good = [sample.path for sample in category.test if sample.label == GOOD][: options.images]
    images = torch.stack([resize(read_image(path), options.size) for path in good])
    print(f"| {category.name}, {len(images)} images | SSIM | {' | '.join(map(str, SHARES))} |")
    print(f"|---|---{'|---' * len(SHARES)}|")
    for name in options.codecs:
        codec = open_codec(codec_folder(name))
        values = " | ".join(f"{value:.1f}" for value in psnrs(codec, images))
        print(f"| {name} | {quality(codec, images)['ssim']:.3f} | {values} |", flush=True)


if __name__ == "__main__":
    main()
