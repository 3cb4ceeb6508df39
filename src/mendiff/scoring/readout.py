"""The read-out: anomaly map and score from an image and its reconstructions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mendiff.scoring.bank import PatchBank
from mendiff.scoring.maps import (
    cosine_map,
    enlarged,
    gaussian_blur,
    multi_scale_pixel_map,
    nearest_patch_map,
    pixel_map,
)
from mendiff.scoring.pyramid import PixelPyramid
from mendiff.scoring.readout_config import ReadoutConfig
from mendiff.scoring.scales import MapScales, logarithm
from mendiff.scoring.score import pooled_max, separation, top_k_mean, top_share_mean
from mendiff.scoring.whitening import ConditionalWhitening

Features = Callable[[Tensor], list[Tensor]]
Pairs = Callable[[], Iterable[tuple[Tensor, list[Tensor]]]]
"""Returns a new iterator of (good images (B,3,H,W), their reconstruction of every run)."""
Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""Returns a new iterator of (good images (B,3,H,W) in [0,1], seeds (B,))."""
Images = Callable[[], Iterable[Tensor]]
"""Returns a new iterator of good images (B,3,H,W) in [0,1]."""
HIGHEST = 1e-4
"""Share of good images' pixels above the unit in which two maps are compared (see Readout.fit)."""
EQUAL, GROUPS = 0.5, 12
"""Share of the memory bank where synthetic defects can't decide, and number of groups of these defects."""
RECONSTRUCTED = 40
"""Largest number of training images that are reconstructed for statistics; sampling dominates the cost."""


class Readout(nn.Module):
    """Compares an image with one or more reconstructions of it.

    Args:
        config: see ReadoutConfig.
        channels: channels of every feature layer.
        runs: number of reconstructions per image.
        batch_maxima: scale the pixel term by the maxima of the batch, as the published code does, instead of
            the image.

    Attributes:
        bank_share: weight of the standardised map of the memory bank; the reconstructions have the rest.
    """

    bank_share: Tensor

    def __init__(
        self, config: ReadoutConfig, channels: Sequence[int], runs: int = 1, *, batch_maxima: bool = False
    ) -> None:
        super().__init__()
        self.config = config
        self.batch_maxima = batch_maxima
        self._local = PixelPyramid() if config.local_share else None
        local = self._local.channels if self._local else ()
        whitened = config.distance == "whitened"
        self.whitening = nn.ModuleList(
            ConditionalWhitening(c) for _ in range(runs) for c in (*channels, *local) if whitened
        )
        deep = 1 - config.pixel_share - config.local_share
        counts = (len(channels), len(local))
        if config.average_layers:  # a map of all layers, and another of all local layers
            counts = (1, min(len(local), 1))
        shares = (deep, config.local_share)
        run = [share / count for share, count in zip(shares, counts, strict=True) for _ in range(count)]
        pixels = [config.pixel_share] if config.pixel_share else []
        self._shares = [share / runs for share in run * runs + pixels * runs]
        self._deep = len(channels)
        self.bank = PatchBank(channels, config.bank_size) if config.bank_shares else None
        if config.bank_shares:
            self.register_buffer("bank_share", torch.tensor(config.bank_shares[0], dtype=torch.float32))
            self._highest = torch.ones(2)
        self.scales = MapScales(len(self._shares) + (self.bank is not None), config.position_grid)

    @property
    def needs_fit(self) -> bool:
        """Whether `fit` computes any statistics; published read-outs have none."""
        return self.config.distance == "whitened" or self.config.standardise

    @property
    def needs_training_images(self) -> bool:
        """Whether `fit` uses reconstructions of training images."""
        return self.config.distance == "whitened" or self.config.position_grid > 0

    def anomaly_map(
        self,
        image: Tensor,
        reconstructions: Sequence[Tensor],
        features: Features,
        object_weight: Tensor | None = None,
    ) -> Tensor:
        """The anomaly map, (B,1,R,R) for a `resolution` R, otherwise (B,1,H,W).

        Args:
            image: images, (B,3,H,W) in [0,1].
            reconstructions: one (B,3,H,W) in about [0,1] per run.
            features: maps (B,3,H,W) in [0,1] to one (B,C,h,w) per layer; may have a `least_side`.
            object_weight: soft mask that the map is multiplied by, (B,1,H,W) in [0,1].
        """
        config = self.config
        image, *reconstructions = self._resized(features, image, *reconstructions)
        maps = self._maps(image, reconstructions, features)
        if config.standardise:
            maps = self.scales(maps)
            total = self._weighted(maps) if self.bank is None else self._combined(*self._both(maps))
        else:
            total = maps.sum(0) / len(reconstructions)
        if config.pixel_weight:
            pixels = self._scaled_pixels(image, reconstructions, features, total)
            total = total + config.pixel_weight * pixels
        total = self._smoothed(total)
        if object_weight is not None:
            total = total * _at_size(object_weight, list(total.shape[-2:]))
        return total

    def _combined(self, residual: Tensor, bank: Tensor) -> Tensor:
        """The weighted sum of the standardised maps of reconstructions and memory bank, (B,1,H,W)."""
        share = self.bank_share.to(bank)
        return (1 - share) * residual + share * bank

    def _both(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Maps of the reconstructions and of the memory bank, (M,B,1,H,W) to two (B,1,H,W)."""
        return self._weighted(maps[:-1]), maps[-1]

    def _weighted(self, maps: Tensor) -> Tensor:
        """Weighted sum of the reconstructions' maps, (M,B,1,H,W) to (B,1,H,W)."""
        total: Tensor = torch.tensordot(maps.new_tensor(self._shares), maps, dims=1)
        return total

    def score(self, anomaly_map: Tensor, pixels: int = 0) -> Tensor:
        """Image scores of anomaly maps, (B,1,H,W) to (B,); for `pixels` see Method.score, 0 means all."""
        pixels = pixels or anomaly_map[0].numel()
        if self.config.pool_side:
            return pooled_max(anomaly_map, self.config.pool_side, self.config.pool_rounds)
        if self.config.top_k:
            return top_k_mean(anomaly_map, min(self.config.top_k, pixels))
        return top_share_mean(anomaly_map, self.config.top_share, pixels)

    def fit(
        self, pairs: Pairs, features: Features, seen: Pairs | None = None, images: Images | None = None
    ) -> None:
        """Compute whitening, memory bank, mean normal maps, scales and the bank's weight from good images.

        The map of the reconstructions and that of the memory bank have the same unit: the value that the
        share HIGHEST of the pixels of good images exceeds. With equal weights, both raise equally high values
        on good images.

        Args:
            pairs: held-back images and their reconstructions, for the scales.
            features: as for anomaly_map.
            seen: training images and their reconstructions, for whitening and mean normal maps; None uses
                `pairs`.
            images: images for the memory bank; None uses those of `seen` or `pairs`.
        """

        def resized(pairs: Pairs) -> Iterator[tuple[Tensor, list[Tensor]]]:
            for image, reconstructions in pairs():
                first, *others = self._resized(features, image, *reconstructions)
                yield first, others

        if self.bank is not None:
            known = images or (lambda: (image for image, _ in (seen or pairs)()))
            self.bank.fit(self._for_bank(image, features) for image in known())
        normal = leaving(seen or pairs, self.odd)
        if self.config.distance == "whitened":
            for image, reconstructions in resized(normal):
                layers = self._layers(image, reconstructions, features)
                for whitening, (ours, theirs) in zip(self._whitenings, layers, strict=True):
                    whitening.update(ours, theirs)
            for whitening in self._whitenings:
                whitening.finish()
        if self.config.position_grid:
            self.scales.fit_mean_maps(self._maps(*pair, features) for pair in resized(normal))
        if self.config.standardise:
            self.scales.fit(self._maps(*pair, features) for pair in resized(pairs))
        if self.bank is not None:
            self._highest = self._measured(
                self.scales(self._maps(*pair, features)) for pair in resized(pairs)
            )
            self._set_bank_share(self.config.bank_shares[0])

    def _measured(self, batches: Iterable[Tensor]) -> Tensor:
        """Value that the share HIGHEST of smoothed pixels exceeds, of reconstructions and memory bank, (2,).

        Args:
            batches: standardised maps of good images, (M,B,1,H,W) each.
        """
        pairs = [torch.stack([self._smoothed(one) for one in self._both(maps)]) for maps in batches]
        values = torch.cat([pair.flatten(1) for pair in pairs], dim=1)
        return values.topk(max(1, int(HIGHEST * values.shape[1]))).values[:, -1].clamp(min=1e-8)

    def _set_bank_share(self, share: float) -> None:
        """Set the weight of the memory bank, given as a share of maps with the same unit."""
        first, second = self._highest.new_tensor([1 - share, share]) / self._highest
        self.bank_share.copy_(second / (first + second))

    @contextmanager
    def without(
        self, number: int, image: Tensor, reconstructions: Sequence[Tensor], features: Features
    ) -> Iterator[None]:
        """Context in which memory bank and mean normal maps lack a training image.

        The image then scores like a new image, except that the whitening's statistics keep it.

        Args:
            number: index of the image in `seen` and `images` of the last fit.
            image: the image, (1,3,H,W) in [0,1].
            reconstructions: its reconstruction of every run.
            features: as for anomaly_map.
        """
        with ExitStack() as stack:
            if self.config.position_grid and number not in self.odd:
                first, *others = self._resized(features, image, *reconstructions)
                stack.enter_context(self.scales.without(self._maps(first, others, features)))
            if self.bank is not None:
                stack.enter_context(self.bank.without(number))
            yield

    def choose_bank_share(self, good: Pairs, defective: Pairs, masks: Tensor, features: Features) -> None:
        """Select the share of the memory bank from how well it separates defective from good images.

        The criterion is image AUROC plus pixel AP, by group of defective images. Of the shares that are worse
        than the best by at most one standard error, the share nearest to EQUAL is selected: a few dozen
        synthetic defects can't tell similar shares apart, and real defects differ from synthetic ones.

        Source of the rule: one standard error (Breiman et al. 1984).

        Args:
            good: held-back images and their reconstructions.
            defective: held-back images with a synthetic defect and their reconstructions.
            masks: masks of the defects, (N,1,H,W) bool, in the order of `defective`.
            features: as for anomaly_map.
        """
        maps = [self._residual_and_bank_maps(pairs, features) for pairs in (good, defective)]
        size = list(masks.shape[-2:])
        found: dict[float, Tensor] = {}
        for share in sorted(self.config.bank_shares):
            self._set_bank_share(share)
            fine, bad = (self._smoothed(self._combined(*pair)) for pair in maps)
            scores, large = (self.score(fine), self.score(bad)), (_at_size(fine, size), _at_size(bad, size))
            groups = [slice(first, None, GROUPS) for first in range(min(GROUPS, len(bad)))]
            found[share] = torch.tensor(
                [
                    separation(scores[0], scores[1][some], large[0], large[1][some], masks[some])
                    for some in groups
                ]
            )
        self._set_bank_share(within_one_error(found))

    def _residual_and_bank_maps(self, pairs: Pairs, features: Features) -> tuple[Tensor, Tensor]:
        """Standardised maps of the reconstructions and of the memory bank, two (N,1,H,W)."""
        residual, bank = [], []
        for image, reconstructions in pairs():
            image, *others = self._resized(features, image, *reconstructions)
            one, other = self._both(self.scales(self._maps(image, others, features)))
            residual.append(one)
            bank.append(other)
        return torch.cat(residual), torch.cat(bank)

    def _smoothed(self, total: Tensor) -> Tensor:
        sigma = self.config.sigma_share * total.shape[-1] or self.config.sigma
        return gaussian_blur(total, sigma, self.config.taps or None, mode=self.config.border)

    @property
    def odd(self) -> tuple[int, ...]:
        """Indices of training images that the statistics of the last fit leave out (see PatchBank)."""
        return () if self.bank is None else self.bank.odd

    @property
    def _whitenings(self) -> list[ConditionalWhitening]:
        return [one for one in self.whitening if isinstance(one, ConditionalWhitening)]

    def _maps(self, image: Tensor, reconstructions: Sequence[Tensor], features: Features) -> Tensor:
        """All maps at image size, (M,B,1,H,W): layers of all runs, pixels of all runs, memory bank."""
        size = (image.shape[-2], image.shape[-1])
        layers = self._layers(image, reconstructions, features)
        maps = [
            F.interpolate(one, size=size, mode="bilinear", align_corners=True)
            for one in self._feature_maps(layers)
        ]
        if self.config.average_layers:
            maps = self._averaged(maps, len(reconstructions))
        if self.config.pixel_share:
            maps += [multi_scale_pixel_map(image, one) for one in reconstructions]
        if self.config.logarithm:
            maps = [logarithm(one) for one in maps]
        if self.bank is not None:  # no logarithm: there is a single map of the bank
            distance = self.bank([ours for ours, _ in layers[: self._deep]], size)
            maps.append(F.interpolate(distance, size=size, mode="bilinear", align_corners=False))
        return torch.stack(maps)

    def _averaged(self, maps: Sequence[Tensor], runs: int) -> list[Tensor]:
        """Means over the deep layers and over the local layers of every run."""
        count = len(maps) // runs
        by_run = [maps[start : start + count] for start in range(0, len(maps), count)]
        groups = [group for run in by_run for group in (run[: self._deep], run[self._deep :]) if group]
        return [torch.stack(list(group)).mean(0) for group in groups]

    def _layers(
        self, image: Tensor, reconstructions: Sequence[Tensor], features: Features
    ) -> list[tuple[Tensor, Tensor]]:
        """Features (of the image, of the reconstruction) of every layer of every run."""

        def extracted(images: Tensor) -> list[Tensor]:
            return [*features(images), *(self._local(images) if self._local else ())]

        ours = extracted(image)
        return [pair for one in reconstructions for pair in zip(ours, extracted(one), strict=True)]

    def _for_bank(self, image: Tensor, features: Features) -> tuple[list[Tensor], tuple[int, int]]:
        """Features of images for the memory bank, and the size of the compared images."""
        image = self._resized(features, image)[0]
        return features(image), (image.shape[-2], image.shape[-1])

    def _feature_maps(self, layers: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
        if self.config.distance == "whitened":
            return [
                whiten(ours, theirs) for whiten, (ours, theirs) in zip(self.whitening, layers, strict=True)
            ]
        distance = self._nearest if self.config.distance == "nearest" else cosine_map
        return [distance(ours, theirs) for ours, theirs in layers]

    def _nearest(self, ours: Tensor, theirs: Tensor) -> Tensor:
        forward = nearest_patch_map(ours, theirs)
        if self.config.backward == "none":
            return forward
        both = forward + nearest_patch_map(ours, theirs, reverse=True)
        return both / 2 if self.config.backward == "mean" else both

    def _scaled_pixels(
        self, image: Tensor, reconstructions: Sequence[Tensor], features: Features, total: Tensor
    ) -> Tensor:
        """(max of the feature map / max of the pixel map) * pixel map, (B,1,H,W), as in DDAD and GLAD."""
        # The published code compares pixels after the normalisation of the extractor.
        unit = getattr(features, "std", image.new_ones(3, 1, 1))
        pixels = torch.stack([pixel_map(image / unit, one / unit) for one in reconstructions]).mean(0)
        dims = (0, 1, 2, 3) if self.batch_maxima else (1, 2, 3)
        return total.amax(dims, keepdim=True) / pixels.amax(dims, keepdim=True).clamp(min=1e-12) * pixels

    def _resized(self, features: Features, *images: Tensor) -> list[Tensor]:
        """Images (B,3,H,W) at the size for the comparison."""
        side = self.config.resolution
        if side:
            return [_at_size(one, [side, side]) for one in images]
        return [enlarged(one, features, self.config.enlarge) for one in images]


def leaving(pairs: Pairs, odd: Collection[int]) -> Pairs:
    """Images and reconstructions without the images of these indices."""

    def left() -> Iterator[tuple[Tensor, list[Tensor]]]:
        first = 0
        for image, reconstructions in pairs():
            rows = [row for row in range(len(image)) if first + row not in odd]
            first += len(image)
            if rows:
                yield image[rows], [one[rows] for one in reconstructions]

    return left if odd else pairs


def within_one_error(found: Mapping[float, Tensor]) -> float:
    """The share nearest to EQUAL, of those within one standard error of the best; the smaller of two.

    Args:
        found: criterion of every share, (G,) by group; higher is better.
    """
    best = max(found.values(), key=lambda values: float(values.mean()))

    def is_close(values: Tensor) -> bool:
        lost = best - values
        error = lost.std() / len(lost) ** 0.5 if len(lost) > 1 else lost.new_zeros(())
        return bool(lost.mean() <= error)

    close = [share for share, values in found.items() if is_close(values)]
    return min(close, key=lambda share: (round(abs(share - EQUAL), 6), share))


def _at_size(images: Tensor, size: list[int]) -> Tensor:
    if list(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size=size, mode="bilinear", align_corners=True)


def first_images(batches: Batches, count: int = RECONSTRUCTED) -> Batches:
    """The first images of batches, at most `count`."""

    def first() -> Iterator[tuple[Tensor, Tensor]]:
        left = count
        for image, seeds in batches():
            if left <= 0:
                return
            yield image[:left], seeds[:left]
            left -= len(image)

    return first
