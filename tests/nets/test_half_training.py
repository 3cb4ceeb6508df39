"""Networks laid out for training in bfloat16 on a processor compute what they would without it."""

import copy

import pytest
import torch
from torch import nn

from mendiff.diffusion.schedule import make_schedule
from mendiff.nets import build as building
from mendiff.nets.denoiser import Denoiser, DenoiserConfig, attention_unet, conditional_unet
from mendiff.nets.half_training import GroupNorm

NETWORKS = {
    "unet": DenoiserConfig("unet", "v", attention_unet(32, 64)),
    "conditional_unet": DenoiserConfig(
        "conditional_unet", "v", conditional_unet(32, 64, attention=True), prompt_length=1
    ),
}


def made(name, monkeypatch=None):
    if monkeypatch is not None:
        monkeypatch.setattr(building, "lay_out", lambda _network: None)
    torch.manual_seed(0)
    return Denoiser(NETWORKS[name], make_schedule("scaled_linear", 1000), 4)


def step(denoiser, half):
    """Loss and gradients of one step, in bfloat16 or not."""
    rng = torch.Generator().manual_seed(1)
    x, t = torch.randn(3, 4, 16, 16, generator=rng), torch.tensor([10, 400, 900])
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        loss = (denoiser.raw(x, t) - 1).square().mean()
    loss.backward()
    return loss.item(), torch.cat(
        [one.grad.flatten() for one in denoiser.parameters() if one.grad is not None]
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_in_half_are_as_near_to_float32_as_without(name, monkeypatch):
    exact, exact_gradient = step(made(name), half=False)
    loss, gradient = step(made(name), half=True)
    _, plain_gradient = step(made(name, monkeypatch), half=True)
    assert loss == pytest.approx(exact, rel=0.02)
    error, usual = ((one - exact_gradient).norm() for one in (gradient, plain_gradient))
    assert float(error) < 1.3 * float(usual)


@pytest.mark.parametrize("name", NETWORKS)
def test_float32_is_the_same_to_the_last_bit(name, monkeypatch):
    loss, gradient = step(made(name), half=False)
    plain, plain_gradient = step(made(name, monkeypatch), half=False)
    assert loss == plain
    assert torch.equal(gradient, plain_gradient)


@pytest.mark.parametrize("shape", [(2, 32, 8, 8), (3, 48, 4, 6)])
def test_gradients_of_group_norms_are_those_of_torch(shape):
    rng = torch.Generator().manual_seed(0)
    x = (torch.randn(shape, generator=rng) * 2 + 1).to(torch.bfloat16)
    dy = torch.randn(shape, generator=rng)
    own = GroupNorm(8, shape[1])
    with torch.no_grad():
        own.weight.copy_(torch.rand(shape[1], generator=rng) + 0.5)
        own.bias.copy_(torch.randn(shape[1], generator=rng))
    plain = nn.GroupNorm(8, shape[1])
    plain.load_state_dict(own.state_dict())
    exact = x.float().requires_grad_()
    plain(exact).backward(dy)
    half = x.to(memory_format=torch.channels_last).detach().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = own(half)
    assert y.grad_fn.name() == "_GroupNormBackward"
    y.backward(dy.to(torch.bfloat16))
    for found, expected in (
        (half.grad, exact.grad),
        (own.weight.grad, plain.weight.grad),
        (own.bias.grad, plain.bias.grad),
    ):
        assert float((found.float() - expected).norm() / expected.norm()) < 0.01


def test_networks_can_be_copied_and_keep_their_names(monkeypatch):
    own = made("unet")
    assert own.state_dict().keys() == made("unet", monkeypatch).state_dict().keys()
    again = copy.deepcopy(own)
    x, t = torch.randn(1, 4, 16, 16), torch.tensor([5])
    with torch.no_grad():
        assert torch.equal(own.raw(x, t), again.raw(x, t))
