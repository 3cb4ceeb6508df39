"""The command line."""

from mendiff.cli.app import main

__all__ = ["main"]
