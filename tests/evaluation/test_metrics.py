import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from mendiff.errors import InputError
from mendiff.evaluation import metrics as metrics_module
from mendiff.evaluation.metrics import (
    IMAGE_METRICS,
    METRICS,
    PIXEL_METRICS,
    TWIN_METRICS,
    image_and_pixel_metrics,
    summary,
)


def largest_f1(labels: np.ndarray, scores: np.ndarray) -> float:
    return max(oracle.f1_score(labels, scores >= t) for t in np.unique(scores))


def cases() -> st.SearchStrategy[tuple[np.ndarray, np.ndarray]]:
    """Scores with many ties, of any size and sign, and labels of both classes."""

    @st.composite
    def draw_case(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        n = draw(st.integers(2, 60))
        levels = draw(st.integers(1, 20))
        scale = draw(st.sampled_from([1e-3, 1.0, 40.0, 1e6]))
        scores = (rng.integers(0, levels, n) - levels // 2) * scale
        labels = rng.random(n) < draw(st.floats(0.05, 0.95))
        labels[:2] = [True, False]
        return scores.astype(np.float32), labels

    return draw_case()


@settings(max_examples=40, deadline=None, database=None, derandomize=True)
@given(case=cases())
def test_image_metrics_equal_scikit_learn_with_ties_and_scores_of_any_range(
    case: tuple[np.ndarray, np.ndarray],
) -> None:
    scores, labels = case

    ours = image_and_pixel_metrics(torch.from_numpy(scores), torch.from_numpy(labels))

    assert ours["image_auroc"] == pytest.approx(oracle.roc_auc_score(labels, scores), abs=1e-6)
    assert ours["image_ap"] == pytest.approx(oracle.average_precision_score(labels, scores), abs=1e-6)
    assert ours["image_f1max"] == pytest.approx(largest_f1(labels, scores), abs=1e-6)


@pytest.fixture(scope="module")
def maps_and_masks() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    masks = torch.zeros(6, 1, 40, 40, dtype=torch.bool)
    masks[0, 0, 5:15, 5:15] = True
    masks[1, 0, 20:22, 3:30] = True
    masks[1, 0, 35:39, 35:39] = True
    masks[2, 0, 0:30, 0:30] = True
    maps = torch.rand(6, 1, 40, 40, generator=generator) + 0.4 * masks
    return (maps * 20).round() / 20, masks  # rounded: many ties


def test_pixel_metrics_equal_scikit_learn(maps_and_masks: tuple[torch.Tensor, torch.Tensor]) -> None:
    maps, masks = maps_and_masks
    labels = masks.flatten(1).any(dim=1)

    ours = image_and_pixel_metrics(maps.amax(dim=(1, 2, 3)), labels, maps, masks)

    truth, scores = masks.flatten().numpy(), maps.flatten().numpy()
    assert ours["pixel_auroc"] == pytest.approx(oracle.roc_auc_score(truth, scores), abs=1e-6)
    assert ours["pixel_ap"] == pytest.approx(oracle.average_precision_score(truth, scores), abs=1e-6)
    assert ours["pixel_f1max"] == pytest.approx(largest_f1(truth, scores), abs=1e-6)


def test_the_curves_are_those_of_torchmetrics_and_anomalib(
    maps_and_masks: tuple[torch.Tensor, torch.Tensor],
) -> None:
    from anomalib.metrics.f1_score import _F1Max

    maps, masks = maps_and_masks
    scores = maps.flatten() / maps.max()  # inside [0,1] torchmetrics takes scores as they are
    f1_max = _F1Max()
    f1_max.update(scores, masks.flatten().int())

    ours = image_and_pixel_metrics(scores, masks.flatten())

    assert ours["image_auroc"] == pytest.approx(binary_auroc(scores, masks.flatten().int()).item(), abs=1e-6)
    assert ours["image_ap"] == pytest.approx(
        binary_average_precision(scores, masks.flatten().int()).item(), abs=1e-6
    )
    assert ours["image_f1max"] == pytest.approx(f1_max.compute().item(), abs=1e-6)


def test_aupro_counts_every_region_alike() -> None:
    # One large region found, one small region missed: half of the regions, though nearly all of the pixels.
    masks = torch.zeros(2, 1, 32, 32, dtype=torch.bool)
    masks[0, 0, 4:24, 4:24] = True
    masks[1, 0, 10, 10] = True
    maps = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    maps[0][masks[0]] = 2.0
    maps[1][masks[1]] = -1.0

    ours = image_and_pixel_metrics(torch.tensor([1.0, 0.0]), torch.tensor([True, False]), maps, masks)

    assert ours["aupro"] == pytest.approx(0.5, abs=1e-4)
    assert ours["pixel_auroc"] > 0.99


def aupro_by_definition(maps: np.ndarray, masks: np.ndarray, limit: float) -> float:
    """The curve of the mean overlap per region over the false-positive rate, threshold by threshold."""
    from scipy.ndimage import label

    regions = []
    for i, mask in enumerate(masks[:, 0]):
        labelled, count = label(mask, structure=np.ones((3, 3)))
        regions += [(i, labelled == k) for k in range(1, count + 1)]
    rates, overlaps = [0.0], [0.0]
    for threshold in np.unique(maps)[::-1]:
        found = maps[:, 0] >= threshold
        rates.append(found[~masks[:, 0]].mean())
        overlaps.append(np.mean([found[i][region].mean() for i, region in regions]))
    at = np.linspace(0, limit, 200_001)
    return float(np.trapezoid(np.interp(at, rates, overlaps), at) / limit)


def test_aupro_equals_its_definition(maps_and_masks: tuple[torch.Tensor, torch.Tensor]) -> None:
    maps, masks = maps_and_masks
    labels = masks.flatten(1).any(dim=1)

    ours = image_and_pixel_metrics(maps.amax(dim=(1, 2, 3)), labels, maps, masks)

    assert ours["aupro"] == pytest.approx(aupro_by_definition(maps.numpy(), masks.numpy(), 0.3), abs=1e-5)
    strict = aupro_by_definition(maps.numpy(), masks.numpy(), 0.05)
    assert ours["aupro_005"] == pytest.approx(strict, abs=1e-5)


@pytest.mark.parametrize(("name", "limit"), [("aupro", 0.3), ("aupro_005", 0.05)])
@pytest.mark.parametrize("levels", [7, 10**6])
def test_aupro_equals_anomalibs(name: str, limit: float, levels: int) -> None:
    from anomalib.metrics.aupro import _AUPRO

    generator = torch.Generator().manual_seed(levels)
    masks = torch.nn.functional.interpolate(torch.randn(4, 1, 7, 7, generator=generator), 56) > 1
    maps = (levels * (torch.rand(4, 1, 56, 56, generator=generator) + 0.5 * masks)).round() / levels
    theirs = _AUPRO(fpr_limit=limit)
    theirs.update(maps, masks[:, 0].float())

    ours = image_and_pixel_metrics(maps.amax((1, 2, 3)), masks.flatten(1).any(1), maps, masks)

    assert ours[name] == pytest.approx(theirs.compute().item(), abs=1e-5)  # theirs adds up in 32 bits


def test_dice_is_the_mean_over_defective_images_at_the_best_cut(
    maps_and_masks: tuple[torch.Tensor, torch.Tensor],
) -> None:
    maps, masks = maps_and_masks

    ours = image_and_pixel_metrics(maps.amax((1, 2, 3)), masks.flatten(1).any(1), maps, masks)

    truth, values = masks.flatten().numpy(), maps.flatten().numpy()
    cut = max(np.unique(values), key=lambda t: oracle.f1_score(truth, values >= t))
    each = [
        oracle.f1_score(mask.flatten(), one.flatten() >= cut)
        for one, mask in zip(maps.numpy(), masks.numpy(), strict=True)
        if mask.any()
    ]
    assert ours["dice"] == pytest.approx(np.mean(each), abs=1e-9)


def test_large_sets_are_binned_without_a_visible_change(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    masks = torch.nn.functional.interpolate(torch.randn(8, 1, 7, 7, generator=generator), 56) > 1.2
    maps = 30 * torch.randn(8, 1, 56, 56, generator=generator) + 20 * masks
    scores, labels = maps.amax((1, 2, 3)), masks.flatten(1).any(1)
    exact = image_and_pixel_metrics(scores, labels, maps, masks)

    monkeypatch.setattr(metrics_module, "EXACT_PIXELS", 0)

    binned = image_and_pixel_metrics(scores, labels, maps, masks)
    assert binned != exact
    assert binned == pytest.approx(exact, abs=2e-3)


@pytest.mark.parametrize("label", [True, False])
def test_one_class_alone_has_no_value(label: bool) -> None:
    maps = torch.rand(3, 1, 8, 8)
    masks = torch.full((3, 1, 8, 8), label)

    ours = image_and_pixel_metrics(torch.rand(3), torch.tensor([label] * 3), maps, masks)

    assert ours == dict.fromkeys(METRICS)


def test_without_masks_only_the_image_metrics_are_told() -> None:
    ours = image_and_pixel_metrics(
        torch.tensor([0.1, 0.9]), torch.tensor([False, True]), torch.rand(2, 1, 4, 4), None
    )

    assert [ours[m] for m in IMAGE_METRICS] == [1.0, 1.0, 1.0]
    assert all(ours[m] is None for m in PIXEL_METRICS)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(InputError, match="finite"):
        image_and_pixel_metrics(torch.tensor([0.1, bad]), torch.tensor([False, True]))


def test_maps_and_masks_of_unequal_shape_are_refused() -> None:
    with pytest.raises(InputError, match=r"\(2, 1, 4, 4\) and \(2, 1, 8, 8\)"):
        image_and_pixel_metrics(
            torch.tensor([0.1, 0.9]),
            torch.tensor([False, True]),
            torch.rand(2, 1, 4, 4),
            torch.zeros(2, 1, 8, 8, dtype=torch.bool),
        )


def test_the_mean_is_over_categories_that_have_a_value() -> None:
    a = dict.fromkeys(METRICS, 0.5)
    b = {**dict.fromkeys(METRICS, 1.0), "pixel_ap": None, "aupro": None}
    c = {**a, "aupro": None}

    joined = summary({"a": a, "b": b, "c": {**c, "pixel_ap": 0.7}})

    assert joined["mean"]["image_auroc"] == pytest.approx(2 / 3)
    assert joined["mean"]["pixel_ap"] == pytest.approx(0.6)
    assert joined["mean"]["aupro"] == pytest.approx(0.5)
    assert list(joined["categories"]) == ["a", "b", "c"]
    assert joined["categories"]["b"]["pixel_ap"] is None


def test_a_metric_that_no_category_has_stays_without_a_mean() -> None:
    assert summary({"a": dict.fromkeys(METRICS)})["mean"] == dict.fromkeys(METRICS)
    assert summary({})["mean"] == dict.fromkeys(METRICS)


def test_figures_against_twins_have_a_mean_over_the_categories_that_have_twins():
    twins = dict.fromkeys(TWIN_METRICS, 20.0)
    per = {name: dict.fromkeys(METRICS, 0.5) for name in ("a", "b", "c")}
    per["a"] |= twins
    per["b"] |= {**twins, "twin_psnr_inside": 30.0}

    assert summary(per)["mean"] == {**dict.fromkeys(METRICS, 0.5), **twins, "twin_psnr_inside": 25.0}


@pytest.mark.parametrize("exact", [True, False])
def test_pixels_that_are_not_inspected_count_in_no_metric(rng, monkeypatch, exact):
    if not exact:
        monkeypatch.setattr(metrics_module, "EXACT_PIXELS", 0)
    maps = torch.rand(4, 1, 12, 16, generator=rng)
    masks = torch.zeros(4, 1, 12, 16, dtype=torch.bool)
    masks[2:, :, 3:6, 2:7] = True
    labels, scores = torch.arange(4) >= 2, maps.amax((1, 2, 3))
    inspected = torch.zeros_like(masks)
    inspected[:, :, :8, :10] = True
    cut = image_and_pixel_metrics(scores, labels, maps[:, :, :8, :10], masks[:, :, :8, :10])
    maps[~inspected], masks[~inspected] = 9.0, True
    assert image_and_pixel_metrics(scores, labels, maps, masks, inspected) == pytest.approx(cut)
