"""The command line, `mendiff COMMAND`.

The options are defined in `mendiff.workflows.options`. Each command is implemented in its own module in
`mendiff.workflows`. The module is imported when the command runs, so `mendiff --help` needs no torch.
"""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace

from mendiff import __version__
from mendiff.cli.command import COMMANDS, Command
from mendiff.cli.ending import (
    EXIT_BAD_INPUT,
    EXIT_DRIFT,
    EXIT_FAILED,
    EXIT_INCOMPLETE,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_PIPE_CLOSED,
    OUTPUT_CLOSED,
    SIGNAL_BASE,
    describe_os_error,
    flushed,
    interruptible,
)
from mendiff.errors import InputError
from mendiff.runs.reporting import one_line

OUT_OF_MEMORY = re.compile(r"MemoryError|out of memory|can't allocate memory", re.IGNORECASE)
LESS_MEMORY = (
    "there is not enough memory; choose a smaller --image-size or --batch-size, or for a fit "
    "--set training.accumulate=N (gradient accumulation) or --set training.checkpointing=true; "
    "'mendiff plan' estimates what fits."
)


class Parser(ArgumentParser):
    """Reports a usage error in one sentence instead of printing all options."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        from mendiff.cli.wording import reworded

        parser = getattr(ex, "subcommand_parser", None) or self
        name = parser.prog.replace(" [options]", "")
        flags = [flag for flag in parser._option_string_actions if flag.startswith("--")]
        sentence = reworded(message, flags, [command.name for command in COMMANDS])
        self.exit(EXIT_BAD_INPUT, f"{name}: {sentence} See '{name} --help'.\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return the exit code.

    0: success. 1: failure. 2: bad input. 3: finished, but some images failed. 4: `monitor` found drift. 130,
    143, 129: ended by Ctrl-C, SIGTERM or SIGHUP. 141: standard output was closed by its reader.
    """
    OUTPUT_CLOSED.clear()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # file names may hold characters that the terminal can't show
            stream.reconfigure(errors="backslashreplace")
    try:
        with interruptible() as signals:
            code = _main(list(sys.argv[1:] if argv is None else argv), signals)
    except BrokenPipeError:
        code = EXIT_PIPE_CLOSED
    return code if flushed() else EXIT_PIPE_CLOSED


def _main(argv: list[str], signals: Sequence[int]) -> int:
    # To make the options of all commands takes as long as a short command itself.
    parser = build_parser([command for command in COMMANDS if command.name in argv[:1]] or COMMANDS)
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as end:
        return int(end.code or EXIT_OK)
    except UnicodeDecodeError:
        print(
            "mendiff: --config: expected a YAML file in UTF-8, got a file in another encoding.",
            file=sys.stderr,
        )
        return EXIT_BAD_INPUT
    name = arguments.subcommand
    if name is None:
        parser.print_help(sys.stderr)
        return EXIT_BAD_INPUT
    command = next(command for command in COMMANDS if command.name == name)
    try:
        result = run(command, arguments[name])
        # With several processes, only the first has a result. With --watch, its rows are printed already.
        if arguments[name].json and result and not getattr(arguments[name], "watch", False):
            _print_json(result)
    except InputError as error:
        return _answer(name, error, error, EXIT_BAD_INPUT)
    except BrokenPipeError:
        raise
    except OSError as error:
        return _answer(
            name, describe_os_error(error, getattr(arguments[name], "out", None)), error, EXIT_FAILED
        )
    except (MemoryError, RuntimeError) as error:
        if not OUT_OF_MEMORY.search(f"{type(error).__name__} {error}"):
            raise
        return _answer(name, LESS_MEMORY, error, EXIT_FAILED)
    except KeyboardInterrupt as interrupt:
        sentence = f"interrupted{'; ' if interrupt.args else ''}{''.join(interrupt.args)}."
        return _answer(name, sentence, interrupt, SIGNAL_BASE + signals[0] if signals else EXIT_INTERRUPTED)
    if result.get("faults"):  # `check` lists all faults in its result
        return EXIT_BAD_INPUT
    if result.get("drift"):
        return EXIT_DRIFT
    return EXIT_INCOMPLETE if result.get("complete") is False else EXIT_OK


def _print_json(result: Mapping[str, Any]) -> None:
    from mendiff.checkpoints.files import json_pieces  # imports torch

    for piece in json_pieces(result, "--json"):
        sys.stdout.write(piece)
    print()


def _answer(name: str, sentence: object, error: BaseException, code: int) -> int:
    message = " ".join([str(sentence), *getattr(error, "__notes__", [])])
    print(one_line(f"mendiff {name}: {message}"), file=sys.stderr)
    return code


def run(command: Command, given: Namespace) -> dict[str, Any]:
    """Run the command's workflow with the given options."""
    from importlib import import_module

    from mendiff.cli.terminal import Terminal  # imports rich

    values = {key: value for key, value in vars(given).items() if key in command.fields}
    command.check(values)
    # Pillow's warnings address programmers; mendiff warns about problematic files itself.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    if command.options.SETTINGS:
        values["settings"] = parse_settings(given.set or [])
    workflow = import_module(f"mendiff.workflows.{command.module}")
    result: dict[str, Any] = workflow.run(command.options(**values), Terminal(given.json))
    return result


def parse_settings(pairs: Sequence[Any]) -> dict[str, Any]:
    """Parse --set key=value pairs to {"key": value}. Values are YAML, so numbers and lists are typed.

    In a --config file `set` may also be a mapping. A mapping for a group of fields, such as training, changes
    only the fields that it names.
    """
    import yaml

    settings: dict[str, Any] = {}
    for pair in [pairs] if isinstance(pairs, str | Mapping | Namespace) else pairs:
        if isinstance(pair, Mapping | Namespace):
            settings.update(pair if isinstance(pair, Mapping) else pair.as_flat().__dict__)
            continue
        pair = str(pair)
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise InputError(f"--set: expected key=value such as training.steps=2000, got {pair!r}.")
        try:
            settings[key] = yaml.load(value, _with_plain_exponents())
        except yaml.YAMLError as error:
            raise InputError(
                f"--set {key}: expected a YAML value such as 3 or [1, 2], got {value!r}."
            ) from error
    return dict(_by_field(settings))


def _by_field(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Flatten groups of fields: {"training": {"steps": 3}} becomes training.steps."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and "." not in key:
            yield from ((f"{key}.{field}", item) for field, item in value.items())
        else:
            yield key, value


def _with_plain_exponents() -> Any:
    """YAML's safe loader that also reads 1e-4 as a number; YAML 1.1 requires 1.0e-4."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    number = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    return Loader


def build_parser(commands: Sequence[Command]) -> ArgumentParser:
    """The command line with some of its commands."""
    parser = Parser(
        prog="mendiff",
        description="Find defects with diffusion models that are trained on good images only.",
        epilog="Start with 'mendiff demo'. Help for a command: mendiff COMMAND --help. Exit codes: "
        "0 success, 1 failure, 2 bad input, 3 finished, but some images could not be read or drawn, 4 drift "
        "found by monitor, 130, 143 or 129 ended by Ctrl-C, SIGTERM or SIGHUP, 141 standard output was "
        "closed by its reader.",
        version=f"{__version__}\n",
    )
    subcommands = parser.add_subcommands(
        title="commands", metavar="COMMAND", dest="subcommand", required=False
    )
    for command in commands:
        subcommands.add_subcommand(command.name, _command_parser(command), help=command.summary)
    return parser


def _command_parser(command: Command) -> ArgumentParser:
    parser = Parser(
        prog=f"mendiff {command.name}",
        usage=command.usage,
        description=command.doc.partition("\n\nAttributes:")[0],
        epilog="examples:\n" + "\n".join(f"  {example}" for example in command.options.EXAMPLES),
        formatter_class=argparse.RawDescriptionHelpFormatter,  # type: ignore[arg-type]  # any formatter class works
        print_config=None,
    )
    command.fill(parser)
    return parser
