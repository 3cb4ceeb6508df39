"""A small GLAD and its data for anomalib's Engine: helpers of several rooms."""

from dataclasses import replace

import numpy as np
import torch
from anomalib.data import Folder, ImageBatch
from anomalib.engine import Engine
from torch.utils.data import DataLoader

from mendiff.diffusion.random import content_seeds
from mendiff.methods.base import TrainingConfig
from mendiff.methods.glad_config import PRESETS
from mendiff.nets.denoiser import DenoiserConfig
from mendiff.nets.features import FeaturesConfig
from tests.networks import SMALL_UNET

NETWORK = {**SMALL_UNET, "block_out_channels": [8, 16], "norm_num_groups": 4}
CONFIG = replace(
    PRESETS["tiny"],
    image_size=32,
    crop=0,
    training=TrainingConfig(steps=4, batch_size=4, learning_rate=1e-3, warmup=2, cosine=True, ema=0.9),
    denoiser=DenoiserConfig(prediction="x0", network=NETWORK),
    features=FeaturesConfig(),
)


def picture(rng, defect=0):
    image = np.full((32, 32, 3), 120, np.uint8) + rng.integers(0, 20, (32, 32, 3), dtype=np.uint8)
    image[8:16, 8 : 8 + defect] = 255
    return image


def pictures(count, seed=0):
    rng = np.random.default_rng(seed)
    return [picture(rng) for _ in range(count)]


def engine(root, *callbacks, **options):
    return Engine(
        default_root_dir=root,
        callbacks=list(callbacks),
        accelerator="cpu",
        devices=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def loader(images, **options):
    return DataLoader(images, batch_size=4, collate_fn=ImageBatch.collate, **options)


def same_tensors(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(first[key].nan_to_num(-7), second[key].nan_to_num(-7)) for key in first
    )


def datamodule(root, **options):
    defaults = {
        "name": "parts",
        "root": root,
        "normal_dir": "good",
        "abnormal_dir": "bad",
        "normal_test_dir": "good_test",
        "mask_dir": "mask",
        "train_batch_size": 4,
        "eval_batch_size": 3,
        "num_workers": 0,
        "seed": 0,
    }
    return Folder(**(defaults | options))


def recorded(model):
    """The content seeds of all images that reach the method's loss from now on."""
    seeds, loss = [], model.method.training_loss

    def training_loss(image, rng):
        seeds.extend(content_seeds(image).tolist())
        return loss(image, rng)

    model.method.training_loss = training_loss
    return seeds
