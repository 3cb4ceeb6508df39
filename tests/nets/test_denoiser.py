import pytest
import torch
from safetensors.torch import load, save

from mendiff.diffusion.schedule import scaled_linear_schedule
from mendiff.errors import InputError
from mendiff.nets.denoiser import PREDICTIONS, Denoiser, DenoiserConfig
from tests.networks import SMALL_UNET

UNET = {**SMALL_UNET, "block_out_channels": [8, 16], "norm_num_groups": 4}
CONDITIONAL = {
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "norm_num_groups": 4,
    "cross_attention_dim": 6,
    "attention_head_dim": 4,
}
T = torch.tensor([5, 250, 700])


def build(kind="unet", prediction="eps", guidance=0.0, **more):
    network = UNET if kind == "unet" else CONDITIONAL
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = DenoiserConfig(kind, prediction, network, guidance, **more)
        return Denoiser(config, scaled_linear_schedule(), channels=4).eval()


@pytest.fixture
def x_t(rng):
    return torch.randn(3, 4, 8, 8, generator=rng)


@pytest.fixture
def prompts(rng):
    return torch.randn(2, 1, 77, 6, generator=rng)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@torch.no_grad()
def test_estimate_is_a_consistent_pair(prediction, x_t):
    denoiser = build(prediction=prediction)
    estimate = denoiser(x_t, T)
    torch.testing.assert_close(
        denoiser.schedule.add_noise(estimate.x0, estimate.eps, T), x_t, rtol=0, atol=1e-5
    )
    assert estimate.log_var is None


@pytest.mark.parametrize("prediction", PREDICTIONS)
@torch.no_grad()
def test_what_the_network_puts_out_is_what_the_config_says(prediction, x_t):
    denoiser = build(prediction=prediction)
    estimate, raw = denoiser(x_t, T), denoiser.raw(x_t, T)
    a_t, s_t = denoiser.schedule.scales(T)
    meaning = {"eps": estimate.eps, "x0": estimate.x0, "v": a_t * estimate.eps - s_t * estimate.x0}
    torch.testing.assert_close(meaning[prediction], raw, rtol=1e-4, atol=1e-4)


def test_one_estimate_told_in_three_ways_gives_the_same_pair(rng):
    x0, eps = torch.randn(2, 3, 4, 8, 8, generator=rng, dtype=torch.float64)
    schedule = scaled_linear_schedule()
    a_t, s_t = schedule.scales(T, torch.float64)
    raw = {"eps": eps, "x0": x0, "v": a_t * eps - s_t * x0}
    for prediction in PREDICTIONS:
        estimate = build(prediction=prediction).estimate(schedule.add_noise(x0, eps, T), raw[prediction], T)
        torch.testing.assert_close(estimate.x0, x0, rtol=0, atol=1e-9)
        torch.testing.assert_close(estimate.eps, eps, rtol=0, atol=1e-9)


@torch.no_grad()
def test_images_at_different_timesteps_share_a_batch(x_t):
    denoiser = build()
    alone = [denoiser(x_t[i : i + 1], T[i : i + 1]).x0 for i in range(3)]
    torch.testing.assert_close(denoiser(x_t, T).x0, torch.cat(alone), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_guidance_leads_away_from_the_empty_prompt(x_t, prompts):
    guided, plain = build("conditional_unet", guidance=9.0), build("conditional_unet")
    for denoiser in (guided, plain):
        denoiser.set_prompts(*prompts)
    with_prompt, without = (plain.network(x_t, T, one.expand(3, -1, -1)).sample for one in prompts)
    assert not torch.allclose(with_prompt, without, atol=1e-4)
    torch.testing.assert_close(
        guided(x_t, T).eps, without + 9 * (with_prompt - without), rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(plain(x_t, T).eps, with_prompt, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_every_image_may_have_its_own_prompt(x_t, prompts):
    denoiser = build("conditional_unet", guidance=2.0)
    denoiser.set_prompts(*prompts)
    own = torch.cat([prompts[0], prompts[1], 2 * prompts[0]])
    alone = [denoiser(x_t[i : i + 1], T[i : i + 1], own[i : i + 1]).eps for i in range(3)]
    torch.testing.assert_close(denoiser(x_t, T, own).eps, torch.cat(alone), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(denoiser(x_t, T, prompts[0]).eps, denoiser(x_t, T).eps, rtol=0, atol=0)


@torch.no_grad()
def test_prompts_are_saved_with_the_weights(x_t, prompts):
    denoiser, fresh = build("conditional_unet"), build("conditional_unet")
    denoiser.set_prompts(*prompts)
    fresh.load_state_dict(load(save(denoiser.state_dict())))
    assert torch.equal(fresh.prompt, prompts[0])
    assert torch.equal(fresh.no_prompt, prompts[1])
    assert torch.equal(fresh(x_t, T).eps, denoiser(x_t, T).eps)


def test_one_embedding_as_both_prompts_can_be_saved(prompts):
    denoiser = build("conditional_unet")
    denoiser.set_prompts(prompts[0], prompts[0])
    assert torch.equal(load(save(denoiser.state_dict()))["no_prompt"], prompts[0])


@torch.no_grad()
def test_output_is_full_precision_under_autocast(x_t):
    denoiser = build()
    with torch.autocast("cpu", torch.bfloat16):
        estimate = denoiser(x_t, T)
    assert estimate.x0.dtype == estimate.eps.dtype == torch.float32


def test_latents_must_divide_by_the_halvings():
    assert build().multiple == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prediction": "noise"}, "denoiser.prediction: expected one of eps, x0, v, got 'noise'"),
        ({"kind": "dit"}, "denoiser.kind: expected one of unet, conditional_unet, got 'dit'"),
        ({"guidance": 2.0}, "expected 0 for a denoiser without prompts"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Denoiser(DenoiserConfig(**settings), scaled_linear_schedule(), 4)


def test_categories_have_prompts_of_their_own_and_the_unknown_one_their_mean(prompts):
    denoiser = build("conditional_unet", categories=("bolt", "nut"), prompt="a photo of")
    assert denoiser.config.prompts == ("a photo of bolt", "a photo of nut")
    denoiser.set_prompts(torch.cat([prompts[0], 3 * prompts[0]]), prompts[1])
    torch.testing.assert_close(denoiser.prompt, 2 * prompts[0])
    stored = load(save(denoiser.state_dict()))
    denoiser.choose_category("nut")
    assert torch.equal(denoiser.prompt, 3 * prompts[0])
    fresh = build("conditional_unet", categories=("bolt", "nut"))
    fresh.load_state_dict(stored)
    torch.testing.assert_close(fresh.prompt, 2 * prompts[0])
    fresh.choose_category("bolt")
    assert torch.equal(fresh.prompt, prompts[0])
    with pytest.raises(
        InputError, match=r"category: expected one that has a prompt \(bolt, nut\), got 'screw'"
    ):
        fresh.choose_category("screw")


def test_categories_need_a_network_that_takes_prompts():
    with pytest.raises(InputError, match=r"denoiser\.categories: expected none"):
        build(categories=("bolt",))
