"""The loop that trains networks, with its checkpoints."""

import pytest
import torch
from torch import nn

from mendiff.errors import DivergedError, InputError
from mendiff.methods.base import TrainingConfig
from mendiff.training import loop
from mendiff.training.loop import Loop, train_network
from mendiff.training.optimizers import learning_rate
from mendiff.training.random import generator

PLAN = TrainingConfig(steps=6, learning_rate=0.1, warmup=2, cosine=True, ema=0.9)


def network(width=4):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = nn.Sequential(nn.Linear(3, width), nn.Linear(width, 1))
    made[0].requires_grad_(False)
    return made


def loss_of(made, rng):
    return made(torch.rand(8, 3, generator=rng)).square().mean()


def trained(made, checkpoint=None, resume=False, update=lambda *_: None):
    run = Loop(PLAN, 3, checkpoint, resume)
    train_network(made, lambda rng: loss_of(made, rng), run, update)
    return made.state_dict()


def test_the_network_ends_with_the_averages_of_a_plain_loop():
    plain = network()
    weights = list(plain[1].parameters())
    optimizer = torch.optim.AdamW(weights, lr=PLAN.learning_rate, weight_decay=PLAN.weight_decay)
    averages = [one.detach().clone() for one in weights]
    for step in range(PLAN.steps):
        optimizer.param_groups[0]["lr"] = PLAN.learning_rate * learning_rate(PLAN, step)
        optimizer.zero_grad()
        loss_of(plain, generator(3, step)).backward()
        nn.utils.clip_grad_norm_(weights, PLAN.clip)
        optimizer.step()
        decay = min(PLAN.ema, (2 + step) / (11 + step))
        averages = [decay * a + (1 - decay) * one.detach() for a, one in zip(averages, weights, strict=True)]
    found = trained(network())
    torch.testing.assert_close([found["1.weight"], found["1.bias"]], averages, rtol=1e-5, atol=1e-6)
    assert torch.equal(found["0.weight"], plain.state_dict()["0.weight"])


def test_an_interrupted_training_goes_on_with_its_averages(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)

    def stop(step, *_):
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(network(), tmp_path / "last.safetensors", update=stop)
    resumed, whole = trained(network(), tmp_path / "last.safetensors", resume=True), trained(network())
    assert all(torch.equal(resumed[name], one) for name, one in whole.items())


def test_a_checkpoint_of_another_network_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    trained(network(), tmp_path / "last.safetensors")
    with pytest.raises(InputError, match="expected the weights of the same network"):
        trained(network(width=5), tmp_path / "last.safetensors", resume=True)


def test_a_loss_that_is_no_number_ends_the_training():
    made = network()
    with pytest.raises(DivergedError):
        train_network(made, lambda rng: loss_of(made, rng) * torch.nan, Loop(PLAN, 0, None, False), print)
