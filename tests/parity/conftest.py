"""Reference values of the published code: what a file holds, and what parameters its notes give to tests.

They come from the folder that MENDIFF_PARITY names; otherwise from the whole set beside the project, where
there is one; otherwise from `values`, a small part of that set, which leaves some tests skipped.
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

BESIDE = Path(__file__).resolve().parents[3] / "shared" / "parity"
COMMITTED = Path(__file__).resolve().parent / "values"


class Notes(dict[str, Any]):
    """What the makers of a file say about it; what a test needs and they don't say fails by its name."""

    def __missing__(self, key: str) -> Any:
        pytest.fail(f"the notes of the reference values lack {key!r}; they have {', '.join(map(str, self))}")


class Tensors(dict[str, torch.Tensor]):
    """The values by name; one that is missing fails by its name, or skips in a file that is a part."""

    def __init__(self, tensors: dict[str, torch.Tensor], whole: bool) -> None:
        super().__init__(tensors)
        self.whole = whole

    def __missing__(self, key: str) -> torch.Tensor:
        if self.whole:
            pytest.fail(f"the reference values lack the tensor {key!r}")
        pytest.skip(f"{key!r} is not in the part that is kept here (set MENDIFF_PARITY to the whole set)")


@dataclass(frozen=True)
class Group:
    """One group of reference values: named tensors and what the authors of the file say about them."""

    tensors: Tensors
    notes: Notes

    def under(self, prefix: str) -> dict[str, torch.Tensor]:
        """The tensors below a prefix, without it; at least one."""
        found = {key[len(prefix) :]: value for key, value in self.tensors.items() if key.startswith(prefix)}
        return found or {"": self.tensors[prefix]}

    def tolerance(self, name: str) -> dict[str, float]:
        """What the notes allow for values of a name, as arguments of assert_close."""
        stated = self.notes["tolerances"][name]
        numbers = {kind: re.search(rf"{kind} ([\d.e+-]*\d)", stated) for kind in ("rtol", "atol")}
        if not any(numbers.values()):
            pytest.fail(f"the notes state no tolerance for {name!r} (atol NUMBER, rtol NUMBER): {stated!r}")
        return {kind: float(found[1]) if found else 0.0 for kind, found in numbers.items()}


def folder_of_values() -> Path:
    """Where the reference values come from."""
    named = os.environ.get("MENDIFF_PARITY")
    if named:
        return Path(named)
    return BESIDE if BESIDE.is_dir() else COMMITTED


def read_notes(name: str) -> Notes | None:
    """The notes of a group, or None where there is no such group."""
    path = folder_of_values() / f"{name}.json"
    return json.loads(path.read_text(), object_hook=Notes) if path.is_file() else None


def adaptive_scenarios(notes: Notes) -> list[str]:
    """GLAD's walks with adaptive steps from the common start: by their notes."""
    facts = {name: one for name, one in notes["scenarios"].items() if isinstance(one, dict)}
    return [
        name for name, one in facts.items() if one.get("input_threshold") and "instance_data_dir" not in one
    ]


def map_variants(notes: Notes) -> list[str]:
    """GLAD's maps: every variant but the comparison of batches."""
    return [name for name in notes["variants"] if not name.endswith(BATCHES)]


BATCHES = "_batch_dependence"
STATED = {
    "glad_scenario": ("glad/reconstruction", adaptive_scenarios),
    "glad_variant": ("glad/anomaly_map", map_variants),
    "glad_batches": (
        "glad/anomaly_map",
        lambda notes: [
            (name.removesuffix(BATCHES), split)
            for name, splits in notes["variants"].items()
            if name.endswith(BATCHES)
            for split in splits
        ],
    ),
    "diad_scenario": (
        "diad/g2_testpath",
        lambda notes: [name for name, one in notes["meta"].items() if isinstance(one, dict)],
    ),
    "diad_class": ("diad/g3_anomaly", lambda notes: list(notes["values"]["classes"])),
}
"""Parameters of tests by name: the group whose notes list them, and how."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give tests the parameters that the notes list; without notes, one that the test skips by itself."""
    for name, (group, listed) in STATED.items():
        if name in metafunc.fixturenames:
            notes = read_notes(group)
            metafunc.parametrize(name, listed(notes) if notes else [None])


@pytest.fixture(scope="session")
def reference_file():
    """Find a file by name ("glad/training.json"), or skip where there are no reference values."""
    root = folder_of_values()

    def find(name: str) -> Path:
        if not (root / name).is_file():
            pytest.skip(f"no reference values: {name} is not below {root} (set MENDIFF_PARITY)")
        return root / name

    return find


@pytest.fixture(scope="session")
def reference_group(reference_file):
    """Read a group by name ("glad/training"), or skip where there are no reference values."""

    def read(name: str) -> Group:
        notes = json.loads(reference_file(f"{name}.json").read_text(), object_hook=Notes)
        tensors = load_file(reference_file(f"{name}.safetensors"))
        return Group(Tensors(tensors, "part" not in notes), notes)

    return read


@pytest.fixture(scope="session")
def stated_schedule():
    """The schedule that a group's notes state, by diffusers' names of its settings."""
    from mendiff.diffusion.schedule import linear_schedule, scaled_linear_schedule

    def make(stated):
        if stated["steps_offset"] != 1 or stated["clip_sample"]:
            pytest.fail(f"expected steps_offset 1 and no clipping, as the published code has, got {stated}")
        table = stated["num_train_timesteps"], stated["beta_start"], stated["beta_end"]
        if stated["beta_schedule"] == "scaled_linear":
            return scaled_linear_schedule(*table, end_clean=stated["set_alpha_to_one"])
        if stated["beta_schedule"] != "linear" or not stated["set_alpha_to_one"]:
            pytest.fail(f"expected a scaled_linear schedule, or a linear one that ends clean, got {stated}")
        return linear_schedule(*table)

    return make
