"""The command line, `mendiff COMMAND`.

This file only reads arguments; which there are is said in `mendiff.commands.catalogue`. What a command does
is in its file in `mendiff.commands`, imported when it runs, so that `mendiff --help` needs no torch.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin

from jsonargparse import ArgumentParser, Namespace

from mendiff import __version__
from mendiff.commands.catalogue import COMMANDS, Command
from mendiff.commands.ending import (
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
    one_line,
    told_of,
)
from mendiff.commands.heap import keep_freed_memory
from mendiff.errors import InputError

LARGEST = 2**63 - 1
"""Whole number that torch takes as a seed."""
OUT_OF_MEMORY = re.compile(r"MemoryError|out of memory|can't allocate memory", re.IGNORECASE)
LESS_MEMORY = (
    "there is not enough memory; choose a smaller --image-size or --batch-size, or for a fit "
    "--set training.accumulate=N (parts of a batch one after another) or --set training.checkpointing=true; "
    "'mendiff plan' says what fits."
)


class Parser(ArgumentParser):
    """Answers a slip with one sentence instead of all options."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        from mendiff.commands.wording import plain

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


def run(command: Command, options: Namespace) -> dict[str, Any]:
    """Hand the options over to the command's room in mendiff.commands."""
    from importlib import import_module

    for dest, written, text in command.required:
        if options[dest] is None:
            raise InputError(f"expected {written}, {text}; usage: {command.usage}")
    keep_freed_memory()
    # What Pillow says of odd files to programmers; what a person should know of a file is our own warning.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    room = import_module(f"mendiff.commands.{command.room or command.function.__name__}")
    given = {key: value for key, value in vars(options).items() if key not in ("config", "json", "set")}
    _check_values(command, given)
    if command.settings:
        given["settings"] = parse_settings(options.set or [])
    result: dict[str, Any] = room.run(**given, quiet=options.json)
    return result


def _check_values(command: Command, given: Mapping[str, Any]) -> None:
    """Refuse what the parser lets pass: words for flags in a config file, and numbers beyond 64 bits."""
    parameters = inspect.signature(command.function, eval_str=True).parameters
    for name, value in given.items():
        flag = "--" + name.replace("_", "-")
        if name in parameters and parameters[name].default is False and not isinstance(value, bool):
            raise InputError(f"{flag}: expected true or false, got {value!r}.")
        if isinstance(value, int) and abs(value) > LARGEST:
            raise InputError(f"{flag}: expected a whole number of at most 18 digits, got {value}.")


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
    """The whole command line, from COMMANDS and the signatures of their functions."""
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
        description=command.description,
        epilog="examples:\n" + "\n".join(f"  {example}" for example in command.examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,  # type: ignore[arg-type]  # a plain one serves
        print_config=None,
    )
    for name, text in command.arguments:
        nargs = "+" if name in ("models", "images") else "?" if name in command.optional else None
        parser.add_argument(name, type=Path, help=text, metavar=name.upper(), nargs=nargs)
    if command.output:
        default = Path(command.place) if command.place else None
        text = f"{command.output} (default: {default})" if default else command.output
        parser.add_argument("-o", "--out", type=Path, help=text, metavar="DIR", default=default)
    for parameter in inspect.signature(command.function, eval_str=True).parameters.values():
        _add_option(parser, parameter, _help_texts(command.function)[parameter.name])
    if command.settings:
        text = f"change {command.settings}; may be repeated"
        parser.add_argument("--set", action="append", metavar="KEY=VALUE", help=text)
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object on standard output, nothing else"
    )
    parser.add_argument(
        "--config",
        action="config",
        metavar="FILE",
        help="a YAML file with any of these options, such as 'image_size: 256'",
    )
    parser.required_args.clear()  # `run` says what is missing, in the order of the usage
    return parser


def _add_option(parser: ArgumentParser, parameter: inspect.Parameter, text: str) -> None:
    """One keyword of a command's function as an option: flags for booleans, several values for lists."""
    flag, default = "--" + parameter.name.replace("_", "-"), parameter.default
    flags = ("-o", flag) if parameter.name == "out" else (flag,)
    if default is False:
        parser.add_argument(*flags, action="store_true", help=text)
        return
    kinds = [kind for kind in get_args(parameter.annotation) if kind is not type(None)] or [
        parameter.annotation
    ]
    if default is not None:
        text = f"{text} (default: {default})"
    if get_origin(kinds[0]) is list:
        parser.add_argument(*flags, type=get_args(kinds[0])[0], nargs="+", help=text, metavar="NAME")
    else:
        metavar = {Path: "PATH", int: "N", float: "SHARE"}.get(kinds[0], "NAME")
        parser.add_argument(*flags, type=kinds[0], default=default, help=text, metavar=metavar)


def _help_texts(function: Callable[..., Any]) -> dict[str, str]:
    """The Args section of a docstring by parameter."""
    section = (inspect.getdoc(function) or "").partition("Args:")[2]
    entries = re.split(r"\n {4}(?! )", section)[1:]  # an entry's further lines stand deeper
    pairs = (" ".join(entry.split()).partition(": ") for entry in entries)
    return {name: text.rstrip(".") for name, _, text in pairs}


if __name__ == "__main__":
    sys.exit(main())
