"""Image scores from anomaly maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mendiff.errors import InputError


def top_k_mean(anomaly_map: Tensor, k: int) -> Tensor:
    """Mean of up to k largest pixels, (B,1,H,W) to (B,) (GLAD: 250, stop rule 10)."""
    flat = anomaly_map.flatten(1)
    return flat.topk(min(k, flat.shape[1]), dim=1).values.mean(1)


def top_share_mean(anomaly_map: Tensor, share: float, pixels: int = 0) -> Tensor:
    """Mean of the largest `share` of the pixels, at least one pixel, (B,1,H,W) to (B,).

    Args:
        anomaly_map: the maps.
        share: in [0,1].
        pixels: number of pixels of which the share is taken; 0 for all.
    """
    return top_k_mean(anomaly_map, max(1, round(share * (pixels or anomaly_map[0].numel()))))


def pooled_max(anomaly_map: Tensor, window: int = 8, rounds: int = 8) -> Tensor:
    """Maximum after repeated unpadded average pooling of stride 1, (B,1,H,W) to (B,) (DiAD, appendix)."""
    least, side = rounds * (window - 1) + 1, min(anomaly_map.shape[-2:])
    if side < least:
        raise InputError(
            f"image size: expected at least {least} pixels for a score from {rounds} rounds of "
            f"{window}x{window} pooling, got {side}; choose larger images or fewer rounds."
        )
    for _ in range(rounds):
        anomaly_map = F.avg_pool2d(anomaly_map, window, stride=1)
    return anomaly_map.flatten(1).amax(1)


def separation(
    good: Tensor, defective: Tensor, good_maps: Tensor, defective_maps: Tensor, masks: Tensor
) -> float:
    """Image AUROC plus pixel AP of defective against good images, 0 to 2.

    Args:
        good: scores of good images, (N,).
        defective: scores of defective images, (M,).
        good_maps: anomaly maps of the good images, (N,1,H,W).
        defective_maps: anomaly maps of the defective images, (M,1,H,W).
        masks: masks of the defects, (M,1,H,W) bool.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    labels = torch.cat([torch.zeros_like(good), torch.ones_like(defective)])
    image = roc_auc_score(labels.cpu().numpy(), torch.cat([good, defective]).cpu().numpy())
    truth = torch.cat([torch.zeros(good_maps.shape, dtype=torch.bool), masks.cpu()]).flatten()
    pixels = torch.cat([good_maps, defective_maps]).cpu().flatten()
    return float(image) + float(average_precision_score(truth.numpy(), pixels.numpy()))
