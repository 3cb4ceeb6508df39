import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

import mendiff.methods.glad as module
from mendiff.diffusion.ddim import ddim
from mendiff.diffusion.ladder import ladder
from mendiff.diffusion.random import PerImageRandom, PredictionNoise
from mendiff.diffusion.schedule import scaled_linear_schedule
from mendiff.errors import InputError
from mendiff.methods.glad import Glad
from mendiff.methods.glad_config import GladConfig
from mendiff.methods.glad_flight import Flight
from mendiff.methods.glad_stop import AdaptiveStop
from mendiff.nets.denoiser import PREDICTIONS
from mendiff.scoring.maps import nearest_patch_map, object_mask
from mendiff.synthesis.foreground import foreground
from mendiff.types import Estimate, Step

SEEDS = torch.tensor([7, 1, 99, 3])
# A plain read-out, so that what the sampler does shows in the map.
PLAIN = {
    "readout.distance": "cosine",
    "readout.standardise": False,
    "readout.pixel_share": 0.0,
    "readout.position_grid": 0,
    "readout.logarithm": False,
    "readout.sigma": 0.0,
    "readout.sigma_share": 0.0,
    "readout.bank_shares": [],
}
ADAPTIVE = {
    **PLAIN,
    "adaptive": True,
    "start_timesteps": [400],
    "sampler_steps": 4,
    "spacing": "leading",
    "min_timestep": 0,
}
LADDER = [301, 201, 101, 1]


@pytest.fixture(scope="module")
def make(tiny_method):
    """Changes of the tiny preset to a method, always with the same weights."""
    return lambda changes=None, **more: tiny_method("glad", {**PLAIN, **(changes or {}), **more})


@pytest.fixture
def latents(rng):
    """(z0, z^a), (4,48,8,8) float64."""
    return torch.randn(2, 4, 48, 8, 8, generator=rng, dtype=torch.float64)


@pytest.fixture
def eps(rng):
    return torch.randn(4, 48, 8, 8, generator=rng, dtype=torch.float64)


T = torch.tensor([1, 80, 400, 999])


# Training.


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_perfect_prediction_restores_the_normal_latent_and_the_published_one_doubles_the_anomaly(
    make, latents, eps, prediction, reference
):
    glad = make({"denoiser.prediction": prediction, "reference": reference})
    z0, z_anomalous = latents
    z_t = glad.schedule.add_noise(z_anomalous, eps, T)
    estimate = glad.denoiser.estimate(z_t, glad.atp_target(z0, z_anomalous, T, eps), T)
    expected = 2 * z_anomalous - z0 if reference else z0
    torch.testing.assert_close(estimate.x0, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(glad.schedule.add_noise(estimate.x0, estimate.eps, T), z_t, rtol=0, atol=1e-9)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_without_an_anomaly_the_target_is_that_of_plain_diffusion(make, latents, eps, prediction):
    z0 = latents[0]
    glad = make({"denoiser.prediction": prediction})
    a_t, s_t = glad.schedule.scales(T, torch.float64)
    plain = {"eps": eps, "x0": z0, "v": a_t * eps - s_t * z0}[prediction]
    torch.testing.assert_close(glad.atp_target(z0, z0, T, eps), plain, rtol=0, atol=1e-12)


def loss_of_silence(glad, z0, z_anomalous, eps, monkeypatch):
    """(loss, what the network was given) for a network that puts out zeros."""
    given = []

    def raw(z_t, t, prompt=None):
        given.append(z_t)
        return torch.zeros_like(z_t)

    monkeypatch.setattr(glad.denoiser, "raw", raw)
    return glad.atp_loss(z0, z_anomalous, T, eps), given[0]


@pytest.mark.parametrize("mix", [False, True])
def test_mix_weights_the_normal_latent_more_at_small_t(make, latents, eps, mix, monkeypatch):
    glad = make({"mix": mix, "denoiser.prediction": "eps", "min_snr_gamma": 0.0})
    z0, z_anomalous = latents
    share = (T / 1000)[:, None, None, None].double() if mix else 1.0
    leaning = share * z_anomalous + (1 - share) * z0
    loss, given = loss_of_silence(glad, z0, z_anomalous, eps, monkeypatch)
    torch.testing.assert_close(given, glad.schedule.add_noise(leaning, eps, T), rtol=0, atol=1e-6)
    target = glad.atp_target(z0, leaning, T, eps)
    torch.testing.assert_close(loss, target.square().mean(), rtol=1e-6, atol=0)


def test_loss_has_min_snr_weights(make, latents, eps, monkeypatch):
    glad = make({"min_snr_gamma": 5.0, "mix": False})
    loss, _ = loss_of_silence(glad, *latents, eps, monkeypatch)
    errors = latents[0].square().mean((1, 2, 3))
    weights = glad.schedule.min_snr_weight(T, 5.0, "x0")
    torch.testing.assert_close(loss, (weights * errors).mean(), rtol=1e-9, atol=0)


def test_training_uses_the_configured_timesteps_only(make, pictures, streams, monkeypatch):
    glad, seen = make({"train_timesteps": [40, 43]}), set()
    monkeypatch.setattr(glad, "atp_loss", lambda z0, z_anomalous, t, *_: seen.update(t.tolist()))
    for seed in range(10):
        glad.training_loss(pictures, streams(4, seed))
    assert seen == {40, 41, 42}


def test_training_pairs_images_with_their_own_anomalies(make, pictures, streams, monkeypatch):
    glad, pairs = make({"synthesis.share": 0.5}), []
    monkeypatch.setattr(glad, "atp_loss", lambda z0, z_anomalous, *_: pairs.append((z0, z_anomalous)))
    for seed in range(4):
        glad.training_loss(pictures, streams(4, seed))
    z0, z_anomalous = (torch.cat(side) for side in zip(*pairs, strict=True))
    torch.testing.assert_close(z0, glad.codec.encode(pictures).repeat(4, 1, 1, 1))
    changed = (z0 != z_anomalous).flatten(1).float().mean(1)
    assert 0 < int((changed > 0).sum()) < 16
    assert float(changed.max()) < 1


def trained_pairs(glad, pictures, streams, monkeypatch, seeds):
    """(z0, z_anomalous) of every training step."""
    pairs = []
    monkeypatch.setattr(glad, "atp_loss", lambda z0, z_anomalous, *_: pairs.append((z0, z_anomalous)))
    for seed in seeds:
        glad.training_loss(pictures, streams(len(pictures), seed))
    return pairs


def test_variants_are_computed_once_and_do_not_depend_on_the_batch(make, pictures, streams, monkeypatch):
    kept = {"variants": 2, "synthesis.share": 0.5, "training.cache_gigabytes": 1.0}
    glad, encoded = make(kept), []
    encode = glad.codec.encode
    monkeypatch.setattr(glad.codec, "encode", lambda image: encoded.append(len(image)) or encode(image))
    pairs = trained_pairs(glad, pictures, streams, monkeypatch, range(12))
    assert len(encoded) <= 2 * len(pictures)
    assert set(encoded) == {2}
    for row in range(len(pictures)):
        found = {tuple(anomalous[row].flatten().tolist()) for _, anomalous in pairs}
        assert 1 <= len(found) <= 2
    other = make(kept)
    turned_round = trained_pairs(other, pictures.flip(0), lambda *_: streams(4, 3), monkeypatch, [0])[0]
    known = {tuple(one[row].flatten().tolist()) for _, one in pairs for row in range(len(pictures))}
    assert all(tuple(one.flatten().tolist()) in known for one in turned_round[1])


# Sampling.


def start(glad, pictures):
    z0 = glad.codec.encode(pictures)
    return z0, PredictionNoise(SEEDS).like(z0)


def plain_ddim(glad, z0, noise):
    timesteps = ladder(torch.full((len(z0),), 400), 4)
    z_t = glad.schedule.add_noise(z0, noise, timesteps[:, 0])
    return ddim(glad.denoiser, z_t, timesteps, glad.schedule)


@torch.no_grad()
def test_without_adaptive_stops_it_is_plain_ddim(make, pictures):
    glad = make(ADAPTIVE, adaptive=False)
    z0, noise = start(glad, pictures)
    z, stop = glad.reconstruct(z0, noise)
    assert torch.equal(z, plain_ddim(glad, z0, noise))
    assert stop.stopped_at.tolist() == [0, 0, 0, 0]
    assert stop.scores == []


@torch.no_grad()
def test_unreached_threshold_gives_plain_ddim_with_a_score_per_timestep(make, pictures):
    glad = make(ADAPTIVE, threshold=1e9)
    z0, noise = start(glad, pictures)
    z, stop = glad.reconstruct(z0, noise)
    assert torch.equal(z, plain_ddim(glad, z0, noise))
    assert stop.stopped_at.tolist() == [0, 0, 0, 0]
    scores = torch.stack(stop.scores)
    assert scores.shape == (4, 4)
    # Sampling starts at the true noisy input and deviates from it step by step.
    torch.testing.assert_close(scores[0], torch.zeros(4), rtol=0, atol=1e-6)
    assert bool((scores[1:] > 1e-3).all())


@torch.no_grad()
def test_always_exceeded_threshold_stops_once_at_the_first_timestep(make, pictures):
    glad = make(ADAPTIVE, threshold=-1.0)
    z, stop = glad.reconstruct(*start(glad, pictures))
    assert stop.stopped_at.tolist() == [301] * 4
    assert len(stop.scores) == 1
    assert bool(z.isfinite().all())


@pytest.mark.parametrize(
    ("min_timestep", "expected"), [(0, 0), (1, 0), (2, 1), (101, 1), (102, 101), (302, 301)]
)
@torch.no_grad()
def test_an_image_stops_below_min_timestep_and_not_at_it(make, pictures, min_timestep, expected):
    glad = make(ADAPTIVE, threshold=1e9, min_timestep=min_timestep)
    _, stop = glad.reconstruct(*start(glad, pictures))
    assert stop.stopped_at.tolist() == [expected] * 4


@torch.no_grad()
def test_every_image_stops_once_at_its_first_score_above_the_threshold(make, pictures):
    glad = make(ADAPTIVE, threshold=1e9)
    scores = torch.stack(glad.reconstruct(*start(glad, pictures))[1].scores)
    # Between the scores at the third timestep: some images stop there, others later or never.
    threshold = float(scores[2].sort().values[1:3].mean())
    glad.stop_thresholds.fill_(threshold)
    _, stop = glad.reconstruct(*start(glad, pictures))
    expected = [
        next((t for t, score in zip(LADDER, column, strict=True) if score > threshold), 0)
        for column in scores.T.tolist()
    ]
    assert stop.stopped_at.tolist() == expected
    assert expected.count(101) == 2
    for number, scores in enumerate(stop.scores[1:], start=1):
        done = [other != 0 and LADDER.index(other) < number for other in expected]
        assert [score == 0 for score in scores.tolist()] == done


def one_step(glad, pictures, number=1):
    """A step of the sampler at LADDER[number], with its true input: (z0, noise, step)."""
    z0, noise = start(glad, pictures)
    t = torch.full((4,), LADDER[number])
    # Away from the true noisy input, as it is after some steps.
    z_t = glad.schedule.add_noise(z0, noise, t) + 0.3 * PerImageRandom(SEEDS + 9).like(z0)
    return z0, noise, Step(z_t, t, torch.full((4,), LADDER[number + 1]), glad.denoiser(z_t, t))


def expected_fusion(glad, z0, noise, step):
    """(mask m at latent size, true clean estimate, true noisy latent) by the formulas."""
    true_z_t = glad.schedule.add_noise(z0, noise, step.t)
    truth = glad.schedule.x0_from_eps(true_z_t, step.estimate.eps, step.t)
    ours = glad.features.unnormalised(glad.codec.decode_raw(truth))[-1]
    theirs = glad.features.unnormalised(glad.codec.decode_raw(step.estimate.x0))[-1]
    distance = nearest_patch_map(ours, theirs)
    m = torch.sigmoid(F.interpolate(distance, (8, 8), mode="bilinear", align_corners=False))
    return m, truth, true_z_t


@torch.no_grad()
def test_fusion_of_estimates_keeps_the_direction(make, pictures):
    glad = make(ADAPTIVE, fusion="x0", threshold=-1.0)
    z0, noise, step = one_step(glad, pictures)
    got = AdaptiveStop(glad, z0, noise, glad.stop_thresholds[0])(step)
    m, truth, _ = expected_fusion(glad, z0, noise, step)
    torch.testing.assert_close(got.x0, m * step.estimate.x0 + (1 - m) * truth, rtol=1e-5, atol=1e-5)
    assert torch.equal(got.eps, step.estimate.eps)
    assert not torch.allclose(got.x0, step.estimate.x0, atol=1e-3)


@torch.no_grad()
def test_without_fusion_sampling_continues_from_the_true_noisy_input(make, pictures):
    glad = make(ADAPTIVE, fusion="none", threshold=-1.0)
    z0, noise, step = one_step(glad, pictures)
    got = AdaptiveStop(glad, z0, noise, glad.stop_thresholds[0])(step)
    _, truth, true_z_t = expected_fusion(glad, z0, noise, step)
    torch.testing.assert_close(got.x0, truth, rtol=1e-5, atol=1e-5)
    back = glad.schedule.add_noise(got.x0, got.eps, step.t)
    torch.testing.assert_close(back, true_z_t, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fusion", ["x0", "none"])
@torch.no_grad()
def test_image_stopped_by_min_timestep_continues_from_the_true_input(make, pictures, fusion):
    glad = make(ADAPTIVE, fusion=fusion, threshold=1e9, min_timestep=999)
    z0, noise, step = one_step(glad, pictures)
    got = AdaptiveStop(glad, z0, noise, glad.stop_thresholds[0])(step)
    _, truth, _ = expected_fusion(glad, z0, noise, step)
    torch.testing.assert_close(got.x0, truth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fusion", ["x0", "none"])
@torch.no_grad()
def test_only_stopping_images_change_their_estimate(make, pictures, fusion):
    glad = make(ADAPTIVE, fusion=fusion, threshold=1e9)
    z0, noise, step = one_step(glad, pictures)
    scores = AdaptiveStop(glad, z0, noise, glad.stop_thresholds[0])
    scores(step)
    order = scores.scores[0].sort().values
    stop = AdaptiveStop(glad, z0, noise, torch.full((4,), float(order[1:3].mean())))
    got = stop(step)
    going, stopped = stop.stopped_at == 0, stop.stopped_at == 201
    assert int(going.sum()) == int(stopped.sum()) == 2
    assert torch.equal(got.x0[going], step.estimate.x0[going])
    assert torch.equal(got.eps[going], step.estimate.eps[going])
    again = stop(step)
    assert torch.equal(again.x0[stopped], step.estimate.x0[stopped])
    assert torch.equal(again.eps[stopped], step.estimate.eps[stopped])


@pytest.mark.parametrize("fusion", ["x0", "none"])
@torch.no_grad()
def test_stops_and_scores_do_not_depend_on_the_batch(make, pictures, fusion):
    glad = make(ADAPTIVE, fusion=fusion, threshold=1e9)
    image = torch.cat([pictures[:2], 1 - pictures[:1], pictures[2:3].flip(1)])
    scores = torch.stack(glad.reconstruct(*start(glad, image))[1].scores)
    glad.stop_thresholds.copy_(scores.quantile(0.6, dim=1).clamp(min=1e-3)[None])
    together = glad.predict(image, SEEDS)
    assert len(set(together.stop_step.tolist())) > 1
    alone = [glad.predict(image[i : i + 1], SEEDS[i : i + 1]) for i in range(4)]
    for field in dataclasses.fields(together):
        joined = torch.cat([getattr(one, field.name) for one in alone])
        torch.testing.assert_close(getattr(together, field.name), joined, rtol=1e-5, atol=1e-4)


@torch.no_grad()
def test_computed_thresholds_are_exceeded_by_few_good_images(make, rng, monkeypatch):
    monkeypatch.setattr(module, "STOP_RATE", 0.1)
    good = F.interpolate(torch.rand(40, 3, 5, 5, generator=rng), (32, 32), mode="bicubic").clamp(0, 1)
    seeds = torch.arange(40)
    glad = make(ADAPTIVE, min_timestep=50)
    assert bool(glad.stop_thresholds.isinf().all())
    glad.fit_statistics(lambda: iter([(good[:20], seeds[:20]), (good[20:], seeds[20:])]))
    assert glad.stop_thresholds.shape == (1, 4)
    assert bool(glad.stop_thresholds.isfinite().all())
    z0 = glad.codec.encode(good)
    noise = PredictionNoise(seeds).like(z0)
    never = torch.full((4,), math.inf)
    scores = torch.stack(glad.reconstruct(z0, noise, thresholds=never)[1].scores)
    over = (scores > glad.stop_thresholds[0][:, None]).float().mean(1)
    assert 0 < float(over[1:].mean()) < 0.25
    monkeypatch.setattr(module, "STOP_RATE", 0.4)
    lower = make(ADAPTIVE, min_timestep=50)
    lower.fit_statistics(lambda: iter([(good, seeds)]))
    assert bool((lower.stop_thresholds < glad.stop_thresholds)[0, 1:].all())
    # All others stop at the first timestep below min_timestep.
    assert int((glad.predict(good, seeds).stop_step == 1).sum()) > 20


@torch.no_grad()
def test_rounding_at_the_first_timestep_stops_no_image(make, pictures, monkeypatch):
    monkeypatch.setattr(module, "STOP_RATE", 0.5)
    glad = make(ADAPTIVE)
    glad.fit_statistics(lambda: iter([(pictures[:3], SEEDS[:3])]))
    assert float(glad.stop_thresholds[0, 0]) == pytest.approx(1e-3)
    for size in (1, 2, 4):
        stops = [
            glad.predict(*pair).stop_step
            for pair in zip(pictures.split(size), SEEDS.split(size), strict=True)
        ]
        assert 301 not in torch.cat(stops).tolist()


@torch.no_grad()
def test_configured_threshold_is_not_changed_by_fitting(make, pictures):
    glad = make(ADAPTIVE, threshold=0.3)
    glad.fit_statistics(lambda: iter([(pictures, SEEDS)]))
    torch.testing.assert_close(glad.stop_thresholds, torch.full((1, 4), 0.3))


@torch.no_grad()
def test_no_image_stops_before_thresholds_are_fitted(make, pictures):
    glad = make(ADAPTIVE, min_timestep=350)
    assert glad.predict(pictures, SEEDS).stop_step.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("count", [0, 1])
def test_thresholds_refuse_too_few_good_images(make, pictures, count):
    batches = [(pictures[:1], SEEDS[:1])] * count
    with pytest.raises(InputError, match=f"at least 2 good images .* got {count}"):
        make(ADAPTIVE).fit_statistics(lambda: iter(batches))


class Shrinking(torch.nn.Module):
    """The exact denoiser of latents that are spread normally around zero."""

    multiple = 1

    def __init__(self, schedule, spread=0.7):
        super().__init__()
        self.schedule, self.spread = schedule, spread

    def forward(self, x_t, t):
        a_t, s_t = self.schedule.scales(t, x_t.dtype)
        x0 = a_t * self.spread**2 * x_t / (a_t**2 * self.spread**2 + s_t**2)
        return Estimate(x0, self.schedule.eps_from_x0(x_t, x0, t))


def reference_run(glad, z0, noise, thresholds, rewind):
    """(reconstructed latent, stop step) of an image by the formulas, without batches."""
    config, schedule, denoise = glad.config, glad.schedule, glad.denoiser
    at = [torch.tensor([t]) for t in [*LADDER, -1]]
    z, passed, stopped = schedule.add_noise(z0, noise, at[0]), [], 0
    number = 0
    while number < len(LADDER):
        estimate = denoise(z, at[number])
        passed.append((z, estimate))
        used = estimate
        if not stopped:
            true_z = schedule.add_noise(z0, noise, at[number])
            truth = schedule.x0_from_eps(true_z, estimate.eps, at[number])
            distance = glad.stop_map(estimate.x0, truth)
            over = float(distance.flatten().sort(descending=True).values[:10].mean()) > thresholds[number]
            if over or LADDER[number] < config.min_timestep:
                stopped = LADDER[number]
                mask = F.interpolate(distance, z0.shape[-2:], mode="bilinear", align_corners=False)
                m = torch.sigmoid(mask) if over else torch.zeros_like(mask)
                if over:
                    number = max(number - rewind, 0)
                z, estimate = passed[number]
                true_z = schedule.add_noise(z0, noise, at[number])
                truth = schedule.x0_from_eps(true_z, estimate.eps, at[number])
                m = m if config.fusion == "x0" else 0.0
                used = Estimate(m * estimate.x0 + (1 - m) * truth, estimate.eps)
        z = schedule.add_noise(used.x0, used.eps, at[number + 1])
        number += 1
    return z, stopped


@pytest.fixture
def exact(make, pictures):
    """(changes) to (GLAD with the exact denoiser, latents, noise, thresholds that part the images)."""

    def build(**changes):
        glad = make(ADAPTIVE, threshold=1e9, **changes)
        glad.denoiser = Shrinking(glad.schedule)
        z0, noise = start(glad, torch.cat([pictures[:2], 1 - pictures[:1], pictures[2:3].flip(1)]))
        scores = torch.stack(glad.reconstruct(z0, noise)[1].scores)
        thresholds = scores.max(1).values + 1
        # An image stops at the third timestep, another at the fourth, two never exceed the threshold.
        thresholds[2], thresholds[3] = (
            float(scores[n].sort().values[k:][:2].mean()) for n, k in ((2, 2), (3, 1))
        )
        return glad, z0, noise, thresholds

    return build


@pytest.mark.parametrize("fusion", ["x0", "none"])
@pytest.mark.parametrize("rewind", [0, 1, 2, 3, 9])
@torch.no_grad()
def test_rewind_resumes_the_configured_number_of_steps_before_the_stop(exact, fusion, rewind):
    glad, z0, noise, thresholds = exact(fusion=fusion, rewind=rewind)
    z, stop = glad.reconstruct(z0, noise, thresholds=thresholds)
    assert len(set(stop.stopped_at.tolist())) >= 2
    for row in range(4):
        expected, stopped = reference_run(
            glad, z0[row : row + 1], noise[row : row + 1], thresholds.tolist(), rewind
        )
        assert int(stop.stopped_at[row]) == stopped
        torch.testing.assert_close(z[row : row + 1], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_rewind_changes_stopped_images_only(exact):
    results = {}
    for rewind in (0, 1):
        glad, z0, noise, thresholds = exact(rewind=rewind)
        results[rewind], stop = glad.reconstruct(z0, noise, thresholds=thresholds)
    moved = (results[0] != results[1]).flatten(1).any(1)
    assert moved.tolist() == (stop.stopped_at > 0).tolist()
    assert 0 < int(moved.sum()) < 4


@pytest.mark.parametrize(
    "changes", [{"threshold": -1.0}, {"threshold": 1e9}, {"threshold": 1e9, "min_timestep": 250}]
)
@torch.no_grad()
def test_no_rewind_at_the_first_timestep_below_min_timestep_or_without_a_stop(make, pictures, changes):
    plain, back = (make(ADAPTIVE, **changes, rewind=rewind) for rewind in (0, 2))
    z0, noise = start(plain, pictures)
    ours, theirs = (glad.reconstruct(z0, noise) for glad in (plain, back))
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1].stopped_at, theirs[1].stopped_at)


@pytest.mark.parametrize("fusion", ["x0", "none"])
@torch.no_grad()
def test_rewind_does_not_depend_on_the_batch(exact, fusion):
    glad, z0, noise, thresholds = exact(fusion=fusion, rewind=1)
    together, _ = glad.reconstruct(z0, noise, thresholds=thresholds)
    rows = zip(z0.split(1), noise.split(1), strict=True)
    alone = torch.cat([glad.reconstruct(*row, thresholds=thresholds)[0] for row in rows])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


# What a trace shows of it.


def stages_of(panels):
    """The stages of a trace in order, each with its captions."""
    stages = {}
    for panel in panels:
        stages.setdefault(panel.stage, []).append(panel.caption)
    return stages


CHECK_PANELS = ["generated", "true input", "stop map"]


@torch.no_grad()
def test_trace_without_stops_shows_the_estimates_of_every_run(make, pictures):
    glad = make(start_timesteps=[50, 200], sampler_steps=1)
    traced = glad.trace(pictures[:1], SEEDS[:1])
    both = ["noised input", "estimate"]
    assert stages_of(traced.panels) == {"run 1, t = 49": both, "run 2, t = 199": both}
    z0, noise = glad._start(pictures[:1], glad.noise(pictures[:1], SEEDS[:1]))
    for panel, other in zip(traced.panels[::2], traced.panels[1::2], strict=True):
        t = torch.tensor([panel.t])
        z_t = glad.schedule.add_noise(z0, noise, t)
        torch.testing.assert_close(panel.pixels, glad.codec.decode(z_t)[0])
        torch.testing.assert_close(other.pixels, glad.codec.decode(glad.denoiser(z_t, t).x0)[0])


def test_trace_shows_the_stop_rule_at_every_timestep_until_the_stop(make, pictures):
    never = make(ADAPTIVE, threshold=1e9).trace(pictures[:1], SEEDS[:1])
    checks = [panel for panel in never.panels if panel.caption == "stop map"]
    assert stages_of(never.panels) == {f"t = {t}": CHECK_PANELS for t in LADDER}
    glad = make(ADAPTIVE, threshold=1e9)
    with torch.no_grad():
        _, stop = glad.reconstruct(*glad._start(pictures[:1], glad.noise(pictures[:1], SEEDS[:1])))
    assert [check.score for check in checks] == [float(score) for score in stop.scores]
    assert [check.limit for check in checks] == [1e9] * 4
    assert [check.note for check in checks] == [""] * 4

    limit = sorted(check.score for check in checks[1:])[0] * 0.999  # the first score is rounding only
    traced = make(ADAPTIVE, threshold=limit).trace(pictures[:1], SEEDS[:1])
    seen = [panel for panel in traced.panels if panel.caption == "stop map"]
    assert [check.score > limit for check in seen] == [False] * (len(seen) - 1) + [True]
    assert seen[-1].t == int(traced.found.stop_step)
    assert seen[-1].note == "stops: above threshold"
    assert seen[-1].span == (0.0, 2 * seen[-1].limit)
    later = [panel.t for panel in traced.panels if panel.caption == "estimate"]
    assert later == LADDER[len(seen) :]
    after = stages_of(traced.panels)[f"continues at t = {seen[-1].t}"]
    assert after == ["fused estimate", "fusion mask"]


@torch.no_grad()
def test_trace_shows_fusion_mask_and_fused_estimate(make, pictures):
    glad = make(ADAPTIVE, threshold=-1.0)
    panels = {panel.caption: panel for panel in glad.trace(pictures[:1], SEEDS[:1]).panels}
    z0, noise = glad._start(pictures[:1], glad.noise(pictures[:1], SEEDS[:1]))
    t = torch.tensor(LADDER[:1])
    z_t = glad.schedule.add_noise(z0, noise, t)
    estimate = glad.denoiser(z_t, t)
    truth = glad.schedule.x0_from_eps(z_t, estimate.eps, t)
    mask = F.interpolate(
        glad.stop_map(estimate.x0, truth), z0.shape[-2:], mode="bilinear", align_corners=False
    ).sigmoid()
    fused = glad.codec.decode(mask * estimate.x0 + (1 - mask) * truth)
    close = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(panels["fusion mask"].pixels, mask[0], **close)
    torch.testing.assert_close(panels["fused estimate"].pixels, fused[0], **close)
    torch.testing.assert_close(panels["true input"].pixels, glad.codec.decode(truth)[0], **close)


def test_trace_reports_a_stop_by_min_timestep(make, pictures):
    traced = make(ADAPTIVE, threshold=1e9, min_timestep=250).trace(pictures[:1], SEEDS[:1])
    notes = [panel.note for panel in traced.panels if panel.caption == "stop map"]
    assert notes == ["", "stops: below t = 250"]
    assert stages_of(traced.panels)["continues at t = 201"] == ["true input"]
    assert int(traced.found.stop_step) == 201


@torch.no_grad()
def test_trace_shows_the_resumed_steps_after_a_rewind(exact):
    glad, z0, noise, thresholds = exact(rewind=1)
    glad.stop_thresholds[0] = thresholds
    glad._start = lambda image, seeds: (z0[row : row + 1], noise[row : row + 1])
    _, stop = glad.reconstruct(z0, noise, thresholds=thresholds)
    row = int(stop.stopped_at.argmax())
    stopped = LADDER.index(int(stop.stopped_at[row]))
    assert stopped > 0
    traced = glad.trace(glad.codec.decode(z0[row : row + 1]), SEEDS[:1])
    checks = [panel for panel in traced.panels if panel.caption == "stop map"]
    assert [check.t for check in checks] == LADDER[: stopped + 1]
    assert checks[-1].note == f"stops, back to t = {LADDER[stopped - 1]}"
    assert f"continues at t = {LADDER[stopped - 1]}" in stages_of(traced.panels)
    later = [panel for panel in traced.panels if panel.caption == "estimate"]
    assert [panel.t for panel in later] == LADDER[stopped:]
    reconstructed = reference_run(glad, z0[row : row + 1], noise[row : row + 1], thresholds.tolist(), 1)[0]
    torch.testing.assert_close(
        traced.found.reconstruction, glad.codec.decode(reconstructed), rtol=1e-4, atol=1e-4
    )


def test_reference_refuses_rewind():
    with pytest.raises(InputError, match=r"rewind: expected 0 with reference, .* got 1"):
        GladConfig(reference=True, rewind=1)
    with pytest.raises(InputError, match="rewind: expected at least 0, got -1"):
        GladConfig(rewind=-1)
    with pytest.raises(InputError, match="start_timesteps: expected at most 999 with reference"):
        GladConfig(reference=True, start_timesteps=(1000,))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 301),
        ({"noise_timestep": 399}, 399),
        ({"noise_timestep": 400}, 400),
        ({"noise_timestep": 401}, 301),
        ({"noise_timestep": 200}, 301),
        ({"reference": True}, 400),
        ({"reference": True, "noise_timestep": 399}, 399),
        ({"reference": True, "noise_timestep": 449}, 400),
    ],
)
@torch.no_grad()
def test_noise_is_added_within_the_range_of_the_ladder(make, pictures, changes, expected):
    glad, seen = make(ADAPTIVE, adaptive=False, **changes), []
    glad.denoiser.register_forward_hook(lambda _, given, __: seen.append(given))
    z0, noise = start(glad, pictures)
    glad.reconstruct(z0, noise)
    torch.testing.assert_close(seen[0][0], glad.schedule.add_noise(z0, noise, torch.full((4,), expected)))


@torch.no_grad()
def test_noise_timestep_replaces_the_first_timestep(make, pictures, monkeypatch):
    seen = []
    for noise_timestep, expected in ((0, 301), (399, 399)):
        glad = make(ADAPTIVE, adaptive=False, noise_timestep=noise_timestep)
        z0, noise = start(glad, pictures)
        glad.denoiser.register_forward_hook(lambda _, given, __: seen.append(given))
        seen.clear()
        glad.reconstruct(z0, noise)
        z_t, t = seen[0]
        assert t.tolist() == [301] * 4
        torch.testing.assert_close(z_t, glad.schedule.add_noise(z0, noise, torch.full((4,), expected)))


@torch.no_grad()
def test_reference_adds_noise_at_the_start_timestep_and_samples_the_posterior(make, pictures, monkeypatch):
    glad, seen, noises = make(ADAPTIVE, adaptive=False, reference=True), [], []
    encode = glad.codec.encode
    monkeypatch.setattr(glad.codec, "encode", lambda image, noise=None: noises.append(noise) or encode(image))
    glad.denoiser.register_forward_hook(lambda _, given, __: seen.append(given))
    glad.predict(pictures, SEEDS)
    random, z0 = PredictionNoise(SEEDS), encode(pictures)
    assert torch.equal(noises[-1], random.like(z0))
    expected = glad.schedule.add_noise(z0, random.like(z0), torch.full((4,), 400))
    torch.testing.assert_close(seen[0][0], expected)


# What comes out.


@torch.no_grad()
def test_several_start_timesteps_average_their_reconstructions_and_maps(make, pictures):
    both = make({"start_timesteps": [50, 200]}).predict(pictures, SEEDS)
    single = [make({"start_timesteps": [step]}).predict(pictures, SEEDS) for step in (50, 200)]
    assert not torch.allclose(single[0].anomaly_map, single[1].anomaly_map, rtol=1e-2)
    expected = (single[0].anomaly_map + single[1].anomaly_map) / 2
    torch.testing.assert_close(both.anomaly_map, expected, rtol=1e-5, atol=1e-6)
    # Each was clamped to [0,1] on its own, their mean only afterwards.
    inside = torch.stack([((one.reconstruction > 0) & (one.reconstruction < 1)) for one in single]).all(0)
    assert bool(inside.any())
    mean = (single[0].reconstruction + single[1].reconstruction) / 2
    torch.testing.assert_close(both.reconstruction[inside], mean[inside], rtol=1e-5, atol=1e-5)


def test_every_start_timestep_has_its_own_thresholds(make, pictures):
    glad = make(ADAPTIVE, start_timesteps=[200, 400])
    glad.fit_statistics(lambda: iter([(pictures, SEEDS)]))
    assert glad.stop_thresholds.shape == (2, 4)
    assert bool(glad.stop_thresholds.isfinite().all())
    assert not torch.allclose(glad.stop_thresholds[0], glad.stop_thresholds[1])


@torch.no_grad()
def test_object_mask_weights_the_map(make):
    image = torch.full((2, 3, 128, 128), 0.1)
    image[:, :, 4:40, 4:40] = 0.9
    for mode in ("bright", "auto"):
        plain = make().predict(image, SEEDS[:2])
        masked = make({"object_mask": mode}).predict(image, SEEDS[:2])
        weight = object_mask(foreground(image, mode))
        torch.testing.assert_close(masked.anomaly_map, plain.anomaly_map * weight, rtol=1e-5, atol=1e-6)
        assert float(masked.anomaly_map[:, :, 100:, 100:].abs().max()) == 0
        assert torch.equal(masked.reconstruction, plain.reconstruction)


@torch.no_grad()
def test_map_of_another_resolution_is_resized_to_the_image(make, pictures):
    found = make({"readout.resolution": 48}).predict(pictures, SEEDS)
    assert found.anomaly_map.shape == (4, 1, 32, 32)


def test_image_size_must_be_a_multiple_for_codec_network_and_shuffling(make):
    assert make().size_multiple == 8
    assert make({"codec.factor": 3}).size_multiple == 24


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fusion": "mean"}, "x0, none, got 'mean'"),
        ({"train_timesteps": (5,)}, "low < high"),
        ({"train_timesteps": (5, 5)}, "low < high"),
        ({"train_timesteps": (0, 1001)}, "low < high <= 1000"),
        ({"start_timesteps": ()}, "timesteps from 1 to 1000"),
        ({"start_timesteps": (0,)}, "timesteps from 1 to 1000, got \\[0\\]"),
        ({"start_timesteps": (500, 1001)}, "timesteps from 1 to 1000"),
        ({"noise_timestep": 1000}, "0 to 999, got 1000"),
        ({"sampler_steps": 0}, "sampler_steps: expected at least 1, got 0."),
        ({"variants": 4, "crop": 64}, "variants: expected 0 with crops"),
        ({"variants": -1}, "variants: expected at least 0"),
        ({"spacing": "karras"}, "leading, trailing, got 'karras'"),
        ({"object_mask": "grey"}, "none, dark, bright, auto, got 'grey'"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        GladConfig(**changes)


def test_longest_ladder_is_within_the_schedule():
    timesteps = ladder(torch.tensor([1000]), 1000)
    assert int(timesteps.max()) < len(scaled_linear_schedule())


def test_constructor_builds_the_configured_parts():
    with pytest.raises(InputError, match="schedule: expected one of"):
        Glad(GladConfig(schedule="sigmoid"))


# Published sizes.


def test_stop_rule_uses_its_own_extractor_if_configured(make, latents, monkeypatch):
    generated, truth = latents.float()
    shared, own = make(), make(own_stop_features=True)
    expected = shared.stop_map(generated, truth)
    torch.testing.assert_close(own.stop_map(generated, truth), expected)
    monkeypatch.setattr(own.features, "unnormalised", None)  # the read-out's is not used
    torch.testing.assert_close(own.stop_map(generated, truth), expected)
    monkeypatch.setattr(own.stop_features, "unnormalised", lambda pixels: [pixels[:, :, ::8, ::8] * 0 + 1])
    torch.testing.assert_close(own.stop_map(generated, truth), torch.zeros(4, 1, 4, 4))


@pytest.mark.parametrize(("readout", "reconstructed"), [({}, 0), ({"readout.standardise": True}, 1)])
def test_good_images_are_reconstructed_only_for_read_outs_with_statistics(
    make, pictures, monkeypatch, readout, reconstructed
):
    glad, calls = make(readout), []
    reconstruct = glad._reconstruct_all
    monkeypatch.setattr(glad, "_reconstruct_all", lambda *images: calls.append(1) or reconstruct(*images))
    glad.fit_statistics(lambda: iter([(pictures, SEEDS)]))
    assert len(calls) == reconstructed
    assert glad.readout.needs_fit == bool(reconstructed)


# One model for many categories.

PROMPTED = {
    "denoiser.kind": "conditional_unet",
    "denoiser.network": {
        "block_out_channels": [8, 16],
        "layers_per_block": 1,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "norm_num_groups": 4,
        "cross_attention_dim": 6,
        "attention_head_dim": 2,
    },
    "denoiser.prompt_length": 3,
    "denoiser.categories": ["bolt", "nut"],
    "both_ways": ["nut"],
    "readout.distance": "nearest",
}


def prompted(make, rng):
    glad = make(PROMPTED)
    glad.denoiser.set_prompts(torch.randn(2, 3, 6, generator=rng), torch.zeros(1, 3, 6))
    return glad


def test_every_image_is_trained_with_the_prompt_of_its_category(make, pictures, rng, streams, monkeypatch):
    glad, seen = prompted(make, rng), []
    raw = glad.denoiser.raw
    monkeypatch.setattr(
        glad.denoiser, "raw", lambda x_t, t, prompt=None: seen.append(prompt) or raw(x_t, t, prompt)
    )
    numbers = torch.tensor([1, 0, 0, 1])
    with torch.no_grad():
        loss = glad.training_loss(pictures, streams(), numbers)
        assert torch.equal(seen[0], glad.denoiser.category_prompts[numbers])
        assert float(loss) != float(glad.training_loss(pictures, streams(), 1 - numbers))


def test_category_sets_prompt_and_matching_direction(make, pictures, rng):
    glad = prompted(make, rng)
    seeds = torch.arange(4)
    found = {"": glad.predict(pictures, seeds).anomaly_map}
    for name, backward in (("nut", "mean"), ("bolt", "none")):
        glad.choose_category(name)
        assert glad.readout.config.backward == backward
        assert torch.equal(glad.denoiser.prompt[0], glad.denoiser.category_prompts[int(name == "nut")])
        found[name] = glad.predict(pictures, seeds).anomaly_map
    assert not torch.equal(found["bolt"], found["nut"])
    assert not torch.equal(found[""], found["bolt"])


def test_category_has_no_effect_without_prompts(make):
    glad = make({})
    before = glad.readout.config
    glad.choose_category("anything")
    assert glad.readout.config is before


# Few stop maps, and images at their own timesteps.


def fly(glad, *batches):
    """(latents, stops) of batches with a single start timestep."""
    return [(z[0], stops[0]) for z, stops in Flight(glad, batches)]


@pytest.mark.parametrize("min_timestep", [0, 50, 150, 250, 400])
@pytest.mark.parametrize("rewind", [0, 1, 9])
@pytest.mark.parametrize("fusion", ["x0", "none"])
@pytest.mark.parametrize("checks", ["all", "likely"])
@torch.no_grad()
def test_searches_in_flight_find_the_same_stops_and_latents(exact, fusion, rewind, min_timestep, checks):
    glad, z0, noise, thresholds = exact(fusion=fusion, rewind=rewind)
    glad.config = dataclasses.replace(glad.config, min_timestep=min_timestep, stop_checks=checks)
    expected, every = glad.reconstruct(z0, noise, thresholds=thresholds)
    glad.stop_thresholds[0] = thresholds
    ((z, stops),) = fly(glad, (z0, noise))
    assert stops.tolist() == every.stopped_at.tolist()
    torch.testing.assert_close(z, expected, rtol=1e-4, atol=1e-4)
    parts = fly(glad, (z0[:2], noise[:2]), (z0[2:3], noise[2:3]), (z0[3:], noise[3:]))
    assert [len(z) for z, _ in parts] == [2, 1, 1]
    torch.testing.assert_close(torch.cat([z for z, _ in parts]), expected, rtol=1e-4, atol=1e-4)
    assert torch.cat([stops for _, stops in parts]).tolist() == every.stopped_at.tolist()


@torch.no_grad()
def test_waiting_images_take_the_places_of_finished_ones(exact):
    glad, z0, noise, thresholds = exact(rewind=2)
    glad.stop_thresholds[0] = thresholds
    used = []
    record = glad.denoiser.register_forward_hook(lambda _, inputs, found: used.append(inputs[1].tolist()))
    together = fly(glad, (z0, noise))
    most, used[:] = sum(map(len, used)), []
    apart = fly(glad, *((z0[row : row + 1], noise[row : row + 1]) for row in range(4)))
    assert {len(t) for t in used} == {1}
    assert len(used) == most  # no step is computed twice, and none for a finished image
    used.clear()
    pairs = fly(glad, (z0[:2], noise[:2]), (z0[2:], noise[2:]))
    record.remove()
    assert sum(map(len, used)) == most
    assert all(len(t) == 2 for t in used[:-3])
    assert any(len(set(t)) == 2 for t in used)
    for found in (apart, pairs):
        torch.testing.assert_close(torch.cat([z for z, _ in found]), together[0][0], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_an_image_that_stops_at_the_second_timestep_is_not_sampled_further_ahead(exact):
    glad, z0, noise, thresholds = exact(rewind=0)
    thresholds[1] = 0.0
    glad.stop_thresholds[0] = thresholds
    glad.config, used = dataclasses.replace(glad.config, stop_checks="likely"), []
    glad.denoiser.register_forward_hook(lambda _, inputs, found: used.append(inputs[1].tolist()))
    ((_, stops),) = fly(glad, (z0, noise))
    assert stops.tolist() == [201] * 4
    assert used == [[t] * 4 for t in LADDER]


def test_batches_in_flight_give_the_same_as_batches_alone(make, pictures):
    glad = make(ADAPTIVE, start_timesteps=[400, 300], threshold=1e9, min_timestep=150)
    batches = [(pictures[:3], SEEDS[:3]), (pictures[3:], SEEDS[3:])]
    with torch.no_grad():
        expected = [glad.predict(*batch) for batch in batches]
        found = list(glad.find_all(batches))
    for ours, theirs in zip(found, expected, strict=True):
        for name in ("score", "anomaly_map", "reconstruction"):
            torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-4, atol=1e-5)
        assert torch.equal(ours.stop_step, theirs.stop_step)


@torch.no_grad()
def test_two_stop_maps_suffice_for_images_far_below_the_threshold(make, pictures, monkeypatch):
    glad, checked = make(ADAPTIVE, stop_checks="likely", threshold=1e9), []
    stop_map = glad.stop_map
    monkeypatch.setattr(glad, "stop_map", lambda *both: checked.append(len(both[0])) or stop_map(*both))
    glad.predict(pictures, SEEDS)
    assert checked == 2 * [len(pictures)]  # at the second and at the last timestep
    panels = glad.trace(pictures[:1], SEEDS[:1]).panels  # intermediate results are those of all checks
    assert [panel.t for panel in panels if panel.caption == "stop map"] == LADDER
