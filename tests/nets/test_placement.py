import copy
import threading
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
import torch
from torch import nn

from mendiff.methods.base import METHODS
from mendiff.nets.placement import Offload, multiplies_bf16, store_bf16, temporarily_bf16

SEEDS = torch.tensor([11, 5, 2**62, 0])
CPU = torch.device("cpu")


class Part(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.register_buffer("offset", torch.ones(3))

    def forward(self, x):
        return self.layer(x) + self.offset


@pytest.mark.parametrize("name", METHODS)
def test_offloaded_methods_find_the_same(name, tiny_method, pictures):
    method = tiny_method(name)
    expected, explained = method.predict(pictures, SEEDS), method.explain(pictures, SEEDS)
    offload = Offload(method.parts, CPU)
    found = method.predict(pictures, SEEDS)
    assert torch.equal(found.anomaly_map, expected.anomaly_map)
    assert torch.equal(found.score, expected.score)
    assert torch.equal(method.explain(pictures, SEEDS), explained)
    assert offload.resident in method.parts


@pytest.mark.parametrize("name", METHODS)
def test_threads_that_share_an_offloaded_method_find_the_same(name, tiny_method, pictures):
    method = tiny_method(name)
    expected = [method.predict(pictures[i : i + 1], SEEDS[i : i + 1]).anomaly_map for i in range(4)]
    Offload(method.parts, CPU)
    with ThreadPoolExecutor(4) as threads:
        rows = [slice(i % 4, i % 4 + 1) for i in range(8)]
        found = list(threads.map(lambda row: method.predict(pictures[row], SEEDS[row]).anomaly_map, rows))
    for i, one in enumerate(found):
        assert torch.equal(one, expected[i % 4])


def test_a_network_stays_on_the_device_while_a_thread_uses_it():
    """The meta device stands for another one; the first network lingers in its forward pass."""
    first, second, inside, go = Part(), Part(), threading.Event(), threading.Event()
    first.layer.register_forward_pre_hook(lambda *_: (inside.set(), go.wait(10), None)[-1])
    Offload({"first": first, "second": second}, torch.device("meta"))
    x = torch.empty(2, 3, device="meta")
    with ThreadPoolExecutor(2) as threads:
        lingering = threads.submit(first, x)
        assert inside.wait(10)
        waiting = threads.submit(second, x)
        assert not wait([waiting], timeout=0.2).done
        assert first.layer.weight.device.type == "meta"
        go.set()
        assert lingering.result().device.type == waiting.result().device.type == "meta"


@pytest.mark.parametrize("name", METHODS)
def test_networks_take_turns(name, tiny_method, pictures):
    """What runs is what is on the device: nothing of another network is used meanwhile."""
    method = tiny_method(name)
    offload = Offload(method.parts, CPU)
    ran, wrong = set(), []

    def look(own):
        ran.add(own)
        if offload.resident != own:
            wrong.append(own)

    for part_name, part in method.parts.items():
        for layer in list(part.modules())[1:]:
            layer.register_forward_pre_hook(lambda *_, own=part_name: look(own))
    method.predict(pictures, SEEDS)
    assert "denoiser" in ran
    assert wrong == []


def test_only_the_network_in_use_is_on_the_device():
    """The meta device stands for another one: its tensors can't be mixed with those of the CPU."""
    first, second = Part(), Part()
    weights = copy.deepcopy(first.state_dict())
    offload = Offload({"first": first, "second": second}, torch.device("meta"))
    assert {one.device.type for one in first.parameters()} == {"cpu"}
    assert first(torch.empty(2, 3, device="meta")).device.type == "meta"
    assert {one.device.type for one in (*first.parameters(), *first.buffers())} == {"meta"}
    assert {one.device.type for one in (*second.parameters(), *second.buffers())} == {"cpu"}
    second(torch.empty(2, 3, device="meta"))
    assert offload.resident == "second"
    assert {one.device.type for one in second.parameters()} == {"meta"}
    for key, one in first.state_dict().items():
        assert torch.equal(one, weights[key])


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("fast", [False, True])
def test_half_precision_changes_results_little(name, fast, tiny_method, pictures):
    method = tiny_method(name)
    expected = method.predict(pictures, SEEDS)
    for part in method.parts.values():
        store_bf16(part, CPU, fast=fast)
    weights = [one for one in method.denoiser.parameters() if one.ndim > 1]
    assert {one.dtype for one in weights} == {torch.bfloat16}
    found = method.predict(pictures, SEEDS)
    assert found.anomaly_map.dtype == torch.float32
    assert not torch.equal(found.score, expected.score)
    torch.testing.assert_close(found.reconstruction, expected.reconstruction, rtol=0, atol=0.06)
    method.explain(pictures, SEEDS)  # RAN's takes gradients


def test_half_precision_of_a_slow_device_computes_in_float32():
    part = Part()
    rounded = part.layer.weight.detach().bfloat16().float()
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    expected = x @ rounded.T + part.layer.bias + 1
    store_bf16(part, CPU, fast=False)
    torch.testing.assert_close(part(x), expected)


def test_fast_bf16_is_a_matter_of_hardware(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert not multiplies_bf16(torch.device("cuda:1"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    assert multiplies_bf16(torch.device("cuda"))
    assert not multiplies_bf16(torch.device("mps"))


class Asked(nn.Module):
    """A network that tells in which precision it computes."""

    def forward(self, x):
        self.computed = torch.mm(x, x).dtype
        return torch.mm(x, x)


@pytest.mark.parametrize("fast", [True, False])
def test_networks_compute_in_half_meanwhile_where_the_device_is_fast_at_it(fast, monkeypatch):
    monkeypatch.setattr("mendiff.nets.placement.multiplies_bf16", lambda _device: fast)
    network, x = Asked(), torch.eye(2)
    with temporarily_bf16([network], torch.device("cpu")):
        assert network(x).dtype == torch.float32
        assert network.forward(x).dtype == torch.float32
        assert network.computed == (torch.bfloat16 if fast else torch.float32)
    assert network.forward(x).dtype == network.computed == torch.float32
    assert "forward" not in vars(network)


def test_weights_are_in_half_meanwhile_and_the_same_tensors_afterwards(monkeypatch):
    monkeypatch.setattr("mendiff.nets.placement.multiplies_bf16", lambda _device: True)
    network, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4)), torch.ones(1, 3, 5, 5)
    before = [(one.data_ptr(), one.detach().clone()) for one in network.parameters()]
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        expected = network(x).float()
    with torch.no_grad(), temporarily_bf16([network], CPU):
        assert [one.dtype for one in network.parameters()] == [torch.bfloat16] + 3 * [torch.float32]
        assert torch.equal(network(x), expected)
    for one, (pointer, values) in zip(network.parameters(), before, strict=True):
        assert one.data_ptr() == pointer
        assert torch.equal(one, values)


def test_what_computes_in_half_already_goes_on_so(monkeypatch):
    monkeypatch.setattr("mendiff.nets.placement.multiplies_bf16", lambda _device: True)
    network = nn.Linear(2, 2)
    store_bf16(network, torch.device("cpu"), fast=True)
    before = network.forward
    with temporarily_bf16([network], torch.device("cpu")):
        assert network.forward is before
    assert network.forward is before
