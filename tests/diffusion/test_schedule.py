import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st

from mendiff.diffusion.schedule import (
    KINDS,
    NoiseSchedule,
    linear_schedule,
    make_schedule,
    scaled_linear_schedule,
)
from mendiff.errors import InputError

PUBLISHED = {
    "linear": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
}


@pytest.mark.parametrize("steps", [10, 1000])
@pytest.mark.parametrize("kind", KINDS)
def test_alpha_bar_equals_diffusers(kind, steps):
    for scheduler in (DDPMScheduler, DDIMScheduler):
        expected = scheduler(num_train_timesteps=steps, **PUBLISHED[kind]).alphas_cumprod.double()
        torch.testing.assert_close(make_schedule(kind, steps).alpha_bar, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("end_clean", [False, True])
def test_final_alpha_bar_equals_diffusers(end_clean):
    published = DDIMScheduler(set_alpha_to_one=end_clean, **PUBLISHED["scaled_linear"])
    schedule = scaled_linear_schedule(end_clean=end_clean)
    assert schedule.final_alpha_bar == pytest.approx(float(published.final_alpha_cumprod), abs=1e-7)


@pytest.mark.parametrize("schedule", [linear_schedule(20), scaled_linear_schedule(20)])
def test_every_negative_timestep_reads_the_final_alpha_bar(schedule):
    got = schedule.alpha_bar_at(torch.tensor([-1, -2, -500]))
    assert got.tolist() == [schedule.final_alpha_bar] * 3


def test_timesteps_read_their_own_entry():
    schedule = linear_schedule(20)
    assert torch.equal(schedule.alpha_bar_at(torch.arange(20)), schedule.alpha_bar)
    assert len(schedule) == 20


@given(
    kind=st.sampled_from(KINDS),
    t=st.lists(st.integers(0, 999), min_size=1, max_size=4),
    seed=st.integers(0, 2**31),
)
def test_conversions_undo_adding_noise(kind, t, seed):
    schedule, t = make_schedule(kind), torch.tensor(t)
    x0, eps = torch.randn(
        2, len(t), 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    x_t = schedule.add_noise(x0, eps, t)
    a_t, s_t = schedule.scales(t, torch.float64)
    loose = {"rtol": 0, "atol": 1e-9}
    torch.testing.assert_close(schedule.x0_from_eps(x_t, eps, t), x0, **loose)
    torch.testing.assert_close(schedule.eps_from_x0(x_t, x0, t), eps, **loose)
    torch.testing.assert_close(schedule.x0_from_v(x_t, a_t * eps - s_t * x0, t), x0, **loose)


@pytest.mark.parametrize("kind", KINDS)
def test_variance_is_preserved_and_snr_falls(kind):
    schedule, t = make_schedule(kind), torch.arange(1000)
    a_t, s_t = schedule.scales(t, torch.float64)
    torch.testing.assert_close(a_t**2 + s_t**2, torch.ones_like(a_t), rtol=0, atol=1e-12)
    snr = schedule.snr(t)
    assert bool((snr.diff() < 0).all())
    torch.testing.assert_close(snr / (1 + snr), schedule.alpha_bar, rtol=1e-12, atol=0)


def test_snr_is_the_ratio_of_the_squared_scales():
    schedule, t = scaled_linear_schedule(), torch.tensor([0, 10, 500, 999])
    a_t, s_t = schedule.scales(t, torch.float64)
    torch.testing.assert_close(schedule.snr(t), (a_t / s_t).flatten() ** 2, rtol=1e-9, atol=0)


def test_every_image_gets_its_own_timestep_even_where_batch_equals_width(rng):
    schedule, t = linear_schedule(), torch.tensor([0, 999, 500, -1])
    x, y = torch.randn(2, 4, 3, 4, 4, generator=rng)
    for convert in (schedule.add_noise, schedule.x0_from_v, schedule.x0_from_eps):
        together = convert(x, y, t)
        alone = torch.cat([convert(x[i : i + 1], y[i : i + 1], t[i : i + 1]) for i in range(4)])
        torch.testing.assert_close(together, alone, rtol=0, atol=0)


def test_scales_are_rounded_once_to_the_samples_dtype():
    schedule = scaled_linear_schedule()
    a_t, s_t = schedule.scales(torch.tensor([0]), torch.float16)
    exact = schedule.alpha_bar[0]
    assert a_t.dtype == s_t.dtype == torch.float16
    assert float(s_t) == float((1 - exact).sqrt().to(torch.float16))


@pytest.mark.parametrize("table", [torch.ones(2, 2), torch.ones(0), torch.tensor(0.5)])
def test_a_table_of_another_shape_is_refused(table):
    with pytest.raises(InputError, match="alpha_bar: expected a table"):
        NoiseSchedule(table)


def test_an_unknown_schedule_is_refused_with_those_there_are():
    with pytest.raises(InputError, match="linear, scaled_linear, got 'sigmoid'"):
        make_schedule("sigmoid")


def test_min_snr_weights_cap_the_same_error_in_every_prediction():
    schedule, t = scaled_linear_schedule(), torch.tensor([0, 10, 300, 999])
    weights = {kind: schedule.min_snr_weight(t, 5.0, kind) for kind in ("x0", "eps", "v")}
    snr = schedule.snr(t)
    # An error in x0 is one of sqrt(snr) in eps and of sqrt(snr + 1) in v.
    capped = snr.clamp(max=5.0)
    torch.testing.assert_close(weights["eps"] * snr, capped)
    torch.testing.assert_close(weights["v"] * (snr + 1), capped)
    torch.testing.assert_close(weights["x0"] * 5, capped)
    for weight in weights.values():
        assert float(weight.max()) <= 1


def test_no_gamma_weighs_all_timesteps_equally():
    t = torch.tensor([0, 10, 999])
    assert scaled_linear_schedule().min_snr_weight(t, 0.0, "eps").tolist() == [1, 1, 1]
