"""The sub-commands: what each is called with besides its options, what -o and --set are for, and examples."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from mendiff.commands.options import (
    benchmark,
    calibrate,
    check,
    convert,
    demo,
    evaluate,
    explain,
    fit,
    fit_codec,
    fit_features,
    info,
    plan,
    predict,
    report,
    tune,
)


@dataclass(frozen=True)
class Command:
    """One sub-command.

    Attributes:
        function: the options, their types and defaults, and their help.
        arguments: (name, help) of what comes before the options.
        examples: for --help.
        output: what -o is for; empty for no -o.
        place: where -o points if it is not given; empty where it must be.
        settings: what --set changes; empty for no --set.
        room: its module in mendiff.commands, where that is not named after the function.
        optional: those of the arguments that may be left out, the last ones.
    """

    function: Callable[..., None]
    arguments: tuple[tuple[str, str], ...]
    examples: tuple[str, ...]
    output: str = ""
    place: str = ""
    settings: str = ""
    room: str = ""
    optional: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As typed by the user."""
        return self.function.__name__.replace("_", "-")

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (inspect.getdoc(self.function) or "").splitlines()[0]

    @property
    def description(self) -> str:
        """All that the docstring says before the options."""
        return (inspect.getdoc(self.function) or "").partition("\n\nArgs:")[0]

    @property
    def required(self) -> tuple[tuple[str, str, str], ...]:
        """(dest, as written in usage, what it is) of all that must be given."""
        out = (("out", "-o/--out DIR", self.output),) if self.output and not self.place else ()
        needed = ((name, text) for name, text in self.arguments if name not in self.optional)
        return (*((name, name.upper(), text) for name, text in needed), *out)

    @property
    def usage(self) -> str:
        """How to call it, in one line."""
        written = {"models": "MODEL...", "images": "IMAGES...", "out": "-o DIR"}
        needed = [written.get(dest, dest.upper()) for dest, _, _ in self.required]
        at = len(self.arguments) - len(self.optional)
        needed[at:at] = [f"[{name.upper()}]" for name in self.optional]
        return " ".join(["mendiff", self.name, *needed, "[options]"])


DATA = (
    "a folder of good images; a data set laid out as MVTec-AD, MPDD, VisA, MVTec-3D, BMAD or PCB-Bank, or "
    "one of its categories; or a YAML file that lists folders"
)
SETTINGS = "one field of the method's config, all of which 'mendiff info MODEL --json' shows"
CODEC_SETTINGS = "one field of the codec's training, such as crop=128 or codec.network.latent_channels=4"
FEATURES_SETTINGS = "one field of the tuning, such as features.layers=[stage2,stage3] or keep_weight=0.05"
BENCHMARK_SETTINGS = "one field of one method's config, as METHOD.FIELD=VALUE"
COMMANDS = (
    Command(
        demo,
        (),
        ("mendiff demo", "mendiff demo -o my-demo --json", "mendiff demo --make-data parts"),
        output="where to write data, models and the report",
        place="mendiff-demo",
        settings=SETTINGS,
    ),
    Command(
        check,
        (("data", DATA),),
        (
            "mendiff check mvtec",
            "mendiff check VisA/candle --json",
            "mendiff check parts.yaml  # bolts: {train: a, good: b, defective: [bent, dirty], masks: c}",
        ),
    ),
    Command(
        fit,
        (("data", DATA),),
        (
            "mendiff fit photos/good -o model",
            "mendiff fit mvtec/bottle -o bottle --features resnet18 --features-weights resnet18.safetensors",
            "mendiff fit photos/good -o model --steps 2000 --seed 1 --set synthesis.foreground=auto",
            "mendiff fit photos/good -o model --preset auto --minutes 90  # tiny or small, by what they find",
            "mendiff fit parts -o model --method ran --statistics category",
            "mendiff fit photos/good -o model --textures dtd/images",
            "mendiff fit parts -o model --method diad --codec codec --resume",
            "mendiff fit mvtec/cable -o cable --preset paper/mvtec/cable "
            "--pretrained CompVis/stable-diffusion-v1-4",
            "mendiff fit mvtec -o model --preset paper/mvtec --statistics category "
            "--pretrained CompVis/stable-diffusion-v1-4",
            "mendiff fit mvtec -o model --method diad --device cuda --devices 4",
            "NODE_RANK=1 MASTER_ADDR=a MASTER_PORT=29500 mendiff fit mvtec -o model --devices 4 --nodes 2",
        ),
        output="where to write the model",
        settings=SETTINGS,
    ),
    Command(
        fit_codec,
        (("data", DATA),),
        (
            "mendiff fit-codec photos/good -o codec",
            "mendiff fit-codec mvtec -o codec --preset kl --start sd-codec --device cuda",
        ),
        output="where to write the codec",
        settings=CODEC_SETTINGS,
    ),
    Command(
        fit_features,
        (("data", DATA),),
        (
            "mendiff fit-features photos/good -o tuned --model model --features resnet18 "
            "--features-weights resnet18.safetensors",
            "mendiff fit-features VisA/candle -o tuned --model candle --preset paper --device cuda",
            "mendiff fit parts -o better --features resnet18 --features-weights tuned/features.safetensors",
        ),
        output="where to write features.safetensors, which --features-weights of mendiff fit takes",
        settings=FEATURES_SETTINGS,
    ),
    Command(
        predict,
        (("model", "a model folder"), ("images", "image files or folders")),
        (
            "mendiff predict model photos/today -o findings",
            "mendiff predict model a.png b.png -o findings --json",
            "mendiff predict model photos/today -o findings --category bolts --explain",
        ),
        output="where to write the findings",
    ),
    Command(
        explain,
        (("models", "one or more model folders"), ("images", "image files or folders")),
        (
            "mendiff explain model part.png -o why",
            "mendiff explain glad diad ran part.png -o side-by-side  # several models, one under another",
            "mendiff explain model photos/today -o why --limit 0 --side 240 --json",
        ),
        output="where to write the strips, and explain.json beside them",
    ),
    Command(
        evaluate,
        (("model", "a model folder"), ("data", DATA)),
        (
            "mendiff evaluate bottle mvtec/bottle",
            "mendiff evaluate bottle mvtec/bottle -o bottle-run --controls",
            "mendiff evaluate bottle mvtec/bottle --json --report report.html",
            "mendiff evaluate model parts.yaml  # see mendiff check --help",
        ),
    ),
    Command(
        calibrate,
        (("model", "a model folder"), ("data", f"good images that it has not seen: {DATA}")),
        (
            "mendiff calibrate model photos/good-of-this-week -o model-2",
            "mendiff calibrate model photos/good-of-this-week -o model-2 --false-alarm-rate 0.001",
            "mendiff calibrate model -o fewer-alarms --false-alarm-rate 0.001  # the rate alone",
        ),
        output="where to write the model with its new thresholds",
        optional=("data",),
    ),
    Command(
        report,
        (("run", "a run folder that mendiff evaluate -o wrote"),),
        ("mendiff report bottle-run", "mendiff report bottle-run -o bottle.html --json"),
    ),
    Command(
        tune,
        (("model", "a model folder"), ("data", "the good images that it was fitted on")),
        (
            "mendiff tune model photos/good -o tuned",
            "mendiff tune bottle mvtec/bottle -o tuned --repetitions 8",
        ),
        output="where to write the tuned model, all trials and their curves",
    ),
    Command(
        benchmark,
        (("data", DATA),),
        (
            "mendiff benchmark parts -o runs/parts --methods glad ran median-colour",
            "mendiff benchmark mvtec -o runs/mvtec --suite glad-mvtec --preset paper "
            "--pretrained CompVis/stable-diffusion-v1-4 --device cuda",
            "mendiff benchmark parts -o runs/sff --ablation diad-sff --set diad.training.steps=400",
            "mendiff benchmark parts -o runs/peers --methods glad patchcore padim memory-bank --seeds 0 1 "
            "--features resnet18 --features-weights resnet18.safetensors",
        ),
        output="where jobs and tables are kept; goes on with what is there, and the tables show all of it",
        settings=BENCHMARK_SETTINGS,
    ),
    Command(
        convert,
        (
            ("kind", "what the checkpoint holds: glad, diad, or codec for a fine-tuned autoencoder"),
            ("checkpoint", "a .ckpt, .pth, .bin or .safetensors file; for glad also its folder"),
        ),
        (
            "mendiff convert glad cable_4000step_bs32_eps_anomaly2_0 -o cable --preset paper/mvtec/cable "
            "--good mvtec/cable --pretrained CompVis/stable-diffusion-v1-4",
            "mendiff convert diad diad.ckpt -o model --good mvtec/bottle",
            "mendiff convert codec mvtecad_fs.ckpt -o codec",
        ),
        output="where to write the model or codec",
        settings=SETTINGS,
    ),
    Command(
        plan,
        (),
        (
            "mendiff plan --memory 24GB",
            "mendiff plan --method diad --memory 11GB --set training.checkpointing=true",
            "mendiff plan --preset paper/mvtec/cable --memory 16GB --size 256 --batch 16 --json",
        ),
        settings=SETTINGS,
        room="memory",
    ),
    Command(info, (("model", "a model folder"),), ("mendiff info model", "mendiff info model --json")),
)
