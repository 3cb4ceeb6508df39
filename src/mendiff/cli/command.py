"""Sub-commands and their parsers, generated from the options of the workflows."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser

from mendiff.errors import InputError
from mendiff.workflows.options import COMMANDS as OPTIONS
from mendiff.workflows.options import SHARED, Options

LARGEST = 2**63 - 1
"""Largest integer that torch accepts as a seed."""
METAVARS = {Path: "PATH", int: "N", float: "X"}
WRITTEN = {"models": "MODEL...", "images": "IMAGES...", "findings": "FINDINGS..."}


@dataclass(frozen=True)
class Command:
    """A sub-command. The module of the same name in mendiff.workflows implements it."""

    options: type[Options]

    @property
    def module(self) -> str:
        """Name of its module in mendiff.workflows."""
        return re.sub(r"(?<!^)([A-Z])", r"_\1", self.options.__name__.removesuffix("Options")).lower()

    @property
    def name(self) -> str:
        """Name as the user types it."""
        return self.module.replace("_", "-")

    @cached_property
    def doc(self) -> str:
        """Docstring of the options."""
        return inspect.getdoc(self.options) or ""

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return self.doc.splitlines()[0]

    @cached_property
    def fields(self) -> dict[str, Field[Any]]:
        """Options by name, without --set."""
        return {field.name: field for field in fields(self.options) if field.name != "settings"}

    @cached_property
    def kinds(self) -> dict[str, Any]:
        """Types of the options, without None."""
        hints = get_type_hints(self.options)
        return {name: _without_none(hints[name]) for name in self.fields}

    @cached_property
    def texts(self) -> dict[str, str]:
        """Help texts from the docstring's Attributes (continuation lines are indented) or from SHARED."""
        entries = re.split(r"\n {4}(?! )", self.doc.partition("Attributes:")[2])[1:]
        pairs = (" ".join(entry.split()).partition(": ") for entry in entries)
        documented = {name: text.rstrip(".") for name, _, text in pairs}
        return {name: documented[name] if name in documented else SHARED[name] for name in self.fields}

    def flag(self, name: str) -> str:
        """An option as the user types it."""
        flag: str = self.fields[name].metadata.get("flag", "--" + name.replace("_", "-"))
        return flag

    @property
    def required(self) -> list[str]:
        """Required options, positional ones first."""
        needed = [name for name, field in self.fields.items() if field.default is MISSING]
        return sorted(needed, key=lambda name: name == "out")

    @property
    def usage(self) -> str:
        """Usage in one line."""
        named = [field for field in self.fields.values() if field.metadata.get("argument")]
        written = [WRITTEN.get(field.name, field.name.upper()) for field in named]
        shown = [
            text if field.default is MISSING else f"[{text}]"
            for field, text in zip(named, written, strict=True)
        ]
        out = ["-o DIR"] if "out" in self.required else []
        return " ".join(["mendiff", self.name, *shown, *out, "[options]"])

    def fill(self, parser: ArgumentParser) -> None:
        """Add all options to a parser."""
        for name, field in self.fields.items():
            self._add(parser, name, field)
        if self.options.SETTINGS:
            text = f"change {self.options.SETTINGS}; may be repeated"
            parser.add_argument("--set", action="append", metavar="KEY=VALUE", help=text)
        parser.add_argument(
            "--json", action="store_true", help="print a single JSON object on standard output"
        )
        parser.add_argument(
            "--config",
            action="config",
            metavar="FILE",
            help="a YAML file with any of these options, such as 'image_size: 256'",
        )
        parser.required_args.clear()  # `check` reports missing options in the order of the usage

    def _add(self, parser: ArgumentParser, name: str, field: Field[Any]) -> None:
        """Add an option: a flag for a boolean, several values for a list."""
        kind, text, flag = self.kinds[name], self.texts[name], self.flag(name)
        default = None if field.default is MISSING else field.default
        if field.metadata.get("argument"):
            several = get_origin(kind) is tuple
            nargs = "+" if several else None if field.default is MISSING else "?"
            of = get_args(kind)[0] if several else kind
            parser.add_argument(name, type=of, help=text, metavar=name.upper(), nargs=nargs)
        elif default is False:
            parser.add_argument(flag, action="store_true", help=text)
        elif get_origin(kind) is list:
            parser.add_argument(flag, type=get_args(kind)[0], nargs="+", help=text, metavar="NAME")
        else:
            text = text if default is None else f"{text} (default: {default})"
            is_out = name == "out"
            flags, metavar = (("-o", flag), "DIR") if is_out else ((flag,), METAVARS.get(kind, "NAME"))
            parser.add_argument(*flags, dest=name, type=kind, default=default, help=text, metavar=metavar)

    def check(self, given: Mapping[str, Any]) -> None:
        """Refuse missing options, non-boolean values for flags, and integers beyond 64 bits."""
        for name in self.required:
            if given[name] is None:
                written = "-o/--out DIR" if name == "out" else name.upper()
                raise InputError(f"expected {written}, {self.texts[name]}; usage: {self.usage}")
        for name, value in given.items():
            flag = self.flag(name)
            if self.fields[name].default is False and not isinstance(value, bool):
                raise InputError(f"{flag}: expected true or false, got {value!r}.")
            if isinstance(value, int) and abs(value) > LARGEST:
                raise InputError(f"{flag}: expected a whole number of at most 18 digits, got {value}.")


def _without_none(hint: Any) -> Any:
    """Return X for X | None, and any other type unchanged."""
    kinds = get_args(hint)
    return next(kind for kind in kinds if kind is not type(None)) if type(None) in kinds else hint


COMMANDS = tuple(map(Command, OPTIONS))
