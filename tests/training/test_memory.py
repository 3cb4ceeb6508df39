"""What a rehearsal on fakes says, against the same step on real tensors."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from mendiff.diffusion.random import PerImageRandom
from mendiff.methods.base import METHODS
from mendiff.methods.base_config import OPTIMIZERS, TrainingConfig
from mendiff.nets.placement import store_bf16
from mendiff.training.memory import CONTEXT, Footprint, MemoryEstimator, StorageTracker, training_step
from mendiff.training.memory import prediction as real_prediction
from mendiff.training.optimizers import make_optimizer, state_bytes

every_method = pytest.mark.parametrize("name", METHODS)


@pytest.fixture(scope="module")
def estimator(tiny_config):
    """A method's name to its estimator, which remembers what it has estimated."""
    return cache(lambda name: MemoryEstimator(name, tiny_config(name)))


def rehearsed(estimator, config):
    return estimator.training(replace(config.training, batch_size=4, ema=0.0), half=False)


def saved_bytes(method, image):
    """What autograd keeps for the backward pass, told by autograd itself; weights left out."""
    own = {one.untyped_storage().data_ptr() for one in (*method.parameters(), *method.buffers(), image)}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        method.training_loss(image, PerImageRandom(torch.arange(len(image))))
    return sum(storage.nbytes() for storage in kept.values())


@every_method
def test_rehearsed_step_takes_what_a_real_one_takes(name, estimator, tiny_config, tiny_method, pictures):
    told = rehearsed(estimator(name), tiny_config(name))
    real = training_step(tiny_method(name), pictures)
    assert (told.weights, told.gradients) == (real.weights, real.gradients)
    assert told.activations == pytest.approx(real.activations, rel=0.02)
    # The rehearsal also looks at the calibration that follows, which may be the larger.
    assert told.peak - told.optimizer >= 0.98 * real.peak


@every_method
def test_activations_are_what_autograd_keeps(name, estimator, tiny_config, tiny_method, pictures):
    method = tiny_method(name).train()
    told = rehearsed(estimator(name), tiny_config(name)).activations
    assert told == pytest.approx(saved_bytes(method, pictures), rel=0.1)


@every_method
def test_rehearsed_prediction_takes_what_a_real_one_takes(name, estimator, tiny_method, pictures):
    method = tiny_method(name)
    told = estimator(name).prediction(4)
    tally = StorageTracker([*method.parameters(), *method.buffers(), pictures])
    with tally:
        method.predict(pictures, torch.arange(4))
    assert told.peak == pytest.approx(tally.peak, rel=0.15)


@every_method
def test_memory_grows_with_batch_and_resolution_and_shrinks_with_checkpointing(name, estimator, tiny_config):
    config = tiny_config(name)
    rehearsal = estimator(name)
    plan = replace(config.training, batch_size=4, accumulate=1)
    base = rehearsal.training(plan, half=False)
    parts = rehearsal.training(replace(plan, accumulate=2), half=False)
    saving = rehearsal.training(replace(plan, checkpointing=True), half=False)
    wide = MemoryEstimator(name, replace(config, image_size=64)).training(plan, half=False)
    assert parts.activations < base.activations < wide.activations
    assert saving.activations < base.activations
    assert saving.peak <= base.peak < wide.peak
    again = rehearsal.training(plan, half=False)  # switched off again
    assert again == base
    counts = [rehearsal.prediction(count).peak for count in (1, 2, 4)]
    assert counts == sorted(set(counts))


@every_method
def test_networks_in_half_precision_weigh_half(name, estimator, tiny_config):
    full = estimator(name).prediction(2)
    half = MemoryEstimator(name, tiny_config(name), half=True).prediction(2)
    assert 0.45 * full.weights < half.weights < 0.7 * full.weights


@every_method
def test_training_in_half_precision_is_rehearsed_with_weights_in_float32(name, tiny_config):
    config = tiny_config(name, {"training.checkpointing": True})
    rehearsal, plan = MemoryEstimator(name, config), replace(config.training, batch_size=4)
    full, half = (rehearsal.training(plan, half=half) for half in (False, True))
    assert half.weights == full.weights
    assert half.activations != full.activations


@every_method
def test_offloading_leaves_the_largest_network(name, estimator):
    rehearsal = estimator(name)
    whole, alone = rehearsal.prediction(2), rehearsal.prediction(2, offload=True)
    assert 0 < alone.peak <= whole.peak


def test_rehearsal_in_half_tells_what_halved_networks_weigh(tiny_config, tiny_method, pictures):
    method = tiny_method("glad")
    for part in method.parts.values():
        store_bf16(part, torch.device("cpu"), fast=False)
    told = MemoryEstimator("glad", tiny_config("glad"), half=True, fast=False).prediction(4)
    assert told.weights == real_prediction(method, pictures).weights


@pytest.mark.parametrize("optimizer", sorted({*OPTIMIZERS} - {"adamw8bit"}))
def test_optimizer_state_is_what_the_optimizer_keeps(optimizer, tiny_method):
    plan = TrainingConfig(optimizer=optimizer)
    trained = [one for one in tiny_method("glad").parameters() if one.requires_grad]
    stepping = make_optimizer(plan, trained)
    for one in trained:
        one.grad = torch.ones_like(one)
    stepping.step()
    kept = sum(value.nbytes for state in stepping.state.values() for value in state.values())
    told = state_bytes(plan, trained)
    assert kept == pytest.approx(told, rel=0.01)
    assert state_bytes(replace(plan, optimizer="adamw8bit"), [torch.empty(512, 512)]) < 0.27 * 2 * 4 * 512**2


def test_averaged_weights_count(estimator, tiny_config):
    plan = tiny_config("glad").training
    with_average, without = (
        estimator("glad").training(replace(plan, ema=ema), half=False) for ema in (0.9, 0.0)
    )
    assert with_average.optimizer - without.optimizer == without.gradients
    assert with_average.peak - without.peak == without.gradients


def test_views_count_once_and_dead_tensors_not():
    with torch.no_grad(), (tally := StorageTracker([])):
        kept = torch.zeros(100)
        kept.view(10, 10).t()
        assert tally.live == 400
        torch.zeros(1000)
    assert (tally.live, tally.peak) == (400, 4400)


def test_a_device_needs_more_than_the_peak():
    assert Footprint(1, 0, 0, 0, 10**9).needed == 1_080_000_000 + CONTEXT


def test_memory_of_a_training_on_windows_can_be_planned(tiny_config):
    plan = tiny_config("ran", {"image_size": 64, "window": 32, "training.cache_gigabytes": 1.0})
    whole = tiny_config("ran", {"image_size": 64, "window": 0})
    windowed, entire = (
        MemoryEstimator("ran", one).training(one.training, half=False) for one in (plan, whole)
    )
    assert 0 < windowed.activations < entire.activations
