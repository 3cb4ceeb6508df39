import pytest
import torch
from safetensors.torch import save_file


@pytest.fixture(autouse=True)
def few_slow_parts(monkeypatch):
    """Two parts of the demo instead of a hundred."""
    monkeypatch.setattr("tools.scenes.PARTS", 2)


@pytest.fixture(scope="session")
def teacher_weights(tmp_path_factory):
    """Random weights of a small network of the teacher's family, its norms as if they were folded."""
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model("mobilenetv2_035", pretrained=False, features_only=True)
    path = tmp_path_factory.mktemp("teacher") / "mobilenetv2_035.safetensors"
    save_file(network.state_dict(), path)
    return path
