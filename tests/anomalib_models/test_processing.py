"""Scores on the way to anomalib's unit interval."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mendiff.anomalib_models import GoodOnlyPostProcessor
from mendiff.calibration import Calibration

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
