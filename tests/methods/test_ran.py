import pytest
import torch
import torch.nn.functional as F

from mendiff.diffusion.posterior import kl_divergence
from mendiff.diffusion.random import PredictionNoise
from mendiff.errors import InputError
from mendiff.methods.base import find_preset
from mendiff.methods.ran_config import RanConfig
from mendiff.methods.ran_features import effective_strides, joined_features
from mendiff.types import Estimate

SEEDS = torch.tensor([11, 5, 2**62, 0])
CHANGES = {
    "start_timesteps": [20, 300],
    "draws": 3,
    "training.cache_gigabytes": 0.0,
    "readout.by_layer": False,
    "readout.coarse_share": 0.0,
    "enlarge": 0,
}


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
def test_maps_equal_those_of_single_noisy_versions(make, pictures):
    ran = make({"readout.distance": "squared"})
    got = ran.maps(ran.run_network(pictures, ran.noise(pictures, SEEDS)))
    assert got.shape == (2 + 2, 4, 1, 32, 32)
    # Image 2 alone: its own stream of noise, one version after the other.
    image, random = pictures[2:3], PredictionNoise(SEEDS[2:3])
    x0, truth = ran.codec.encode(image), ran.target(image)
    expected = torch.zeros(4, 1, 1, 32, 32)
    for step, t in enumerate((20, 300)):
        t = torch.tensor([t])
        for _ in range(3):
            x_t = ran.schedule.add_noise(x0, random.like(x0), t)
            estimate, features, _ = ran.denoiser(x_t, t, (8, 8))
            between = ran.posterior.truth(x0, x_t, t), ran.posterior.predicted(x_t, estimate, t)
            expected[step] += F.pixel_shuffle(kl_divergence(*between), 4).mean(1, keepdim=True) / 3
            error = (features - truth).square().mean(1, keepdim=True)  # eq. 10 without its mean over places
            expected[2 + step] += F.interpolate(error, (32, 32), mode="bilinear", align_corners=False) / 3
    torch.testing.assert_close(got[:, 2:3], expected, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_rgb_pixel_score_is_the_squared_error_of_the_clean_estimate(make, pictures):
    ran = make({"readout.pixel_score": "rgb", "start_timesteps": [50], "draws": 1})
    outputs = ran.run_network(pictures, ran.noise(pictures, SEEDS))
    # One draw: the mean clean estimate is the only one (but for its clipping to [0,1]).
    error = ((outputs.reconstruction - pictures) * 2).square().mean(1, keepdim=True)
    inside = ((outputs.reconstruction > 0) & (outputs.reconstruction < 1)).all(1, keepdim=True)
    assert bool(inside.any())
    torch.testing.assert_close(outputs.pixel[0, 0][inside], error[inside], rtol=1e-3, atol=1e-5)


@torch.no_grad()
def test_target_contains_all_layers_on_the_finest_grid(make, pictures):
    ran = make()
    layers = ran.features(pictures)
    target = ran.target(pictures)
    assert target.shape == (4, 45, 8, 8)
    assert torch.equal(target[:, :15], layers[0])
    larger = F.interpolate(layers[2], (8, 8), mode="bilinear", align_corners=False)
    assert torch.equal(target[:, 30:], larger)


@torch.no_grad()
def test_small_images_are_enlarged_for_feature_extraction_only(make, pictures, monkeypatch):
    ran = make({"enlarge": 1})
    monkeypatch.setattr(ran.features, "least_side", 64, raising=False)
    assert ran.target(pictures).shape[-2:] == (16, 16)
    assert ran.predict(pictures, SEEDS).anomaly_map.shape[-2:] == (32, 32)


@torch.no_grad()
def test_features_of_upsampled_images_are_on_the_grid_of_the_original(make, pictures):
    ran = make({"enlarge": 2})
    double = F.interpolate(pictures, scale_factor=2, mode="bilinear", align_corners=True)
    first, second, _ = ran.features(double)
    target = ran.target(pictures)
    assert target.shape == (4, 45, 8, 8)
    torch.testing.assert_close(target[:, :15], F.avg_pool2d(first, 2), rtol=1e-4, atol=1e-5)
    assert torch.equal(target[:, 15:30], second)


def test_effective_strides_are_in_pixels_of_the_original_image(make):
    features = make().features
    assert tuple(features.strides) == (4, 8, 16)
    assert effective_strides(features, 32, 0) == effective_strides(features, 32, 1) == [4, 8, 16]
    assert effective_strides(features, 32, 2) == [4, 4, 8]


@torch.no_grad()
def test_noise_is_added_at_unit_contrast_and_reconstructions_have_the_original_contrast(
    make, pictures, monkeypatch
):
    faint = 0.4 + pictures / 20
    ran = make({"unit_contrast": True})
    ran.prepare(batches(faint))
    x0 = ran.latents(faint)
    torch.testing.assert_close(
        torch.stack(torch.std_mean(x0, correction=0)), torch.tensor([1.0, 0.0]), atol=1e-3, rtol=0
    )
    clean = Estimate(x0.repeat_interleave(6, 0), x0.repeat_interleave(6, 0), torch.zeros(()))
    features = torch.zeros(24, 45, 8, 8)
    monkeypatch.setattr(ran.denoiser, "forward", lambda *_: (clean, features, x0))
    torch.testing.assert_close(
        ran.run_network(faint, ran.noise(faint, SEEDS)).reconstruction, faint, rtol=0, atol=1e-4
    )


@torch.no_grad()
def test_contrast_is_unchanged_by_default(make, pictures):
    ran = make({"unit_contrast": False})
    ran.prepare(batches(pictures))
    assert torch.equal(ran.latents(pictures), ran.codec.encode(pictures))


@torch.no_grad()
def test_paper_settings_do_not_whiten_targets(make, pictures, streams):
    assert not find_preset("ran", "paper").whiten_targets
    assert find_preset("ran", "tiny").whiten_targets
    plain, whitened = make({"whiten_targets": False}), make()
    for ran in (plain, whitened):
        ran.prepare(batches(pictures))
    joined = joined_features(pictures, plain.features, 0)
    assert torch.equal(plain.target(pictures), joined)
    flat = whitened.target(pictures).transpose(0, 1).flatten(1)
    torch.testing.assert_close(flat.mean(1), torch.zeros(45), rtol=0, atol=1e-3)
    # Eq. 10 of plain features: what the network says before training, against f(x0) itself.
    outputs = plain.run_network(pictures, plain.noise(pictures, SEEDS))
    assert torch.equal(outputs.target, joined)
    residual = plain._residual(outputs.target, outputs.predicted[0, 0])
    torch.testing.assert_close(residual, joined - outputs.predicted[0, 0], rtol=1e-5, atol=1e-5)


def test_features_of_a_window_are_those_of_the_whole_image(make, streams):
    ran = make({"window": 32})
    assert (ran.size_multiple, ran.codec.factor) == (16, 4)
    y, x = (one.float() for one in torch.meshgrid(torch.arange(80), torch.arange(96), indexing="ij"))
    place = torch.stack([y, x])[None].expand(4, -1, -1, -1)  # every position tells where it lies
    x0, truth = ran.windows(place[..., ::4, ::4], place[..., ::2, ::2], streams().generators)
    assert (x0.shape, truth.shape) == ((4, 2, 8, 8), (4, 2, 16, 16))
    assert torch.equal(x0, truth[..., ::2, ::2])
    corners = x0[..., 0, 0]
    assert bool((corners % 16 == 0).all())
    assert len(corners.unique(dim=0)) > 1
    assert bool((corners <= torch.tensor([80 - 32, 96 - 32])).all())


def test_window_with_unsuitable_side_is_refused(make):
    with pytest.raises(InputError, match="window: expected a multiple of 16 pixels, got 40; choose 48"):
        make({"window": 40})


def test_images_within_the_window_are_not_cut(make, streams):
    x0, truth = torch.zeros(4, 48, 8, 8), torch.zeros(4, 45, 8, 8)
    for window in (0, 32, 64):
        latents, features = make({"window": window}).windows(x0, truth, streams().generators)
        assert latents is x0
        assert features is truth


def losses_and_extractions(ran, pictures, streams, monkeypatch):
    seen, extract = [], ran.features.forward
    monkeypatch.setattr(ran.features, "forward", lambda image: seen.append(len(image)) or extract(image))
    return [float(ran.training_loss(pictures, streams())) for _ in range(2)], seen


def test_cached_features_skip_the_extractor_and_hardly_change_the_loss(make, pictures, streams, monkeypatch):
    anew, extracted = losses_and_extractions(make(), pictures, streams, monkeypatch)
    kept, once = losses_and_extractions(
        make({"training.cache_gigabytes": 1.0}), pictures, streams, monkeypatch
    )
    assert (extracted, once) == ([4, 4], [1, 1, 1, 1])
    assert kept == pytest.approx(anew, rel=1e-3)


def test_prepare_clears_cached_features(make, pictures, streams):
    ran, fresh = make({"training.cache_gigabytes": 1.0}), make({"training.cache_gigabytes": 1.0})
    ran.training_loss(pictures, streams())
    for one in (ran, fresh):
        one.prepare(batches(pictures))
    assert float(ran.training_loss(pictures, streams())) == float(fresh.training_loss(pictures, streams()))


@torch.no_grad()
def test_residuals_are_whitened_by_training_images(make, pictures):
    ran = make({"readout.position_grid": 0})
    ran.fit_statistics(batches(pictures.flip(0) ** 2), batches(pictures))
    maps = ran.maps(ran.run_network(pictures, ran.noise(pictures, SEEDS)))
    # A squared Mahalanobis distance per channel is 1 on average (a little less: shrinkage).
    torch.testing.assert_close(maps[2:].mean((1, 2, 3, 4)), torch.ones(2), rtol=0, atol=0.25)


@torch.no_grad()
def test_every_layer_has_a_map_of_equal_weight(make, pictures):
    ran = make(
        {
            "readout.by_layer": True,
            "readout.distance": "squared",
            "readout.kl_weight": 0.0,
            "readout.sigma_share": 0.0,
        }
    )
    outputs = ran.run_network(pictures, ran.noise(pictures, SEEDS))
    maps = ran.maps(outputs)
    assert maps.shape == (2 + 2 * 3, 4, 1, 32, 32)
    error = (outputs.target - outputs.predicted[1]).square().mean(0)  # the second timestep, mean over draws
    for place, channels in enumerate((slice(0, 15), slice(15, 30), slice(30, 45))):
        expected = F.interpolate(error[:, channels].mean(1, keepdim=True), (32, 32), mode="bilinear")
        torch.testing.assert_close(maps[2 + 3 + place], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ran.combine(maps), maps[2:].mean(0))


@torch.no_grad()
def test_coarse_distance_has_its_weight_in_the_feature_map(make, pictures):
    ran = make(
        {
            "readout.by_layer": True,
            "readout.coarse_share": 0.25,
            "readout.kl_weight": 0.0,
            "readout.sigma_share": 0.0,
        }
    )
    maps = ran.maps(ran.run_network(pictures, ran.noise(pictures, SEEDS)))
    assert maps.shape == (2 + 2 * 4, 4, 1, 32, 32)
    fine, coarse = maps[[2, 3, 4, 6, 7, 8]].mean(0), maps[[5, 9]].mean(0)
    torch.testing.assert_close(ran.combine(maps), 0.75 * fine + 0.25 * coarse)


@torch.no_grad()
def test_alpha_weights_divergence_against_features(make, pictures):
    maps = {}
    for alpha in (0.0, 0.25, 1.0):
        ran = make({"readout.kl_weight": alpha, "readout.sigma_share": 0.0})
        ran.fit_statistics(batches(pictures))
        maps[alpha] = ran.predict(pictures, SEEDS).anomaly_map
    torch.testing.assert_close(maps[0.25], 0.25 * maps[1.0] + 0.75 * maps[0.0], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_every_map_is_standardised_on_held_back_images(make, pictures):
    ran = make()
    ran.fit_statistics(batches(pictures))
    flat = ran.scales(ran.maps(ran.run_network(pictures, ran.noise(pictures, SEEDS)))).flatten(1)
    torch.testing.assert_close(flat.mean(1), torch.zeros(len(flat)), rtol=0, atol=1e-3)
    torch.testing.assert_close(flat.std(1), torch.ones(len(flat)), rtol=0, atol=1e-2)


@torch.no_grad()
def test_prepared_targets_are_white(make, pictures):
    ran = make()
    ran.prepare(batches(pictures))
    flat = ran.target(pictures).transpose(0, 1).flatten(1)
    torch.testing.assert_close(flat.mean(1), torch.zeros(45), rtol=0, atol=1e-3)
    assert 0.3 < float(flat.var(1).mean()) < 1.05


def test_variational_term_trains_the_variance_only(make, pictures, streams, monkeypatch):
    """With the other losses off, nothing but the variance channels of the last layer's output may move."""
    ran = make({"vb_weight": 1.0})
    monkeypatch.setattr(ran.schedule, "min_snr_weight", lambda t, *_: torch.zeros(len(t)))
    forward = ran.denoiser.forward

    def without_features(*inputs):
        estimate, features, prediction = forward(*inputs)
        return estimate, features.detach(), prediction

    monkeypatch.setattr(ran.denoiser, "forward", without_features)
    ran.training_loss(pictures, streams()).backward()
    channels = ran.codec.channels
    gradient = ran.denoiser.unet.network.conv_out.weight.grad
    assert bool((gradient[:channels] == 0).all())
    assert bool((gradient[channels:] != 0).any())


@torch.no_grad()
def test_gradient_denoising_reduces_a_defect_and_preserves_good_images(make, pictures, monkeypatch):
    """The network is untrained: its reverse step gives way to that of a network that takes x_t for clean."""
    many = torch.cat([pictures.roll(shift, -1) for shift in range(-3, 4)])
    ran = make(
        {"gradient.steps": 20, "gradient.every": 5, "gradient.dims": 6, "gradient.reverse_timestep": 1}
    )
    ran.fit_statistics(lambda: iter([(many, torch.arange(len(many)))]))

    def content(x_t, t, grid):
        a_t, _ = ran.schedule.scales(t)
        return Estimate(x_t / a_t, torch.zeros_like(x_t), torch.full_like(x_t, -40.0)), None, None

    monkeypatch.setattr(ran.denoiser, "forward", content)
    defect = pictures[:1].clone()
    defect[:, :, 8:16, 8:16] = (torch.arange(8)[:, None] + torch.arange(8)) % 2  # a fine chequerboard
    steps = ran.gradient_steps(defect, SEEDS[:1])
    assert len(steps) == 5
    distances = [float(ran.gaussians(ran.features(ran.codec.decode(one))).sum()) for one in steps]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 0.7 * distances[0]
    inside = (ran.explain(defect, SEEDS[:1]) - defect).abs()[:, :, 8:16, 8:16].mean()
    assert float((ran.explain(pictures, SEEDS) - pictures).abs().mean()) < 0.5 * float(inside)


@torch.no_grad()
def test_explanation_has_shape_and_range_of_the_image_and_does_not_depend_on_the_batch(make, pictures):
    ran = make({"gradient.steps": 4, "gradient.every": 2, "gradient.dims": 6})
    ran.fit_statistics(batches(pictures))
    together = ran.explain(pictures, SEEDS)
    assert together.shape == pictures.shape
    assert 0 <= float(together.min()) <= float(together.max()) <= 1
    torch.testing.assert_close(together[1:2], ran.explain(pictures[1:2], SEEDS[1:2]), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("steps", [[0], [20, 1000], [], [-1]])
def test_timesteps_outside_the_schedule_are_refused(steps):
    with pytest.raises(InputError, match="start_timesteps: expected timesteps from 1 to 999, got"):
        RanConfig(start_timesteps=tuple(steps))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"draws": 0}, "draws: expected at least 1"),
        ({"readout.kl_weight": 1.5}, "kl_weight: expected 0 to 1, got 1.5"),
        ({"readout.coarse_share": -0.5}, "coarse_share: expected 0 to 1, got -0.5"),
        ({"readout.pixel_score": "l1"}, "pixel_score: expected one of kl, rgb, got 'l1'"),
        ({"readout.distance": "cosine"}, "distance: expected one of squared, mahalanobis, got 'cosine'"),
        ({"train_timesteps": [5, 5]}, "train_timesteps: expected two timesteps"),
        (
            {"codec.kind": "kl"},
            r"codec: expected one of pixels, space_to_depth .*, got 'kl'",
        ),
    ],
)
def test_invalid_settings_are_refused(tiny_config, changes, message):
    with pytest.raises(InputError, match=message):
        tiny_config("ran", changes)


def test_feature_layer_coarser_than_the_denoiser_is_refused(make):
    with pytest.raises(InputError, match=r"a position per 8 pixels, got one per 16"):
        make(
            {
                "denoiser.network.block_out_channels": [16, 32],
                "denoiser.network.down_block_types": ["DownBlock2D"] * 2,
                "denoiser.network.up_block_types": ["UpBlock2D"] * 2,
            }
        )


def test_unknown_feature_layer_is_refused(make):
    with pytest.raises(
        InputError, match=r"expected some of stage0\.\.stage4 for mobilenetv2_100, got 'stage7'"
    ):
        make({"features.name": "mobilenetv2_100", "features.layers": ["stage7"]})


@pytest.mark.parametrize("count", [1, 2, 3])
def test_gaussians_need_few_good_images(make, pictures, count):
    ran = make()
    ran.fit_statistics(lambda: iter([(pictures[:count], SEEDS[:count])]))
    assert bool(ran.explain(pictures[:1], SEEDS[:1]).isfinite().all())


def test_crops_are_refused_with_cached_features(tiny_config):
    with pytest.raises(InputError, match=r"cache_gigabytes: expected 0, got 0\.5, .* use window"):
        tiny_config("ran", {"crop": 16, "training.cache_gigabytes": 0.5, "window": 0})
    with pytest.raises(InputError, match="crop and window: expected one of them, got 16 and 128"):
        tiny_config("ran", {"crop": 16, "training.cache_gigabytes": 0.0, "window": 128})
    assert tiny_config("ran", {"crop": 16, "training.cache_gigabytes": 0.0, "window": 0}).crop == 16


def test_trace_shows_the_maps_of_every_timestep_and_gradient_denoising(make, pictures):
    ran = make({"gradient.steps": 4, "gradient.every": 2})
    ran.fit_statistics(batches(pictures))
    traced = ran.trace(pictures[:1], SEEDS[:1])
    shown = [(panel.stage, panel.caption) for panel in traced.panels]
    maps = [(f"t = {t}", name) for t in (20, 300) for name in ("KL map", "feature map")]
    assert shown == [*maps, ("step 2", "gradient denoising"), ("step 4", "gradient denoising")]
    single = ran.scales(ran.maps(ran.run_network(pictures[:1], ran.noise(pictures[:1], SEEDS[:1]))))
    for panel, one in zip(traced.panels, single[[0, 2, 1, 3]], strict=False):
        assert torch.equal(panel.pixels, one[0])
    assert torch.equal(traced.panels[-1].pixels, ran.explain(pictures[:1], SEEDS[:1])[0])
