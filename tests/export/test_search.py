"""GLAD's adaptive search in NumPy, with its graphs."""

import json

import numpy as np
import pytest
import torch

import mendiff
from mendiff.calibration import Calibration
from mendiff.cli import main
from mendiff.errors import InputError
from mendiff.export.graph import sample_inputs
from mendiff.export.search import search_graphs, search_plan
from mendiff.methods.base import find_preset
from mendiff.methods.config import override
from mendiff.methods.glad import STOP_FLOOR
from mendiff.model import Model
from mendiff.runtime import load_exported
from mendiff.runtime.metadata import read_metadata
from mendiff.runtime.search import GRAPHS, Plan, Search
from mendiff.training.build import make_method
from tests.networks import SMALL_UNET

NETWORK = {**SMALL_UNET, "block_out_channels": [8, 16], "norm_num_groups": 4}
IMAGES = 5


def adaptive(**changes):
    """An untrained GLAD with adaptive search, whose thresholds stop images at different steps."""
    settings = {
        "adaptive": True,
        "image_size": 32,
        "crop": 0,
        "denoiser.network": NETWORK,
        "codec.factor": 4,
        "features.name": "",
        "start_timesteps": [400],
        "sampler_steps": 6,
        "min_timestep": 150,
        "readout.bank_size": 50,
        "upright": "never",
        **{name.replace("__", "."): value for name, value in changes.items()},
    }
    method = make_method("glad", override(find_preset("glad", "tiny"), settings), 0)[0].eval()
    inputs = sample_inputs(method, IMAGES)
    for run in range(len(method.config.start_timesteps)):
        never = torch.full_like(method.stop_thresholds[run], torch.inf)
        z0, noise = method._start(inputs["image"], inputs["noise"])
        with torch.no_grad():
            _, stop = method.reconstruct(z0, noise, run, never)
        limits = torch.stack(stop.scores).amax(1) * torch.linspace(1.1, 0.9, len(never))
        method.stop_thresholds[run] = limits.clamp(min=STOP_FLOOR)
    return method, inputs


def in_torch(method):
    """The graphs as functions of arrays, without an exporter."""

    def run(graph, outputs):
        def find(inputs):
            with torch.no_grad():
                found = graph(**{name: torch.from_numpy(one) for name, one in inputs.items()})
            return {name: one.numpy() for name, one in zip(outputs, found, strict=True)}

        return find

    graphs = search_graphs(method)
    return {name: run(graphs[name][0], outputs) for name, outputs in GRAPHS.items()}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rewind": 1},
        {"rewind": 2, "start_timesteps": [400, 250], "spacing": "trailing"},
        {"fusion": "none", "denoiser__prediction": "eps"},
        {"denoiser__prediction": "v", "min_timestep": 0, "schedule": "scaled_linear"},
    ],
    ids=str,
)
def test_the_search_finds_what_the_method_finds(changes):
    method, inputs = adaptive(**changes)
    with torch.no_grad():
        expected = method.detect(**inputs)
    stops = expected.stop_step.tolist()
    assert len(set(stops)) > 1  # images stop at different steps
    plan = Plan.from_dict(json.loads(json.dumps(search_plan(method))))
    found = Search(plan, in_torch(method))({name: one.numpy() for name, one in inputs.items()})
    np.testing.assert_allclose(found["score"], expected.score, rtol=1e-4)
    tolerance = 1e-4 * float(expected.anomaly_map.max() - expected.anomaly_map.min())
    np.testing.assert_allclose(found["anomaly_map"], expected.anomaly_map, rtol=0, atol=tolerance)
    np.testing.assert_allclose(found["reconstruction"], expected.reconstruction, rtol=0, atol=1e-4)


def test_a_search_without_finite_thresholds_is_refused():
    method, _ = adaptive()
    method.stop_thresholds.fill_(torch.inf)
    with pytest.raises(InputError, match="or without stop thresholds"):
        search_plan(method)


@pytest.mark.slow  # torch's exporter takes more than ten seconds
@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_an_exported_search_finds_what_the_model_finds(photos, tmp_path, to):
    method, _ = adaptive(rewind=1)
    scores = tuple(number / 10 for number in range(10))
    Model("glad", method, Calibration(scores, scores), {}).save(tmp_path / "model")
    assert main(["export", str(tmp_path / "model"), "-o", str(tmp_path / "out"), "--to", to]) == 0
    assert read_metadata(tmp_path / "out").files.keys() >= {
        f"{name}.{'onnx' if to == 'onnx' else 'xml'}" for name in GRAPHS
    }
    found = load_exported(tmp_path / "out", threads=1).predict(photos)
    expected = mendiff.load(tmp_path / "model").predict(photos)
    np.testing.assert_allclose(found.score, expected.score, rtol=1e-4)
    sizes = [path.stat().st_size for path in (tmp_path / "out").iterdir()]
    assert max(sizes) < 0.9 * sum(sizes)  # every graph has its own networks alone
