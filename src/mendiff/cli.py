"""The command line: `mendiff demo | fit | predict | evaluate | info`.

This file only reads arguments; each command is a typed function below that hands over to its room in
`mendiff.commands`, imported when it runs, so that `mendiff --help` needs no torch.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

from jsonargparse import ArgumentParser, Namespace

from mendiff import __version__
from mendiff.errors import InputError

EXIT_OK, EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130


def demo(
    make_data: Path | None = None,
    categories: list[str] | None = None,
    seed: int = 0,
    device: str = "auto",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Make a set of parts, learn from the good ones, find the defects, and write a report with pictures.

    Args:
        make_data: only draw the data set into this folder, and stop.
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
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Learn what good parts look like and write a model folder.

    Args:
        method: which method.
        preset: which settings to start from.
        features: timm's name of a pretrained backbone.
        features_weights: its weights, a local safetensors file.
        image_size: side to which images are resized; the images' own size (up to 320) unless given.
        categories: which sub-folders to learn together, where DATA holds several categories; all unless given.
        seed: of training.
        device: auto, cpu, cuda, cuda:1, mps.
        resume: go on with a fit that was interrupted.
        overwrite: replace the model folder if it exists.
    """


def predict(batch_size: int = 8, device: str = "auto", overwrite: bool = False) -> dict[str, Any]:
    """Find defects in images: scores as CSV and JSON, heat maps and reconstructions as pictures.

    Args:
        batch_size: images that pass through the networks together; does not change the results.
        device: auto, cpu, cuda, cuda:1, mps.
        overwrite: replace what is in the output folder.
    """


def evaluate(
    report: Path | None = None,
    categories: list[str] | None = None,
    controls: bool = False,
    batch_size: int = 8,
    device: str = "auto",
) -> dict[str, Any]:
    """Measure a model on labelled test images (MVTec layout).

    Args:
        report: also write this HTML file with all test images.
        categories: which categories of DATA; all unless given.
        controls: also measure two controls that need no diffusion model.
        batch_size: images that pass through the networks together; does not change the results.
        device: auto, cpu, cuda, cuda:1, mps.
    """


def info() -> dict[str, Any]:
    """Say what a model folder holds: method, settings, training data, threshold."""


@dataclass(frozen=True)
class Command:
    """One sub-command: its typed function, what comes before the options, and examples for --help."""

    function: Callable[..., dict[str, Any]]
    arguments: tuple[tuple[str, str], ...]
    examples: tuple[str, ...]
    output: str | None = None
    takes_settings: bool = False

    @property
    def name(self) -> str:
        """As typed by the user."""
        return self.function.__name__


COMMANDS = (
    Command(
        demo,
        (),
        ("mendiff demo", "mendiff demo -o my-demo --json", "mendiff demo --make-data parts"),
        output="mendiff-demo",
        takes_settings=True,
    ),
    Command(
        fit,
        (("data", "a category in MVTec layout, a folder of such categories, or any folder of good images"),),
        (
            "mendiff fit photos/good -o model",
            "mendiff fit mvtec/bottle -o bottle --features mobilenetv2_100 --features-weights mobilenetv2.safetensors",
            "mendiff fit photos/good -o model --set training.steps=2000 --set synthesis.foreground=auto",
        ),
        output="",
        takes_settings=True,
    ),
    Command(
        predict,
        (("model", "a model folder"), ("images", "image files or folders")),
        ("mendiff predict model photos/today -o findings", "mendiff predict model a.png b.png -o findings --json"),
        output="",
    ),
    Command(
        evaluate,
        (("model", "a model folder"), ("data", "a category in MVTec layout, or a folder of such categories")),
        ("mendiff evaluate bottle mvtec/bottle", "mendiff evaluate bottle mvtec/bottle --json --report report.html"),
    ),
    Command(info, (("model", "a model folder"),), ("mendiff info model", "mendiff info model --json")),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code: 0 well, 1 failed, 2 bad input, 130 interrupted."""
    parser = build_parser()
    arguments = parser.parse_args(list(sys.argv[1:] if argv is None else argv))
    name = arguments.subcommand
    options = arguments[name]
    command = next(one for one in COMMANDS if one.name == name)
    try:
        result = run(command, options)
    except InputError as error:
        print(f"mendiff {name}: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print(f"mendiff {name}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    if options.json:
        print(json.dumps(result))
    return EXIT_OK


def run(command: Command, options: Namespace) -> dict[str, Any]:
    """Hand the options over to the command's room in mendiff.commands."""
    from importlib import import_module

    room = import_module(f"mendiff.commands.{command.name}")
    given = {key: value for key, value in vars(options).items() if key not in ("config", "json", "set")}
    if command.takes_settings:
        given["settings"] = parse_settings(options.set or [])
    result: dict[str, Any] = room.run(**given, quiet=options.json)
    return result


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """--set key=value pairs as {"key": value}; values are YAML, so numbers and lists come as such."""
    import yaml

    settings = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise InputError(f"--set: expected key=value such as training.steps=2000, got {pair!r}.")
        try:
            settings[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"--set {key}: expected a YAML value such as 3 or [1, 2], got {value!r}.") from error
    return settings


def build_parser() -> ArgumentParser:
    """The whole command line, from COMMANDS and the signatures of their functions."""
    parser = ArgumentParser(
        prog="mendiff",
        description="Find defects with diffusion models that learned from good images only.",
        epilog="Start with 'mendiff demo'. Help for a command: mendiff COMMAND --help",
        version=__version__,
    )
    subcommands = parser.add_subcommands(metavar="COMMAND", dest="subcommand")
    for command in COMMANDS:
        summary = inspect.getdoc(command.function).splitlines()[0]
        subcommands.add_subcommand(command.name, _command_parser(command), help=summary)
    return parser


def _command_parser(command: Command) -> ArgumentParser:
    parser = ArgumentParser(
        prog=f"mendiff {command.name}",
        description=inspect.getdoc(command.function).splitlines()[0],
        epilog="examples:\n" + "\n".join(f"  {example}" for example in command.examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        print_config=None,
    )
    for name, text in command.arguments:
        parser.add_argument(name, type=Path, help=text, metavar=name.upper(), nargs="+" if name == "images" else None)
    if command.output is not None:
        known = {"default": Path(command.output)} if command.output else {"required": True}
        text = f"where to write (default: {command.output})" if command.output else "where to write"
        parser.add_argument("-o", "--out", type=Path, help=text, metavar="DIR", **known)
    for parameter in inspect.signature(command.function, eval_str=True).parameters.values():
        _add_option(parser, parameter, _help_texts(command.function)[parameter.name])
    if command.takes_settings:
        text = "change one field of the method's config; may be repeated"
        parser.add_argument("--set", action="append", metavar="KEY=VALUE", help=text)
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output, nothing else")
    parser.add_argument("--config", action="config", metavar="FILE", help="a YAML file with any of these options")
    return parser


def _add_option(parser: ArgumentParser, parameter: inspect.Parameter, text: str) -> None:
    """One keyword of a command's function as an option: flags for booleans, several values for lists."""
    flag, default = "--" + parameter.name.replace("_", "-"), parameter.default
    if default is False:
        parser.add_argument(flag, action="store_true", help=text)
        return
    kinds = [kind for kind in get_args(parameter.annotation) if kind is not type(None)] or [parameter.annotation]
    if default is not None:
        text = f"{text} (default: {default})"
    if get_origin(kinds[0]) is list:
        parser.add_argument(flag, type=get_args(kinds[0])[0], nargs="+", help=text, metavar="NAME")
    else:
        metavar = {Path: "PATH", int: "N"}.get(kinds[0], "NAME")
        parser.add_argument(flag, type=kinds[0], default=default, help=text, metavar=metavar)


def _help_texts(function: Callable[..., Any]) -> dict[str, str]:
    """The Args section of a docstring by parameter."""
    lines = (inspect.getdoc(function) or "").partition("Args:")[2].splitlines()
    pairs = (line.strip().partition(": ") for line in lines if line.strip())
    return {name: text.rstrip(".") for name, _, text in pairs}


if __name__ == "__main__":
    sys.exit(main())
