"""Reference values of the published code: a folder named by MENDIFF_PARITY, by default beside the project."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

DEFAULT = Path(__file__).resolve().parents[3] / "shared" / "parity"


@dataclass(frozen=True)
class Group:
    """One group of reference values: named tensors and what the authors of the file say about them."""

    tensors: dict[str, torch.Tensor]
    notes: dict[str, Any]

    def under(self, prefix: str) -> dict[str, torch.Tensor]:
        """The tensors below a prefix, without it."""
        return {key[len(prefix) :]: value for key, value in self.tensors.items() if key.startswith(prefix)}


@pytest.fixture(scope="session")
def reference_file():
    """Find a file by name ("glad/training.json"), or skip where there are no reference values."""
    root = Path(os.environ.get("MENDIFF_PARITY", DEFAULT))

    def find(name: str) -> Path:
        if not (root / name).is_file():
            pytest.skip(f"no reference values: {name} is not below {root} (set MENDIFF_PARITY)")
        return root / name

    return find


@pytest.fixture(scope="session")
def reference_group(reference_file):
    """Read a group by name ("glad/training"), or skip where there are no reference values."""

    def read(name: str) -> Group:
        notes = json.loads(reference_file(f"{name}.json").read_text())
        return Group(load_file(reference_file(f"{name}.safetensors")), notes)

    return read
