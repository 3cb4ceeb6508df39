"""The command line, `mendiff COMMAND`.

Options are those of `mendiff.workflows.options`. What a command does is in its file in `mendiff.workflows`,
imported when it runs, so that `mendiff --help` needs no torch.
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
    EXIT_FAILED,
    EXIT_INCOMPLETE,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_PIPE_CLOSED,
    READER_GONE,
    SIGNALLED,
    flushed,
    interruptible,
    told_of,
)
from mendiff.cli.heap import keep_freed_memory
from mendiff.errors import InputError
from mendiff.workflows.reporting import one_line

OUT_OF_MEMORY = re.compile(r"MemoryError|out of memory|can't allocate memory", re.IGNORECASE)
LESS_MEMORY = (
    "there is not enough memory; choose a smaller --image-size or --batch-size, or for a fit "
    "--set training.accumulate=N (parts of a batch one after another) or --set training.checkpointing=true; "
    "'mendiff plan' says what fits."
)


class Parser(ArgumentParser):
    """Answers a slip with one sentence instead of all options."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        from mendiff.cli.wording import plain

        parser = getattr(ex, "subcommand_parser", None) or self
        name = parser.prog.replace(" [options]", "")
        flags = [flag for flag in parser._option_string_actions if flag.startswith("--")]
        sentence = plain(message, flags, [command.name for command in COMMANDS])
        self.exit(EXIT_BAD_INPUT, f"{name}: {sentence} See '{name} --help'.\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code.

    0 well; 1 failed; 2 bad input; 3 done, but not for all images; 130, 143 or 129 ended by Ctrl-C, SIGTERM or
    SIGHUP; 141 the reader of standard output went away.
    """
    READER_GONE.clear()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # names of files may hold what the terminal can't show
            stream.reconfigure(errors="backslashreplace")
    try:
        with interruptible() as signals:
            code = _main(list(sys.argv[1:] if argv is None else argv), signals)
    except BrokenPipeError:
        code = EXIT_PIPE_CLOSED
    return code if flushed() else EXIT_PIPE_CLOSED


def _main(argv: list[str], signals: Sequence[int]) -> int:
    parser = build_parser()
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as end:
        return int(end.code or EXIT_OK)
    except UnicodeDecodeError:
        print("mendiff: --config: expected a YAML file in UTF-8, got another kind of file.", file=sys.stderr)
        return EXIT_BAD_INPUT
    name = arguments.subcommand
    if name is None:
        parser.print_help(sys.stderr)
        return EXIT_BAD_INPUT
    command = next(one for one in COMMANDS if one.name == name)
    try:
        result = run(command, arguments[name])
        # Of several processes only the first has a result.
        printed = _as_json(result) if arguments[name].json and result else ""
    except InputError as error:
        return _answer(name, error, error, EXIT_BAD_INPUT)
    except BrokenPipeError:
        raise
    except OSError as error:
        return _answer(name, told_of(error, getattr(arguments[name], "out", None)), error, EXIT_FAILED)
    except (MemoryError, RuntimeError) as error:
        if not OUT_OF_MEMORY.search(f"{type(error).__name__} {error}"):
            raise
        return _answer(name, LESS_MEMORY, error, EXIT_FAILED)
    except KeyboardInterrupt as interrupt:
        told = f"interrupted{'; ' if interrupt.args else ''}{''.join(interrupt.args)}."
        return _answer(name, told, interrupt, SIGNALLED + signals[0] if signals else EXIT_INTERRUPTED)
    if printed:
        print(printed)
    if result.get("faults"):  # `check` tells of all faults in its result
        return EXIT_BAD_INPUT
    return EXIT_INCOMPLETE if result.get("complete") is False else EXIT_OK


def _as_json(result: Mapping[str, Any]) -> str:
    from mendiff.checkpoints.files import as_json  # brings torch

    return as_json(result, "--json")


def _answer(name: str, sentence: object, error: BaseException, code: int) -> int:
    told = " ".join([str(sentence), *getattr(error, "__notes__", [])])
    print(one_line(f"mendiff {name}: {told}"), file=sys.stderr)
    return code


def run(command: Command, given: Namespace) -> dict[str, Any]:
    """Hand the options over to the command's workflow."""
    from importlib import import_module

    from mendiff.cli.terminal import Terminal  # brings rich

    values = {key: value for key, value in vars(given).items() if key in command.fields}
    command.check(values)
    keep_freed_memory()
    # What Pillow says of odd files to programmers; what a person should know of a file is our own warning.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    if command.options.SETTINGS:
        values["settings"] = parse_settings(given.set or [])
    workflow = import_module(f"mendiff.workflows.{command.module}")
    result: dict[str, Any] = workflow.run(command.options(**values), Terminal(given.json))
    return result


def parse_settings(pairs: Sequence[Any]) -> dict[str, Any]:
    """--set key=value pairs as {"key": value}; values are YAML, so numbers and lists come as such.

    In a --config file `set` may also be a mapping. A mapping for a group of fields, such as training, changes
    the fields that it names.
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
    """Settings with the fields of a group one by one: {"training": {"steps": 3}} as training.steps."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and "." not in key:
            yield from ((f"{key}.{field}", one) for field, one in value.items())
        else:
            yield key, value


def _with_plain_exponents() -> Any:
    """YAML's safe loader, but 1e-4 is a number as everywhere else; YAML 1.1 wants 1.0e-4."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    number = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    return Loader


def build_parser() -> ArgumentParser:
    """The whole command line."""
    parser = Parser(
        prog="mendiff",
        description="Find defects with diffusion models that learned from good images only.",
        epilog="Start with 'mendiff demo'. Help for a command: mendiff COMMAND --help. Exit codes: 0 well, "
        "1 failed, 2 bad input, 3 done, but some images could not be read or drawn, 130, 143 or 129 ended by "
        "Ctrl-C, SIGTERM or SIGHUP, 141 nobody reads standard output any more.",
        version=f"{__version__}\n",
    )
    subcommands = parser.add_subcommands(
        title="commands", metavar="COMMAND", dest="subcommand", required=False
    )
    for command in COMMANDS:
        subcommands.add_subcommand(command.name, _command_parser(command), help=command.summary)
    return parser


def _command_parser(command: Command) -> ArgumentParser:
    parser = Parser(
        prog=f"mendiff {command.name}",
        usage=command.usage,
        description=command.doc.partition("\n\nAttributes:")[0],
        epilog="examples:\n" + "\n".join(f"  {example}" for example in command.options.EXAMPLES),
        formatter_class=argparse.RawDescriptionHelpFormatter,  # type: ignore[arg-type]  # a plain one serves
        print_config=None,
    )
    command.fill(parser)
    return parser
