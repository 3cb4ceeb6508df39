"""The sub-commands and their options, as typed functions that the command line is made from."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


def demo(
    make_data: Path | None = None,
    method: str = "glad",
    categories: list[str] | None = None,
    seed: int = 0,
    device: str = "auto",
    overwrite: bool = False,
) -> None:
    """Make a set of parts, learn from the good ones, find the defects, and write a report with pictures.

    Args:
        make_data: only draw the data set into this folder, and stop.
        method: which method, at its tiny preset.
        categories: which of the demo's categories; all unless given.
        seed: of data, training and noise.
        device: auto, cpu, cuda, cuda:1, mps.
        overwrite: replace what is in the output folder.
    """


def fit(
    method: str = "glad",
    preset: str = "tiny",
    features: str | None = None,
    features_weights: Path | None = None,
    image_size: int | None = None,
    categories: list[str] | None = None,
    statistics: str = "global",
    balance: str = "image",
    codec: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
) -> None:
    """Learn what good parts look like and write a model folder.

    Args:
        method: glad, diad or ran.
        preset: which settings to start from.
        features: timm's name of a pretrained backbone.
        features_weights: its weights, a local safetensors file.
        image_size: side to which images are resized; the images' own size (up to 320) unless given.
        categories: which to learn together, where DATA holds several categories; all unless given.
        statistics: global, or category for scales and a threshold of its own for every category.
        balance: image, or category to show every category equally often.
        codec: a codec folder that mendiff fit-codec wrote, for methods that work on latents.
        seed: of training.
        device: auto, cpu, cuda, cuda:1, mps.
        resume: go on with a fit that was interrupted.
        overwrite: replace the model folder if it exists.
    """


def fit_codec(
    preset: str = "tiny",
    start: Path | None = None,
    features: str | None = None,
    features_weights: Path | None = None,
    categories: list[str] | None = None,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
) -> None:
    """Train or tune an autoencoder on good images; `mendiff fit --codec` takes it.

    Args:
        preset: tiny, or kl for Stable Diffusion's kind.
        start: a codec folder to go on from, such as mendiff convert codec writes.
        features: timm's name of a pretrained backbone for the perceptual term.
        features_weights: its weights, a local safetensors file.
        categories: which to learn together, where DATA holds several categories; all unless given.
        seed: of training.
        device: auto, cpu, cuda, cuda:1, mps.
        resume: go on with a training that was interrupted.
        overwrite: replace the codec folder if it exists.
    """


def predict(
    category: str | None = None,
    explain: bool = False,
    batch_size: int = 8,
    device: str = "auto",
    overwrite: bool = False,
) -> None:
    """Find defects in images: scores as CSV and JSON, heat maps and reconstructions as pictures.

    Args:
        category: whose statistics and threshold to use, of a model that has them for every category.
        explain: take more time for the reconstructions, where the method can (ran: gradient denoising).
        batch_size: images that pass through the networks together; does not change the results.
        device: auto, cpu, cuda, cuda:1, mps.
        overwrite: replace what is in the output folder.
    """


def evaluate(
    out: Path | None = None,
    report: Path | None = None,
    categories: list[str] | None = None,
    controls: bool = False,
    batch_size: int = 8,
    device: str = "auto",
    overwrite: bool = False,
) -> None:
    """Measure a model on labelled test images (MVTec layout).

    Args:
        out: also write a run folder with all numbers and pictures, for mendiff report.
        report: also write this HTML file with all test images.
        categories: which categories of DATA; all unless given.
        controls: also measure two controls that need no diffusion model.
        batch_size: images that pass through the networks together; does not change the results.
        device: auto, cpu, cuda, cuda:1, mps.
        overwrite: replace what is in the run folder.
    """


def report(out: Path | None = None) -> None:
    """Make a page of a run: metrics, curves and all images, in one HTML file that opens offline.

    Args:
        out: the HTML file (default: report.html in the run folder); an earlier report there is replaced.
    """


def convert(
    good: Path | None = None,
    features_weights: Path | None = None,
    prompt: Path | None = None,
    device: str = "auto",
    overwrite: bool = False,
) -> None:
    """Turn a published checkpoint into a model or codec folder of ours.

    Args:
        good: for diad: some good images, from which the threshold is learned.
        features_weights: for diad: the feature extractor, where the checkpoint holds none.
        prompt: for diad: embeddings of the empty text, where the checkpoint holds no text encoder.
        device: auto, cpu, cuda, cuda:1, mps.
        overwrite: replace what is in the output folder.
    """


def info() -> None:
    """Say what a model folder holds: method, settings, training data, threshold."""


@dataclass(frozen=True)
class Command:
    """One sub-command.

    Attributes:
        function: the options, their types and defaults, and their help.
        arguments: (name, help) of what comes before the options.
        examples: for --help.
        output: what -o is for; empty for no -o.
        place: where -o points if it is not given; empty where it must be.
        takes_settings: whether --set is an option.
    """

    function: Callable[..., None]
    arguments: tuple[tuple[str, str], ...]
    examples: tuple[str, ...]
    output: str = ""
    place: str = ""
    takes_settings: bool = False

    @property
    def name(self) -> str:
        """As typed by the user."""
        return self.function.__name__.replace("_", "-")

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (inspect.getdoc(self.function) or "").splitlines()[0]

    @property
    def required(self) -> tuple[tuple[str, str, str], ...]:
        """(dest, as written in usage, what it is) of all that must be given."""
        out = (("out", "-o/--out DIR", self.output),) if self.output and not self.place else ()
        return (*((name, name.upper(), text) for name, text in self.arguments), *out)

    @property
    def usage(self) -> str:
        """How to call it, in one line."""
        written = {"images": "IMAGES...", "out": "-o DIR"}
        needed = [written.get(dest, dest.upper()) for dest, _, _ in self.required]
        return " ".join(["mendiff", self.name, *needed, "[options]"])


COMMANDS = (
    Command(
        demo,
        (),
        ("mendiff demo", "mendiff demo -o my-demo --json", "mendiff demo --make-data parts"),
        output="where to write data, models and the report",
        place="mendiff-demo",
        takes_settings=True,
    ),
    Command(
        fit,
        (("data", "a category in MVTec layout, a folder of such categories, or any folder of good images"),),
        (
            "mendiff fit photos/good -o model",
            "mendiff fit mvtec/bottle -o bottle --features resnet18 --features-weights resnet18.safetensors",
            "mendiff fit photos/good -o model --set training.steps=2000 --set synthesis.foreground=auto",
        ),
        output="where to write the model",
        takes_settings=True,
    ),
    Command(
        fit_codec,
        (("data", "a category in MVTec layout, a folder of such categories, or any folder of good images"),),
        (
            "mendiff fit-codec photos/good -o codec",
            "mendiff fit-codec mvtec -o codec --preset kl --start sd-codec --device cuda",
        ),
        output="where to write the codec",
        takes_settings=True,
    ),
    Command(
        predict,
        (("model", "a model folder"), ("images", "image files or folders")),
        (
            "mendiff predict model photos/today -o findings",
            "mendiff predict model a.png b.png -o findings --json",
        ),
        output="where to write the findings",
    ),
    Command(
        evaluate,
        (("model", "a model folder"), ("data", "a category in MVTec layout, or a folder of such categories")),
        (
            "mendiff evaluate bottle mvtec/bottle",
            "mendiff evaluate bottle mvtec/bottle -o bottle-run --controls",
            "mendiff evaluate bottle mvtec/bottle --json --report report.html",
        ),
    ),
    Command(
        report,
        (("run", "a run folder that mendiff evaluate -o wrote"),),
        ("mendiff report bottle-run", "mendiff report bottle-run -o bottle.html --json"),
    ),
    Command(
        convert,
        (
            ("kind", "what the checkpoint holds: diad, or codec for a fine-tuned autoencoder"),
            ("checkpoint", "a .ckpt, .pth or .safetensors file"),
        ),
        (
            "mendiff convert diad diad.ckpt -o model --good mvtec/bottle",
            "mendiff convert codec mvtecad_fs.ckpt -o codec",
        ),
        output="where to write the model or codec",
        takes_settings=True,
    ),
    Command(info, (("model", "a model folder"),), ("mendiff info model", "mendiff info model --json")),
)
