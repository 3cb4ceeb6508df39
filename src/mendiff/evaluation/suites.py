"""The experiments of the papers as benchmark suites: method, data set and categories.

The published results of a suite are `papers.published(suite.method, suite.dataset)`.
"""

from __future__ import annotations

from dataclasses import dataclass

MVTEC = (
    "carpet",
    "grid",
    "leather",
    "tile",
    "wood",
    "bottle",
    "cable",
    "capsule",
    "hazelnut",
    "metal_nut",
    "pill",
    "screw",
    "toothbrush",
    "transistor",
    "zipper",
)
VISA = (
    "candle",
    "capsules",
    "cashew",
    "chewinggum",
    "fryum",
    "macaroni1",
    "macaroni2",
    "pcb1",
    "pcb2",
    "pcb3",
    "pcb4",
    "pipe_fryum",
)
MPDD = ("bracket_black", "bracket_brown", "bracket_white", "connector", "metal_plate", "tubes")
PCB_BANK = ("pcb1", "pcb2", "pcb3", "pcb4", "pcb5", "pcb6", "pcb7")
MVTEC_3D = (
    "bagel",
    "cable_gland",
    "carrot",
    "cookie",
    "dowel",
    "foam",
    "peach",
    "potato",
    "rope",
    "tire",
)
# DiAD only names its sources (BraTS2021, BTCV and LiTS). These are BMAD's folders of the same sources.
MEDICAL = ("Brain", "Liver")


@dataclass(frozen=True)
class Suite:
    """An experiment of a paper.

    Attributes:
        name: such as "glad-mvtec".
        method: name in METHODS.
        dataset: short name of the data set, as in `papers.published`.
        categories: folder names of the data set.
        multi_class: whether one model is trained on all categories.
        tables: keys of the published tables in `papers.tables`.
    """

    name: str
    method: str
    dataset: str
    categories: tuple[str, ...]
    multi_class: bool
    tables: tuple[str, ...]


_ALL = (
    Suite("glad-mvtec", "glad", "mvtec", MVTEC, False, ("glad-1",)),
    Suite("glad-visa", "glad", "visa", VISA, False, ("glad-3",)),
    Suite("glad-mpdd", "glad", "mpdd", MPDD, False, ("glad-2",)),
    Suite("glad-pcbbank", "glad", "pcbbank", PCB_BANK, False, ("glad-4",)),
    Suite("diad-mvtec", "diad", "mvtec", MVTEC, True, ("diad-1", "diad-3", "diad-4")),
    Suite("diad-visa", "diad", "visa", VISA, True, ("diad-2", "diad-12", "diad-13")),
    Suite("diad-mvtec3d", "diad", "mvtec3d", MVTEC_3D, True, ("diad-5",)),
    Suite("diad-medical", "diad", "medical", MEDICAL, True, ("diad-6",)),
    # RAN is in GLAD's Table 1, with one model per category.
    Suite("ran-mvtec", "ran", "mvtec", MVTEC, False, ("glad-1",)),
)
SUITES: dict[str, Suite] = {suite.name: suite for suite in _ALL}
