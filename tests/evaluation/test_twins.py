"""Reconstructions against clean twins: every figure against its closed form."""

import math

import pytest
import torch
from torch import Tensor

from mendiff.checkpoints.bundled import open_features
from mendiff.errors import InputError
from mendiff.evaluation.metrics import TWIN_METRICS, mean_metrics
from mendiff.evaluation.twins import LEAST_ERROR, twin_errors, twin_figures

SIDE = 8
PSNR_IN, PSNR_OUT, FEATURES_IN, FEATURES_OUT = TWIN_METRICS


class Colours:
    """Two layers of features: red and green as they are, and their means over 4x4 pixels."""

    def __call__(self, image: Tensor) -> list[Tensor]:
        fine = image[:, :2]
        return [fine, torch.nn.functional.avg_pool2d(fine, 4)]


def image(red: float, green: float, blue: float = 0.0) -> Tensor:
    return torch.tensor([red, green, blue])[None, :, None, None].expand(1, 3, SIDE, SIDE).clone()


def top(rows: int) -> Tensor:
    mask = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.bool)
    mask[:, :, :rows] = True
    return mask


def test_psnr_is_that_of_the_pixels_inside_and_outside() -> None:
    twin, mask = image(0.5, 0.5, 0.5), top(3)
    rebuilt = twin + torch.where(mask, 0.1, -0.01)

    (found,) = twin_errors(rebuilt, twin, mask)

    assert found[PSNR_IN] == pytest.approx(20, abs=1e-4)
    assert found[PSNR_OUT] == pytest.approx(40, abs=1e-3)


def test_an_error_in_one_channel_counts_a_third() -> None:
    (found,) = twin_errors(image(0.5, 0.5, 0.6), image(0.5, 0.5, 0.5), top(3))

    assert found[PSNR_IN] == pytest.approx(-10 * math.log10(0.01 / 3), abs=1e-4)


def test_the_twin_itself_has_no_error_but_that_of_its_8_bits() -> None:
    twin = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(2, 1, 32, 32, dtype=torch.bool)
    mask[:, :, 4:9, 4:9] = True

    for found in twin_errors(twin, twin, mask):
        assert found[PSNR_IN] == found[PSNR_OUT] == pytest.approx(58.92, abs=0.01)
        assert found[PSNR_IN] == -10 * math.log10(LEAST_ERROR)
        assert found[FEATURES_IN] == found[FEATURES_OUT] == 0


@pytest.mark.parametrize(
    ("red", "green", "distance"),
    [(3.0, 0.0, 0.0), (0.0, 1.0, 2.0), (-1.0, 0.0, 4.0), (1.0, 1.0, 2 - math.sqrt(2))],
)
def test_features_are_compared_by_their_direction_alone(red: float, green: float, distance: float) -> None:
    (found,) = twin_errors(image(red, green), image(1.0, 0.0), top(4), Colours())

    assert found[FEATURES_IN] == pytest.approx(distance, abs=1e-6)
    assert found[FEATURES_OUT] == pytest.approx(distance, abs=1e-6)


def test_positions_count_by_their_share_of_the_mask_and_layers_alike() -> None:
    twin, mask = image(1.0, 0.0), top(2)
    rebuilt = torch.where(mask, image(0.0, 1.0), twin)

    (found,) = twin_errors(rebuilt, twin, mask, Colours())

    # Fine: 2 inside, 0 outside. Coarse: the upper positions are half inside, halfway from red to green.
    coarse = 2 - math.sqrt(2)
    assert found[FEATURES_IN] == pytest.approx((2 + coarse) / 2, abs=1e-6)
    assert found[FEATURES_OUT] == pytest.approx(coarse * (2 * 0.5) / (2 * 0.5 + 2) / 2, abs=1e-6)


@pytest.mark.parametrize("features", [None, Colours()])
@pytest.mark.parametrize(("rows", "empty"), [(0, "inside"), (SIDE, "outside")])
def test_a_side_without_pixels_has_no_figures(features: Colours | None, rows: int, empty: str) -> None:
    (found,) = twin_errors(image(0.4, 0.2), image(0.5, 0.5), top(rows), features)

    for metric, value in found.items():
        assert (value is None) == metric.endswith(empty)
        assert value is None or math.isfinite(value)


def test_means_leave_out_images_without_a_value() -> None:
    some = [dict.fromkeys(TWIN_METRICS, 10.0), {**dict.fromkeys(TWIN_METRICS, 20.0), PSNR_IN: None}]

    assert mean_metrics(some, TWIN_METRICS) == {**dict.fromkeys(TWIN_METRICS, 15.0), PSNR_IN: 10.0}
    assert mean_metrics([dict.fromkeys(TWIN_METRICS)], TWIN_METRICS) == dict.fromkeys(TWIN_METRICS)


def test_an_image_has_the_same_figures_in_every_company() -> None:
    rng = torch.Generator().manual_seed(1)
    rebuilt, twins = torch.rand(2, 3, 3, 32, 32, generator=rng)
    masks = torch.rand(3, 1, 32, 32, generator=rng) > 0.7

    together = twin_errors(rebuilt, twins, masks)

    assert together == [
        twin_errors(rebuilt[i : i + 1], twins[i : i + 1], masks[i : i + 1])[0] for i in range(3)
    ]
    network = open_features(("stage1", "stage2", "stage3"))
    assert together == twin_errors(rebuilt, twins, masks, network)


def test_only_images_with_a_twin_count_by_kind_and_beside_the_images_themselves() -> None:
    twin, mask = image(0.5, 0.5, 0.5)[0], top(3)
    images = torch.stack([twin, twin + 0.2 * mask[0], twin + 0.1 * mask[0], twin])
    rebuilt = torch.stack([twin, twin + 0.1 * mask[0], twin + 0.01 * mask[0], twin])
    masks = mask.expand(4, -1, -1, -1)

    found = twin_figures(rebuilt, images, {1: twin, 2: twin}, masks, ["good", "hole", "chip", "hole"])

    assert found.images == 2
    assert list(found.kinds) == ["chip", "hole"]
    assert found.kinds["hole"][PSNR_IN] == pytest.approx(20, abs=1e-3)
    assert found.kinds["chip"][PSNR_IN] == pytest.approx(40, abs=1e-3)
    assert found.mean[PSNR_IN] == pytest.approx(30, abs=1e-3)
    assert found.untouched[PSNR_IN] == pytest.approx((-20 * math.log10(0.2) + 20) / 2, abs=1e-3)


def test_unequal_shapes_and_values_that_are_not_finite_are_refused() -> None:
    good = image(0.5, 0.5)
    with pytest.raises(InputError, match="of one shape"):
        twin_errors(good, good[..., :4], top(3))
    with pytest.raises(InputError, match="of one shape"):
        twin_errors(good, good, top(3)[..., :4])
    with pytest.raises(InputError, match="finite"):
        twin_errors(good * math.nan, good, top(3))
