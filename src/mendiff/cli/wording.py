"""The parser's error messages, reworded for users."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection

KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "Path": "a path"}

# (pattern of the parser's message, our message); groups of the pattern are fields of our message.
SENTENCES = (
    (
        r"argument (?P<flag>\S+): expected (one|at least one) argument",
        "{flag}: expected a value after it, got none.",
    ),
    (
        r"argument (?P<flag>\S+): ignored explicit argument (?P<got>.+)",
        "{flag}: expected no value, got {got}.",
    ),
    (r"argument COMMAND: invalid choice: (?P<got>'.*?')", "expected a command ({commands}), got {got}."),
    (
        r'Parser key "config": File does not exist: .*',
        "--config: expected a YAML file, but there is no such file.",
    ),
    (r'Parser key "config": (?P<rest>.*)', "--config: expected a YAML file that can be read ({rest})."),
    (
        r"Problems parsing config: (?P<problem>.*?)(?:\n.*?line (?P<line>\d+).*)?$",
        "--config: expected YAML, but line {line} can't be read ({problem}).",
    ),
    (
        r"Unexpected config: .*",
        "--config: expected options and values such as 'seed: 3', got something else.",
    ),
)


def unknown(word: str, options: Collection[str]) -> str:
    """The message for an unknown option, with the most similar known option."""
    if not word.startswith("-"):
        return f"expected no further argument, got {word!r}."
    flag = word.partition("=")[0]
    close = difflib.get_close_matches(flag, options, n=1, cutoff=0.7)
    return f"unknown option {flag}" + (f"; did you mean {close[0]}?" if close else ".")


def reworded(message: str, options: Collection[str], commands: Collection[str]) -> str:
    """Reword the parser's message in one sentence.

    Args:
        message: the parser's message.
        options: the command's options, such as "--seed".
        commands: names of all commands.
    """
    found = re.match(r"Unrecognized arguments: (\S+)", message)
    if found:
        return unknown(found[1], options)
    found = re.search(r"does not accept option '(.*?)'", message)
    if found:
        return "--config: " + unknown("--" + found[1].replace("_", "-"), options).replace("option --", "key ")
    found = re.match(r'Key "(\w+)" not found', message)
    if found:
        return f"--config: expected keys with underscores, such as {found[1]}, got one with hyphens."
    found = re.match(
        r'Parser key "(?P<key>\w+)":\s+Expected a <class \'(.*\.)?(?P<kind>\w+)\'>. Got value: (?P<got>.*)',
        message,
    )
    if found:
        kind = KINDS.get(found["kind"], found["kind"])
        return f"--{found['key'].replace('_', '-')}: expected {kind}, got {found['got']!r}."
    for pattern, sentence in SENTENCES:
        found = re.match(pattern, message, re.DOTALL)
        if found:
            fields = {key: value or "1" for key, value in found.groupdict().items()}
            return sentence.format(**fields, commands=", ".join(commands))
    return " ".join(message.split())
