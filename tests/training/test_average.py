"""The moving average of the weights."""

import pytest
import torch

from mendiff.training.average import Average


def test_average_is_the_recurrence_with_a_decay_that_grows_with_the_steps():
    own, expected = {"w": torch.zeros(2)}, torch.zeros(2, dtype=torch.float64)
    average = Average(0.9)
    average.start(own)
    for step in range(1, 200):
        own["w"] = torch.tensor([1.0, float(step)])
        average.update(own, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * own["w"]
    torch.testing.assert_close(average.weights["w"].double(), expected, rtol=1e-5, atol=1e-5)


def test_whole_numbers_are_copied():
    average = Average(0.9)
    average.start({"steps": torch.tensor(0), "w": torch.zeros(1)})
    average.update({"steps": torch.tensor(7), "w": torch.ones(1)}, 1)
    assert int(average.weights["steps"]) == 7
    assert float(average.weights["w"]) == pytest.approx(9 / 11)


def test_swapping_twice_changes_nothing():
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    average = Average(0.5)
    average.start({"w": torch.tensor([3.0, 4.0])})
    average.swap({"w": weight})
    assert weight.tolist() == [3.0, 4.0]
    average.swap({"w": weight})
    assert weight.tolist() == [1.0, 2.0]
    assert average.weights["w"].tolist() == [3.0, 4.0]


def test_going_on_keeps_the_averages_of_a_checkpoint():
    average = Average(0.5)
    average.weights = {"w": torch.tensor([5.0])}
    average.start({"w": torch.tensor([1.0]), "new": torch.tensor([2.0])})
    assert {name: float(one) for name, one in average.weights.items()} == {"w": 5.0, "new": 2.0}


def test_without_decay_there_is_no_average():
    average = Average(0.0)
    average.start({"w": torch.zeros(1)})
    assert average.weights == {}
