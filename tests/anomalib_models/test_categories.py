"""Several categories as one data module, with our models and with anomalib's."""

import numpy as np
import pytest
import torch
from anomalib.data import Folder, MVTecAD
from anomalib.engine import Engine
from anomalib.models import Padim
from PIL import Image

from mendiff.anomalib_models import Categories, Diad
from mendiff.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore")


def draw(folder, count, level):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(level)
    for number in range(count):
        picture = rng.integers(level, level + 20, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / f"{number}.png")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two categories in MVTec layout, one with three times the images of the other."""
    root = tmp_path_factory.mktemp("parts")
    for name, count, level in (("bolt", 4, 20), ("nut", 12, 180)):
        draw(root / name / "train/good", count, level)
        draw(root / name / "test/good", 2, level + 1)
        draw(root / name / "test/hole", 2, level + 2)
        (root / name / "ground_truth/hole").mkdir(parents=True)
        for number in range(2):
            mask = np.zeros((32, 32), np.uint8)
            mask[4:9, 4:9] = 255
            Image.fromarray(mask).save(root / name / f"ground_truth/hole/{number}_mask.png")
    return root


def categories_drawn(data):
    return [name for batch in data.train_dataloader() for name in batch.category]


def test_every_item_and_batch_knows_its_category(root):
    data = Categories.from_folder(root, train_batch_size=3, eval_batch_size=5)
    data.setup()
    assert sorted(categories_drawn(data)) == ["bolt"] * 4 + ["nut"] * 12
    items = [data.test_data[number] for number in range(len(data.test_data))]
    assert [item.category for item in items] == ["bolt"] * 4 + ["nut"] * 4
    assert all(item.category in item.image_path for item in items)
    batch = next(iter(data.test_dataloader()))
    assert batch.category == ["bolt"] * 4 + ["nut"]
    assert batch.gt_mask.shape == (5, 32, 32)
    assert [item.category for item in batch] == batch.category


def test_modules_of_any_data_set_can_be_joined(root):
    data = Categories({name: MVTecAD(root=root, category=name) for name in ("bolt", "nut")})
    data.setup()
    assert len(data.train_data) == 16
    assert {item.category for item in (data.train_data[0], data.train_data[15])} == {"bolt", "nut"}


def test_categories_are_drawn_equally_often_if_asked(root):
    data = Categories.from_folder(root, balance="category", train_batch_size=4)
    data.setup()
    drawn = [name for _ in range(20) for name in categories_drawn(data)]
    assert abs(drawn.count("bolt") / len(drawn) - 0.5) < 0.1


def test_ours_and_anomalibs_models_learn_from_it(root, tmp_path, tiny_config):
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "default_root_dir": tmp_path,
        "accelerator": "cpu",
    }
    ours = Diad(tiny_config("diad", {"training.steps": 2, "training.batch_size": 4}), visualizer=False)
    theirs = Padim(backbone="resnet18", layers=["layer1"], pre_trained=False, n_features=4, visualizer=False)
    for model in (ours, theirs):
        data = Categories.from_folder(root, train_batch_size=16, eval_batch_size=8)
        engine = Engine(max_epochs=1, **quiet)
        engine.fit(model, datamodule=data)
        found = engine.predict(model, datamodule=data, return_predictions=True)
        assert [name for batch in found for name in batch.category] == ["bolt"] * 4 + ["nut"] * 4
        assert all(bool(torch.as_tensor(batch.pred_score).isfinite().all()) for batch in found)


def test_what_cannot_be_joined_is_said(root, tmp_path):
    with pytest.raises(InputError, match="parts: expected at least one data module, got none"):
        Categories({})
    with pytest.raises(InputError, match="balance: expected one of image, category, got 'x'"):
        Categories({"bolt": Folder("bolt", root=root / "bolt", normal_dir="train/good")}, balance="x")
