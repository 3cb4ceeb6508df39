import dataclasses

import pytest
import torch
import torch.nn.functional as F

from mendiff.diffusion.posterior import kl_divergence
from mendiff.errors import InputError
from mendiff.methods.ran import RanConfig
from mendiff.nets.denoiser import plain_unet
from mendiff.scoring.maps import squared_map

SEEDS = torch.tensor([11, 5, 2**62, 0])
CHANGES = {"noise_steps": [20, 300], "draws": 3}


@pytest.fixture
def make(tiny_method):
    return lambda changes=None: tiny_method("ran", CHANGES | (changes or {}))


def batches(pictures):
    return lambda: iter([(pictures[:3], SEEDS[:3]), (pictures[3:], SEEDS[3:])])


@torch.no_grad()
def test_all_timesteps_and_draws_of_a_batch_go_through_the_network_at_once(make, pictures, monkeypatch):
    ran, calls = make(), []
    forward = ran.denoiser.unet.network.forward
    monkeypatch.setattr(
        ran.denoiser.unet.network, "forward", lambda x, t: calls.append((len(x), t.tolist())) or forward(x, t)
    )
    ran.predict(pictures, SEEDS)
    assert calls == [(24, [20, 20, 20, 300, 300, 300] * 4)]


@torch.no_grad()
def test_maps_are_those_of_every_noisy_version_on_its_own(make, pictures):
    ran = make({"distance": "squared", "logarithm": False})
    look = ran.look(pictures, SEEDS)
    got = ran.maps(look)
    assert got.shape == (2 + 2 * 3, 4, 1, 32, 32)
    # Image 2 alone: its own stream of noise, one version after the other.
    image, generator = pictures[2:3], torch.Generator().manual_seed(int(SEEDS[2]))
    x0, truth = ran.codec.encode(image), ran.target(image)
    kl, feature = torch.zeros(2, 1, 1, 32, 32), torch.zeros(2, 3, 1, 1, 32, 32)
    for step, t in enumerate((20, 300)):
        t = torch.tensor([t])
        for _ in range(3):
            x_t = ran.schedule.add_noise(x0, torch.randn(x0.shape[1:], generator=generator)[None], t)
            estimate, features, _ = ran.denoiser(x_t, t, [one.shape[-2:] for one in truth])
            between = ran.posterior.truth(x0, x_t, t), ran.posterior.predicted(x_t, estimate, t)
            kl[step] += F.pixel_shuffle(kl_divergence(*between), 4).mean(1, keepdim=True) / 3
            for layer, (ours, theirs) in enumerate(zip(truth, features, strict=True)):
                one = squared_map(ours, theirs)
                feature[step, layer] += F.interpolate(one, (32, 32), mode="bilinear", align_corners=True) / 3
    expected = torch.cat([kl, feature.flatten(0, 1)])
    torch.testing.assert_close(got[:, 2:3], expected, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_alpha_weighs_divergence_against_features(make, pictures):
    maps = {}
    for alpha in (0.0, 0.25, 1.0):
        ran = make({"kl_weight": alpha, "sigma_share": 0.0})
        ran.fit_statistics(batches(pictures))
        maps[alpha] = ran.predict(pictures, SEEDS).anomaly_map
    torch.testing.assert_close(maps[0.25], 0.25 * maps[1.0] + 0.75 * maps[0.0], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_every_map_is_standardised_on_held_back_images(make, pictures):
    ran = make()
    ran.fit_statistics(batches(pictures))
    flat = ran.scales(ran.maps(ran.look(pictures, SEEDS))).flatten(1)
    torch.testing.assert_close(flat.mean(1), torch.zeros(len(flat)), rtol=0, atol=1e-3)
    torch.testing.assert_close(flat.std(1), torch.ones(len(flat)), rtol=0, atol=1e-2)


@torch.no_grad()
def test_prepared_targets_have_unit_variance(make, pictures):
    ran = make({"target_pool": 1})
    ran.prepare(batches(pictures))
    for layer in ran.target(pictures):
        flat = layer.transpose(0, 1).flatten(1)
        torch.testing.assert_close(flat.mean(1), torch.zeros(len(flat)), rtol=0, atol=1e-3)
        assert 0.2 < float(flat.var(1).mean()) < 1.05


def test_the_variational_term_trains_the_variance_alone(make, pictures, rng, monkeypatch):
    """With the other losses off, nothing but the variance channels of the last layer's output may move."""
    ran = make({"feature_weight": 0.0, "vb_weight": 1.0})
    monkeypatch.setattr(ran.schedule, "min_snr_weight", lambda t, *_: torch.zeros(len(t)))
    ran.training_loss(pictures, rng).backward()
    channels = ran.codec.channels
    gradient = ran.denoiser.unet.network.conv_out.weight.grad
    assert bool((gradient[:channels] == 0).all())
    assert bool((gradient[channels:] != 0).any())


def test_without_synthetic_anomalies_the_noise_is_the_drawn_one(make, pictures, rng, monkeypatch):
    ran, seen = make({"synthesis.share": 0.0, "denoiser.prediction": "eps"}), {}
    target = ran.denoiser.unet.target
    monkeypatch.setattr(
        ran.denoiser.unet, "target", lambda x0, eps, t: seen.update(x0=x0, eps=eps) or target(x0, eps, t)
    )
    ran.training_loss(pictures, rng)
    torch.testing.assert_close(seen["x0"], ran.codec.encode(pictures))
    assert abs(float(seen["eps"].mean())) < 0.05
    assert float(seen["eps"].std()) == pytest.approx(1, abs=0.05)


def test_synthetic_anomalies_are_in_the_input_and_not_in_the_target(make, pictures, rng, monkeypatch):
    ran, seen = make({"synthesis.share": 1.0}), {}
    forward = ran.denoiser.forward
    monkeypatch.setattr(
        ran.denoiser, "forward", lambda x, t, grids: seen.update(x_t=x, t=t) or forward(x, t, grids)
    )
    target = ran.denoiser.unet.target
    monkeypatch.setattr(
        ran.denoiser.unet, "target", lambda x0, eps, t: seen.update(x0=x0, eps=eps) or target(x0, eps, t)
    )
    ran.training_loss(pictures, rng)
    assert torch.equal(seen["x0"], ran.codec.encode(pictures))
    leading = ran.schedule.add_noise(seen["x0"], seen["eps"], seen["t"])
    torch.testing.assert_close(leading, seen["x_t"], rtol=1e-3, atol=1e-3)
    assert float(seen["eps"].abs().max()) > 6  # no drawn noise is that large: the anomaly is part of it


@torch.no_grad()
def test_gradient_denoising_lowers_the_distance_of_a_defect_and_keeps_what_is_usual(make, pictures):
    """The network is untrained, so its reverse step is left out; what remains is Alg. 1's descent."""
    many = torch.cat([pictures.roll(shift, -1) for shift in range(-2, 3)])
    ran = make({"gradient.steps": 20, "gradient.every": 10, "gradient.dims": 6, "gradient.step_size": 0.05})
    ran.fit_statistics(lambda: iter([(many, torch.arange(len(many)))]))
    image = pictures[:1].clone()
    image[:, :, 8:16, 8:16] = 1 - image[:, :, 8:16, 8:16]
    before = ran.gaussians(ran.features(image))
    ran.denoiser.forward = lambda x, t, grids: (
        dataclasses.replace(ran.denoiser.unet(x, t), x0=x / ran.schedule.scales(t)[0]),
        None,
        None,
    )
    ran.denoiser.unet.forward = lambda x, t: ran.denoiser.unet.estimate(x, x, t)
    after = ran.gaussians(ran.features(ran.explain(image, SEEDS[:1])))
    assert float(after.amax()) < 0.7 * float(before.amax())
    good = ran.explain(pictures, SEEDS)
    assert float((good - pictures).abs().mean()) < 0.5 * float(
        (ran.explain(image, SEEDS[:1]) - image).abs().mean()
    )


@torch.no_grad()
def test_an_explanation_has_the_images_shape_and_range_and_belongs_to_it_alone(make, pictures):
    ran = make({"gradient.steps": 4, "gradient.every": 2, "gradient.dims": 6})
    ran.fit_statistics(batches(pictures))
    together = ran.explain(pictures, SEEDS)
    assert together.shape == pictures.shape
    assert 0 <= float(together.min()) <= float(together.max()) <= 1
    torch.testing.assert_close(together[1:2], ran.explain(pictures[1:2], SEEDS[1:2]), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("steps", [[0], [20, 1000], [], [-1]])
def test_timesteps_outside_the_schedule_are_refused(steps):
    with pytest.raises(InputError, match="noise_steps: expected timesteps of the schedule, 1 to 999, got"):
        RanConfig(noise_steps=tuple(steps))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"draws": 0}, "draws: expected at least 1"),
        ({"kl_weight": 1.5}, "kl_weight: expected 0 to 1, got 1.5"),
        ({"target_pool": 2}, "target_pool: expected an odd number"),
        ({"distance": "cosine"}, "distance: expected one of squared, whitened, got 'cosine'"),
        ({"train_t": [5, 5]}, "train_t: expected two timesteps"),
        (
            {"codec.kind": "kl"},
            r"codec: expected one of pixels, space_to_depth .*, got 'kl'",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(tiny_config, changes, message):
    with pytest.raises(InputError, match=message):
        tiny_config("ran", changes)


def test_a_feature_layer_coarser_than_the_denoiser_is_refused(make):
    with pytest.raises(InputError, match=r"a position per 8 pixels, got one per 16"):
        make(
            {
                "denoiser.network.block_out_channels": [16, 32],
                "denoiser.network.down_block_types": ["DownBlock2D"] * 2,
                "denoiser.network.up_block_types": ["UpBlock2D"] * 2,
            }
        )


def test_a_feature_layer_that_does_not_exist_is_refused(make):
    with pytest.raises(
        InputError, match=r"expected some of stage0\.\.stage4 for mobilenetv2_100, got 'stage7'"
    ):
        make({"features.name": "mobilenetv2_100", "features.layers": ["stage7"]})


def test_fewer_good_images_than_the_gaussians_need_are_refused(make, pictures):
    with pytest.raises(InputError, match="at least 4 good ones for PaDiM's Gaussians, got 3"):
        make().fit_statistics(lambda: iter([(pictures[:3], SEEDS[:3])]))
