"""Fitted models under other settings, of one category where they were opened for one."""

import pytest

import mendiff
from mendiff.checkpoints.store import load
from mendiff.data.images import save_png, to_picture
from mendiff.methods.config import config_to_dict
from mendiff.runs.variants import variant


@pytest.fixture(scope="module")
def parts(tmp_path_factory, pictures):
    """Two categories of ten good images each."""
    root = tmp_path_factory.mktemp("parts")
    for number, name in enumerate(("bolt", "nut")):
        for index in range(10):
            place = root / f"{name}/train/good/{index}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            save_png(to_picture(pictures[index % 4] * (1 - 0.03 * index) * (1 - 0.2 * number)), place)
    return root


def test_a_model_that_was_opened_for_a_category_is_calibrated_by_its_images_alone(
    parts, tiny_config, tmp_path
):
    config = config_to_dict(tiny_config("glad"))
    settings = {
        key: config[key] for key in ("image_size", "crop", "codec", "denoiser", "features", "readout")
    }
    settings |= {"training.steps": 2}
    mendiff.fit(parts, tmp_path / "model", statistics="category", settings=settings)
    fitted = load(tmp_path / "model", "cpu", "nut")
    changed = variant(fitted, {"start_timesteps": [100]}, sorted((parts / "nut/train/good").iterdir()))
    assert changed.category == "nut"
    assert len(changed.calibration.scores) == len(fitted.calibration.scores)
    assert changed.calibration.scores != fitted.calibration.scores
    back = variant(changed, {"start_timesteps": [50, 200]}, sorted((parts / "nut/train/good").iterdir()))
    assert back.calibration.scores == fitted.calibration.scores
