import copy
import io
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F

from mendiff.diffusion.schedule import linear_schedule
from mendiff.errors import InputError
from mendiff.nets.denoiser import DenoiserConfig, plain_unet
from mendiff.nets.joint import JointDenoiser

WIDTH = 5
GRID = (8, 8)
T = torch.tensor([5, 700])


def build(prediction="eps", **changes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = DenoiserConfig("unet", prediction, plain_unet(8, 16) | changes)
        return JointDenoiser(config, linear_schedule(), 4, WIDTH).eval()


@pytest.fixture
def x_t(rng):
    return torch.randn(2, 4, 8, 8, generator=rng)


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
@torch.no_grad()
def test_estimate_is_a_consistent_pair_with_a_variance_between_its_bounds(prediction, x_t):
    joint = build(prediction)
    estimate, _, raw = joint(x_t, T, GRID)
    noisy = linear_schedule().add_noise(estimate.x0, estimate.eps, T)
    torch.testing.assert_close(noisy, x_t, rtol=1e-4, atol=1e-4)
    between = joint.unet.raw(x_t, T)[:, 4:]
    assert torch.equal(estimate.log_var, joint.posterior.learned_log_var(between, T))
    assert torch.equal(raw, joint.unet.raw(x_t, T)[:, :4])


@pytest.mark.parametrize("grid", [(8, 8), (3, 5), (16, 16)])
@torch.no_grad()
def test_features_come_on_the_grid_that_is_asked_for(x_t, grid):
    _, features, _ = build()(x_t, T, grid)
    assert features.shape == (2, 5, *grid)


@torch.no_grad()
def test_the_head_sees_every_level_of_the_decoder(x_t):
    joint = build()
    hidden = {}
    for index, block in enumerate(joint.unet.network.up_blocks):
        block.register_forward_hook(lambda _m, _i, out, index=index: hidden.__setitem__(index, out))
    _, features, _ = joint(x_t, T, (4, 4))
    assert [tuple(one.shape[1:]) for one in hidden.values()] == [(16, 8, 8), (8, 8, 8)]
    normed = [F.silu(norm(one)) for norm, one in zip(joint.norms, hidden.values(), strict=True)]
    expected = joint.head(torch.cat([F.avg_pool2d(one, 2) for one in normed], dim=1))
    torch.testing.assert_close(features, expected)


@torch.no_grad()
def test_listening_to_the_decoder_adds_nothing_to_the_network(x_t):
    joint = build()

    def hooks():
        return [dict(one._forward_hooks) for one in joint.modules()]

    before = hooks()
    joint(x_t, T, GRID)
    assert hooks() == before


@torch.no_grad()
def test_a_copy_listens_to_its_own_decoder(x_t):
    joint = build()
    expected = joint(x_t, T, GRID)[1]
    written = io.BytesIO()
    torch.save(joint, written)
    written.seek(0)
    copies = [copy.deepcopy(joint), torch.load(written, weights_only=False)]
    joint.unet.network.up_blocks.requires_grad_(False).apply(
        lambda one: [w.zero_() for w in one.parameters()]
    )
    assert not torch.equal(joint(x_t, T, GRID)[1], expected)
    for one in copies:
        assert torch.equal(one(x_t, T, GRID)[1], expected)


@torch.no_grad()
def test_threads_hear_their_own_images(x_t):
    joint = build()
    images = [x_t * scale for scale in (0.5, 1.0, 1.5, 2.0)]
    expected = [joint(one, T, GRID)[1] for one in images]
    with ThreadPoolExecutor(4) as threads:
        for _ in range(5):
            found = threads.map(lambda one: joint(one, T, GRID)[1], images)
            assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@torch.no_grad()
def test_every_image_has_its_own_timestep(x_t):
    joint = build()
    both, features, _ = joint(x_t, T, GRID)
    alone, own, _ = joint(x_t[1:], T[1:], GRID)
    torch.testing.assert_close(both.x0[1:], alone.x0, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(features[1:], own, rtol=1e-4, atol=1e-5)


def test_a_denoiser_with_prompts_is_refused():
    with pytest.raises(InputError, match=r"expected kind 'unet'.*got 'conditional_unet'"):
        JointDenoiser(DenoiserConfig("conditional_unet"), linear_schedule(), 4, WIDTH)
