import numpy as np
import pytest
import torch

from mendiff.data.geometry import Blend, Geometry
from mendiff.data.inspected import InspectedArea
from mendiff.inspection import inspected
from mendiff.runtime.area import Area, without_outside
from mendiff.runtime.windows import Layout, top_mean
from mendiff.scoring.score import top_k_mean, top_share_mean
from mendiff.types import Detection

CASES = [(16,), (16, True), (16, False, 16, 0.25), (16, False, 40, 0.5), (16, False, 9, 0.0)]
SIZES = [(16, 16), (40, 25), (7, 61), (90, 90), (5, 5)]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", SIZES)
def test_windows_and_joined_maps_equal_those_of_the_package(case, size):
    layout, geometry = Layout(*case), Geometry(*case)
    assert layout.stretches == geometry.stretches
    height, width = layout.size(*size)
    assert (height, width) == geometry.size(*size)
    image = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))
    windows, ours = geometry.windows(image), layout.windows(image.numpy())
    assert layout.places(height, width) == windows.places
    for one, other in zip(ours, windows, strict=True):
        np.testing.assert_array_equal(one, other.numpy())
    blend, maps = Blend(windows), [np.float32(number) + one[:1] for number, one in enumerate(ours)]
    for number, one in enumerate(maps):
        blend.add(number, torch.from_numpy(one))
    joined = layout.joined(maps, height, width)
    np.testing.assert_allclose(joined, blend.result().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("whole", [True, False], ids=["everywhere", "in an area"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("top_k", "top_share"), [(0, 0.002), (0, 0.5), (3, 0.0), (1000, 0.0)])
def test_scores_of_whole_images_equal_those_of_the_package(size, top_k, top_share, whole):
    values = torch.randn(1, 1, *size, generator=torch.Generator().manual_seed(1))
    empty = torch.zeros(1)

    def score(anomaly_map, pixels):
        if top_k:
            return top_k_mean(anomaly_map, min(top_k, pixels))
        return top_share_mean(anomaly_map, top_share, pixels)

    mask = np.random.default_rng(2).random((37, 29)) > 0.4
    ours, theirs = (None, None) if whole else (Area(mask).at(*size), InspectedArea(mask).at(*size))
    expected = inspected(Detection(empty, values, empty, empty), theirs, score, 16)
    found = top_mean(values[0].numpy(), top_k, top_share, 16, ours)
    assert found == pytest.approx(float(expected.score), rel=1e-5)
    if ours is not None:
        np.testing.assert_array_equal(ours, theirs.numpy())
        shown = without_outside(values[0].numpy(), ours)
        np.testing.assert_array_equal(shown, expected.anomaly_map[0].numpy())
