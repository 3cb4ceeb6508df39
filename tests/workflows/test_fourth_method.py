"""A further method: one file and one line."""

import json

import numpy as np
import pytest
from anomalib.models import get_model
from PIL import Image

from mendiff.anomalib_models import MethodModule, module_class
from mendiff.methods.base import METHODS, find_method
from mendiff.workflows.bench import chosen_rows

pytestmark = pytest.mark.filterwarnings(r"ignore:::lightning\..*")

FOO = """
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from mendiff.methods.base import Method, MethodConfig, TrainingConfig
from mendiff.types import Detection


@dataclass(frozen=True)
class FooConfig(MethodConfig):
    strength: float = 1.0


PRESETS = {"tiny": FooConfig(image_size=32, training=TrainingConfig(steps=2, batch_size=2))}


class Foo(Method):
    Config: ClassVar = FooConfig
    PRESETS: ClassVar = PRESETS
    SEARCHED: ClassVar = {"strength": [1.0, 3.0]}
    DEMO: ClassVar = {"training.steps": 1}

    def __init__(self, config):
        super().__init__(config)
        self.mean = nn.Parameter(torch.zeros(1, 3, 1, 1))

    def training_loss(self, image, rng):
        return (image - self.mean).square().mean()

    def predict(self, image, seeds):
        found = self.config.strength * (image - self.mean).abs().amax(1, keepdim=True)
        rebuilt = self.mean.clamp(0, 1).expand_as(image)
        return Detection(found.flatten(1).amax(1), found, rebuilt, torch.zeros_like(seeds))
"""


def test_fourth_method_is_one_file_and_one_line(run, data, tmp_path, monkeypatch):
    (tmp_path / "foo_method.py").write_text(FOO)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(METHODS, "foo", "foo_method:Foo")
    model = tmp_path / "model"
    code, out, err = run("fit", data, "-o", model, "--method", "foo", "--set", "strength=2.0", "--json")
    assert code == 0, err
    assert json.loads(out)["config"]["strength"] == 2.0
    code, out, err = run("predict", model, data / "test", "-o", tmp_path / "found", "--json")
    assert code == 0, err
    assert len(json.loads(out)["images"]) == 4
    code, out, err = run("evaluate", model, data, "--json")
    assert code == 0, err
    assert json.loads(out)["mean"]["image_auroc"] == 1.0  # white squares are far from any mean
    good = tmp_path / "good"
    good.mkdir()
    for index in range(44):  # six are held back, three to calibrate by and three to compare on
        Image.fromarray(np.full((32, 32, 3), 100 + index, np.uint8)).save(good / f"{index}.png")
    assert run("fit", good, "-o", tmp_path / "plain", "--method", "foo")[0] == 0
    code, out, err = run("tune", tmp_path / "plain", good, "-o", tmp_path / "tuned", "--json")
    assert code == 0, err
    assert {trial["field"] for trial in json.loads(out)["trials"]} == {"strength"}
    assert "foo" in {row.method for row in chosen_rows(None, None, None, {})[0]}
    assert issubclass(module_class("foo"), MethodModule)
    assert isinstance(get_model("foo"), MethodModule)
    assert find_method("foo").DEMO == {"training.steps": 1}
