"""What training with FSDP needs of one process alone; test_processes.py has the real ones."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mendiff.anomalib_models import Glad
from mendiff.anomalib_models.fsdp import Sharded


@pytest.mark.parametrize(
    ("precision", "computed_in"), [("bf16-mixed", torch.bfloat16), ("32-true", torch.float32)]
)
def test_half_precision_is_computed_on_the_device_of_training(precision, computed_in):
    computing = Sharded(precision, "cpu").precision_plugin
    with computing.forward_context():
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype is computed_in


def test_images_go_to_the_device_of_training(tiny_config, monkeypatch):
    """Lightning leaves a module's own device at "cpu" where FSDP moves its weights."""
    strategy = SimpleNamespace(root_device=torch.device("meta"))
    monkeypatch.setattr(Glad, "trainer", SimpleNamespace(strategy=strategy), raising=False)
    assert Glad(tiny_config())._resize(SimpleNamespace(image=torch.zeros(1, 3, 32, 32))).device.type == "meta"
