"""The read-out: from an image and its reconstructions to an anomaly map and a score, with learned scales."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

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
"""Called anew for every pass: (image (B,3,H,W), its reconstruction of every run) of good images."""
Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""Called anew for every pass: good images (B,3,H,W) in [0,1] and their seeds (B,)."""

Images = Callable[[], Iterable[Tensor]]
"""Called anew for every pass: good images (B,3,H,W) in [0,1]."""
MENDED = 40
"""Training images that are mended for statistics, at most: mending is the dear part."""


class Readout(nn.Module):
    """Compares an image with one or more reconstructions of it.

    Args:
        config: see ReadoutConfig.
        channels: of every feature layer.
        runs: reconstructions per image.
        batch_maxima: scale the pixel term by the batch's maxima, as the published code does, not by the
            image's own.
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
        if config.average_layers:  # one map of all layers, and one of all local ones
            counts = (1, min(len(local), 1))
        shares = (deep, config.local_share)
        run = [share / count for share, count in zip(shares, counts, strict=True) for _ in range(count)]
        pixels = [config.pixel_share] if config.pixel_share else []
        self._shares = [share / runs for share in run * runs + pixels * runs]
        self._deep = len(channels)
        self.bank = PatchBank(channels, config.bank_size) if config.bank_shares else None
        if config.bank_shares:
            self.register_buffer("bank_share", torch.tensor(config.bank_shares[0], dtype=torch.float32))
        self.scales = MapScales(len(self._shares) + (self.bank is not None), config.position_grid)

    @property
    def learns(self) -> bool:
        """Whether `fit` has anything to learn; published read-outs have not."""
        return self.config.distance == "whitened" or self.config.standardise

    @property
    def learns_of_seen(self) -> bool:
        """Whether `fit` asks for reconstructions of images that were trained on."""
        return self.config.distance == "whitened" or self.config.position_grid > 0

    def anomaly_map(
        self,
        image: Tensor,
        rebuilt: Sequence[Tensor],
        features: Features,
        object_weight: Tensor | None = None,
    ) -> Tensor:
        """The final map, (B,1,R,R), or (B,1,H,W) where the config keeps the images' size.

        Args:
            image: (B,3,H,W) in [0,1].
            rebuilt: its reconstructions, one (B,3,H,W) in about [0,1] per run.
            features: (B,3,H,W) in [0,1] to one (B,C,h,w) per layer; may state a `least_side`.
            object_weight: soft mask of the part that the map is multiplied with, (B,1,H,W) in [0,1].
        """
        config = self.config
        image, *rebuilt = self._resized(features, image, *rebuilt)
        maps = self._maps(image, rebuilt, features)
        if config.standardise:
            total = torch.tensordot(self._weights(maps), self.scales(maps), dims=1)
        else:
            total = maps.sum(0) / len(rebuilt)
        if config.pixel_weight:
            total = total + config.pixel_weight * self._scaled_pixels(image, rebuilt, features, total)
        total = self._smoothed(total)
        if object_weight is not None:
            total = total * _at_size(object_weight, list(total.shape[-2:]))
        return total

    def _weights(self, like: Tensor) -> Tensor:
        """Of all maps in their sum, (M,)."""
        own = like.new_tensor(self._shares)
        if self.bank is None:
            return own
        share = self.bank_share.to(own)
        return torch.cat([(1 - share) * own, share[None]])

    def score(self, anomaly_map: Tensor) -> Tensor:
        """Image scores of final maps, (B,1,H,W) to (B,)."""
        if self.config.pool_side:
            return pooled_max(anomaly_map, self.config.pool_side, self.config.pool_rounds)
        if self.config.top_k:
            return top_k_mean(anomaly_map, self.config.top_k)
        return top_share_mean(anomaly_map, self.config.top_share)

    def fit(
        self, pairs: Pairs, features: Features, seen: Pairs | None = None, images: Images | None = None
    ) -> None:
        """Learn the conditional whitening of every layer, then the scale of every map, from good images.

        Args:
            pairs: of images that nothing was fitted to yet.
            features: as for anomaly_map.
            seen: pairs that whitening and usual maps are learned from, in place of `pairs`.
            images: for the memory bank; those of `seen` or `pairs` unless given.
        """

        def resized(pairs: Pairs) -> Iterator[tuple[Tensor, list[Tensor]]]:
            for image, rebuilt in pairs():
                first, *others = self._resized(features, image, *rebuilt)
                yield first, others

        if self.config.distance == "whitened":
            for image, rebuilt in resized(seen or pairs):
                layers = self._layers(image, rebuilt, features)
                for whitening, (ours, theirs) in zip(self._whitenings, layers, strict=True):
                    whitening.update(ours, theirs)
            for whitening in self._whitenings:
                whitening.finish()
        if self.bank is not None:
            known = images or (lambda: (image for image, _ in (seen or pairs)()))
            self.bank.fit(self._for_bank(image, features) for image in known())
        if self.config.position_grid:
            usual = resized(seen or pairs)
            self.scales.fit_places(self._maps(image, rebuilt, features) for image, rebuilt in usual)
        if self.config.standardise:
            self.scales.fit(self._maps(image, rebuilt, features) for image, rebuilt in resized(pairs))

    def choose_bank_share(self, good: Pairs, flawed: Pairs, masks: Tensor, features: Features) -> None:
        """Take the share of the memory bank that tells flawed images from good ones best.

        Best is the highest sum of image AUROC and pixel AP; the smaller share where two are alike.

        Args:
            good: held-back images and their reconstructions.
            flawed: some of them with a flaw each, likewise.
            masks: of the flaws, (N,1,H,W) bool, in the order of `flawed`.
            features: as for anomaly_map.
        """
        plain, marked = self._halves(good, features), self._halves(flawed, features)
        size = list(masks.shape[-2:])
        found: dict[float, float] = {}
        for share in sorted(self.config.bank_shares):
            fine, bad = (self._smoothed((1 - share) * rest + share * bank) for rest, bank in (plain, marked))
            scores = self.score(fine), self.score(bad)
            found[share] = separation(*scores, _at_size(fine, size), _at_size(bad, size), masks)
        self.bank_share.fill_(max(found, key=lambda share: found[share]))

    def _halves(self, pairs: Pairs, features: Features) -> tuple[Tensor, Tensor]:
        """What the reconstruction and what the memory bank says of images, standardised, two (N,1,H,W)."""
        rest, bank = [], []
        for image, rebuilt in pairs():
            image, *others = self._resized(features, image, *rebuilt)
            maps = self.scales(self._maps(image, others, features))
            rest.append(torch.tensordot(maps.new_tensor(self._shares), maps[:-1], dims=1))
            bank.append(maps[-1])
        return torch.cat(rest), torch.cat(bank)

    def _smoothed(self, total: Tensor) -> Tensor:
        sigma = self.config.sigma_share * total.shape[-1] or self.config.sigma
        return gaussian_blur(total, sigma, self.config.taps or None, mode=self.config.border)

    @property
    def _whitenings(self) -> list[ConditionalWhitening]:
        return [one for one in self.whitening if isinstance(one, ConditionalWhitening)]

    def _maps(self, image: Tensor, rebuilt: Sequence[Tensor], features: Features) -> Tensor:
        """Every single map at image size, (M,B,1,H,W): all layers of all runs, pixels, the memory bank."""
        size = (image.shape[-2], image.shape[-1])
        layers = self._layers(image, rebuilt, features)
        maps = [
            F.interpolate(one, size=size, mode="bilinear", align_corners=True)
            for one in self._feature_maps(layers)
        ]
        if self.config.average_layers:
            maps = self._averaged(maps, len(rebuilt))
        if self.config.pixel_share:
            maps += [multi_scale_pixel_map(image, one) for one in rebuilt]
        if self.config.logarithm:
            maps = [logarithm(one) for one in maps]
        if self.bank is not None:  # never its logarithm: one map alone has nothing to be reconciled with
            distance = self.bank([ours for ours, _ in layers[: self._deep]], size)
            maps.append(F.interpolate(distance, size=size, mode="bilinear", align_corners=False))
        return torch.stack(maps)

    def _averaged(self, maps: Sequence[Tensor], runs: int) -> list[Tensor]:
        """The mean over the feature layers of every run, and over its local layers where it has some."""
        count = len(maps) // runs
        by_run = [maps[start : start + count] for start in range(0, len(maps), count)]
        groups = [group for run in by_run for group in (run[: self._deep], run[self._deep :]) if group]
        return [torch.stack(list(group)).mean(0) for group in groups]

    def _layers(
        self, image: Tensor, rebuilt: Sequence[Tensor], features: Features
    ) -> list[tuple[Tensor, Tensor]]:
        """(image's, reconstruction's) features of every layer of every run."""

        def described(images: Tensor) -> list[Tensor]:
            return [*features(images), *(self._local(images) if self._local else ())]

        ours = described(image)
        return [pair for one in rebuilt for pair in zip(ours, described(one), strict=True)]

    def _for_bank(self, image: Tensor, features: Features) -> tuple[list[Tensor], tuple[int, int]]:
        """Features of images for the memory bank, and the size at which they were compared."""
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
        self, image: Tensor, rebuilt: Sequence[Tensor], features: Features, total: Tensor
    ) -> Tensor:
        """(max of the feature map / max of the pixel map) * pixel map, (B,1,H,W), as in DDAD and GLAD."""
        # The published code measures pixels in the units of the extractor's normalisation.
        unit = getattr(features, "std", image.new_ones(3, 1, 1))
        pixels = torch.stack([pixel_map(image / unit, one / unit) for one in rebuilt]).mean(0)
        dims = (0, 1, 2, 3) if self.batch_maxima else (1, 2, 3)
        return total.amax(dims, keepdim=True) / pixels.amax(dims, keepdim=True).clamp(min=1e-12) * pixels

    def _resized(self, features: Features, *images: Tensor) -> list[Tensor]:
        """Images (B,3,H,W) at the size at which they are compared."""
        side = self.config.resolution
        if side:
            return [_at_size(one, [side, side]) for one in images]
        return [enlarged(one, features, self.config.enlarge) for one in images]


def _at_size(images: Tensor, size: list[int]) -> Tensor:
    if list(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size=size, mode="bilinear", align_corners=True)


def few(batches: Batches, most: int = MENDED) -> Batches:
    """The first images of some, at most so many."""

    def first() -> Iterator[tuple[Tensor, Tensor]]:
        left = most
        for image, seeds in batches():
            if left <= 0:
                return
            yield image[:left], seeds[:left]
            left -= len(image)

    return first
