"""Documentation pages that are generated from the code: the command line reference."""

from __future__ import annotations

from typing import Any

from mkdocs.structure.files import File, Files

from mendiff.cli.command import COMMANDS, Command


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages."""
    files.append(File.generated(config, "cli.md", content=reference()))
    return files


def reference() -> str:
    """All commands with their options, defaults and examples, as Markdown."""
    return "# Command line\n\n" + "\n".join(section(command) for command in COMMANDS)


def section(command: Command) -> str:
    """The section of a command."""
    lines = [f"## mendiff {command.name}", "", command.doc.partition("\n\nAttributes:")[0], ""]
    lines += ["```text", command.usage, "```", "", "| option | default | |", "|---|---|---|"]
    for name, one in command.fields.items():
        written = name.upper() if one.metadata.get("argument") else command.flag(name)
        unsaid = name in command.required or one.default is None or one.default is False
        default = "" if unsaid else f"`{one.default}`"
        lines.append(f"| `{written}` | {default} | {command.texts[name].replace('|', chr(92) + '|')} |")
    if command.options.SETTINGS:
        lines.append(f"| `--set KEY=VALUE` | | change {command.options.SETTINGS}; may be repeated |")
    return "\n".join([*lines, "", "```bash", *command.options.EXAMPLES, "```", ""])
