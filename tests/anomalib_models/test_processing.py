"""Scores on the way to anomalib's unit interval."""

from types import SimpleNamespace

import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.models import Padim
from hypothesis import given
from hypothesis import strategies as st

from mendiff.anomalib_models import ConformalPostProcessor, GoodOnlyPostProcessor
from mendiff.calibration import Calibration
from mendiff.errors import InputError
from tests.parts import datamodule, engine

pytestmark = pytest.mark.filterwarnings(r"ignore:::lightning\..*")


def post_processor(scores):
    made = GoodOnlyPostProcessor()
    made.calibrate(Calibration(tuple(scores), tuple(scores)))
    return made


def normalise(made, scores):
    return made._normalize(torch.as_tensor(scores), made.image_min, made.image_max, made.image_threshold)


@given(
    good=st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=20),
    scores=st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=20),
)
def test_normalised_scores_keep_their_order_inside_the_unit_interval(good, scores):
    made = post_processor(good)
    raw = torch.tensor(scores).sort().values
    flat = normalise(made, raw)
    assert ((flat > 0) & (flat < 1)).all()
    assert (flat.diff() >= 0).all()
    assert torch.equal(flat > 0.5, raw > made.image_threshold) or bool((flat == 0.5).any())
    assert float(normalise(made, made.image_threshold)) == 0.5


@pytest.mark.parametrize("good", [[1.0, 1.1, 1.3, 1.2], [-3.0, -2.0, -2.5, -2.4], [5.0, 5.0]])
def test_scores_far_from_the_threshold_do_not_tie(good):
    made = post_processor(good)
    scale = (made.image_max - made.image_min) / 2
    steps = torch.logspace(-2, 6, 4000, dtype=torch.float64)  # each 0.5 % further out
    for side in (1, -1):
        raw = (made.image_threshold + side * scale * steps).float()
        assert (normalise(made, raw).diff() * side > 0)[raw.diff() != 0].all()


def validated(made, *batches, sanity=False):
    trainer = SimpleNamespace(sanity_checking=sanity)
    for scores, labels in batches:
        maps = torch.tensor(scores)[:, None, None, None] * torch.tensor([[0.5, 2.0]])
        batch = ImageBatch(
            image=torch.zeros(len(scores), 3, 1, 2),
            pred_score=torch.tensor(scores),
            anomaly_map=maps,
            gt_label=torch.tensor(labels),
        )
        made.on_validation_batch_end(trainer, None, batch)
    made.on_validation_epoch_end(trainer, None)
    return made


def test_conformal_thresholds_come_from_the_good_validation_images_alone():
    good, bad = [float(score) for score in range(1, 20)], [50.0, 90.0]
    first = (good[:10] + bad, [False] * 10 + [True] * 2)
    made = validated(ConformalPostProcessor(0.1), first, (good[10:], [False] * 9))
    # 10 % of 19 scores: the second highest.
    assert float(made.image_threshold) == 18
    assert float(made.pixel_threshold) == 36
    assert made.calibration.scores == tuple(good)
    assert torch.equal(normalise(made, [18.0, 50.0]) > 0.5, torch.tensor([False, True]))


def test_conformal_thresholds_need_good_validation_images():
    with pytest.raises(InputError, match=r"at least 2 good validation images, got 1; .*from_train"):
        validated(ConformalPostProcessor(), ([1.0, 9.0], [False, True]))
    waiting = validated(ConformalPostProcessor(), ([1.0], [True]), sanity=True)
    assert waiting.calibration is None
    assert torch.isnan(waiting.image_threshold)


def test_conformal_thresholds_follow_any_anomalib_model(folder, tmp_path):
    chosen = ConformalPostProcessor(false_alarm_rate=0.2)
    model = Padim(
        backbone="resnet18",
        layers=["layer1"],
        pre_trained=False,
        n_features=4,
        visualizer=False,
        post_processor=chosen,
    )
    data = datamodule(folder, val_split_mode="from_train", val_split_ratio=0.5)
    runner = engine(tmp_path, max_epochs=1)
    runner.fit(model, datamodule=data)
    found = runner.predict(model, datamodule=data, return_predictions=True)
    assert len(chosen.calibration.scores) == 6
    assert float(chosen.image_threshold) == pytest.approx(chosen.calibration.threshold)
    assert all(((batch.pred_score > 0) & (batch.pred_score < 1)).all() for batch in found)
    fresh = ConformalPostProcessor()
    fresh.load_checkpoint_config(chosen.checkpoint_config())
    assert fresh.false_alarm_rate == 0.2
