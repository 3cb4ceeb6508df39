import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mendiff.evaluation.ranking import DROPPED_BITS, _keys, _values, rank, rank_binned

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False)


@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(values=arrays.arrays(np.float32, st.integers(2, 40), elements=FLOATS))
def test_binning_keeps_the_order_and_rounds_down_by_one_part_in_4096(values: np.ndarray) -> None:
    keys = _keys(values)
    order = np.argsort(values, kind="stable")

    assert (np.diff(keys[order]) >= 0).all()
    assert ((keys >= 0) & (keys < 2 ** (32 - DROPPED_BITS))).all()
    rounded = _values(keys)
    assert (rounded <= values).all()
    assert np.allclose(rounded, values, rtol=2**-11, atol=1e-37)


@settings(max_examples=40, deadline=None, database=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), levels=st.integers(1, 60))
def test_binned_counts_equal_exact_ones_where_no_two_values_share_a_bin(seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(-levels, levels + 1, 200).astype(np.float32)
    defective = rng.random(200) < 0.2
    defective[:2] = [True, False]
    weights = rng.random(int(defective.sum())) + 0.1
    parts = zip(np.split(values, 4), np.split(defective, 4), strict=True)

    exact, binned = rank(values, defective, weights), rank_binned(parts, weights)

    assert exact is not None
    assert binned is not None
    np.testing.assert_allclose(binned.thresholds, exact.thresholds, rtol=2**-11)
    for name in ("found", "weight", "alarms", "above"):
        np.testing.assert_allclose(getattr(binned, name), getattr(exact, name), err_msg=name)
    assert (binned.defective, binned.good) == (exact.defective, exact.good)


@pytest.mark.parametrize("limit", [0.01, 0.3, 1.0])
def test_partial_area_interpolates_between_corners(limit: float) -> None:
    values = np.array([1.0, 1.0, 0.5, 0.0], dtype=np.float32)

    ranking = rank(values, np.array([True, False, False, True]))

    assert ranking is not None
    x, y = ranking.roc(weighted=True)
    at = np.linspace(0, limit, 100_001)
    assert ranking.partial_area(limit) == pytest.approx(
        np.trapezoid(np.interp(at, x, y), at) / limit, abs=1e-4
    )


def test_one_class_alone_cannot_be_ranked() -> None:
    values = np.arange(3, dtype=np.float32)

    for label in (True, False):
        defective = np.full(3, label)
        assert rank(values, defective) is None
        assert rank_binned([(values, defective)]) is None
    assert rank_binned([]) is None
