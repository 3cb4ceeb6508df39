"""What every method finds in an image hangs on the image alone: not on who asks, how, or in which company."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch

from mendiff.calibration import Calibration
from mendiff.checkpoints import store
from mendiff.methods.base import METHODS, find_method
from mendiff.types import Detection

pytestmark = pytest.mark.parametrize("name", METHODS)
SEEDS = torch.tensor([11, 5, 2**62, 0])


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


SURROUNDINGS = {
    "float64 as default": lambda: default_dtype(torch.float64),
    "float16 as default": lambda: default_dtype(torch.float16),
    "bfloat16 as default": lambda: default_dtype(torch.bfloat16),
    "another default device": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference mode": torch.inference_mode,
    "gradients": torch.enable_grad,
}
LAYOUTS = {
    "channels last": lambda image: image.contiguous(memory_format=torch.channels_last),
    "mirrored in memory": lambda image: image.flip(-1).contiguous().flip(-1),
    "strides of a larger picture": lambda image: torch.cat([image, image], -1)[..., : image.shape[-1]],
    "wanting gradients": lambda image: image.clone().requires_grad_(),
}


def fitted(method, pictures):
    method.fit_statistics(lambda: iter([(pictures, SEEDS)]))
    return method


@pytest.fixture(scope="module")
def methods(tiny_method, pictures):
    """Fitted, by name."""
    return {name: fitted(tiny_method(name), pictures) for name in METHODS}


@pytest.fixture
def method(name, methods):
    return methods[name]


def detected(method, image, seeds):
    """All that a method says of images: of `predict` and of `explain`."""
    found = method.predict(image, seeds)
    return [*(getattr(found, f.name) for f in dataclasses.fields(Detection)), method.explain(image, seeds)]


def assert_equal(got, expected):
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == other.dtype
        assert not one.requires_grad
        assert torch.equal(one, other)


@pytest.fixture(scope="module")
def expected(methods, pictures):
    return {name: detected(method, pictures, SEEDS) for name, method in methods.items()}


@pytest.mark.parametrize("surroundings", SURROUNDINGS)
def test_defaults_and_modes_of_the_caller_have_no_effect(name, method, pictures, expected, surroundings):
    with SURROUNDINGS[surroundings]():
        got = detected(method, pictures, SEEDS)
    assert_equal(got, expected[name])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_layout_has_no_effect(name, method, pictures, expected, layout):
    assert_equal(detected(method, LAYOUTS[layout](pictures), SEEDS), expected[name])


def test_inference_mode_tensors_are_valid(name, method, pictures, expected):
    with torch.inference_mode():
        image = pictures.clone()
    assert_equal(detected(method, image, SEEDS), expected[name])


def test_several_threads_give_the_same_result_as_a_single_thread(name, method, pictures):
    alone = [detected(method, pictures[i : i + 1], SEEDS[i : i + 1]) for i in range(4)]
    turns = [i % 4 for i in range(8)]
    with ThreadPoolExecutor(4) as threads:
        found = threads.map(lambda i: detected(method, pictures[i : i + 1], SEEDS[i : i + 1]), turns)
        for i, got in zip(turns, found, strict=True):
            assert_equal(got, alone[i])


def test_explanation_does_not_depend_on_the_batch(name, tiny_method, pictures):
    method = fitted(tiny_method(name), pictures)
    alone = [method.explain(pictures[i : i + 1], SEEDS[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(method.explain(pictures, SEEDS), torch.cat(alone), rtol=1e-5, atol=1e-5)


def test_explanation_does_not_depend_on_the_number_of_threads(name, tiny_method, pictures):
    method, before = fitted(tiny_method(name), pictures), torch.get_num_threads()
    expected = method.explain(pictures, SEEDS)
    torch.set_num_threads(3 if before != 3 else 2)
    try:
        got = method.explain(pictures, SEEDS)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("surroundings", ["float64 as default", "float16 as default", "inference mode"])
def test_model_loaded_in_other_surroundings_is_the_same(
    name, method, pictures, expected, surroundings, tmp_path
):
    store.save(tmp_path / "model", name, method, Calibration((1.0, 2.0), (1.0, 2.0)), {})
    with SURROUNDINGS[surroundings]():
        loaded = store.load(tmp_path / "model").method
    assert_equal(detected(loaded, pictures, SEEDS), expected[name])


def test_default_dtype_has_no_effect_on_new_networks(name, tiny_config, tiny_method, pictures, streams):
    with torch.random.fork_rng(devices=[]), default_dtype(torch.float64):
        torch.manual_seed(0)
        made = find_method(name)(tiny_config(name)).eval()
        loss = made.training_loss(pictures, streams())
    plain = tiny_method(name)
    for key, one in plain.state_dict().items():
        assert torch.equal(made.state_dict()[key], one), key
    assert loss.item() == plain.training_loss(pictures, streams()).item()
