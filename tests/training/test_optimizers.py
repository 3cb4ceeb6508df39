import importlib.util
import sys
import types

import pytest
import torch
from torch import nn

from mendiff.anomalib_models import Glad, GoodImages, train
from mendiff.errors import InputError
from mendiff.methods.base import TrainingConfig
from mendiff.training.optimizers import (
    check_savings,
    fast_precision,
    learning_rate,
    make_optimizer,
    trainer_precision,
)

pytestmark = pytest.mark.filterwarnings(r"ignore:::lightning\..*")


def lacking(monkeypatch, *names):
    """As if some packages were not installed."""
    find = importlib.util.find_spec
    for room in ("optimizers", "lora"):
        monkeypatch.setattr(
            f"mendiff.training.{room}.find_spec", lambda name: None if name in names else find(name)
        )


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_a_method_learns_with_every_optimizer(optimizer, tiny_method, pictures, streams):
    method = tiny_method("glad", {"training.optimizer": optimizer}).train()
    plan = TrainingConfig(learning_rate={"adamw": 2e-3, "adafactor": 0.05}[optimizer], optimizer=optimizer)
    stepping = make_optimizer(plan, [one for one in method.parameters() if one.requires_grad])

    def loss():
        return method.training_loss(pictures, streams())

    before = loss().item()
    for _ in range(10):
        stepping.zero_grad()
        loss().backward()
        stepping.step()
    assert loss().item() < 0.9 * before


def test_adafactor_keeps_far_less_than_the_weights():
    weight = nn.Parameter(torch.ones(64, 96))
    optimizer = make_optimizer(TrainingConfig(optimizer="adafactor"), [weight])
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert sum(one.numel() for one in optimizer.state[weight].values()) == 64 + 96 + 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "sgd"}, "training.optimizer: expected one of adamw, adamw8bit, adafactor, got 'sgd'."),
        ({"precision": "fp8"}, "training.precision: expected one of auto, .*, got 'fp8'."),
        ({"lora_rank": -1}, "training.lora_rank: expected at least 0, got -1."),
    ],
)
def test_unknown_words_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        TrainingConfig(**changes)


def test_what_a_machine_lacks_is_said_before_training(monkeypatch):
    with pytest.raises(InputError, match="expected auto, float32 or bf16 on cpu, got 'fp16'"):
        check_savings(TrainingConfig(precision="fp16"), "cpu")
    with pytest.raises(InputError, match=r"expected CUDA and .* bitsandbytes .* but the device is cpu"):
        check_savings(TrainingConfig(optimizer="adamw8bit"), "cpu")
    lacking(monkeypatch, "bitsandbytes", "peft")
    with pytest.raises(InputError, match=r"but bitsandbytes is not installed; choose adamw or adafactor\."):
        check_savings(TrainingConfig(optimizer="adamw8bit"), "cuda")
    with pytest.raises(InputError, match=r"expected the package peft for LoRA, but it is not installed"):
        check_savings(TrainingConfig(lora_rank=4), "cuda")
    monkeypatch.delattr(torch.optim, "Adafactor")
    with pytest.raises(InputError, match=r"expected torch 2\.5 or newer for 'adafactor'"):
        check_savings(TrainingConfig(optimizer="adafactor"), "cpu")


def test_eight_bit_moments_come_from_bitsandbytes(monkeypatch):
    made = []
    optim = types.ModuleType("bitsandbytes.optim")
    optim.AdamW8bit = lambda params, **settings: made.append((params, settings))
    monkeypatch.setitem(sys.modules, "bitsandbytes", types.ModuleType("bitsandbytes"))
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", optim)
    monkeypatch.setattr("mendiff.training.optimizers.check_savings", lambda *_: None)
    weight = nn.Parameter(torch.ones(2))
    make_optimizer(TrainingConfig(optimizer="adamw8bit", learning_rate=0.5, weight_decay=0.1), [weight])
    assert made == [([weight], {"lr": 0.5, "weight_decay": 0.1})]


def test_precision_is_the_configs_or_the_machines(monkeypatch):
    monkeypatch.setattr("mendiff.training.optimizers.fast_precision", lambda device: f"fast {device}")
    names = {"auto": "fast cpu", "float32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
    for name, expected in names.items():
        assert trainer_precision(TrainingConfig(precision=name), "cpu") == expected


def test_half_precision_clips_gradients_of_the_fused_optimizer(tiny_config, tmp_path, monkeypatch):
    """Lightning would refuse that; see make_optimizer."""
    seen = []
    clip = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *a, **k: seen.append(a[1]) or clip(*a, **k))
    changes = {"training.steps": 2, "training.precision": "bf16", "training.clip": 0.25}
    module = Glad(tiny_config("glad", changes))
    pictures = torch.randint(
        0, 255, (10, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    module.calibrates = False
    train(module, GoodImages(list(pictures.numpy()), 32), workdir=tmp_path)
    assert module.trainer.precision == "bf16-mixed"
    assert seen == [0.25, 0.25]


def test_learning_rate_rises_and_falls_to_zero():
    plan = TrainingConfig(steps=100, warmup=10, cosine=True)
    assert learning_rate(plan, 0) == pytest.approx(0.1)
    assert learning_rate(plan, 50) == pytest.approx(0.5)
    assert learning_rate(plan, 100) == pytest.approx(0.0, abs=1e-12)
    assert learning_rate(TrainingConfig(steps=100), 99) == 1.0


@pytest.mark.parametrize("name", ["_is_amx_tile_supported", "_is_cpu_support_amx_tile"])
def test_precision_follows_what_the_processor_multiplies_fast(monkeypatch, name):
    for known in ("_is_amx_tile_supported", "_is_cpu_support_amx_tile"):
        monkeypatch.delattr(torch.cpu, known, raising=False)
    assert fast_precision("cpu") == "32-true"
    monkeypatch.setattr(torch.cpu, name, lambda: True, raising=False)
    assert fast_precision("cpu") == "bf16-mixed"
    assert fast_precision("mps") == "32-true"
    for major, expected in ((7, "32-true"), (8, "bf16-mixed")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, major=major: (major, 0))
        assert fast_precision("cuda:1") == expected
