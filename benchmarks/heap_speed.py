"""Effect of keeping freed memory on a CPU: training steps with and without it, in separate processes.

    python benchmarks/heap_speed.py

GLAD and RAN `tiny` on noise, one thread. Prints processor seconds per step, system time, page faults and the
peak memory of the process, in Markdown.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys

WARM_UP, STEPS, SIDE, THREADS = 3, 20, 320, 1


def main() -> None:
    """Measure both ways for both methods and print."""
    print("| | seconds | of the system | page faults | peak memory |\n|---|---|---|---|---|")
    for name in ("glad", "ran"):
        for label in ("returned", "kept"):
            words = [sys.executable, __file__, name, label]
            found = json.loads(subprocess.run(words, capture_output=True, check=True, text=True).stdout)
            print(
                f"| {name}, {label} | {found['user'] + found['system']:.3f} | {found['system']:.3f} | "
                f"{found['faults']:,} | {found['peak_gb']:.2f} GB |",
                flush=True,
            )


def measure(name: str, label: str) -> dict[str, float]:
    """Measure a training step of a method in this process."""
    import torch

    from mendiff.cli.heap import keep_freed_memory
    from mendiff.diffusion.random import PerImageRandom
    from mendiff.methods.base import find_method, find_preset
    from mendiff.methods.config import override
    from mendiff.training.optimizers import make_optimizer
    from mendiff.workflows.job import peak_gb

    if label == "kept":
        keep_freed_memory()
    torch.set_num_threads(THREADS)
    config = override(find_preset(name, "tiny"), {"image_size": SIDE})
    method = find_method(name)(config).train()
    count = config.training.batch_size
    optimizer = make_optimizer(config.training, (one for one in method.parameters() if one.requires_grad))
    image, rng = torch.rand(count, 3, config.crop, config.crop), PerImageRandom(torch.arange(count))
    for step in range(WARM_UP + STEPS):
        if step == WARM_UP:
            before = resource.getrusage(resource.RUSAGE_SELF)
        optimizer.zero_grad()
        method.training_loss(image, rng).backward()
        optimizer.step()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "user": (after.ru_utime - before.ru_utime) / STEPS,
        "system": (after.ru_stime - before.ru_stime) / STEPS,
        "faults": (after.ru_minflt - before.ru_minflt) // STEPS,
        "peak_gb": peak_gb(),
    }


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(measure(*sys.argv[1:])))
    else:
        main()
