"""The control "untrained": the same pipeline with networks that took a single step."""

import pytest
import torch

from mendiff.calibration import Calibration
from mendiff.diffusion.random import PerImageRandom
from mendiff.evaluation.rows import Row
from mendiff.methods.base import METHODS
from mendiff.model import Model
from mendiff.runs.untrained import untrained
from mendiff.training.optimizers import make_optimizer
from mendiff.workflows.bench import with_baselines
from mendiff.workflows.spec import UNTRAINED


@pytest.fixture(params=sorted(METHODS))
def fitted(request, tiny_method, pictures):
    """A model of every method whose networks took some steps, with its images."""
    method = tiny_method(request.param)
    trained = [one for one in method.parameters() if one.requires_grad]
    optimizer = make_optimizer(method.config.training, trained)
    for step in range(3):
        method.training_loss(pictures[:2], PerImageRandom(torch.tensor([step, step + 9]))).backward()
        optimizer.step()
        optimizer.zero_grad()
    images = list(pictures)
    return Model(request.param, method, Calibration((0.0, 1.0), (0.0, 1.0)), {}).calibrated(
        images[:3], images[3:]
    ), images


def states(model):
    return model.method.state_dict(), {n for n, one in model.method.named_parameters() if one.requires_grad}


def test_what_training_made_is_fresh_and_what_was_given_stays(fitted):
    model, images = fitted
    before, trained = states(model)
    fresh, _ = states(untrained(model, images[:3], images[3:]))
    given = {name for name in before if name not in trained and not model.method.is_statistic(name)}
    assert all(torch.equal(fresh[name], before[name]) for name in given)
    differ = [name for name in trained if not torch.equal(fresh[name], before[name])]
    assert len(differ) > len(trained) / 2  # biases and norms may begin alike


def test_the_fitted_model_stays_as_it_is_and_the_control_is_repeatable(fitted):
    model, images = fitted
    before = {name: one.clone() for name, one in model.method.state_dict().items()}
    state = torch.random.get_rng_state()
    first, second = (untrained(model, images[:3], images[3:]) for _ in range(2))
    assert all(torch.equal(one, before[name]) for name, one in model.method.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())
    batch = torch.stack(images[:2])
    assert torch.equal(first.predict_batch(batch).score, second.predict_batch(batch).score)
    assert first.calibration.to_dict() == second.calibration.to_dict() != model.calibration.to_dict()


def test_every_method_of_ours_gets_a_control_from_its_plainest_row():
    rows = [
        Row("a", "glad", {"steps": 2}, {"fusion": "none"}),
        Row("b", "glad", {"steps": 2}),
        Row("c", "ran"),
        Row("median-colour", "median-colour"),
    ]
    made = with_baselines(rows, bank=True)
    assert [one.label for one in made[4:]] == ["b, untrained", "c, untrained", "memory-bank"]
    assert made[4].settings == {"steps": 2}
    assert made[4].changes == {UNTRAINED: True}
    assert [one.label for one in with_baselines(rows[3:], bank=False)] == ["median-colour"]
