"""Which images a step sees."""

from collections import Counter
from itertools import chain

import pytest

from mendiff.methods.base import TrainingConfig
from mendiff.training.order import StepOrder

GROUPS = [list(range(7)), list(range(7, 9))]


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_parts_of_a_step_together_are_its_batch(accumulate):
    order = StepOrder(TrainingConfig(steps=4, batch_size=6, accumulate=accumulate), 0, GROUPS)
    parts = list(order.parts(0))
    assert {len(part) for part in parts} == {6 // accumulate}
    assert [*chain(*parts)] == [*chain(*(order.batch(step) for step in range(4)))]


def test_processes_together_see_the_batch_of_one():
    order = StepOrder(TrainingConfig(steps=2, batch_size=6), 0, GROUPS)
    shares = [list(order.parts(1, rank, 3)) for rank in range(3)]
    assert [[*chain(*zip(*some, strict=True))] for some in zip(*shares, strict=True)] == [order.batch(1)]


def test_groups_are_shown_equally_often_and_every_image_of_a_group_is():
    order = StepOrder(TrainingConfig(steps=14, batch_size=4), 3, GROUPS)
    shown = Counter(chain(*(order.batch(step) for step in range(14))))
    assert {shown[image] for image in GROUPS[0]} == {4}
    assert {shown[image] for image in GROUPS[1]} == {14}


def test_other_seeds_shuffle_otherwise():
    plan = TrainingConfig(steps=1, batch_size=32)
    assert StepOrder(plan, 0, [range(32)]).batch(0) != StepOrder(plan, 1, [range(32)]).batch(0)
