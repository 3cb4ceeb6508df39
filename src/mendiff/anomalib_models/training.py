"""Training on good images with anomalib's Engine, with checkpoints for resuming."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from mendiff.anomalib_models.fsdp import Sharded
from mendiff.anomalib_models.images import GoodImages
from mendiff.anomalib_models.module import MethodModule
from mendiff.diffusion.random import content_seeds
from mendiff.methods.base import Progress, no_progress
from mendiff.methods.calibrate import calibrate
from mendiff.training.codec_stage import CHECKPOINT, CODEC_CHECKPOINT, CodecStage
from mendiff.training.optimizers import trainer_precision
from mendiff.training.order import StepOrder
from mendiff.training.random import generator
from mendiff.types import Processes

ALONE = Processes()
CHECKPOINT_SECONDS = 30.0
BATCH = 8
"""Images per batch where nothing is trained."""


class _StepOrder(Sampler[list[int]]):
    """This process' parts of the batches, from the step at which Lightning resumes."""

    def __init__(self, module: MethodModule, groups: Sequence[Sequence[int]]) -> None:
        self._module = module
        self._order = StepOrder(module.config.training, module.seed, groups)

    def __len__(self) -> int:
        plan = self._module.config.training
        return plan.steps * plan.accumulate

    def __iter__(self) -> Iterator[list[int]]:
        module = self._module
        return self._order.parts(module.global_step, module.global_rank, module.trainer.world_size)


class _Watcher(Callback):
    """Reports progress and writes a checkpoint every CHECKPOINT_SECONDS."""

    def __init__(self, path: Path, progress: Callable[[int, int, float], None] | None) -> None:
        self._path, self._progress, self._saved = path, progress, time.monotonic()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *args: object) -> None:
        if (trainer.fit_loop.batch_idx + 1) % pl_module.config.training.accumulate:
            return  # within a step, a checkpoint would lose accumulated gradients
        loss = math.nan if outputs is None else float(outputs["loss"])
        if outputs is not None and not math.isfinite(loss) and trainer.world_size == 1:
            pl_module.check_weights()  # steps skipped by half precision are harmless
        # After the last step, Lightning writes a checkpoint with the calibration. Resumed from an earlier
        # checkpoint of that step, a fit would end without a calibration.
        left = trainer.global_step < trainer.max_steps
        due = left and time.monotonic() - self._saved >= CHECKPOINT_SECONDS
        if trainer.strategy.reduce_boolean_decision(due, all=False):  # saving needs all processes
            trainer.save_checkpoint(self._path)
            self._saved = time.monotonic()
        if self._progress is not None:
            self._progress(trainer.global_step, trainer.max_steps, loss)


def train(
    module: MethodModule,
    images: GoodImages,
    *,
    workdir: Path,
    groups: Sequence[Sequence[int]] | None = None,
    processes: Processes = ALONE,
    resume: bool = False,
    progress: Callable[[int, int, float], None] | None = None,
    stages: Progress = no_progress,
) -> None:
    """Train and calibrate a model on good images; the result is in the module.

    Args:
        module: such as Glad.
        images: of the module's image size.
        workdir: for checkpoints, written about every half minute.
        groups: indices of the images in groups that are sampled equally often; None for a single group.
        processes: share the batch of every step, whose size must be a multiple of their number.
        resume: resume from workdir's checkpoint, if there is one; the result equals an uninterrupted run.
        progress: called after every step with (step, steps, loss).
        stages: receives the progress of stages before and after the steps.
    """
    module.hold_back(images.identities)
    loader = _loader(module, images, groups or [range(len(images))])
    module.codec_stage = CodecStage(
        workdir / CODEC_CHECKPOINT, resume, partial(stages, "fitting the codec: steps")
    )
    module.progress = stages
    path = workdir / CHECKPOINT
    engine = _engine(module, workdir, processes, _Watcher(path, progress))
    try:
        engine.fit(module, train_dataloaders=loader, ckpt_path=path if resume and path.is_file() else None)
    except SystemExit as error:  # Lightning raises this on Ctrl-C
        raise KeyboardInterrupt from error
    finally:
        module.progress = no_progress
    module.gather()


def _loader(module: MethodModule, images: GoodImages, groups: Sequence[Sequence[int]]) -> DataLoader[Any]:
    """The batches of the images that are not held back; all images of a small group may be held back."""
    others = [[at for at in group if images.identities[at][0] not in module.held_back] for group in groups]
    order = _StepOrder(module, [group for group in others if group])
    return DataLoader(images, batch_sampler=order, collate_fn=images.collate_fn, generator=generator(0))


def _engine(module: MethodModule, workdir: Path, processes: Processes, watcher: _Watcher) -> Any:
    """The Engine of anomalib for the training of a module."""
    from anomalib.callbacks import ModelCheckpoint
    from anomalib.engine import Engine

    place, plan = torch.device(processes.device), module.config.training
    single = place.type == "cuda" and processes.count == 1
    name = Path(CHECKPOINT).stem
    return Engine(
        callbacks=[ModelCheckpoint(dirpath=workdir, filename=name, enable_version_counter=False), watcher],
        default_root_dir=workdir,
        max_steps=plan.steps,
        accumulate_grad_batches=plan.accumulate,
        accelerator=place.type,
        devices=[place.index or 0] if single else processes.devices,
        num_nodes=processes.nodes,
        strategy=_strategy(module, processes),
        use_distributed_sampler=False,  # _StepOrder distributes the images
        precision=trainer_precision(plan, processes.device),
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def fit_statistics(
    module: MethodModule, images: GoodImages, device: str, stages: Progress = no_progress
) -> None:
    """Like `train` without a step: only statistics, scores and thresholds are computed.

    Args:
        module: such as Glad, with trained networks.
        images: see train.
        device: torch's name.
        stages: see train.
    """
    module.hold_back(images.identities)
    method = module.method.to(device)

    def batches(chosen: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        for first in range(0, len(chosen), BATCH):
            image = torch.stack([images.image(at) for at in chosen[first : first + BATCH]])
            yield image.to(device), content_seeds(image)

    held_back = partial(batches, module.split.held_back_at)
    seen = partial(batches, module.split.seen_at)
    module.calibration = calibrate(method, held_back, seen, stages, leave_out=module.leaves_out)
    module.fitted = module.describe_fit(0, device)


def _strategy(module: MethodModule, processes: Processes) -> Any:
    """Lightning's strategy for the processes."""
    from lightning.pytorch.strategies import DDPStrategy

    name = processes.strategy
    if name == "auto" and processes.count > 1:
        name = "ddp"
    if name == "fsdp":
        kind = torch.device(processes.device).type
        return Sharded(trainer_precision(module.config.training, kind), kind)
    # The published DiAD has unused outputs; without this option, DDP would wait for their gradients.
    unused = bool(getattr(module.config, "reference", False))
    return DDPStrategy(find_unused_parameters=unused) if name == "ddp" else name


def quiet() -> None:
    """Silence anomalib's and Lightning's messages, except errors."""
    import anomalib.engine  # noqa: F401 - first, because its import enables Lightning's messages

    for name in ("lightning", "lightning.pytorch", "lightning.fabric", "lightning_fabric", "anomalib"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    warnings.filterwarnings("ignore", module=r"torch\.optim\.lr_scheduler")
