"""What anomalib asks of its own models, asked of ours: its Engine at its defaults, five training images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import MVTecAD
from anomalib.deploy import ExportType, TorchInferencer
from anomalib.engine import Engine
from anomalib.models import get_model

from mendiff.anomalib_models import module_class, quiet
from mendiff.data.images import save_png

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:::lightning\..*"),
    pytest.mark.filterwarnings(r"ignore:::torchmetrics\..*"),
]
NAMES = ("glad", "diad", "ran")
CHECKPOINT = "weights/lightning/model.ckpt"


def part(rng, side, defect=False):
    image = np.full((side, side, 3), 120, np.uint8) + rng.integers(0, 20, (side, side, 3), dtype=np.uint8)
    if defect:
        image[side // 4 : side // 2, side // 4 : side // 2] = 255
    return image


def draw(root, side):
    """A category in MVTec-AD's layout: five good images to train on, and five of each kind to test on."""
    rng = np.random.default_rng(0)
    mask = np.zeros((side, side, 3), np.uint8)
    mask[side // 4 : side // 2, side // 4 : side // 2] = 255
    for number in range(5):
        for place, picture in (
            ("train/good", part(rng, side)),
            ("test/good", part(rng, side)),
            ("test/bad", part(rng, side, defect=True)),
            ("ground_truth/bad", mask),
        ):
            name = f"{number:03}_mask.png" if place.startswith("ground_truth") else f"{number:03}.png"
            (root / "dummy" / place).mkdir(parents=True, exist_ok=True)
            save_png(picture, root / "dummy" / place / name)
    return root


def engine(root):
    quiet()
    return Engine(
        default_root_dir=root,
        max_epochs=1,
        devices=1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = draw(tmp_path_factory.mktemp("mvtecad"), 32)
    return lambda: MVTecAD(root=root, category="dummy", num_workers=0)


@pytest.fixture
def make(tiny_config):
    """A fresh model with networks for tests; everything else is at its defaults."""
    return lambda name: module_class(name)(tiny_config(name))


@pytest.fixture(scope="module", params=NAMES)
def fitted(request, tiny_config, data, tmp_path_factory):
    """(name, checkpoint, model) of every method, fitted to five images for one epoch."""
    root = tmp_path_factory.mktemp(request.param)
    model = module_class(request.param)(tiny_config(request.param))
    engine(root).fit(model=model, datamodule=data())
    (checkpoint,) = (path for path in root.rglob(CHECKPOINT) if not path.parents[2].is_symlink())
    return request.param, checkpoint, model


def test_fit_ends_with_thresholds(fitted):
    _, checkpoint, model = fitted
    assert checkpoint.is_file()
    assert len(model.held_back) == 2
    assert model.calibration.threshold == pytest.approx(float(model.post_processor.image_threshold))


def test_test_from_a_checkpoint(fitted, make, data, tmp_path):
    name, checkpoint, _ = fitted
    (measured,) = engine(tmp_path).test(model=make(name), datamodule=data(), ckpt_path=checkpoint)
    assert {"image_AUROC", "pixel_AUROC"} <= set(measured)
    assert all(0 <= value <= 1 for value in measured.values())


def test_train_fits_and_tests(fitted, make, data, tmp_path):
    name, _, _ = fitted
    (measured,) = engine(tmp_path).train(model=make(name), datamodule=data())
    assert 0 <= measured["image_AUROC"] <= 1


def test_train_from_a_checkpoint(fitted, make, data, tmp_path):
    name, checkpoint, _ = fitted
    (measured,) = engine(tmp_path).train(model=make(name), datamodule=data(), ckpt_path=checkpoint)
    assert 0 <= measured["image_AUROC"] <= 1


def test_validate_from_a_checkpoint(fitted, make, data, tmp_path):
    name, checkpoint, _ = fitted
    engine(tmp_path).validate(model=make(name), datamodule=data(), ckpt_path=checkpoint)


def test_predict_from_a_checkpoint(fitted, make, data, tmp_path):
    name, checkpoint, _ = fitted
    batches = engine(tmp_path).predict(model=make(name), datamodule=data(), ckpt_path=checkpoint)
    scores = torch.cat([batch.pred_score.flatten() for batch in batches])
    assert len(scores) == 10
    assert bool(((scores > 0) & (scores < 1)).all())


def test_torch_export_scores_as_the_checkpoint_does(fitted, make, data, tmp_path, monkeypatch):
    name, checkpoint, _ = fitted
    monkeypatch.setenv(
        "TRUST_REMOTE_CODE", "1"
    )  # anomalib's word for opening a pickle that one wrote oneself
    path = engine(tmp_path).export(
        model=make(name), export_type=ExportType.TORCH, export_root=tmp_path, ckpt_path=checkpoint
    )
    batches = engine(tmp_path).predict(model=make(name), datamodule=data(), ckpt_path=checkpoint)
    inferencer = TorchInferencer(path, device="cpu")
    for batch in batches:
        for file, score in zip(batch.image_path, batch.pred_score.flatten().tolist(), strict=True):
            assert float(inferencer.predict(Path(file)).pred_score) == pytest.approx(score, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_defaults_fit_test_and_predict_on_five_images(name, tmp_path):
    data = MVTecAD(root=draw(tmp_path / "mvtecad", 256), category="dummy", num_workers=0)
    model = get_model(name)
    engine(tmp_path).fit(model=model, datamodule=data)
    (measured,) = engine(tmp_path).test(model=model, datamodule=data)
    assert 0 <= measured["image_AUROC"] <= 1
    assert (
        sum(len(batch.pred_score) for batch in engine(tmp_path).predict(model=model, datamodule=data)) == 10
    )
