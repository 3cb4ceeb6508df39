"""How image and reconstruction are compared: what the read-out can be told, and what presets tell it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from mendiff.errors import LARGEST_SIDE, InputError, check_choices, check_count, check_range

MOST_ENLARGED = 64
"""Upsampling factor of images, at most."""
Distance = Literal["nearest", "cosine", "whitened"]
Backward = Literal["none", "sum", "mean"]


@dataclass(frozen=True)
class ReadoutConfig:
    """How an image and its reconstruction are compared.

    Attributes:
        distance: between features: "nearest" patch of the reconstruction (published), "cosine" at the same
            place, or "whitened": how surprising the image's features are, given the
            reconstruction's (see mendiff.scoring.whitening).
        backward: for "nearest": also match reconstruction to image, and take the "sum" (transistor, pcb1,
            pcb4) or the "mean" (multi-class code) of both.
        pixel_weight: v, weight of the pixel difference, scaled so that its maximum equals v times that of the
            feature map.
        pixel_share: share of the sum that falls to the squared residual at several blurs, 0 to 1; needs
            `standardise`.
        local_share: share of the sum that falls to local colours and edges (see mendiff.scoring.pyramid),
            compared as features are; needs `standardise`.
        bank_shares: shares of the sum that may fall to the distance of the image's features to the nearest of
            good images' (a memory bank, see mendiff.scoring.bank), which a reconstruction has no part in; the
            other shares are of what is left. Of several the fit chooses the one that finds most of the flaws
            that are laid into held-back images; none for no memory bank. Needs `standardise`.
        bank_size: positions that the memory bank keeps.
        standardise: bring every map to zero mean and unit deviation on good images before adding.
        average_layers: average the maps of all layers before standardising: one map per reconstruction, in
            which layers keep the ratio of their distances. Not for "whitened" distances.
        logarithm: take logarithms of all maps but the memory bank's before that: where maps disagree, one
            high value then counts for less, so that a coarse layer cannot smear a defect over places where
            the fine ones see none.
        position_grid: side of the square grid on which the mean map of good images is subtracted before maps
            are standardised; 0 for no such map; needs `standardise`.
        sigma: of the Gaussian that smooths the map, in pixels; taps its kernel length, 0 for 8 sigma + 1.
        taps: see sigma.
        sigma_share: sigma as a share of the map's side, in place of sigma; 0 takes sigma.
        border: of the smoothing: "reflect" (GLAD) or "symmetric" (DiAD); see gaussian_blur.
        top_k: pixels that the image score averages; 0 uses top_share instead.
        top_share: share of the pixels that the image score averages.
        pool_side: in place of both, the score is the maximum after average pooling with windows of this
            side, pool_rounds times (DiAD: 8 and 8); 0 for no pooling.
        pool_rounds: see pool_side.
        resolution: side to which images are resized before the comparison; 0 keeps their own.
        enlarge: upsampling factor of images before the comparison, and at least to the features'
            `least_side`; 0 leaves images as they are.
    """

    distance: Distance = "nearest"
    backward: Backward = "none"
    pixel_weight: float = 0.0
    pixel_share: float = 0.0
    local_share: float = 0.0
    bank_shares: tuple[float, ...] = ()
    bank_size: int = 20_000
    standardise: bool = False
    average_layers: bool = False
    logarithm: bool = False
    position_grid: int = 0
    sigma: float = 6.0
    taps: int = 49
    sigma_share: float = 0.0
    border: Literal["reflect", "symmetric"] = "reflect"
    top_k: int = 250
    top_share: float = 0.002
    pool_side: int = 0
    pool_rounds: int = 8
    resolution: int = 0
    enlarge: int = 0

    def __post_init__(self) -> None:
        check_choices(self, "readout.")
        for name in ("pixel_share", "local_share", "sigma_share", "top_share"):
            check_range(f"readout.{name}", getattr(self, name), 0, 1)
        for name in ("pixel_weight", "sigma", "top_k"):
            check_range(f"readout.{name}", getattr(self, name), 0)
        for name in ("taps", "pool_side", "pool_rounds", "resolution"):
            check_count(f"readout.{name}", getattr(self, name), 0, LARGEST_SIDE)
        check_count("readout.bank_size", self.bank_size, 1, 10**7)
        for share in self.bank_shares:
            check_range("readout.bank_shares", share, 0, 1)
        for name in ("pixel_share", "local_share", "bank_shares"):
            if getattr(self, name) and not self.standardise:
                raise InputError(
                    f"{name}: expected standardise=true with it, since pixels and features differ in scale."
                )
        if self.average_layers and (self.distance == "whitened" or not self.standardise):
            raise InputError(
                "readout.average_layers: expected standardise=true and a distance other than 'whitened' with "
                f"it, got standardise={str(self.standardise).lower()} and {self.distance!r}."
            )
        if self.pixel_share + self.local_share > 1:
            raise InputError(
                "pixel_share and local_share: expected at most 1 together, got "
                f"{self.pixel_share} and {self.local_share}."
            )
        if self.taps and self.taps % 2 == 0:
            raise InputError(f"taps: expected an odd kernel length, or 0, got {self.taps}.")
        check_count("readout.position_grid", self.position_grid, 0, 1024)
        check_count("readout.enlarge", self.enlarge, 0, MOST_ENLARGED)
        if self.position_grid and not self.standardise:
            raise InputError(
                f"readout.position_grid: expected 0, or standardise=true with it, got {self.position_grid}."
            )


SHARES = (0.0, 0.3, 0.5, 0.7, 1.0)
"""Shares of a memory bank that a fit chooses from."""

LEARNED = ReadoutConfig(
    distance="whitened",
    standardise=True,
    logarithm=True,
    position_grid=40,
    pixel_share=0.15,
    bank_shares=SHARES,
    sigma_share=6 / 512,  # GLAD's 6 pixels at 512
    taps=0,
    top_k=0,
    enlarge=1,
)
"""How `tiny` is read out: by all that good images can teach about its reconstructions."""

DRAWN_PARTS: dict[str, Any] = {
    # Aligned parts are hard to mend exactly where they may break: a usual map would hide missing nuts.
    "readout.position_grid": 0,
    # Drawn parts differ in colours, of which deep features tell little: as much weight for what is local.
    "readout.local_share": 0.425,
    "readout.enlarge": 0,
}
"""How the demo's parts are read out, as changes of a config."""
SAME_PLACE = ReadoutConfig(
    distance="cosine",
    standardise=True,
    average_layers=True,
    bank_shares=SHARES,
    sigma_share=4 / 256,
    taps=0,
    top_k=0,
)
"""How `small` is read out: by the distance of features at the same place, and a bank where it helps."""
