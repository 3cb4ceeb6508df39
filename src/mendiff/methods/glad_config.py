"""GLAD's config and presets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from mendiff.diffusion.ladder import Spacing
from mendiff.errors import InputError, check_count, check_range
from mendiff.methods.base_config import SMALL_TRAINING, TIMESTEPS, DiffusionConfig, TrainingConfig
from mendiff.methods.glad_settings import SETS, SETTINGS, Setting
from mendiff.nets import AUTO
from mendiff.nets.codec_config import TINY_CODEC, CodecConfig, check_pixels
from mendiff.nets.codec_fit import CodecFitConfig
from mendiff.nets.denoiser import DenoiserConfig, attention_unet, plain_unet
from mendiff.nets.features import TINY_FEATURES, FeaturesConfig
from mendiff.nets.stable_diffusion import CODEC, UNET
from mendiff.scoring.readout_config import LEARNED, SAME_PLACE, ReadoutConfig
from mendiff.synthesis.blend import SynthesisConfig
from mendiff.synthesis.foreground import Mode


@dataclass(frozen=True)
class GladConfig(DiffusionConfig):
    """Settings of GLAD.

    Attributes:
        synthesis, readout: see their configs.
        own_stop_features: use a separate extractor of the same config for the stop rule. In the published
            models of VisA and PCB-Bank only the extractor of the read-out was fine-tuned.
        mix: train on (t/T) anomalous + (1 - t/T) normal latents, as the published code does.
        variants: number of training variants of every good image, about half of them with a synthetic anomaly
            (see synthesis.share). Their latents are cached up to training.cache_gigabytes. 0 creates new
            anomalies at every step.
        start_timesteps: T', start timesteps of the search. Several are run in turn and their maps averaged.
        sampler_steps: N, number of DDIM steps from T'.
        spacing: spacing of the sampler's timesteps: "leading" (published) or "trailing".
        noise_timestep: timestep at which noise is added, if it is from the sampler's first timestep to T'
            (T' - 1 in the published settings of VisA and PCB-Bank). Otherwise, and for 0, it is the sampler's
            first timestep (T' in `reference`).
        adaptive: search for a stop step per image (ADS); otherwise all images are sampled from T' to the end.
        threshold: stop threshold of ADS; None computes a threshold per timestep from good images.
        min_timestep: images stop at the first timestep below this.
        rewind: n, number of ladder steps to go back when the stop score exceeds the threshold at t, at most
            to the first step. In the paper, an anomaly is partly preserved at t, and can be reconstructed
            from t + n while normal regions are preserved best. 0 continues from t, as the published code
            does. Images stopped by `min_timestep` also continue from t.
        stop_checks: timesteps whose stop map is computed: "all" (published), or those where a stop is
            "likely", which finds nearly always the same stops with far fewer stop maps; see
            mendiff.methods.glad_ahead.
        fusion: fusion of normal regions at the stop step (SAFF): "x0" fuses clean estimates, as in the
            published code; "none" continues from the true noisy input.
        object_mask: foreground mode of the weight of the map: "none", "dark", "bright" or "auto".
        both_ways: categories of a multi-class model whose map is the mean of both matching directions, as in
            the published multi-class code; see denoiser.categories.
        reference: reproduce the published code exactly, including its errors.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {
        **DiffusionConfig.RENAMED,
        "denoise_steps": "start_timesteps",
        "steps": "sampler_steps",
        "noise_step": "noise_timestep",
        "min_step": "min_timestep",
    }
    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)
    readout: ReadoutConfig = field(default_factory=ReadoutConfig)
    own_stop_features: bool = False
    mix: bool = True
    variants: int = 0
    start_timesteps: tuple[int, ...] = (750,)
    sampler_steps: int = 25
    spacing: Spacing = "leading"
    noise_timestep: int = 0
    adaptive: bool = True
    threshold: float | None = None
    min_timestep: int = 350
    rewind: int = 0
    stop_checks: Literal["all", "likely"] = "all"
    fusion: Literal["x0", "none"] = "x0"
    object_mask: Mode = "none"
    both_ways: tuple[str, ...] = ()
    reference: bool = False

    def for_tiles(self) -> Any:
        """See MethodConfig.for_tiles: without mean normal maps by position."""
        return replace(super().for_tiles(), readout=replace(self.readout, position_grid=0))

    def __post_init__(self) -> None:
        super().__post_init__()
        drawn = {"the latents are drawn anew at every step (reference)": self.reference}
        self.check_cache({} if self.variants else self.uncacheable | drawn)
        check_pixels(self.codec, "symmetric")
        if self.training.lora_rank and self.denoiser.kind != "conditional_unet":
            raise InputError(
                "training.lora_rank: expected 0 for a network that is trained from scratch, got "
                f"{self.training.lora_rank}; preset paper has a pretrained network."
            )
        check_range("noise_timestep", self.noise_timestep, 0, TIMESTEPS - 1)
        check_count("sampler_steps", self.sampler_steps, 1, TIMESTEPS)
        check_range("rewind", self.rewind, 0)
        if self.reference and self.rewind:
            raise InputError(
                f"rewind: expected 0 with reference, as in the published code, got {self.rewind}."
            )
        if self.reference and self.noise_timestep != TIMESTEPS - 1 and max(self.start_timesteps) == TIMESTEPS:
            raise InputError(
                f"start_timesteps: expected at most {TIMESTEPS - 1} with reference, which adds noise at T', "
                f"got {TIMESTEPS}; set noise_timestep={TIMESTEPS - 1}."
            )
        self._check_variants()

    def _check_variants(self) -> None:
        check_range("variants", self.variants, 0)
        if self.variants and (self.crop or self.reference):
            raise InputError(
                "variants: expected 0 with crops or reference, whose latents are new at every step, got "
                f"{self.variants}."
            )


_TINY = GladConfig(
    upright="auto",
    image_size=0,
    crop=96,
    training=TrainingConfig(
        steps=1300, minutes=4, batch_size=2, learning_rate=1e-3, warmup=30, cosine=True, ema=0.995
    ),
    codec=CodecConfig(TINY_CODEC, factor=2),
    features=FeaturesConfig(TINY_FEATURES),
    denoiser=DenoiserConfig(prediction="x0", network=plain_unet(32, 64, 96, 128)),
    synthesis=SynthesisConfig(share=0.7, thin_share=0.4),
    readout=LEARNED,
    mix=False,
    train_timesteps=(1, 400),
    min_snr_gamma=5.0,
    start_timesteps=(50, 200),
    sampler_steps=1,
    spacing="trailing",
    adaptive=False,
)

_SMALL = GladConfig(
    upright="auto",
    image_size=256,
    training=replace(SMALL_TRAINING, cache_gigabytes=2**31 / 1e9),
    codec=CodecConfig(AUTO, fit=CodecFitConfig(images=16_000)),
    features=FeaturesConfig(AUTO),
    denoiser=DenoiserConfig(prediction="v", network=attention_unet(64, 128, 192)),
    synthesis=SynthesisConfig(thin_share=0.3),
    readout=SAME_PLACE,
    mix=False,
    variants=8,
    min_snr_gamma=5.0,
    start_timesteps=(750,),
    sampler_steps=15,
    rewind=1,
    stop_checks="likely",
)
"""All published mechanisms at a small size, trained from scratch. The codec is fitted to the good images
first."""

_PAPER = GladConfig(
    image_size=512,
    training=TrainingConfig(steps=4000, batch_size=32, learning_rate=5e-6),
    codec=CodecConfig("kl", network=CODEC),
    denoiser=DenoiserConfig("conditional_unet", "eps", UNET, guidance=9.0, prompt="a photo of sks"),
    features=FeaturesConfig(
        "vit_base_patch8_224.dino", ("block3", "block6", "block9", "block12"), position_resampling="dino"
    ),
)
"""Published sizes, for categories without published settings; stop thresholds come from good images."""


def _published(setting: Setting) -> GladConfig:
    """The preset of a published category."""
    return replace(
        _PAPER,
        training=replace(_PAPER.training, steps=setting.trained),
        synthesis=SynthesisConfig(foreground=setting.anomalies),
        readout=ReadoutConfig(
            backward="sum" if setting.both_ways else "none",
            pixel_weight=setting.pixels,
            resolution=setting.resolution,
        ),
        own_stop_features=setting.tuned_features,
        start_timesteps=(setting.start_timestep,),
        sampler_steps=setting.sampler_steps,
        noise_timestep=setting.noise_timestep,
        threshold=setting.threshold,
        min_timestep=setting.min_timestep,
        object_mask=setting.part,
    )


def _multi_class(settings: Mapping[str, Setting]) -> GladConfig:
    """The preset of a multi-class model for a data set, with a prompt per category.

    T', min_timestep and resolution are the most frequent values; stop thresholds are computed per category.
    The number of training steps is the sum over categories, which is our choice.
    """
    steps = sum(setting.trained for setting in settings.values())
    common: dict[str, Any] = {
        "threshold": 0.0,
        "trained": steps,
        "pixels": 0.0,
        "anomalies": "none",
        "part": "none",
    }
    counts = Counter(replace(setting, both_ways=False, **common) for setting in settings.values())
    single = _published(counts.most_common(1)[0][0])
    return replace(
        single,
        denoiser=replace(single.denoiser, categories=tuple(settings)),
        threshold=None,
        both_ways=tuple(name for name, setting in settings.items() if setting.both_ways),
    )


PRESETS: dict[str, GladConfig] = {
    "tiny": _TINY,
    "small": _SMALL,
    "paper": _PAPER,
    **{f"paper/{name}": _multi_class(settings) for name, settings in SETS.items()},
    **{f"paper/{name}": _published(setting) for name, setting in SETTINGS.items()},
}
