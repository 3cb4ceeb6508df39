"""The baselines of benchmarks/speed.py do the same work as mendiff, in another order."""

import pytest
import torch

from benchmarks.published import published_diad, published_glad

SEEDS = torch.tensor([7, 1, 99, 3])
SEARCH = {
    "adaptive": True,
    "start_timesteps": [400],
    "sampler_steps": 4,
    "spacing": "leading",
    "min_timestep": 150,
    "threshold": 1e9,
}
GUIDED = {
    "denoiser.kind": "conditional_unet",
    "denoiser.prediction": "eps",
    "denoiser.guidance": 3.0,
    "denoiser.prompt_length": 2,
    "denoiser.network": {
        "block_out_channels": [16, 32],
        "layers_per_block": 1,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "cross_attention_dim": 8,
        "attention_head_dim": 4,
        "norm_num_groups": 8,
    },
}


def agrees(method, published, pictures):
    expected = published(method, pictures, method.noise(pictures, SEEDS))
    found = method.predict(pictures, SEEDS)
    assert found.stop_step.tolist() == expected.stop_step.tolist()
    torch.testing.assert_close(found.score, expected.score, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.reconstruction, expected.reconstruction, rtol=0, atol=1e-4)
    return found


@pytest.mark.parametrize("checks", ["all", "likely"])
@pytest.mark.parametrize("network", [{}, GUIDED], ids=["plain", "guided"])
def test_glad_in_the_published_order_gives_the_same_scores_and_stops(
    tiny_method, pictures, network, checks, rng
):
    glad = tiny_method("glad", SEARCH | network | {"stop_checks": checks})
    if network:
        prompts = torch.randn(2, 1, 2, 8, generator=rng)
        glad.denoiser.set_prompts(*prompts)
    with torch.no_grad():
        z0, noise = glad._start(pictures, glad.noise(pictures, SEEDS))
        never = torch.full((4,), float("inf"))
        scores = torch.stack(glad.reconstruct(z0, noise, thresholds=never)[1].scores)
    glad.stop_thresholds[0] = scores.amax(1) + 1
    glad.stop_thresholds[0, 1] = scores[1].sort().values[1:3].mean()  # two images stop at the second timestep
    found = agrees(glad, published_glad, pictures)
    assert sorted(found.stop_step.tolist()) == [101, 101, 201, 201]


def test_diad_in_the_published_order_gives_the_same_scores(tiny_method, pictures):
    diad = tiny_method("diad", {"start_timesteps": [1000], "sampler_steps": 3, "noise_timestep": 999})
    agrees(diad, published_diad, pictures)
