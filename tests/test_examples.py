"""The notebooks in examples/ run from top to bottom, on few and small pictures."""

import json
from functools import partial
from pathlib import Path

import matplotlib
import pytest

from mendiff.demo import data
from mendiff.methods.base import METHODS
from mendiff.methods.glad import Glad

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "examples").glob("*.ipynb"))


def test_there_are_notebooks():
    assert {one.stem for one in NOTEBOOKS} == {"own-photos", "benchmark", "adding-a-method"}


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda one: one.stem)
def test_notebook_runs(notebook, tmp_path, monkeypatch, tiny_config, one_process):
    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "DemoConfig", partial(data.DemoConfig, size=64, n_train=10, n_defective=6))
    monkeypatch.setattr(Glad, "PRESETS", {"tiny": tiny_config("glad", {"training.steps": 2})})
    names = {"__name__": notebook.stem}
    try:
        for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
            assert not cell.get("outputs"), "outputs are cleared"
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), notebook.name, "exec"), names)
    finally:
        METHODS.pop("mean", None)
