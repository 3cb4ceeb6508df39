"""GLAD's adaptive search as graphs; mendiff.runtime.search runs them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mendiff.diffusion.ladder import ladder, noised_at
from mendiff.errors import InputError
from mendiff.export.graph import TRACED, sample_inputs, traceable, write_graph
from mendiff.methods.base import Method
from mendiff.methods.glad_stop import STOP_TOP_K, fusion_weight
from mendiff.runtime.search import GRAPHS
from mendiff.scoring.score import top_k_mean
from mendiff.synthesis.upright import Frame


class _Part(nn.Module):
    """A part of the prediction as a function of tensors alone."""

    def __init__(self, method: Any) -> None:
        super().__init__()
        self.method = method


class Start(_Part):
    """Images to their latents."""

    def forward(self, image: Tensor, there: Tensor | None = None, back: Tensor | None = None) -> Any:
        return (self.method.codec.encode(_frame(image, there, back).image),)


class Denoise(_Part):
    """Noisy latents and timesteps to the raw prediction."""

    def forward(self, latents: Tensor, t: Tensor) -> Any:
        denoiser: Any = self.method.denoiser
        raw = denoiser.raw(latents, t)
        if guidance := denoiser.config.guidance:
            unguided = denoiser.raw(latents, t, denoiser.no_prompt)
            raw = unguided + guidance * (raw - unguided)
        return (raw,)


class Stop(_Part):
    """Clean estimates of the sampler and of the true input to the stop score and the fusion weight."""

    def forward(self, generated: Tensor, truth: Tensor) -> Any:
        distance = self.method.stop_map(generated, truth)
        score = top_k_mean(distance, STOP_TOP_K)
        return score, fusion_weight(distance, torch.ones_like(score), truth)


class Finish(_Part):
    """Images and the latents of all runs, (B,R,c,h,w), to score, map and reconstruction."""

    def forward(
        self, image: Tensor, latents: Tensor, there: Tensor | None = None, back: Tensor | None = None
    ) -> Any:
        method: Any = self.method
        frame = _frame(image, there, back)
        pictures = [method.codec.decode_raw(one) / 2 + 0.5 for one in latents.unbind(1)]
        none = torch.zeros_like(image[:, 0, 0, 0], dtype=torch.int64)
        found = frame.undo(method._detection(frame.image, pictures, [none]))
        return found.score, found.anomaly_map, found.reconstruction


def _frame(image: Tensor, there: Tensor | None, back: Tensor | None) -> Frame:
    affine = None if there is None or back is None else (there, back)
    return Frame(image, turn=affine is not None, affine=affine)


def search_graphs(method: Method) -> dict[str, tuple[nn.Module, dict[str, Tensor]]]:
    """Every graph of a search with sample inputs, by its name in GRAPHS."""
    copied: Any = traceable(method)
    given = sample_inputs(method, TRACED)
    image = {name: one for name, one in given.items() if name != "noise"}
    latents = given["noise"][:, -1]
    runs = latents[:, None].repeat(1, len(copied.config.start_timesteps), 1, 1, 1)
    t = torch.full((TRACED,), 10)
    return {
        "start": (Start(copied), image),
        "denoise": (Denoise(copied), {"latents": latents, "t": t}),
        "stop": (Stop(copied), {"generated": latents, "truth": 0.9 * latents}),
        "finish": (Finish(copied), {**image, "latents": runs}),
    }


@torch.no_grad()
def write_search(method: Method, folder: Path) -> list[Path]:
    """Write all graphs of a search in ONNX."""
    files = []
    for name, (graph, inputs) in search_graphs(method).items():
        files.append(folder / f"{name}.onnx")
        write_graph(graph, inputs, dict.fromkeys(inputs, (0,)), GRAPHS[name], files[-1])
    return files


def search_plan(method: Any) -> dict[str, Any]:
    """The values of mendiff.runtime.search.Plan."""
    config, limits = method.config, method.stop_thresholds
    if config.reference or not bool(limits.isfinite().all()):
        raise InputError(
            "export: expected a fitted GLAD without `reference`, whose noise and scales depend on the batch, "
            "got one with it or without stop thresholds; predict with the model itself."
        )
    paths = []
    for start, thresholds in zip(config.start_timesteps, limits.tolist(), strict=True):
        last = torch.tensor([start])
        timesteps = ladder(last, config.sampler_steps, config.spacing)
        noised = noised_at(timesteps[:, 0], last, config.noise_timestep)
        paths.append({"noised_at": int(noised), "timesteps": timesteps[0].tolist(), "thresholds": thresholds})
    return {
        "prediction": method.denoiser.config.prediction,
        "alpha_bar": method.schedule.alpha_bar.tolist(),
        "final_alpha_bar": method.schedule.final_alpha_bar,
        "min_timestep": config.min_timestep,
        "rewind": config.rewind,
        "fuses": config.fusion != "none",
        "paths": paths,
    }
