"""GLAD against the published code, on tiny random networks and injected noise.

Networks, schedules, settings, scenarios and tolerances are those that the files state.
"""

import dataclasses
import functools
import re

import pytest
import torch

from mendiff.diffusion.ladder import ladder
from mendiff.diffusion.schedule import NoiseSchedule
from mendiff.methods.glad import Glad
from mendiff.methods.glad_config import GladConfig
from mendiff.nets.codec_config import CodecConfig
from mendiff.nets.denoiser import DenoiserConfig
from mendiff.nets.features import FeatureExtractor, FeaturesConfig
from mendiff.scoring.maps import gaussian_kernel, object_mask
from mendiff.scoring.readout import Readout, ReadoutConfig
from mendiff.synthesis.foreground import foreground

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
BOTH_WAYS = ("transistor", "pcb1", "pcb4")
"""Categories that the published code matches in both directions, by name."""
TOKENS = 2e-5
"""Tolerance of single tokens; the files state none."""


def dino_config(notes):
    stated = notes["dino_config"]
    layers = tuple(f"block{number}" for number in stated["extraction"])
    names = ("embed_dim", "depth", "num_heads", "patch_size", "mlp_ratio", "qkv_bias")
    network = {name: stated[name] for name in names}
    size = stated["img_size"]
    network["img_size"] = size[0] if isinstance(size, list) and len(size) == 1 else size
    norm = re.fullmatch(r"LayerNorm\(eps=([\d.e-]+)\)", stated["norm_layer"])
    assert norm, f"dino_config: expected norm_layer LayerNorm(eps=NUMBER), got {stated['norm_layer']!r}"
    network["norm_layer"] = functools.partial(torch.nn.LayerNorm, eps=float(norm[1]))
    return FeaturesConfig("vit_base_patch8_224", layers, *IMAGENET, network, position_resampling="dino")


def glad_config(notes, embeds, **changes):
    """The model of a file's notes, with prompts as long as its embeddings (1,L,D)."""
    config = GladConfig(
        codec=CodecConfig("kl", network=notes["vae_config"]),
        denoiser=DenoiserConfig(
            "conditional_unet", "eps", notes["unet_config"], prompt_length=embeds.shape[-2]
        ),
        features=dino_config(notes),
        reference=True,
    )
    return dataclasses.replace(config, **changes)


@pytest.fixture(scope="module")
def build(stated_schedule):
    """(config, group, whether it has an autoencoder and features) to the model with the file's weights."""

    def make(config, group, *, codec=True, features=True):
        glad = Glad(config).eval()
        glad.denoiser.network.load_state_dict(group.under("unet."))
        if codec:
            glad.codec.network.load_state_dict(group.under("vae."))
        if features:
            glad.features.load_backbone(group.under("dino."), "reference values")
        glad.schedule = glad.denoiser.schedule = stated_schedule(group.notes["scheduler_config"])
        return glad

    return make


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


@pytest.fixture
def training_model(build, training):
    """(whether it needs its autoencoder) to the model of the training step."""

    def make(*, codec=False):
        embeds = training.tensors["train.encoder_hidden_states"]
        config = glad_config(training.notes, embeds, features=FeaturesConfig())
        glad = build(config, training, codec=codec, features=False)
        glad.denoiser.set_prompts(embeds, embeds)
        return glad

    return make


def test_target_of_atp_equals_predict_eps(training, training_model):
    tensors = training.tensors
    glad = training_model()
    glad.schedule = NoiseSchedule(tensors["pe.alphas_cumprod"].double())
    target = glad.atp_target(
        tensors["pe.x_0_normal"], tensors["pe.x_0_anomaly"], tensors["pe.timesteps"], tensors["pe.noise"]
    )
    torch.testing.assert_close(target, tensors["pe.eps"], **training.tolerance("pe.eps"))


def test_training_latents_are_sampled_with_the_one_fixed_noise(training, training_model):
    tensors = training.tensors
    glad = training_model(codec=True)
    with torch.no_grad():
        for image, latent in (("instance_images", "supervise_input"), ("anomaly_images", "anomaly_input")):
            pixels = tensors[f"train.{image}"] / 2 + 0.5
            noise = glad._posterior_noise(pixels)
            torch.testing.assert_close(noise, tensors["train.vae_eps_shared"], rtol=0, atol=0)
            torch.testing.assert_close(
                glad.codec.encode(pixels, noise), tensors[f"train.{latent}"], rtol=0, atol=1e-5
            )


def test_training_step_gives_the_published_loss_and_gradients(training, training_model):
    tensors = training.tensors
    glad = training_model()
    loss = glad.atp_loss(
        tensors["train.supervise_input"],
        tensors["train.anomaly_input"],
        tensors["train.timesteps"],
        tensors["train.noise"],
    )
    torch.testing.assert_close(loss, tensors["train.loss"], **training.tolerance("train.loss"))
    loss.backward()
    gradients = {name: one.grad for name, one in glad.denoiser.network.named_parameters()}
    close = training.tolerance("train.grad")
    for name, expected in training.under("train.grad.").items():
        torch.testing.assert_close(gradients[name], expected, **close)
    stated = training.notes["grad_norms"]
    assert stated.keys() == gradients.keys()
    for name, norm in stated.items():
        assert float(gradients[name].norm()) == pytest.approx(norm, rel=close["rtol"], abs=close["atol"])
    norm = torch.stack([one.norm() for one in gradients.values()]).norm()
    torch.testing.assert_close(norm, tensors["train.total_grad_norm_preclip"], **close)


def test_network_prediction_and_noisy_input_equal_the_published_step(training, training_model):
    tensors = training.tensors
    glad = training_model()
    z_t = glad.schedule.add_noise(
        tensors["train.synthesis_features"], tensors["train.noise"], tensors["train.timesteps"]
    )
    torch.testing.assert_close(z_t, tensors["train.noisy_model_input"], rtol=0, atol=2e-6)
    with torch.no_grad():
        raw = glad.denoiser.raw(z_t, tensors["train.timesteps"])
    torch.testing.assert_close(raw, tensors["train.model_pred"], **training.tolerance("train.model_pred"))


# Reconstruction.


@pytest.fixture
def walker(build, reconstruction):
    """(scenario, changes) to the model of a scenario with its prompts."""

    def make(scenario, **changes):
        notes, tensors = reconstruction.notes, reconstruction.tensors
        facts, embeds = notes["scenarios"][scenario], tensors["in.text_embeds"]
        start = tensors.get(f"{scenario}.noise_timesteps", tensors["in.noise_timesteps"])
        assert notes["eta"] == 0
        config = glad_config(
            notes,
            embeds,
            start_timesteps=(notes["denoise_step"],),
            sampler_steps=notes["inference_step"],
            noise_timestep=int(start.flatten()[0]),
            adaptive=facts["input_threshold"] > 0,
            threshold=float(facts["input_threshold"]),
            min_timestep=facts["min_step"],
        )
        guided = dataclasses.replace(config.denoiser, guidance=float(notes["guidance_scale"]))
        glad = build(dataclasses.replace(config, denoiser=guided, **changes), reconstruction)
        glad.denoiser.set_prompts(embeds, tensors["in.uncond_embeds"])
        return glad

    return make


def walk(glad, latents, noise):
    """(what the network was given and said at every step, mended latents, decoded images, stop)."""
    trace = []
    record = glad.denoiser.register_forward_hook(
        lambda _, inputs, estimate: trace.append((inputs[0], estimate))
    )
    with torch.no_grad():
        z, stop = glad.reconstruct(latents, noise)
        image = glad.codec.decode_raw(z)
    record.remove()
    return trace, z, image, stop


def test_start_latents_are_sampled_and_noised_as_published(reconstruction, walker):
    tensors, close = reconstruction.tensors, reconstruction.tolerance("in.latents")
    glad = walker("a_noads")
    with torch.no_grad():
        latents = glad.codec.encode(tensors["in.images"] / 2 + 0.5, tensors["in.vae_eps"])
    torch.testing.assert_close(latents, tensors["in.latents"], **close)
    t = tensors["in.noise_timesteps"].expand(len(latents))
    noisy = glad.schedule.add_noise(tensors["in.latents"], tensors["in.noise"], t)
    torch.testing.assert_close(noisy, tensors["in.noisy_latents"], **close)


def test_ladder_and_alphas_equal_the_published_tables(reconstruction, stated_schedule):
    for table in reconstruction.notes["timestep_tables"]:
        start = torch.tensor([table["denoise_step"]])
        assert ladder(start, table["inference_step"])[0].tolist() == table["timesteps"]
    rows = reconstruction.tensors["a_noads.alpha_prod_t__prev__prev_timestep"]
    schedule = stated_schedule(reconstruction.notes["scheduler_config"])
    t = reconstruction.tensors["a_noads.timesteps"]
    s = torch.cat([t[1:], torch.tensor([-1])])
    torch.testing.assert_close(schedule.alpha_bar_at(t), rows[:, 0].double(), rtol=1e-5, atol=0)
    torch.testing.assert_close(schedule.alpha_bar_at(s), rows[:, 1].double(), rtol=1e-5, atol=0)


def test_vit_tokens_and_position_embedding_equal_the_published_network(reconstruction):
    tensors, stated = reconstruction.tensors, reconstruction.notes["dino_config"]
    vit = FeatureExtractor(dino_config(reconstruction.notes))
    vit.load_backbone(reconstruction.under("dino."), "reference values")
    height, width = (side // stated["patch_size"] for side in tensors["in.images"].shape[-2:])
    fitted = tensors["vit_unit.pos_embed_interpolated"]
    torch.testing.assert_close(vit.position_embedding((height, width)), fitted, rtol=0, atol=1e-6)
    found = vit.unnormalised(tensors["in.images"])
    for number, tokens in zip(stated["extraction"], found, strict=True):
        expected = tensors[f"vit_unit.tokens_layer{number}"][:, 1:]
        torch.testing.assert_close(tokens.flatten(2).transpose(1, 2), expected, rtol=0, atol=TOKENS)


def test_trajectory_without_adaptive_steps_equals_the_published_one(reconstruction, walker):
    tensors, close = reconstruction.tensors, reconstruction.tolerance("b_ads_fp32.x_prev")
    trace, z, image, stop = walk(walker("a_noads"), tensors["in.latents"], tensors["in.noise"])
    assert len(trace) == len(tensors["a_noads.timesteps"])
    for name, got in (
        ("x_t", torch.stack([x_t for x_t, _ in trace])),
        ("x0", torch.stack([estimate.x0 for _, estimate in trace])),
        ("final_latents", z),
    ):
        torch.testing.assert_close(got, tensors[f"a_noads.{name}"], **close)
    torch.testing.assert_close(image, tensors["a_noads.image"], **reconstruction.tolerance("image"))
    assert stop.stopped_at.tolist() == tensors["a_noads.de_step"].tolist()


def test_adaptive_trajectory_scores_and_maps_equal_the_published_ones(reconstruction, walker):
    tensors, name = reconstruction.tensors, "b_ads_fp32"
    trace, z, image, stop = walk(walker(name), tensors["in.latents"], tensors["in.noise"])
    assert stop.stopped_at.tolist() == tensors[f"{name}.de_step"].tolist()
    x_prev = torch.stack([*(x_t for x_t, _ in trace[1:]), z])
    close = reconstruction.tolerance(f"{name}.x_prev")
    torch.testing.assert_close(x_prev, tensors[f"{name}.x_prev"], **close)
    torch.testing.assert_close(image, tensors[f"{name}.image"], **reconstruction.tolerance("image"))
    active = tensors[f"{name}.ads_flag_before"]
    assert len(stop.scores) == len(active)
    got, close = torch.stack(stop.scores), reconstruction.tolerance(f"{name}.ads_score")
    torch.testing.assert_close(got[active], tensors[f"{name}.ads_score"][active], **close)


def test_stop_map_equals_the_published_one(reconstruction, walker):
    tensors, name = reconstruction.tensors, "b_ads_fp32"
    glad, close = walker(name), reconstruction.tolerance(f"{name}.ads_score")
    with torch.no_grad():
        for index, expected in enumerate(tensors[f"{name}.ads_anomaly_map"]):
            got = glad.stop_map(tensors[f"{name}.x0"][index], tensors[f"{name}.ads_x0_true"][index])
            torch.testing.assert_close(got, expected, **close)


def test_stop_steps_equal_exactly_and_images_closely(reconstruction, walker, glad_scenario):
    tensors, name = reconstruction.tensors, glad_scenario
    _, z, image, stop = walk(walker(name), tensors["in.latents"], tensors["in.noise"])
    assert stop.stopped_at.tolist() == tensors[f"{name}.de_step"].tolist()
    own = "b_ads_half_score." if "half" in name else ""
    pictures = reconstruction.tolerance(f"{own}image")
    latents = pictures if own else reconstruction.tolerance("b_ads_fp32.x_prev")
    scores = reconstruction.tolerance(f"{own or 'b_ads_fp32.'}ads_score")
    if f"{name}.image" in tensors:
        torch.testing.assert_close(image, tensors[f"{name}.image"].float(), **pictures)
        torch.testing.assert_close(z, tensors[f"{name}.final_latents"], **latents)
    if f"{name}.ads_score" in tensors:
        expected = tensors[f"{name}.ads_score"].float()
        got = torch.stack(stop.scores)
        walked = got > 0
        torch.testing.assert_close(got[walked], expected[walked], **scores)


def test_the_other_datasets_start_one_timestep_lower(reconstruction, walker):
    tensors, name = reconstruction.tensors, "f_otherdataset"
    assert tensors[f"{name}.noise_timesteps"].unique().tolist() == [reconstruction.notes["denoise_step"] - 1]
    _, _, image, stop = walk(walker(name), tensors[f"{name}.latents"], tensors[f"{name}.noise"])
    assert stop.stopped_at.tolist() == tensors[f"{name}.de_step"].tolist()
    torch.testing.assert_close(image, tensors[f"{name}.image"], **reconstruction.tolerance("image"))


# Anomaly map.


@pytest.fixture(scope="module")
def map_features(anomaly_map):
    vit = FeatureExtractor(dino_config(anomaly_map.notes))
    vit.load_backbone(anomaly_map.under("dino."), "reference values")
    return vit


def published_maps(group, features, variant, batches):
    notes, tensors = group.notes, group.tensors
    # A variant in half precision states nothing else: it is that of its name without "_half".
    facts = notes["variants"][variant.removesuffix("_half")] | notes["variants"][variant]
    backward = "sum" if facts["class_name"] in BOTH_WAYS else "none"
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


def test_maps_and_scores_equal_the_published_ones(anomaly_map, map_features, glad_variant):
    name, notes = glad_variant, anomaly_map.notes
    maps, scores = published_maps(anomaly_map, map_features, name, notes["batches"])
    own = name if name in notes["tolerances"] else None
    close, score_close = (anomaly_map.tolerance(own or other) for other in ("maps", "scores_raw"))
    torch.testing.assert_close(maps[:, 0], anomaly_map.tensors[f"{name}.maps"].float(), **close)
    torch.testing.assert_close(scores, anomaly_map.tensors[f"{name}.scores_raw"].float(), **score_close)


def test_published_pixel_term_depends_on_the_batch(anomaly_map, map_features, glad_batches):
    name, split = glad_batches
    batches = [int(count) for count in split.removeprefix("batches_").split("_")]
    _, scores = published_maps(anomaly_map, map_features, name, batches)
    expected = torch.tensor(anomaly_map.notes["variants"][f"{name}_batch_dependence"][split])
    torch.testing.assert_close(scores, expected, **anomaly_map.tolerance("scores_raw"))


def test_our_pixel_term_does_not_depend_on_the_batch(anomaly_map, map_features):
    image, rebuilt = (anomaly_map.tensors[f"in.{key}"] / 2 + 0.5 for key in ("images", "reconstructions"))
    config = ReadoutConfig(pixel_weight=2.0, resolution=anomaly_map.notes["dino_resolution"])
    readout = Readout(config, map_features.channels)
    together = readout.anomaly_map(image, [rebuilt], map_features)
    alone = readout.anomaly_map(image[:1], [rebuilt[:1]], map_features)
    torch.testing.assert_close(alone, together[:1], rtol=1e-5, atol=1e-5)


def test_smoothing_kernel_equals_the_published_one(anomaly_map):
    sigma, taps = anomaly_map.notes["sigma"], anomaly_map.notes["kernel_size"]
    expected = anomaly_map.tensors[f"aux.gaussian_kernel1d_{taps}_sigma{sigma:g}"]
    torch.testing.assert_close(gaussian_kernel(float(sigma), taps).float(), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize(("number", "mode"), [(1, "dark"), (2, "bright"), (3, "none")])
def test_foreground_and_object_mask_equal_the_published_ones(anomaly_map, number, mode):
    image = anomaly_map.tensors["objmask.image_u8"].permute(2, 0, 1)[None].float() / 255
    mask = foreground(image, mode)
    assert torch.equal(mask[0].float(), anomaly_map.tensors[f"objmask.fg_mode{number}"])
    expected = anomaly_map.tensors[f"objmask.object_mask_mode{number}"].float()
    torch.testing.assert_close(object_mask(mask)[0, 0], expected, rtol=0, atol=1e-6)
