"""Config of the read-out, and the read-outs of the presets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from mendiff.errors import LARGEST_SIDE, InputError, check_choices, check_count, check_range

MOST_ENLARGED = 64
"""Largest upsampling factor of images."""
Distance = Literal["nearest", "cosine", "whitened"]
Backward = Literal["none", "sum", "mean"]


@dataclass(frozen=True)
class ReadoutConfig:
    """How an image and its reconstruction are compared.

    Attributes:
        distance: feature distance: "nearest" patch of the reconstruction (published), "cosine" at the same
            position, or "whitened", the Mahalanobis distance given the features of the reconstruction (see
            mendiff.scoring.whitening).
        backward: for "nearest": also match the reconstruction to the image, and take the "sum" (transistor,
            pcb1, pcb4) or the "mean" (multi-class code) of both directions.
        pixel_weight: v, weight of the pixel difference; its maximum is scaled to v times that of the feature
            map.
        pixel_share: weight of the squared residual at several blurs in the sum of maps, 0 to 1; needs
            `standardise`.
        local_share: weight of local colours and edges in the sum of maps (see mendiff.scoring.pyramid), 0 to
            1; needs `standardise`.
        bank_shares: candidate weights of the memory bank (see mendiff.scoring.bank), which does not use the
            reconstruction; the other maps share the remaining weight. `fit` brings both to the same unit, and
            selects by synthetic defects in held-back images; see Readout.choose_bank_share. Empty for no
            memory bank; needs `standardise`.
        bank_size: number of positions in the memory bank.
        standardise: standardise every map to zero mean and unit deviation on good images before adding.
        average_layers: average the maps of all layers before standardising, so that layers keep the ratio of
            their distances. Not for "whitened" distances.
        logarithm: take the logarithm of all maps but the memory bank's before standardising. A high value of
            a single map then has less weight: a coarse layer does not enlarge a defect.
        position_grid: side of the square grid on which the mean normal map is subtracted before
            standardising; 0 subtracts nothing; needs `standardise`.
        sigma: sigma of the Gaussian that smooths the map, in pixels.
        taps: kernel length of this Gaussian; 0 for 8 sigma + 1.
        sigma_share: sigma as a share of the map's side; 0 uses sigma.
        border: border of the smoothing: "reflect" (GLAD) or "symmetric" (DiAD); see gaussian_blur.
        top_k: number of largest pixels that the image score averages; 0 uses top_share.
        top_share: share of the largest pixels that the image score averages.
        pool_side: window side of average pooling. The score is then the maximum after pool_rounds of pooling
            (DiAD: 8 and 8); 0 for no pooling.
        pool_rounds: see pool_side.
        resolution: side to which images are resized before the comparison; 0 keeps their size.
        enlarge: upsampling factor of images before the comparison, and at least to the features'
            `least_side`; 0 leaves images unchanged.
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
                raise InputError(f"{name}: expected standardise=true with it, because maps differ in scale.")
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


SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Candidate weights of the memory bank."""

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
"""The read-out of `tiny`."""

DRAWN_PARTS: dict[str, Any] = {
    # Aligned parts have high residuals where defects occur: a mean normal map would hide missing nuts.
    "readout.position_grid": 0,
    # Rendered parts differ in colour, which deep features represent poorly: equal weight for local features.
    "readout.local_share": 0.425,
    "readout.enlarge": 0,
}
"""Changes of the config for the demo's rendered parts."""

SAME_PLACE = ReadoutConfig(
    distance="cosine",
    standardise=True,
    average_layers=True,
    bank_shares=SHARES,
    sigma_share=4 / 256,
    taps=0,
    top_k=0,
)
"""The read-out of `small`: feature distances at the same position, and a memory bank where it helps."""
