"""Rows of a benchmark, and the papers' ablations as rows."""

from __future__ import annotations

from typing import Any

from mendiff.errors import check_choice
from mendiff.evaluation.rows import Ablation, Row


def ablation(name: str) -> Ablation:
    """The ablation with a name; InputError that lists all names if unknown."""
    check_choice("--ablation", name, ABLATIONS)
    return ABLATIONS[name]


def _unet(*widths: int, **more: Any) -> dict[str, Any]:
    """A small UNet without attention, as in the presets; defined here without importing torch."""
    plain = {"down_block_types": ["DownBlock2D"] * len(widths), "up_block_types": ["UpBlock2D"] * len(widths)}
    return {
        "block_out_channels": list(widths),
        "layers_per_block": 1,
        **plain,
        "norm_num_groups": 8,
        **more,
    }


# GLAD's search needs a model of all timesteps, unlike `tiny`. Blocks of 4x4 pixels reduce the time of its
# many steps. The presets `paper` need no changes.
_SEARCH: dict[str, Any] = {
    "codec.factor": 4,
    "denoiser.network": _unet(64, 96, 128, add_attention=False),
    "train_timesteps": [0, 1000],
    "start_timesteps": [750],
    "sampler_steps": 10,
    "spacing": "leading",
    "adaptive": True,
    "min_timestep": 350,
    "readout": {"distance": "cosine", "sigma": 2.0, "taps": 0, "top_k": 0},
}
_PLAIN = {"synthesis.share": 0.0}
_FIXED = {"adaptive": False}
# Network of DDPM's 256-pixel models (Ho et al. 2020, appendix B), for DiAD on pixels at the published size.
_DDPM: dict[str, Any] = {
    "block_out_channels": [128, 128, 256, 256, 512, 512],
    "layers_per_block": 2,
    "down_block_types": [*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4],
}
# The UNet of DiAD's preset `small` with three more levels at the fine end, so that its coarser levels have
# the resolution of latents with factor 8.
_SMALL_DDPM = _unet(
    *(16, 32, 48, 64, 128, 192),
    down_block_types=[*["DownBlock2D"] * 4, *["CrossAttnDownBlock2D"] * 2],
    up_block_types=[*["CrossAttnUpBlock2D"] * 2, *["UpBlock2D"] * 4],
    mid_block_type="UNetMidBlock2DCrossAttn",
    cross_attention_dim=8,
    attention_head_dim=[1, 1, 1, 1, 2, 3],
)
_STAGES = ("stage0", "stage1", "stage2", "stage3", "stage4")


def _glad(label: str, settings: dict[str, Any] | None = None, changes: dict[str, Any] | None = None) -> Row:
    return Row(label, "glad", settings or {}, changes or {}, {"tiny": _SEARCH})


_PIECES = (
    _glad("baseline", _PLAIN, _FIXED),
    _glad("baseline + ADS", _PLAIN, {"fusion": "none"}),
    _glad("baseline + ATP", {}, _FIXED),
    _glad("baseline + ADS + ATP, without SAFF", {}, {"fusion": "none"}),
    _glad("baseline + ADS + ATP, with SAFF"),
)
_FIXED_STEPS = tuple(_glad(f"fixed {step}", {}, _FIXED | {"start_timesteps": [step]}) for step in (350, 550))


def _layers(*numbers: int) -> Row:
    chosen = [_STAGES[number] for number in numbers]
    return Row(f"DiAD, {', '.join(chosen)}", "diad", changes={"features.layers": chosen})


def _skips(label: str, *levels: int) -> Row:
    """SG outputs of some of four levels, without SFF; networks of three levels have no first level."""
    three = {"guide.skips": [level - 1 for level in levels]}
    settings = {"guide.skips": list(levels), "guide.fusion": "none"}
    return Row(label, "diad", settings, sized={"small": three})


def _backbone(name: str) -> Row:
    """Layers at strides 4, 8 and 16; timm numbers VGG's stages from stride 1, all others from 2."""
    first = 2 if name.startswith("vgg") else 1
    return Row(
        f"DiAD, {name}", "diad", {"features.name": name, "features.layers": list(_STAGES[first : first + 3])}
    )


def _start(timestep: int) -> Row:
    return Row(f"DiAD, {timestep} timesteps", "diad", changes={"start_timesteps": [timestep]})


def _pooling(rounds: int, side: int) -> Row:
    changes = {"readout.pool_rounds": rounds, "readout.pool_side": side}
    return Row(f"DiAD, {rounds} x {side}", "diad", changes=changes)


_UNGUIDED = (
    Row("LDM: DiAD without SG network", "diad", {"guide": None}),
    Row(
        "DDPM: the same on single pixels",
        "diad",
        {"guide": None, "codec.kind": "pixels"},
        sized={
            "tiny": {
                "denoiser.network": _unet(
                    16, 32, 64, 96, 128, mid_block_type="UNetMidBlock2D", cross_attention_dim=8
                )
            },
            "small": {
                "codec.fit.images": 0,
                "training.cache_gigabytes": 0,
                "denoiser.network": _SMALL_DDPM,
            },
            # A network with random weights, since Stable Diffusion's is not for pixels.
            "paper": {
                "codec.network": {},
                "denoiser.kind": "unet",
                "denoiser.network": _DDPM,
                "train_encoder": True,
                "training.learning_rate": 2e-5,
            },
        },
    ),
)
STEPS = (1, 5, 10, 20, 50, 100, 200)
TIMESTEPS = (100, 200, 300, 400, 500, 600, 700, 800, 900, 1000)

ABLATIONS: dict[str, Ablation] = {
    "glad-pieces": Ablation("GLAD, Table 6", _PIECES),
    "glad-steps": Ablation(
        "GLAD, Table 7",
        (
            *_FIXED_STEPS,
            _glad("fixed 750", {}, _FIXED | {"start_timesteps": [750]}),
            _glad("adaptive"),
        ),
    ),
    "glad-mechanisms": Ablation(
        "GLAD, Tables 6 and 7 together, from the same fits", (*_PIECES, *_FIXED_STEPS)
    ),
    "glad-rewind": Ablation(
        "GLAD, Section 3.3: ladder steps that an image goes back after its stop score is exceeded",
        tuple(
            _glad(f"n = {rewind}, {label}", {}, {"rewind": rewind, "fusion": fusion})
            for fusion, label in (("none", "without SAFF"), ("x0", "with SAFF"))
            for rewind in (0, 1, 2, 4)
        ),
    ),
    "diad-sff": Ablation(
        "DiAD, Table 7; SGEB4 is the SG network's last level, SGEB3 the second to last",
        (
            Row("SD", "diad", {"guide": None}),
            Row("SD, MSG", "diad", {"guide.middle_alone": True}),
            _skips("SD, MSG, SGEB3", 3),
            _skips("SD, MSG, SGEB3, SGEB4", 3, 4),
            Row("SD, MSG, SFF with BN and ReLU", "diad", {"guide.fusion": "bn_relu"}),
            Row("SD, MSG, SFF with IN and SiLU", "diad"),
        ),
        multi_class=True,
    ),
    "diad-backbones": Ablation(
        "DiAD, Table 8",
        tuple(
            _backbone(name)
            for name in (
                *("vgg16", "vgg19", "resnet18", "resnet34", "resnet50", "resnet101"),
                *("wide_resnet50_2", "wide_resnet101_2"),
                *("efficientnet_b0", "efficientnet_b2", "efficientnet_b4"),
            )
        ),
        multi_class=True,
    ),
    "diad-layers": Ablation(
        # The text of the paper does not show which layers each row uses, except for the best row: these are
        # all single layers and all sequences.
        "DiAD, Table 9; f2 to f4 are stage1 to stage3",
        (_layers(1), _layers(2), _layers(3), _layers(1, 2), _layers(2, 3), _layers(1, 2, 3)),
        multi_class=True,
    ),
    "diad-outer-layers": Ablation(
        "DiAD, Table 9, with f1 and f5, stage0 and stage4; for a backbone of five stages (--features)",
        tuple(
            _layers(*range(first, last))
            for last in range(1, 6)
            for first in range(last)
            if first == 0 or last == 5
        ),
        multi_class=True,
    ),
    "diad-steps": Ablation(
        "DiAD, Table 10",
        tuple(Row(f"DiAD, {steps} steps", "diad", changes={"sampler_steps": steps}) for steps in STEPS),
        multi_class=True,
    ),
    "diad-timesteps": Ablation(
        "DiAD, Figure 6, a curve that falls below 600 according to the paper",
        tuple(_start(timestep) for timestep in TIMESTEPS),
        multi_class=True,
    ),
    "diad-pooling": Ablation(
        "DiAD, appendix: rounds and side of the average pooling before the image score",
        tuple(
            _pooling(rounds, side)
            for rounds, side in ((1, 16), (4, 16), (5, 12), (6, 10), (8, 8), (10, 7), (15, 5), (20, 4))
        ),
        multi_class=True,
    ),
    "diad-baselines": Ablation(
        "DiAD, Tables 1 to 4: without SG network, and in pixels",
        (
            Row("DiAD", "diad"),
            *_UNGUIDED,
            Row("RAN", "ran"),
            Row("GLAD", "glad"),
        ),
        multi_class=True,
    ),
    "diad-mechanisms": Ablation(
        "DiAD, Tables 1, 7 and 10 and Figure 6 in short; rows of the method itself share one fit",
        (
            Row("DiAD", "diad"),
            *(Row(f"DiAD, {steps} steps", "diad", changes={"sampler_steps": steps}) for steps in (1, 5)),
            *(_start(timestep) for timestep in (200, 600)),
            Row("DiAD without SFF", "diad", {"guide.fusion": "none"}),
            *_UNGUIDED,
        ),
        multi_class=True,
    ),
    "ran-scores": Ablation(
        "RAN: KL divergence against RGB error, one noise scale against several",
        (
            Row("RAN", "ran"),
            Row("KL alone", "ran", changes={"readout.kl_weight": 1.0}),
            Row("RGB error alone", "ran", changes={"readout.kl_weight": 1.0, "readout.pixel_score": "rgb"}),
            Row("feature error alone", "ran", changes={"readout.kl_weight": 0.0}),
            Row("t = 20 alone", "ran", changes={"start_timesteps": [20]}),
            Row("t = 60 alone", "ran", changes={"start_timesteps": [60]}),
            Row("t = 150 alone", "ran", changes={"start_timesteps": [150]}),
        ),
    ),
    "ran-alpha": Ablation(
        "RAN: alpha of eq. 11, the weight of the KL divergence",
        tuple(
            Row(f"alpha = {alpha}", "ran", changes={"readout.kl_weight": alpha})
            for alpha in (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
        ),
    ),
    "ran-timesteps": Ablation(
        "RAN: T of eq. 11, the timesteps",
        tuple(
            Row(f"T = {', '.join(map(str, steps))}", "ran", changes={"start_timesteps": list(steps)})
            for steps in (
                *((10,), (20,), (60,), (100,), (150,), (250,)),
                *((20, 60), (20, 60, 150), (20, 60, 150, 250)),
            )
        ),
    ),
    "ran-targets": Ablation(
        "RAN: prediction of whitened or original features (eq. 10)",
        (
            Row("whitened", "ran", {"whiten_targets": True}),
            Row("as they are", "ran", {"whiten_targets": False}),
        ),
    ),
}
