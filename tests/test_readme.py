"""The README's Python examples run as they stand, on small data and a small network."""

import re
from pathlib import Path

import pytest
import torch

from mendiff.calibration import Calibration
from mendiff.images import save_png

README = Path(__file__).resolve().parents[1] / "README.md"


def example(name):
    found = re.search(rf"<!-- example: {name} -->\n```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert found, f"README.md has no example {name}"
    return found[1]


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A working folder with a.png, b.png and parts/ in MVTec layout."""
    rng = torch.Generator().manual_seed(0)
    places = ["a.png", "b.png"]
    places += [f"parts/train/good/{number}.png" for number in range(10)]
    places += [f"parts/test/{kind}/{number}.png" for kind in ("good", "scratch") for number in range(2)]
    for place in places:
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        save_png(
            torch.randint(0, 256, (40, 48, 3), generator=rng, dtype=torch.uint8).numpy(), tmp_path / place
        )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_inference_example(photos, tiny_method):
    from mendiff.checkpoints import store

    store.save(photos / "model", "glad", tiny_method(), Calibration((1.0, 1.1, 1.2), (1.0, 1.1, 1.2)), {})
    names = {}
    exec(example("inference"), names)
    assert names["found"].reconstruction.shape == (2, 3, 32, 32)
    assert names["defective"].shape == (2,)


def test_anomalib_example(photos, tiny_config, monkeypatch):
    import mendiff
    from mendiff.methods.glad import Glad

    small = tiny_config("glad", {"training.steps": 2})
    monkeypatch.setattr(Glad, "PRESETS", {"tiny": small})
    exec(example("anomalib"), {})
    model = mendiff.load(photos / "model")
    assert len(model.calibration.scores) == 4
    assert model.predict("a.png").score.isfinite().all()
