import pytest
import torch

from mendiff.diffusion.ladder import ladder
from mendiff.diffusion.random import PredictionNoise
from mendiff.errors import InputError
from mendiff.methods.base import find_method
from mendiff.methods.diad import GUIDANCE
from mendiff.methods.diad_config import PUBLISHED, DiadConfig

SEEDS = torch.tensor([7, 1, 99, 3])


@pytest.fixture(scope="module")
def make(tiny_method):
    """Changes of the tiny preset to a method, always with the same seed of weights."""
    return lambda changes=None: tiny_method("diad", changes)


def count_calls(module, action):
    calls = []
    hook = module.register_forward_hook(lambda *_: calls.append(1))
    try:
        with torch.no_grad():
            action()
    finally:
        hook.remove()
    return len(calls)


def test_guide_runs_once_for_all_sampler_steps(make, pictures):
    method = make({"sampler_steps": 5, "start_timesteps": [1000]})
    assert count_calls(method.denoiser.guide.hint, lambda: method.predict(pictures, SEEDS)) == 1
    assert count_calls(method.denoiser.guide.network, lambda: method.predict(pictures, SEEDS)) == 5


def test_reconstruction_follows_the_hint(make, pictures):
    method = make()
    with torch.no_grad():
        z0 = method.encode(pictures)
        noise = torch.zeros_like(z0)
        one, other = (method.reconstruct(z0, noise, method.scaled(hint)) for hint in (pictures, 1 - pictures))
    assert float((one - other).abs().max()) > 1e-3


def test_published_start_has_noise_of_the_last_timestep(make, pictures):
    method = make(
        {"start_timesteps": [1000], "sampler_steps": 10, "spacing": "leading", "noise_timestep": 999}
    )
    seen = []
    hook = method.denoiser.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[:2]))
    with torch.no_grad():
        z0 = method.encode(pictures)
        noise = torch.ones_like(z0)
        method.reconstruct(z0, noise, method.scaled(pictures))
    hook.remove()
    assert (
        [int(t[0]) for _, t in seen] == ladder(torch.tensor([1000]), 10)[0].tolist() == [*range(901, 0, -100)]
    )
    start = method.schedule.add_noise(z0, noise, torch.full((4,), 999))
    torch.testing.assert_close(seen[0][0], start)


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize(
    ("start", "spacing", "noise_timestep", "expected"),
    [
        (1000, "leading", 999, 999),
        (400, "leading", 999, 361),
        (400, "leading", 399, 399),
        (400, "leading", 0, 361),
        (1000, "leading", 500, 901),
        (750, "trailing", 999, 749),
        (999, "leading", 999, 892),
    ],
)
def test_noise_timestep_is_in_the_ladder(make, pictures, reference, start, spacing, noise_timestep, expected):
    changes = {
        "start_timesteps": [start],
        "sampler_steps": 10,
        "spacing": spacing,
        "noise_timestep": noise_timestep,
    }
    method, seen = make(changes | {"reference": reference}), []
    method.denoiser.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[:2]))
    with torch.no_grad():
        z0 = method.encode(pictures)
        method.reconstruct(z0, torch.ones_like(z0), method.scaled(pictures))
    noised = method.schedule.add_noise(z0, torch.ones_like(z0), torch.full((4,), expected))
    torch.testing.assert_close(seen[0][0], noised)


@pytest.mark.parametrize("start", [one for (one,) in find_method("diad").SEARCHED["start_timesteps"]])
def test_no_searched_start_is_far_below_its_noise_timestep(start, tiny_method, pictures):
    # As `mendiff tune` and the ablation over timesteps change a published model.
    method = tiny_method(
        "diad", {"start_timesteps": [start], "sampler_steps": 10, "spacing": "leading", "noise_timestep": 999}
    )
    seen = []
    method.denoiser.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[:2]))
    with torch.no_grad():
        noise = torch.ones_like(method.encode(pictures))
        method.reconstruct(torch.zeros_like(noise), noise, method.scaled(pictures))
    level, t = float(seen[0][0].mean()), int(seen[0][1][0])
    carried = (1 - method.schedule.alpha_bar).sqrt().sub(level).abs().argmin()
    assert t <= int(carried) < max(start, 1)


def test_reference_guides_between_equal_prompts_and_samples_the_posterior(make, pictures):
    plain, reference = make(), make({"reference": True})
    assert plain.denoiser.unet.config.guidance == 0
    assert reference.denoiser.unet.config.guidance == GUIDANCE
    calls = count_calls(reference.denoiser.guide.network, lambda: reference.predict(pictures, SEEDS))
    assert calls == 2 * count_calls(plain.denoiser.guide.network, lambda: plain.predict(pictures, SEEDS))


@pytest.mark.parametrize("normalised", [False, True])
def test_decoding_inverts_encoding(make, pictures, normalised):
    method = make({"normalised": normalised})
    torch.testing.assert_close(method.decode(method.encode(pictures)), pictures, rtol=0, atol=1e-5)


def test_published_training_freezes_the_encoder(make):
    method = make({"train_encoder": False})
    trained = {name for name, one in method.denoiser.unet.network.named_parameters() if one.requires_grad}
    assert trained
    assert all(name.startswith(("up_blocks.", "conv_norm_out.", "conv_out.")) for name in trained)


def test_without_guide_there_is_no_hint(make, pictures):
    method = make({"guide": None})
    assert method.denoiser.guide is None
    assert method.predict(pictures, SEEDS).anomaly_map.shape == (4, 1, 32, 32)


def test_published_size_has_the_published_numbers_of_weights():
    with torch.device("meta"):
        from mendiff.methods.diad import Diad

        method = Diad(PUBLISHED)
    parts = {"unet": method.denoiser.unet.network, "guide": method.denoiser.guide, "codec": method.codec}
    count = {name: sum(one.numel() for one in part.parameters()) for name, part in parts.items()}
    assert count == {"unet": 859_520_964, "guide": 471_871_120, "codec": 83_653_863}


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"train_timesteps": (5, 5)},
            "train_timesteps: expected two timesteps, low < high <= 1000, got [5, 5].",
        ),
        ({"start_timesteps": (0,)}, "start_timesteps: expected timesteps from 1 to 1000, got [0]."),
        ({"noise_timestep": 1000}, "noise_timestep: expected 0 to 999, got 1000."),
        ({"sampler_steps": 0}, "sampler_steps: expected at least 1, got 0."),
        ({"spacing": "random"}, "spacing: expected one of leading, trailing, got 'random'."),
        (
            {"start_timesteps": (100, 200)},
            "start_timesteps: expected one for DiAD, which samples every image once, got [100, 200].",
        ),
    ],
)
def test_inconsistent_config_is_refused(fields, sentence):
    with pytest.raises(InputError) as error:
        DiadConfig(**fields)
    assert str(error.value) == sentence


def test_image_size_that_the_networks_cannot_halve_is_refused(make):
    with pytest.raises(InputError, match="image size: expected multiples of 8"):
        make().predict(torch.zeros(1, 3, 36, 36), SEEDS[:1])


@torch.no_grad()
def test_trace_shows_the_noised_input_and_the_estimates_of_all_timesteps(make, pictures):
    diad = make({"sampler_steps": 3})
    traced = diad.trace(pictures[:1], SEEDS[:1])
    shown = [(panel.caption, panel.t) for panel in traced.panels]
    assert shown == [("noised input", 199), ("estimate", 199), ("estimate", 132), ("estimate", 66)]
    z0, noise = diad.encode(pictures[:1]), PredictionNoise(SEEDS[:1]).like(diad.encode(pictures[:1]))
    z_t = diad.schedule.add_noise(z0, noise, torch.tensor([199]))
    embedding = diad.denoiser.embed(diad.scaled(pictures[:1]))
    first = diad.denoiser(z_t, torch.tensor([199]), embedding).x0
    for panel, z in zip(traced.panels, (z_t, first), strict=False):
        torch.testing.assert_close(panel.pixels, diad.decode(z)[0].clamp(0, 1))
