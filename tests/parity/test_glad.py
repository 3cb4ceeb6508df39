"""GLAD against the published code, on tiny random networks and injected noise; tolerances are those of the
files."""

import dataclasses

import pytest
import torch

from mendiff.diffusion.ladder import ladder
from mendiff.diffusion.schedule import NoiseSchedule, scaled_linear_schedule
from mendiff.methods.glad import Glad
from mendiff.methods.glad_config import GladConfig
from mendiff.nets.codec import CodecConfig
from mendiff.nets.denoiser import DenoiserConfig
from mendiff.nets.features import FeatureExtractor, FeaturesConfig
from mendiff.scoring.maps import gaussian_kernel, object_mask
from mendiff.scoring.readout import Readout, ReadoutConfig
from mendiff.synthesis.foreground import foreground

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
ADAPTIVE = ["b_ads_fp32", "c_never", "d_allfirst", "e_allsaff_first", "b_ads_half_score"]


def dino_config(notes):
    network = {key: notes["dino_config"][key] for key in ("embed_dim", "depth", "num_heads")}
    layers = tuple(f"block{number}" for number in notes["dino_config"]["extraction"])
    network["img_size"] = notes["dino_config"]["img_size"][0]
    return FeaturesConfig("vit_base_patch8_224", layers, *IMAGENET, network, position_resampling="dino")


def glad_config(notes, **changes):
    config = GladConfig(
        codec=CodecConfig("kl", network=notes["vae_config"]),
        denoiser=DenoiserConfig("conditional_unet", "eps", notes["unet_config"]),
        features=dino_config(notes),
        reference=True,
    )
    return dataclasses.replace(config, **changes)


def load_glad(config, group):
    glad = Glad(config).eval()
    glad.denoiser.network.load_state_dict(group.under("unet."))
    glad.codec.network.load_state_dict(group.under("vae."))
    glad.features.load_backbone(group.under("dino."), "reference values")
    return glad


@pytest.fixture(scope="module")
def training(reference_group):
    return reference_group("glad/training")


@pytest.fixture(scope="module")
def reconstruction(reference_group):
    return reference_group("glad/reconstruction")


@pytest.fixture(scope="module")
def anomaly_map(reference_group):
    return reference_group("glad/anomaly_map")


# Training.


def training_model(group):
    glad = Glad(glad_config(group.notes, features=FeaturesConfig())).eval()
    glad.denoiser.network.load_state_dict(group.under("unet."))
    glad.codec.network.load_state_dict(group.under("vae."))
    embeds = group.tensors["train.encoder_hidden_states"]
    glad.denoiser.set_prompts(embeds, embeds)
    return glad


def test_target_of_atp_equals_predict_eps(training):
    tensors = training.tensors
    glad = Glad(glad_config(training.notes, features=FeaturesConfig()))
    glad.schedule = NoiseSchedule(tensors["pe.alphas_cumprod"].double())
    target = glad.atp_target(
        tensors["pe.x_0_normal"], tensors["pe.x_0_anomaly"], tensors["pe.timesteps"], tensors["pe.noise"]
    )
    torch.testing.assert_close(target, tensors["pe.eps"], rtol=1e-6, atol=1e-6)


def test_training_latents_are_sampled_with_the_one_fixed_noise(training):
    tensors = training.tensors
    glad = training_model(training)
    with torch.no_grad():
        for image, latent in (("instance_images", "supervise_input"), ("anomaly_images", "anomaly_input")):
            pixels = tensors[f"train.{image}"] / 2 + 0.5
            noise = glad._posterior_noise(pixels)
            torch.testing.assert_close(noise, tensors["train.vae_eps_shared"], rtol=0, atol=0)
            torch.testing.assert_close(
                glad.codec.encode(pixels, noise), tensors[f"train.{latent}"], rtol=0, atol=1e-5
            )


def test_training_step_gives_the_published_loss_and_gradients(training):
    tensors = training.tensors
    glad = training_model(training)
    loss = glad.atp_loss(
        tensors["train.supervise_input"],
        tensors["train.anomaly_input"],
        tensors["train.timesteps"],
        tensors["train.noise"],
    )
    torch.testing.assert_close(loss, tensors["train.loss"], rtol=1e-5, atol=0)
    loss.backward()
    gradients = {name: one.grad for name, one in glad.denoiser.network.named_parameters()}
    for name, expected in training.under("train.grad.").items():
        torch.testing.assert_close(gradients[name], expected, rtol=1e-3, atol=1e-6)
    norm = torch.stack([one.norm() for one in gradients.values()]).norm()
    torch.testing.assert_close(norm, tensors["train.total_grad_norm_preclip"], rtol=1e-3, atol=1e-6)


def test_network_prediction_and_noisy_input_equal_the_published_step(training):
    tensors = training.tensors
    glad = training_model(training)
    z_t = glad.schedule.add_noise(
        tensors["train.synthesis_features"], tensors["train.noise"], tensors["train.timesteps"]
    )
    torch.testing.assert_close(z_t, tensors["train.noisy_model_input"], rtol=0, atol=2e-6)
    with torch.no_grad():
        raw = glad.denoiser.raw(z_t, tensors["train.timesteps"])
    torch.testing.assert_close(raw, tensors["train.model_pred"], rtol=0, atol=2e-5)


# Reconstruction.


def reconstruct(group, scenario, config, latents, noise):
    """Run one scenario: (glad, per-step records, final latents, stop)."""
    glad = load_glad(config, group)
    glad.denoiser.set_prompts(group.tensors["in.text_embeds"], group.tensors["in.uncond_embeds"])
    with torch.no_grad():
        z, stop = glad.reconstruct(latents, noise)
        image = glad.codec.decode_raw(z)
    return glad, z, stop, image


def scenario_config(group, scenario, **changes):
    notes = group.notes
    facts = notes["scenarios"][scenario]
    guided = DenoiserConfig(
        "conditional_unet", "eps", notes["unet_config"], guidance=float(notes["guidance_scale"])
    )
    changes = {
        "denoise_steps": (notes["denoise_step"],),
        "steps": notes["inference_step"],
        "adaptive": facts["input_threshold"] > 0,
        "threshold": float(facts["input_threshold"]),
        "min_step": facts["min_step"],
        **changes,
    }
    return glad_config(notes, denoiser=guided, **changes)


def test_start_latents_are_sampled_and_noised_as_published(reconstruction):
    tensors = reconstruction.tensors
    glad = load_glad(glad_config(reconstruction.notes), reconstruction)
    with torch.no_grad():
        latents = glad.codec.encode(tensors["in.images"] / 2 + 0.5, tensors["in.vae_eps"])
    torch.testing.assert_close(latents, tensors["in.latents"], rtol=0, atol=1e-5)
    t = tensors["in.noise_timesteps"].expand(len(latents))
    noisy = glad.schedule.add_noise(tensors["in.latents"], tensors["in.noise"], t)
    torch.testing.assert_close(noisy, tensors["in.noisy_latents"], rtol=0, atol=1e-5)


def test_ladder_and_alphas_equal_the_published_tables(reconstruction):
    for table in reconstruction.notes["timestep_tables"]:
        start = torch.tensor([table["denoise_step"]])
        assert ladder(start, table["inference_step"])[0].tolist() == table["timesteps"]
    rows = reconstruction.tensors["a_noads.alpha_prod_t__prev__prev_timestep"]
    schedule = scaled_linear_schedule()
    t = reconstruction.tensors["a_noads.timesteps"]
    s = torch.cat([t[1:], torch.tensor([-1])])
    torch.testing.assert_close(schedule.alpha_bar_at(t), rows[:, 0], rtol=1e-5, atol=0)
    torch.testing.assert_close(schedule.alpha_bar_at(s), rows[:, 1], rtol=1e-5, atol=0)


def test_vit_tokens_and_position_embedding_equal_the_published_network(reconstruction):
    tensors = reconstruction.tensors
    vit = FeatureExtractor(dino_config(reconstruction.notes))
    vit.load_backbone(reconstruction.under("dino."), "reference values")
    torch.testing.assert_close(
        vit.position_embedding((8, 8)), tensors["vit_unit.pos_embed_interpolated"], rtol=0, atol=1e-6
    )
    for number, tokens in zip(
        reconstruction.notes["dino_config"]["extraction"],
        vit.unnormalised(tensors["in.images"]),
        strict=True,
    ):
        expected = tensors[f"vit_unit.tokens_layer{number}"][:, 1:]
        torch.testing.assert_close(tokens.flatten(2).transpose(1, 2), expected, rtol=0, atol=2e-5)


def test_trajectory_without_adaptive_steps_equals_the_published_one(reconstruction):
    trace = []
    config = scenario_config(reconstruction, "a_noads")
    glad = load_glad(config, reconstruction)
    glad.denoiser.set_prompts(
        reconstruction.tensors["in.text_embeds"], reconstruction.tensors["in.uncond_embeds"]
    )
    record = glad.denoiser.register_forward_hook(
        lambda _, inputs, estimate: trace.append((inputs[0], estimate))
    )
    with torch.no_grad():
        z, stop = glad.reconstruct(reconstruction.tensors["in.latents"], reconstruction.tensors["in.noise"])
        image = glad.codec.decode_raw(z)
    record.remove()
    assert len(trace) == len(reconstruction.tensors["a_noads.timesteps"])
    for name, got in (
        ("x_t", torch.stack([x_t for x_t, _ in trace])),
        ("x0", torch.stack([estimate.x0 for _, estimate in trace])),
        ("final_latents", z),
    ):
        torch.testing.assert_close(got, reconstruction.tensors[f"a_noads.{name}"], rtol=0, atol=2e-4)
    torch.testing.assert_close(image, reconstruction.tensors["a_noads.image"], rtol=0, atol=5e-4)
    assert stop.stopped_at.tolist() == reconstruction.tensors["a_noads.de_step"].tolist()


def test_adaptive_trajectory_scores_and_maps_equal_the_published_ones(reconstruction):
    tensors, name = reconstruction.tensors, "b_ads_fp32"
    glad = load_glad(scenario_config(reconstruction, name), reconstruction)
    glad.denoiser.set_prompts(tensors["in.text_embeds"], tensors["in.uncond_embeds"])
    trace = []
    record = glad.denoiser.register_forward_hook(lambda _, inputs, estimate: trace.append(inputs[0]))
    with torch.no_grad():
        z, stop = glad.reconstruct(tensors["in.latents"], tensors["in.noise"])
        image = glad.codec.decode_raw(z)
    record.remove()
    assert stop.stopped_at.tolist() == tensors[f"{name}.de_step"].tolist()
    x_prev = torch.stack([*trace[1:], z])
    torch.testing.assert_close(x_prev, tensors[f"{name}.x_prev"], rtol=0, atol=2e-4)
    torch.testing.assert_close(image, tensors[f"{name}.image"], rtol=0, atol=5e-4)
    active = tensors[f"{name}.ads_flag_before"]
    assert len(stop.scores) == len(active)
    got = torch.stack(stop.scores)
    torch.testing.assert_close(got[active], tensors[f"{name}.ads_score"][active], rtol=0, atol=1e-4)


def test_stop_map_equals_the_published_one(reconstruction):
    tensors, name = reconstruction.tensors, "b_ads_fp32"
    glad = load_glad(scenario_config(reconstruction, name), reconstruction)
    with torch.no_grad():
        for index, expected in enumerate(tensors[f"{name}.ads_anomaly_map"]):
            got = glad.stop_map(tensors[f"{name}.x0"][index], tensors[f"{name}.ads_x0_true"][index])
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("scenario", ADAPTIVE)
def test_stop_steps_equal_exactly_and_images_closely(reconstruction, scenario):
    tensors = reconstruction.tensors
    config = scenario_config(reconstruction, scenario)
    _, z, stop, image = reconstruct(
        reconstruction, scenario, config, tensors["in.latents"], tensors["in.noise"]
    )
    assert stop.stopped_at.tolist() == tensors[f"{scenario}.de_step"].tolist()
    half = "half" in scenario
    if f"{scenario}.image" in tensors:
        torch.testing.assert_close(
            image, tensors[f"{scenario}.image"].float(), rtol=0, atol=5e-3 if half else 5e-4
        )
        torch.testing.assert_close(
            z, tensors[f"{scenario}.final_latents"], rtol=0, atol=5e-3 if half else 2e-4
        )
    if f"{scenario}.ads_score" in tensors:
        expected = tensors[f"{scenario}.ads_score"].float()
        got = torch.stack(stop.scores)
        walked = got > 0
        torch.testing.assert_close(got[walked], expected[walked], rtol=0, atol=2e-3 if half else 1e-4)


def test_the_other_datasets_start_one_timestep_lower(reconstruction):
    tensors, name = reconstruction.tensors, "f_otherdataset"
    config = scenario_config(reconstruction, name, noise_step=int(tensors[f"{name}.noise_timesteps"][0]))
    _, _, stop, image = reconstruct(
        reconstruction, name, config, tensors[f"{name}.latents"], tensors[f"{name}.noise"]
    )
    assert stop.stopped_at.tolist() == tensors[f"{name}.de_step"].tolist()
    torch.testing.assert_close(image, tensors[f"{name}.image"], rtol=0, atol=5e-4)


# Anomaly map.

VARIANTS = ["plain", "v2", "v7_soft", "bidir", "bidir_v1_soft", "soft", "plain_half"]


@pytest.fixture(scope="module")
def map_features(anomaly_map):
    vit = FeatureExtractor(dino_config(anomaly_map.notes))
    vit.load_backbone(anomaly_map.under("dino."), "reference values")
    return vit


def published_maps(group, features, variant, batches):
    notes, tensors = group.notes, group.tensors
    facts = {"v": 0, "class_name": "bottle", "object_mask": "ones"} | notes["variants"][variant]
    backward = "sum" if facts["class_name"] in ("transistor", "pcb1", "pcb4") else "none"
    config = ReadoutConfig(
        backward=backward,
        pixel_weight=float(facts["v"]),
        sigma=float(notes["sigma"]),
        taps=notes["kernel_size"],
        top_k=notes["topk"],
        resolution=notes["dino_resolution"],
    )
    readout = Readout(config, features.channels, batch_maxima=True)
    image, rebuilt = tensors["in.images"] / 2 + 0.5, tensors["in.reconstructions"] / 2 + 0.5
    weight = tensors[f"in.object_mask_{facts['object_mask']}"][:, None]
    maps = [
        readout.anomaly_map(one, [other], features, mask)
        for one, other, mask in zip(
            image.split(batches), rebuilt.split(batches), weight.split(batches), strict=True
        )
    ]
    return torch.cat(maps), torch.cat([readout.score(one) for one in maps])


@pytest.mark.parametrize("variant", VARIANTS)
def test_maps_and_scores_equal_the_published_ones(anomaly_map, map_features, variant):
    maps, scores = published_maps(anomaly_map, map_features, variant, anomaly_map.notes["batches"])
    half = variant == "plain_half"
    rtol, atol = (0.0, 2e-2) if half else (1e-4, 2e-5)
    torch.testing.assert_close(
        maps[:, 0], anomaly_map.tensors[f"{variant}.maps"].float(), rtol=rtol, atol=atol
    )
    expected = anomaly_map.tensors[f"{variant}.scores_raw"].float()
    torch.testing.assert_close(scores, expected, rtol=0, atol=atol)


def test_published_pixel_term_depends_on_the_batch_and_ours_does_not(anomaly_map, map_features):
    _, scores = published_maps(anomaly_map, map_features, "v2", [2, 2, 2])
    torch.testing.assert_close(scores, anomaly_map.tensors["v2_batches222.scores_raw"], rtol=0, atol=2e-5)
    image, rebuilt = (anomaly_map.tensors[f"in.{key}"] / 2 + 0.5 for key in ("images", "reconstructions"))
    readout = Readout(ReadoutConfig(pixel_weight=2.0, resolution=96), map_features.channels)
    together = readout.anomaly_map(image, [rebuilt], map_features)
    alone = readout.anomaly_map(image[:1], [rebuilt[:1]], map_features)
    torch.testing.assert_close(alone, together[:1], rtol=1e-5, atol=1e-5)


def test_smoothing_kernel_equals_the_published_one(anomaly_map):
    expected = anomaly_map.tensors["aux.gaussian_kernel1d_49_sigma6"]
    torch.testing.assert_close(gaussian_kernel(6.0, 49).float(), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize(("number", "mode"), [(1, "dark"), (2, "bright"), (3, "none")])
def test_foreground_and_object_mask_equal_the_published_ones(anomaly_map, number, mode):
    image = anomaly_map.tensors["objmask.image_u8"].permute(2, 0, 1)[None].float() / 255
    mask = foreground(image, mode)
    assert torch.equal(mask[0].float(), anomaly_map.tensors[f"objmask.fg_mode{number}"])
    expected = anomaly_map.tensors[f"objmask.object_mask_mode{number}"].float()
    torch.testing.assert_close(object_mask(mask)[0, 0], expected, rtol=0, atol=1e-6)
