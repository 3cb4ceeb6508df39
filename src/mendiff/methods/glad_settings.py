"""GLAD's published settings per category; the authors selected them by the test metric.

The settings are those of the published code. The comments are the results in tables 1 (MVTec-AD), 2 (MPDD),
3 (VisA) and 4 (PCB-Bank) of the paper: I-AUROC / P-AUROC.
"""

from __future__ import annotations

from dataclasses import dataclass

from mendiff.synthesis.foreground import Mode


@dataclass(frozen=True)
class Setting:
    """Settings of the published code for a category, and the corresponding fields of GladConfig.

    Attributes:
        start_timestep: T', `start_timesteps`.
        threshold: stop threshold.
        trained: training steps, `training.steps`.
        pixels: v, `readout.pixel_weight`.
        min_timestep, sampler_steps: see GladConfig.
        noise_timestep: see GladConfig; 0 adds noise at T' in `reference`. The published code adds it at
            T' - 1 for VisA and PCB-Bank.
        resolution: side of the compared images, `readout.resolution`; 0 for their size, 512.
        both_ways: also match the reconstruction to the image, `readout.backward`.
        tuned_features: whether the extractor of the read-out, but not of the stop rule, is fine-tuned.
        anomalies: foreground mode of synthetic anomalies, `synthesis.foreground`.
        part: foreground mode of the weight of the map, `object_mask`.
    """

    start_timestep: int
    threshold: float
    trained: int
    pixels: float = 0.0
    min_timestep: int = 350
    sampler_steps: int = 25
    noise_timestep: int = 0
    resolution: int = 0
    both_ways: bool = False
    tuned_features: bool = False
    anomalies: Mode = "none"
    part: Mode = "none"


def _fine(threshold: float, pixels: float, anomalies: Mode = "none", *, both_ways: bool = False) -> Setting:
    """Settings of a category of VisA or PCB-Bank."""
    return Setting(
        start_timestep=450,
        threshold=threshold,
        trained=4000,
        pixels=pixels,
        min_timestep=200,
        sampler_steps=15,
        noise_timestep=449,
        resolution=256,
        both_ways=both_ways,
        tuned_features=True,
        anomalies=anomalies,
    )


MVTEC = {  # mean 99.3 / 98.6
    "carpet": Setting(750, 0.32, 2000),  # 99.0 / 98.5
    "grid": Setting(750, 0.47, 3000),  # 100 / 99.6
    "leather": Setting(750, 0.35, 2500),  # 100 / 99.8
    "tile": Setting(750, 0.35, 500),  # 100 / 98.7
    "wood": Setting(750, 0.37, 1000),  # 99.4 / 98.4
    "bottle": Setting(750, 0.32, 2500, anomalies="dark"),  # 100 / 98.9
    "cable": Setting(750, 0.4, 1500),  # 99.9 / 98.1
    "capsule": Setting(600, 0.4, 2000, anomalies="dark", part="dark"),  # 99.5 / 98.5
    "hazelnut": Setting(750, 0.5, 3500, anomalies="bright"),  # 100 / 99.5
    "metal_nut": Setting(750, 0.4, 2500, anomalies="bright"),  # 100 / 98.8
    "pill": Setting(750, 0.35, 1500, anomalies="bright"),  # 98.1 / 97.9
    "screw": Setting(750, 0.32, 3000, anomalies="dark", part="dark"),  # 96.9 / 99.1
    "toothbrush": Setting(750, 0.5, 500, anomalies="bright"),  # 100 / 99.4
    "transistor": Setting(850, 0.5, 2500, both_ways=True),  # 98.3 / 96.2
    "zipper": Setting(750, 0.35, 1000, anomalies="dark"),  # 98.5 / 97.9
}

MPDD = {  # mean 97.5 / 98.7
    "bracket_black": Setting(500, 0.35, 2500, anomalies="dark", part="dark"),  # 98.0 / 99.4
    "bracket_brown": Setting(500, 0.35, 7000, anomalies="dark", part="dark"),  # 90.7 / 97.5
    "bracket_white": Setting(
        450, 0.35, 1000, min_timestep=200, anomalies="bright", part="bright"
    ),  # 98.3 / 99.7
    "connector": Setting(500, 0.35, 1000),  # 100 / 98.2
    "metal_plate": Setting(500, 0.35, 2500, anomalies="dark"),  # 99.9 / 99.4
    "tubes": Setting(500, 0.1, 500),  # 98.1 / 97.8
}

VISA = {  # mean 99.5 / 98.6
    "candle": _fine(0.45, 7, "bright"),  # 99.9 / 94.8
    "capsules": _fine(0.4, 7),  # 99.1 / 99.6
    "cashew": _fine(0.4, 1, "bright"),  # 98.4 / 97.0
    "chewinggum": _fine(0.45, 1, "bright"),  # 99.6 / 99.1
    "fryum": _fine(0.35, 2, "bright"),  # 99.4 / 96.9
    "macaroni1": _fine(0.45, 7, "bright"),  # 99.9 / 99.8
    "macaroni2": _fine(0.45, 7, "bright"),  # 98.9 / 99.8
    "pcb1": _fine(0.3, 1, both_ways=True),  # 99.6 / 99.6
    "pcb2": _fine(0.3, 2),  # 100 / 98.6
    "pcb3": _fine(0.3, 2),  # 99.9 / 98.9
    "pcb4": _fine(0.3, 2, both_ways=True),  # 99.9 / 99.5
    "pipe_fryum": _fine(0.45, 2, "bright"),  # 98.9 / 99.4
}

PCB_BANK = {  # mean 98.7 / 99.3; data, settings and results of the first four are VisA's
    **{name: VISA[name] for name in ("pcb1", "pcb2", "pcb3", "pcb4")},
    "pcb5": _fine(0.4, 2),  # 99.6 / 99.1
    "pcb6": _fine(0.45, 1),  # 92.2 / 99.7
    "pcb7": _fine(0.3, 2),  # 99.6 / 99.8
}

SETS = {"mvtec": MVTEC, "mpdd": MPDD, "visa": VISA, "pcbbank": PCB_BANK}
SETTINGS = {
    f"{dataset}/{category}": setting
    for dataset, categories in SETS.items()
    for category, setting in categories.items()
}
"""By "dataset/category"."""
