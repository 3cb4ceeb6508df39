"""Training in several processes: real ones, which talk over gloo on the CPU."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import chain

import pytest
import torch
from safetensors.torch import load_file

from mendiff.anomalib_models import Glad, training
from mendiff.methods.config import config_to_dict

SCRIPT = """
import json, os, sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from mendiff.anomalib_models import GoodImages, module_class, quiet, train, training
from mendiff.methods.base import find_method
from mendiff.methods.config import config_from_dict
from mendiff.types import Processes

name, config, pictures, workdir, count, strategy, last_step, out = sys.argv[1:]
quiet()
training.CHECKPOINT_SECONDS = 0.0


def progress(step, total, loss):
    if step == int(last_step):
        os._exit(3)  # as a power cut would


module = module_class(name)(config_from_dict(find_method(name).Config, json.loads(config)))
images = GoodImages(list(torch.load(pictures, weights_only=True).numpy()), 32)
processes = Processes("cpu", int(count), strategy=strategy)
train(module, images, workdir=Path(workdir), processes=processes, resume=True, progress=progress)
if module.global_rank == 0:
    save_file({key: one.contiguous() for key, one in module.method.state_dict().items()}, out)
"""


@pytest.fixture
def trained(tiny_config, tmp_path):
    """(method, changes, work folder, processes, strategy, when they die) to the trained weights, or None."""
    script, pictures = tmp_path / "script.py", tmp_path / "pictures.pt"
    script.write_text(SCRIPT)
    rng = torch.Generator().manual_seed(0)
    torch.save(torch.randint(120, 140, (12, 32, 32, 3), generator=rng).byte(), pictures)

    def run(name, changes, folder, count, strategy="auto", last_step=0):
        config, out = (
            json.dumps(config_to_dict(tiny_config(name, changes))),
            tmp_path / f"{folder}.safetensors",
        )
        words = (name, config, pictures, tmp_path / folder, count, strategy, last_step, out)
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, str(script), *map(str, words)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert done.returncode == (3 if last_step else 0), done.stderr
        return load_file(out) if out.is_file() else None

    return run


CHANGES = {"training.steps": 6, "training.batch_size": 4, "training.warmup": 2, "training.ema": 0.9}
SHARDED = CHANGES | {"training.ema": 0.0}
needs_two = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")


def same(ours, theirs):
    """Equal but for the order of sums.

    Where a gradient is nothing but rounding, AdamW moves a weight by its whole rate either way: some weights
    may differ by 1e-4, all together by far less than the several 1e-3 that six steps move each of them.
    """
    assert ours.keys() == theirs.keys()
    gaps = [(one - theirs[key]).flatten() for key, one in ours.items() if key.startswith("denoiser.")]
    assert float(torch.cat(gaps).square().mean().sqrt()) < 1e-5


@pytest.mark.slow
@needs_two
@pytest.mark.parametrize("name", ["glad", "diad", "ran"])
def test_two_processes_train_what_one_does_with_the_whole_batch(trained, name):
    one, two = trained(name, CHANGES, "one", 1), trained(name, CHANGES, "two", 2)
    same(one, two)


@pytest.mark.slow
@needs_two
@pytest.mark.parametrize(("strategy", "changes"), [("ddp", CHANGES), ("fsdp", SHARDED)])
def test_two_processes_that_were_interrupted_end_where_unbroken_ones_do(trained, strategy, changes):
    changes = changes | {"training.accumulate": 2, "crop": 16}
    unbroken = trained("glad", changes, "unbroken", 2, strategy)
    assert trained("glad", changes, "broken", 2, strategy, last_step=3) is None
    resumed = trained("glad", changes, "broken", 2, strategy)
    assert all(torch.equal(one, resumed[key]) for key, one in unbroken.items())
    again = trained("glad", changes, "broken", 2, strategy)  # nothing was left to train
    assert all(torch.equal(one, again[key]) for key, one in unbroken.items())


@pytest.mark.slow
@needs_two
def test_shards_train_what_whole_weights_do_and_one_goes_on_from_the_other(trained):
    # DiAD freezes most of its weights: the optimiser knows fewer than the shards hold.
    one = trained("diad", SHARDED, "one", 1)
    same(one, trained("diad", SHARDED, "two", 2, "fsdp"))
    for folder, (first, second) in {
        "apart": ((2, "fsdp"), (1, "auto")),
        "joined": ((1, "auto"), (2, "fsdp")),
    }.items():
        assert trained("diad", SHARDED, folder, *first, last_step=3) is None
        same(one, trained("diad", SHARDED, folder, *second))


class Trainer:
    """As much of Lightning's as the order of images and their random numbers ask for."""

    def __init__(self, rank, count, accumulate):
        self.global_rank, self.world_size, self.accumulate_grad_batches = rank, count, accumulate
        self.global_step = 0


def dealt(config, rank, count, monkeypatch):
    """(image, the first number of its stream) of the first step, as one process gets them."""
    module = Glad(config)
    monkeypatch.setattr(Glad, "trainer", Trainer(rank, count, config.training.accumulate), raising=False)
    monkeypatch.setattr(Glad, "global_rank", rank, raising=False)
    monkeypatch.setattr(Glad, "global_step", 0, raising=False)
    batches = list(training._StepOrder(module, [range(50)]))[: config.training.accumulate]
    pairs = []
    for number, batch in enumerate(batches):
        streams = module._streams(torch.arange(len(batch)), len(batch), number)
        pairs += zip(batch, streams.uniform().tolist(), strict=True)
    return pairs


@pytest.mark.parametrize(("count", "accumulate"), [(1, 3), (2, 1), (2, 3), (6, 1), (3, 4)])
def test_an_image_gets_the_same_numbers_whoever_it_is_dealt_to(tiny_config, monkeypatch, count, accumulate):
    config = tiny_config("glad", {"training.steps": 3, "training.batch_size": 12})
    whole = dealt(config, 0, 1, monkeypatch)
    assert len(set(whole)) == 12
    parted = replace(config, training=replace(config.training, accumulate=accumulate))
    shares = [dealt(parted, rank, count, monkeypatch) for rank in range(count)]
    assert all(len(share) == 12 // count for share in shares)
    assert sorted(chain(*shares)) == sorted(whole)
