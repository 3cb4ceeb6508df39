import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as oracle

from mendiff.evaluation.curves import POINTS, curves
from mendiff.evaluation.metrics import AUPRO_FPR_LIMIT, image_and_pixel_metrics

KEYS = {"image_roc", "image_pr", "pixel_roc", "pixel_pr", "pro"}


def ranked(seed: int, count: int, levels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores with ties, of both signs, and labels of both classes."""
    rng = np.random.default_rng(seed)
    labels = rng.random(count) < 0.4
    labels[:2] = [True, False]
    scores = rng.integers(-levels, levels + 1, count) + 2 * labels
    return torch.tensor(scores, dtype=torch.float32), torch.tensor(labels)


@pytest.fixture(scope="module")
def maps_and_masks() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    masks = torch.zeros(5, 1, 40, 40, dtype=torch.bool)
    masks[0, 0, 5:15, 5:15] = True
    masks[1, 0, 20:22, 3:30] = True
    masks[1, 0, 35:39, 35:39] = True
    maps = torch.rand(5, 1, 40, 40, generator=generator) + 0.4 * masks
    return maps, masks


def area(curve: list[tuple[float, float]]) -> float:
    x, y = zip(*curve, strict=True)
    return float(np.trapezoid(y, x))


def distance_to(points: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    """The largest distance of points from the line through (x, y)."""
    ends = np.stack([x, y], 1)
    start, way = ends[:-1], np.diff(ends, axis=0)
    length = np.maximum((way**2).sum(1), 1e-12)
    along = (((points[:, None] - start) * way).sum(2) / length).clip(0, 1)
    return float(np.linalg.norm(points[:, None] - start - along[..., None] * way, axis=2).min(1).max())


@given(st.integers(0, 10_000), st.integers(2, 80), st.integers(0, 30))
def test_image_curves_are_those_of_scikit_learn(seed: int, count: int, levels: int) -> None:
    scores, labels = ranked(seed, count, levels)

    ours = curves(scores, labels, None, None)

    x, y, _ = oracle.roc_curve(labels, scores, drop_intermediate=False)
    assert distance_to(np.array(ours["image_roc"]), x, y) < 1e-9
    assert area(ours["image_roc"]) == pytest.approx(oracle.roc_auc_score(labels, scores))
    precision, recall, thresholds = oracle.precision_recall_curve(labels, scores)
    # Theirs has a point for every score, ours for those of defective images.
    defective = np.isin(thresholds, scores[labels])
    theirs = np.stack([recall[:-1], precision[:-1]], 1)[defective][::-1]
    assert np.array(ours["image_pr"])[-len(theirs) :] == pytest.approx(theirs)
    assert ours["image_pr"][0] == (0.0, pytest.approx(theirs[0][1]))


def test_pixel_curves_are_thinned_and_keep_their_areas(
    maps_and_masks: tuple[torch.Tensor, torch.Tensor],
) -> None:
    maps, masks = maps_and_masks
    labels = masks.flatten(1).any(1)

    ours = curves(maps.amax((1, 2, 3)), labels, maps, masks)
    metrics = image_and_pixel_metrics(maps.amax((1, 2, 3)), labels, maps, masks)

    assert set(ours) == KEYS
    assert all(2 <= len(curve) <= POINTS for curve in ours.values())
    assert all(0 <= x <= 1 and 0 <= y <= 1 for curve in ours.values() for x, y in curve)
    assert area(ours["image_roc"]) == pytest.approx(metrics["image_auroc"])
    assert area(ours["pixel_roc"]) == pytest.approx(metrics["pixel_auroc"], abs=1e-3)
    assert area(ours["pixel_pr"]) == pytest.approx(metrics["pixel_ap"], abs=0.01)
    assert area(ours["pro"]) / AUPRO_FPR_LIMIT == pytest.approx(metrics["aupro"], abs=1e-3)
    assert ours["pro"][-1][0] == pytest.approx(AUPRO_FPR_LIMIT)


def test_thinned_points_lie_on_the_curve(maps_and_masks: tuple[torch.Tensor, torch.Tensor]) -> None:
    maps, masks = maps_and_masks

    ours = np.array(curves(maps.flatten(), masks.flatten(), None, None)["image_roc"])

    x, y, _ = oracle.roc_curve(masks.flatten(), maps.flatten(), drop_intermediate=False)
    assert distance_to(ours, x, y) < 1e-9
    assert tuple(ours[0]) == (0, 0)
    assert tuple(ours[-1]) == (1, 1)
    assert distance_to(np.stack([x, y], 1), *ours.T) < 2 / POINTS


@pytest.mark.parametrize("label", [True, False])
def test_one_class_alone_has_no_curve(label: bool) -> None:
    masks = torch.full((3, 1, 8, 8), label)

    assert curves(torch.rand(3), torch.tensor([label] * 3), torch.rand(3, 1, 8, 8), masks) == {}


def test_without_masks_only_the_image_curves_are_told() -> None:
    found = curves(torch.tensor([0.1, 0.9]), torch.tensor([False, True]), torch.rand(2, 1, 4, 4), None)

    assert found == {
        "image_roc": [(0.0, 0.0), (0.0, 1.0), (1.0, 1.0)],
        "image_pr": [(0.0, 1.0), (1.0, 1.0)],
    }
