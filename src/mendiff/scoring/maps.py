"""Anomaly maps: distances between image and reconstruction, in features or pixels, and smoothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mendiff.errors import InputError


def cosine_map(features: Tensor, reconstructed: Tensor) -> Tensor:
    """1 - cosine similarity at every position, two (B,C,h,w) to (B,1,h,w) in [0,2] (DiAD, eq. 10)."""
    return 1 - F.cosine_similarity(features, reconstructed, dim=1)[:, None]


def nearest_patch_map(features: Tensor, reconstructed: Tensor, *, reverse: bool = False) -> Tensor:
    """Distance of every position to its best match in the other image (GLAD, section 3.5).

    min_j (1 - cos(features_i, reconstructed_j)) for every position i, two (B,C,h,w) to (B,1,h,w).

    Args:
        features: features of the image.
        reconstructed: features of its reconstruction.
        reverse: take min_i for every position j of the reconstruction instead.
    """
    batch, _, height, width = features.shape
    ours = F.normalize(features.flatten(2), dim=1, eps=1e-12)
    theirs = F.normalize(reconstructed.flatten(2), dim=1, eps=1e-12)
    distance = 1 - torch.bmm(ours.transpose(1, 2), theirs)
    nearest = distance.amin(dim=1 if reverse else 2)
    return nearest.view(batch, 1, height, width)


def pixel_map(image: Tensor, reconstruction: Tensor) -> Tensor:
    """Mean absolute difference over channels, two (B,3,H,W) to (B,1,H,W) (D_p of the published GLAD code)."""
    return (image - reconstruction).abs().mean(1, keepdim=True)


def multi_scale_pixel_map(
    image: Tensor, reconstruction: Tensor, sigmas: Sequence[float] = (0.0, 2.0, 4.0)
) -> Tensor:
    """Squared residual, averaged over several blurs, two (B,3,H,W) to (B,1,H,W).

    The median residual of each image and channel is subtracted first, because small denoisers shift colours.
    """
    residual = image - reconstruction
    residual = residual - residual.flatten(2).median(dim=2).values[:, :, None, None]
    levels = [gaussian_blur(residual, sigma).square().mean(1, keepdim=True) for sigma in sigmas]
    return torch.stack(levels).mean(0)


def to_grid(features: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resize features (B,C,h,w) to a grid: averaged for a coarser grid, interpolated for a finer one."""
    if features.shape[-2:] == grid:
        return features
    if features.shape[-2] >= grid[0]:
        return F.adaptive_avg_pool2d(features, grid)
    return F.interpolate(features, size=grid, mode="bilinear", align_corners=False)


def gaussian_kernel(sigma: float, taps: int) -> Tensor:
    """Normalised Gaussian weights, (taps,) float64."""
    at = torch.arange(taps, dtype=torch.float64, device="cpu") - (taps - 1) / 2
    weights = torch.exp(-(at**2) / (2 * sigma**2))
    return weights / weights.sum()


def enlarged_size(size: tuple[int, int], features: object, times: float = 1) -> tuple[int, int]:
    """Height and width of images after upsampling for feature extraction.

    Args:
        size: height and width of the images.
        features: extractor; its optional `least_side` is a minimum for the longer side.
        times: minimum upsampling factor; 0 leaves images unchanged.
    """
    factor = max(times, getattr(features, "least_side", 0) / max(size)) if times else 1
    return size if factor <= 1 else (round(size[0] * factor), round(size[1] * factor))


def enlarged(images: Tensor, features: object, times: float = 1) -> Tensor:
    """Upsample images (B,3,H,W) to the size of `enlarged_size`."""
    size = enlarged_size((images.shape[-2], images.shape[-1]), features, times)
    if size == images.shape[-2:]:
        return images
    return F.interpolate(images, size=size, mode="bilinear", align_corners=True)


def gaussian_blur(images: Tensor, sigma: float, taps: int | None = None, *, mode: str = "reflect") -> Tensor:
    """Separable Gaussian smoothing, (B,C,H,W) to (B,C,H,W); sigma 0 returns the input.

    Args:
        images: images or maps with any number of channels.
        sigma: standard deviation in pixels.
        taps: kernel length, odd; default 8 sigma + 1 (GLAD: 49 for sigma 6).
        mode: border: "reflect" mirrors without the edge pixel, "symmetric" mirrors with it.
    """
    if sigma == 0:
        return images
    taps = taps or 2 * round(4 * sigma) + 1
    if taps % 2 == 0:
        raise InputError(f"taps: expected an odd kernel length, got {taps}.")
    kernel = gaussian_kernel(sigma, taps).to(images)
    channels = images.shape[1]
    for axis in (2, 3):
        shape = [1, 1, taps, 1] if axis == 2 else [1, 1, 1, taps]
        padded = _mirror(images, taps // 2, axis, repeat_edge=mode == "symmetric")
        images = F.conv2d(padded, kernel.view(shape).expand(channels, -1, -1, -1), groups=channels)
    return images


def object_mask(mask: Tensor, sigma: float = 6.0) -> Tensor:
    """Soft weight that decreases around the object, (B,H,W) bool to (B,1,H,W) in [0,1].

    The mask is dilated by 4 sigma and smoothed, as in the published GLAD code.
    """
    taps = 2 * int(4 * sigma + 0.5) + 1
    grown = gaussian_blur(mask[:, None].to(torch.float64), sigma, taps, mode="symmetric") > 0
    return gaussian_blur(grown.to(torch.float64), sigma, taps, mode="symmetric").float()


def _mirror(images: Tensor, radius: int, axis: int, *, repeat_edge: bool) -> Tensor:
    """Mirror padding by index; the kernel may be wider than the image."""
    length = images.shape[axis]
    at = torch.arange(-radius, length + radius, device=images.device)
    period = 2 * length if repeat_edge else max(2 * (length - 1), 1)
    at = at.remainder(period)
    last = period - 1 if repeat_edge else period
    at = torch.where(at >= length, last - at, at)
    return images.index_select(axis, at)
