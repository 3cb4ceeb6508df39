"""Memory of full-size GLAD and DiAD with random weights: estimate of `mendiff plan`, and measured peak.

    python benchmarks/plan_memory.py --method glad --what training --checkpointing --optimizer adafactor
    python benchmarks/plan_memory.py --method glad --what training --batch 4 --accumulate 8 --repeat 6
    python benchmarks/plan_memory.py --method diad --what inference --half [--offload] [--steps 2]

One step at preset `paper`, at 512 pixels (GLAD) or 256 (DiAD) unless --size says otherwise. On CUDA the peak
is torch.cuda.max_memory_allocated; on a CPU it is the process's largest resident memory, above what it was
before the networks were there, and in all. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from typing import Any, get_args

import torch
from torch import Tensor, nn

from mendiff.diffusion.random import PerImageRandom
from mendiff.methods.base import Method, MethodConfig, find_method, find_preset
from mendiff.methods.base_config import OPTIMIZERS, Precision
from mendiff.methods.config import override
from mendiff.nets.placement import Offload, multiplies_bf16, store_bf16
from mendiff.training.lora import add_lora
from mendiff.training.memory import Footprint, MemoryEstimator
from mendiff.training.optimizers import COMPUTED_IN, make_optimizer, trainer_precision


def main() -> None:
    """Predict, measure, print."""
    options = arguments()
    device = torch.device(options.device)
    config = asked(options)
    predicted = rehearsed(options, config, device)
    before = resident()
    method = random_method(options.method, config, halved=options.half and options.what == "inference")
    rng = torch.Generator().manual_seed(0)
    image = torch.rand(options.batch, 3, config.image_size, config.image_size, generator=rng).to(device)
    once = trained(method, config, image) if options.what == "training" else used(method, image, options)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    parts = config.training.accumulate if options.what == "training" else 1
    seconds = [timed(once, device) for _ in range(options.repeat)]
    steady = sum(seconds[1:]) / len(seconds[1:]) if len(seconds) > 1 else seconds[0]
    row = {
        "method": options.method,
        "what": options.what,
        "size": config.image_size,
        "batch": options.batch,
        "parts": parts,
        "steps": getattr(config, "sampler_steps", None) if options.what == "inference" else None,
        "predicted_gb": {key: round(value / 1e9, 2) for key, value in vars(predicted).items()},
        **measured(device, before),
        "seconds": round(steady, 2),
        "images_per_second": round(options.batch * parts / steady, 4),
        "precision": trainer_precision(config.training, str(device)),
    }
    print(json.dumps(row))


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--method", choices=("glad", "diad"), default="glad")
    parser.add_argument("--what", choices=("inference", "training"), default="inference")
    parser.add_argument("--size", type=int)
    parser.add_argument("--batch", type=int, default=1, help="images at once")
    parser.add_argument("--accumulate", type=int, default=1, help="such parts per training step")
    parser.add_argument("--steps", type=int, help="of DDIM, at inference")
    parser.add_argument("--half", action="store_true", help="weights in bfloat16, at inference")
    parser.add_argument("--offload", action="store_true")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="adamw")
    parser.add_argument("--precision", choices=get_args(Precision), default="auto")
    parser.add_argument("--lora-rank", type=int, default=0)
    parser.add_argument(
        "--repeat", type=int, default=1, help="steps; the first is not counted if there are several"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def asked(options: argparse.Namespace) -> MethodConfig:
    """The preset `paper` with the given options."""
    changes: dict[str, Any] = {
        "training.batch_size": options.batch * options.accumulate,
        "training.accumulate": options.accumulate,
        "training.checkpointing": options.checkpointing,
        "training.optimizer": options.optimizer,
        "training.precision": options.precision,
        "training.lora_rank": options.lora_rank,
    }
    if options.size:
        changes["image_size"] = options.size
    if options.steps:
        changes["sampler_steps"] = options.steps
    return override(find_preset(options.method, "paper"), changes)


def rehearsed(options: argparse.Namespace, config: MethodConfig, device: torch.device) -> Footprint:
    """The estimate of the plan."""
    if options.what == "training":
        half = trainer_precision(config.training, str(device)) in COMPUTED_IN
        return MemoryEstimator(options.method, config).training(config.training, half)
    rehearsal = MemoryEstimator(options.method, config, half=options.half, fast=multiplies_bf16(device))
    return rehearsal.prediction(options.batch, offload=options.offload)


def random_method(name: str, config: MethodConfig, *, halved: bool) -> Method:
    """The method at full size with random weights, initialised in place in their storage dtype."""
    with torch.device("meta"):
        method = find_method(name)(config)
    if halved:
        for part in method.parts.values():
            store_bf16(part, torch.device("cpu"), fast=False)
    generator = torch.Generator().manual_seed(0)
    for module in method.modules():
        for key, one in module._parameters.items():
            if one is not None:
                drawn = torch.empty(one.shape, dtype=one.dtype).normal_(std=0.02, generator=generator)
                module._parameters[key] = nn.Parameter(drawn, one.requires_grad)
        for key, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[key] = torch.ones(buffer.shape, dtype=buffer.dtype)
        if isinstance(module, nn.GroupNorm | nn.LayerNorm) and module.weight is not None:
            nn.init.ones_(module.weight)
    return method


def trained(method: Method, config: MethodConfig, image: Tensor) -> Callable[[], None]:
    """A training step as in `mendiff fit`."""
    plan, device = config.training, image.device
    if plan.lora_rank:
        add_lora(method, plan.lora_rank, seed=0)
    for network in method.modules():
        if plan.checkpointing and getattr(network, "_supports_gradient_checkpointing", False):
            network.enable_gradient_checkpointing()
    method.to(device).train()
    parameters = [one for one in method.parameters() if one.requires_grad]
    optimizer, rng = make_optimizer(plan, parameters), PerImageRandom(torch.arange(len(image)))
    half = COMPUTED_IN.get(trainer_precision(plan, str(device)))

    def step() -> None:
        for _ in range(plan.accumulate):
            with torch.autocast(device.type, half, enabled=half is not None, cache_enabled=False):
                loss = method.training_loss(image, rng) / plan.accumulate
            loss.backward()
        if plan.clip:
            torch.nn.utils.clip_grad_norm_(parameters, plan.clip)
        optimizer.step()
        optimizer.zero_grad()
        assert bool(loss.isfinite())

    return step


def used(method: Method, image: Tensor, options: argparse.Namespace) -> Callable[[], None]:
    """A prediction."""
    method.eval()
    if options.offload:
        for one in method.children():
            if not any(one is part for part in method.parts.values()):
                one.to(image.device)
        for name, buffer in method.named_buffers(recurse=False):
            setattr(method, name, buffer.to(image.device))
        Offload(method.parts, image.device)
    else:
        method.to(image.device)
    seeds = torch.arange(len(image))

    def predict() -> None:
        with torch.no_grad():
            method.predict(image, seeds)

    return predict


def timed(once: Callable[[], None], device: torch.device) -> float:
    """Seconds of one step."""
    began = time.perf_counter()
    once()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def resident() -> int:
    """Largest resident bytes of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measured(device: torch.device, before: int) -> dict[str, float]:
    """Peak memory in GB."""
    if device.type == "cuda":
        return {"peak_gb": round(torch.cuda.max_memory_allocated(device) / 1e9, 2)}
    return {
        "peak_gb": round((resident() - before) / 1e9, 2),
        "peak_of_process_gb": round(resident() / 1e9, 2),
    }


if __name__ == "__main__":
    main()
