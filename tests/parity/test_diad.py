"""DiAD against the published code, on a tiny checkpoint in its layout and injected noise.

Networks, schedules, settings and tolerances are those that the files state.
"""

import dataclasses
import functools
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import mendiff
from mendiff.checkpoints.import_diad import convert_codec, convert_diad
from mendiff.checkpoints.names import load_exactly
from mendiff.cli import main
from mendiff.data.images import resize, resize_mask, to_tensor
from mendiff.diffusion.ladder import ladder
from mendiff.errors import InputError
from mendiff.evaluation.metrics import image_and_pixel_metrics
from mendiff.methods.base import TrainingConfig
from mendiff.methods.diad import GUIDANCE, MEAN, STD, Diad
from mendiff.methods.diad_config import PUBLISHED, DiadConfig
from mendiff.nets.codec_config import CodecConfig
from mendiff.nets.denoiser import DenoiserConfig
from mendiff.nets.semantic_guided import GuideConfig
from mendiff.scoring.maps import cosine_map
from mendiff.scoring.readout import Readout
from mendiff.scoring.score import pooled_max
from mendiff.training.optimizers import make_optimizer


@pytest.fixture(scope="module")
def weights(reference_group):
    return reference_group("diad/weights")


def guide_network(configs):
    """What of the SG network's settings does not follow from the denoiser's."""
    stated = configs["diffusers_controlnet"]
    return {
        name: stated[name]
        for name in ("conditioning_embedding_out_channels", "controlnet_conditioning_channel_order")
    }


@pytest.fixture(scope="module")
def diad(weights, stated_schedule):
    """The tiny checkpoint as our model, by the map of names."""
    configs = weights.notes["configs"]
    config = DiadConfig(
        codec=CodecConfig("kl", network=configs["diffusers_vae"]),
        denoiser=DenoiserConfig(
            "conditional_unet",
            "eps",
            configs["diffusers_unet"],
            prompt_length=weights.notes["tokens"]["context_length"],
        ),
        guide=GuideConfig(network=guide_network(configs)),
        normalised=True,
        reference=True,
    )
    model = Diad(config).eval()
    state = model.state_dict() | convert_diad(weights.tensors, config, "reference values")
    load_exactly(model, state, "reference values", "the tiny checkpoint")
    stated = configs["diffusers_ddim"]
    assert (stated["timestep_spacing"], stated["prediction_type"]) == ("leading", "epsilon")
    model.schedule = model.denoiser.unet.schedule = stated_schedule(stated)
    return model


@pytest.fixture(scope="module")
def altered(diad):
    """(changes of the config) to a model with the same weights."""

    def make(**changes):
        model = Diad(dataclasses.replace(diad.config, **changes)).eval()
        model.load_state_dict(diad.state_dict())
        model.schedule = model.denoiser.unet.schedule = diad.schedule
        return model

    return make


@pytest.fixture(scope="module")
def rewired(diad, altered):
    """(wiring) to the same weights with SG outputs of its levels added to the skips."""
    levels = len(diad.config.denoiser.network["block_out_channels"])
    skips = {"only_mid_true": (), "only_mid_false": tuple(range(1, levels + 1))}
    return lambda wiring: altered(guide=dataclasses.replace(diad.config.guide, skips=skips[wiring]))


@pytest.fixture(scope="module")
def sampled(diad, altered, path):
    """(changes) to the model that samples with the steps and the guidance of the notes."""
    notes, count = path.notes, len(diad.schedule)
    assert notes["eta"] == 0
    guided = dataclasses.replace(diad.config.denoiser, guidance=float(notes["guidance_scale"]))
    own = {"denoiser": guided, "start_timesteps": (count,), "noise_timestep": count - 1}
    own["sampler_steps"] = notes["ddim_steps"]
    return lambda **changes: altered(**(own | changes))


@pytest.fixture(scope="module")
def preprocess(reference_group):
    return reference_group("diad/g0_preprocess")


@pytest.fixture(scope="module")
def sg(reference_group):
    return reference_group("diad/g1_sg_unet")


@pytest.fixture(scope="module")
def path(reference_group):
    return reference_group("diad/g2_testpath")


@pytest.fixture(scope="module")
def anomaly(reference_group):
    return reference_group("diad/g3_anomaly")


@pytest.fixture(scope="module")
def training(reference_group):
    return reference_group("diad/g4_train")


def tensors_to_pixels(normalised):
    """What was ImageNet-normalised in the published code, as the pixels that our methods take."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return normalised * std + mean


# The SG network and the two wirings.


WIRINGS = ("only_mid_true", "only_mid_false")


def test_hint_is_embedded_as_published(diad, sg):
    with torch.no_grad():
        embedding = diad.denoiser.embed(sg.tensors["in.hint"])
    torch.testing.assert_close(embedding, sg.tensors["mid.hint_embedding"], **sg.tolerance("sg_outputs"))


def test_sg_outputs_after_fusion(diad, sg):
    tensors = sg.tensors
    with torch.no_grad():
        outputs = diad.denoiser.guide.outputs_at(
            tensors["in.x_noisy"],
            tensors["in.timesteps"],
            tensors["in.context"],
            tensors["mid.hint_embedding"],
        )
    assert len(outputs) == len(sg.under("out.sg."))
    for number, output in enumerate(outputs):
        torch.testing.assert_close(output, tensors[f"out.sg.{number}"], **sg.tolerance("sg_outputs"))


def test_every_branch_of_the_fusion(diad, sg, weights):
    tensors, branches = sg.tensors, diad.denoiser.guide.fusion.branches
    # Source and destination are counted from 1 in the names.
    sources = sorted(weights.notes["configs"]["sff"]["inputs"], key=int)
    assert len(sg.under("mid.down")) == sum(len(one) for one in branches)
    for at, number in enumerate(sources):
        for to, branch in enumerate(branches[at]):
            with torch.no_grad():
                fused = branch(tensors[f"out.sg.{number}"])
            expected = tensors[f"mid.down{at + 1}{to + 1}"]
            torch.testing.assert_close(fused, expected, **sg.tolerance("sg_outputs"))


@pytest.mark.parametrize("wiring", WIRINGS)
def test_noise_estimate_of_both_wirings(sg, rewired, wiring):
    tensors = sg.tensors
    model = rewired(wiring)
    with torch.no_grad():
        embedding = model.denoiser.embed(tensors["in.hint"])
        model.denoiser.unet.set_prompts(tensors["in.context"][:1], tensors["in.context"][:1])
        control = functools.partial(
            model.denoiser.guide, tensors["in.x_noisy"], tensors["in.timesteps"], embedding
        )
        eps = model.denoiser.unet.raw(
            tensors["in.x_noisy"], tensors["in.timesteps"], tensors["in.context"], control
        )
    torch.testing.assert_close(eps, tensors[f"out.eps.{wiring}"], **sg.tolerance("eps"))


def test_denoiser_without_control(diad, sg):
    tensors = sg.tensors
    with torch.no_grad():
        eps = diad.denoiser.unet.raw(tensors["in.x_noisy"], tensors["in.timesteps"], tensors["in.context"])
    torch.testing.assert_close(eps, tensors["out.eps.zero_control"], **sg.tolerance("eps"))


# The path of a test image.


def test_reconstruction_step_by_step(sampled, path, diad_scenario):
    tensors, facts, diad = path.under(f"{diad_scenario}."), path.notes["meta"][diad_scenario], sampled()
    image = tensors_to_pixels(path.tensors["in.image"])
    contexts = [path.tensors[f"in.context.{facts[name] or 'empty'}"] for name in ("prompt", "uncond_prompt")]
    diad.denoiser.unet.set_prompts(*contexts)
    guidance, close = path.notes["guidance_scale"], path.tolerance("latents_and_pred_x0")
    noise = path.tolerance("eps")["atol"]
    seen = []

    def keep(_module, inputs, estimate):
        seen.append((inputs[0], inputs[1], estimate))

    hook = diad.denoiser.register_forward_hook(keep)
    try:
        with torch.no_grad():
            z0 = diad.encode(image, tensors["rng.posterior_noise"])
            z = diad.reconstruct(z0, tensors["rng.q_noise"], diad.scaled(image))
    finally:
        hook.remove()
    torch.testing.assert_close(z0, tensors["z0"], rtol=0, atol=1e-5)
    assert len(seen) == path.notes["ddim_steps"]
    timesteps = [int(t) for _, t, _ in seen]
    assert timesteps == tensors["ddim.timesteps"].tolist()
    for number, (x_t, _, estimate) in enumerate(seen):
        before = tensors["x_T"] if number == 0 else tensors[f"step{number - 1}.x_prev"]
        torch.testing.assert_close(x_t, before, **close)
        torch.testing.assert_close(estimate.x0, tensors[f"step{number}.pred_x0"], **close)
        guided = tensors[f"step{number}.eps_uncond"] + guidance * (
            tensors[f"step{number}.eps_cond"] - tensors[f"step{number}.eps_uncond"]
        )
        torch.testing.assert_close(estimate.eps, guided, rtol=0, atol=2 * guidance * noise)
    torch.testing.assert_close(z, tensors["z_final"], **close)
    with torch.no_grad():
        samples, plain = diad.decode(z), diad.decode(z0)
    torch.testing.assert_close(diad.scaled(samples), tensors["samples"], **path.tolerance("samples"))
    torch.testing.assert_close(diad.scaled(plain), tensors["reconstruction"], **path.tolerance("samples"))


def test_ladder_and_its_alpha_bars(diad, path):
    tensors, close = path.tensors, path.tolerance("schedule")
    timesteps = ladder(torch.tensor([len(diad.schedule)]), path.notes["ddim_steps"])[0].flip(0)
    alpha_bar = diad.schedule.alpha_bar_at(timesteps)
    torch.testing.assert_close(alpha_bar, tensors["schedule.ddim_alphas"].double(), **close)
    before = diad.schedule.alpha_bar_at(torch.cat([torch.tensor([-1]), timesteps[:-1]]))
    torch.testing.assert_close(before, tensors["schedule.ddim_alphas_prev"].double(), **close)


def test_the_published_guidance_is_ours(path):
    assert path.notes["guidance_scale"] == GUIDANCE


def test_guidance_between_equal_prompts_changes_nothing(diad, sampled, path):
    tensors = path.under("official.")
    image = tensors_to_pixels(path.tensors["in.image"])
    empty = path.tensors["in.context.empty"]
    plain = sampled(reference=False, denoiser=diad.config.denoiser)
    plain.denoiser.unet.set_prompts(empty, empty)
    assert plain.denoiser.unet.config.guidance == 0
    with torch.no_grad():
        z = plain.reconstruct(tensors["z0"], tensors["rng.q_noise"], plain.scaled(image))
    torch.testing.assert_close(z, tensors["z_final"], **path.tolerance("latents_and_pred_x0"))


# Scores.


def stated_in(names, pattern):
    """The numbers that the one name of a pattern holds."""
    found = [match for name in names if (match := re.fullmatch(pattern, name))]
    assert len(found) == 1, f"expected one name like {pattern}, got {sorted(names)}"
    return [int(number) for number in found[0].groups()]


def test_map_smoothing_and_pooled_score(anomaly):
    tensors, side = anomaly.tensors, anomaly.tensors["map.a"].shape[-1]
    layers = range(len(anomaly.under("in.fs.")))
    ours, theirs = ([tensors[f"in.{name}.{number}"] for number in layers] for name in ("fs", "ft"))
    plain = tensors["map.a"]
    values, close = anomaly.notes["values"]["score.a"], anomaly.tolerance("maps")
    (sigma,) = stated_in(tensors, r"map\.a\.gauss(\d+)")
    rounds, window = stated_in(values, r"max_after_(\d+)x_avgpool(\d+)")
    published = dataclasses.replace(
        DiadConfig().readout, sigma=float(sigma), pool_rounds=rounds, pool_side=window
    )
    image, rebuilt = torch.zeros(1, 3, side, side), torch.ones(1, 3, side, side)
    readout = Readout(dataclasses.replace(published, sigma=0.0), [one.shape[1] for one in ours])
    found = readout.anomaly_map(image, [rebuilt], lambda pixels: theirs if bool(pixels.all()) else ours)
    torch.testing.assert_close(found[0, 0].double(), plain, **close)
    smooth = Readout(published, [one.shape[1] for one in ours])
    found = smooth.anomaly_map(image, [rebuilt], lambda pixels: theirs if bool(pixels.all()) else ours)
    exact = tensors[f"map.a.gauss{sigma}"]
    torch.testing.assert_close(found[0, 0].double(), exact, **close)
    rel, exact = anomaly.tolerance("scores")["rtol"], exact[None, None]
    pooled = values[f"max_after_{rounds}x_avgpool{window}"]
    assert float(smooth.score(exact)) == pytest.approx(pooled, rel=rel)
    assert float(pooled_max(exact, rounds=0)) == pytest.approx(values["plain_max"], rel=rel)


def test_single_maps(anomaly):
    tensors = anomaly.tensors
    side = tensors["map.a"].shape[-1]
    for number in range(len(anomaly.under("in.fs."))):
        coarse = cosine_map(tensors[f"in.fs.{number}"], tensors[f"in.ft.{number}"])
        found = torch.nn.functional.interpolate(
            coarse, size=(side, side), mode="bilinear", align_corners=True
        )
        torch.testing.assert_close(found[0, 0], tensors[f"amap.{number}"], **anomaly.tolerance("maps"))


# Training.


@pytest.fixture(scope="module")
def published_name(weights, diad):
    """Ours to published names of parameters: the checkpoint's names, filled in for its tensors."""
    tokens = {name: torch.empty_like(tensor, device="meta") for name, tensor in weights.tensors.items()}
    by_storage = {token.untyped_storage()._cdata: name for name, token in tokens.items()}
    placed = convert_diad(tokens, diad.config, "reference values")
    return {name: by_storage[token.untyped_storage()._cdata] for name, token in placed.items()}


def published_step(model, training):
    """The loss of the published training step, backward included."""
    tensors = training.tensors
    with torch.no_grad():
        image = tensors_to_pixels(tensors["in.image"])
        z0 = model.encode(image, tensors["rng.posterior_noise"])
    torch.testing.assert_close(z0, tensors["z0"], rtol=0, atol=1e-5)
    loss = model.noise_loss(tensors["z0"], model.scaled(image), tensors["rng.t"], tensors["rng.noise"])
    model.zero_grad()
    loss.backward()
    return loss


def relative_of(training):
    """What the notes allow of a gradient's largest number."""
    stated = re.search(r"([\d.e+-]+)\*max\|ref\|", training.notes["tolerances"]["grads"])
    assert stated, training.notes["tolerances"]["grads"]
    return float(stated[1])


@pytest.mark.parametrize("wiring", WIRINGS)
def test_training_step_gives_the_published_loss_and_gradients(
    diad, path, training, rewired, published_name, wiring
):
    model = rewired(wiring)
    empty = path.tensors["in.context.empty"]
    model.denoiser.unet.set_prompts(empty, empty)
    loss = published_step(model, training)
    torch.testing.assert_close(loss, training.tensors[f"{wiring}.loss"], **training.tolerance("loss"))
    close = relative_of(training)
    norms = training.notes["values"][f"{wiring}.grad_norm"]
    expected = training.under(f"{wiring}.grad.")
    compared = 0
    for name, one in model.named_parameters():
        if name not in published_name:
            continue
        theirs = published_name[name]
        if one.grad is None or norms[theirs] is None:
            # A parameter that nothing uses has no gradient here and none, or zeros, there.
            assert one.grad is None or not bool(one.grad.any()), name
            assert not norms[theirs], name
            continue
        largest = max(norms[theirs], 1e-6)
        assert abs(float(one.grad.norm()) - norms[theirs]) <= close * largest, name
        if theirs in expected:
            difference = (one.grad - expected[theirs].view_as(one)).abs().max()
            assert float(difference) <= close * float(expected[theirs].abs().max()), name
            compared += 1
    assert compared == len(expected)


def test_exactly_the_published_parameters_are_trained(diad, training, published_name):
    notes = training.notes["values"]
    ours = {published_name[name] for name, one in diad.named_parameters() if one.requires_grad}
    trained = tuple(f"{prefix}." for prefix in notes["in_optimizer"])
    theirs = {name for name in notes["only_mid_true.grad_norm"] if name.startswith(trained)}
    assert len(theirs) == notes["n_params_in_optimizer"]
    assert ours == theirs


def test_one_step_of_the_optimizer(path, weights, training, rewired, published_name):
    model = rewired("only_mid_true")
    empty = path.tensors["in.context.empty"]
    model.denoiser.unet.set_prompts(empty, empty)
    settings = training.notes["values"]["optimizer"]
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
    rate, decay = settings["lr"], settings["weight_decay"]
    optimizer = make_optimizer(TrainingConfig(learning_rate=rate, weight_decay=decay), trained.values())
    published_step(model, training)
    optimizer.step()
    ours = {published_name[name]: one for name, one in trained.items()}
    for name, stated in training.under("after_step.").items():
        before, gradient = weights.tensors[name], training.tensors[f"only_mid_true.grad.{name}"]
        expected = before * (1 - rate * decay) - rate * gradient / (gradient.abs() + settings["eps"])
        # The first step of Adam is nearly the gradient's sign, which a small one's tolerance turns around.
        apart = relative_of(training) * gradient.abs().max()
        turned = rate * settings["eps"] * apart / (gradient.abs() + settings["eps"]).square()
        limit = training.tolerance("after_step")["atol"] + turned.clamp(max=2 * rate)
        assert bool(((ours[name].detach() - expected).abs() <= limit).all()), name
        # Some files state the weights as they were before the step; such values say nothing of it.
        if not torch.equal(stated, before):
            assert bool(((ours[name].detach() - stated).abs() <= limit).all()), name


# Pictures into the published code.


def numbers_of(text):
    """The one tolerance of notes that state it for all."""
    return float(re.fullmatch(r"atol ([\d.e-]+)", text)[1])


def test_preprocessing(preprocess):
    tensors, side = preprocess.tensors, preprocess.notes["shape"][-1]
    picture = tensors["in.image_rgb_u8"].numpy()
    # The published code resizes in whole grey levels; ours keeps fractions, so it is up to a level away.
    levels = np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BILINEAR))
    assert float((resize(picture, side) - to_tensor(levels)).abs().max()) < 1.01 / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    normalised = (to_tensor(levels) - mean) / std
    (step,) = stated_in(tensors, r"out\.jpg_stride(\d+)")
    stated, close = tensors[f"out.jpg_stride{step}"], numbers_of(preprocess.notes["tolerances"])
    torch.testing.assert_close(normalised[:, ::step, ::step], stated, rtol=0, atol=close)
    stated = torch.stack([normalised.mean((1, 2)), normalised.std((1, 2))])
    torch.testing.assert_close(stated, tensors["out.jpg_mean_std"].view_as(stated), rtol=0, atol=1e-5)


def test_masks_agree_but_for_their_grey_edges(preprocess):
    tensors, side = preprocess.tensors, preprocess.notes["shape"][-1]
    (step,) = stated_in(tensors, r"out\.mask_stride(\d+)")
    ours = resize_mask(tensors["in.mask_u8"].numpy() > 0, side)[:, ::step, ::step]
    theirs = tensors[f"out.mask_stride{step}"]
    assert bool((theirs == 1).any())
    assert bool((theirs == 0).any())
    assert bool(ours[theirs == 1].all())
    assert not bool(ours[theirs == 0].any())


# The full-size model.


def test_full_size_checkpoint_has_a_place_for_every_name(reference_file):
    listed = json.loads(reference_file("diad/official_keys.json").read_text())["keys"]
    weights = {
        name: torch.empty(shape, device="meta") for group in listed.values() for name, shape in group.items()
    }
    placed = convert_diad(weights, PUBLISHED, "official_keys.json")
    renamed = json.loads(reference_file("diad/diffusers_key_map.json").read_text())
    assert len(placed) == sum(len(renamed[part]) for part in ("unet", "controlnet", "vae")) + 9


def test_tiny_checkpoint_goes_through_convert(diad, weights, path, tmp_path, capsys):
    configs, side = weights.notes["configs"], max(path.tensors["in.image"].shape[-2:])
    checkpoint = tmp_path / "diad.ckpt"
    torch.save({"state_dict": dict(weights.tensors), "epoch": 3}, checkpoint)
    save_file({"prompt": path.tensors["in.context.empty"].contiguous()}, tmp_path / "prompt.safetensors")
    rng = np.random.default_rng(0)
    (tmp_path / "good").mkdir()
    for number in range(8):
        picture = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(picture).resize((side, side)).save(tmp_path / "good" / f"{number}.png")
    fields = {
        "image_size": side,
        "features.name": "",
        "codec.network": configs["diffusers_vae"],
        "denoiser.network": configs["diffusers_unet"],
        "denoiser.prompt_length": weights.notes["tokens"]["context_length"],
        "guide.network": guide_network(configs),
        # The published score is for 256 pixels; smaller images leave nothing after its poolings.
        "readout.pool_rounds": min(8, side // 8 - 1),
    }
    words = [str(checkpoint), "-o", str(tmp_path / "model"), "--good", str(tmp_path / "good"), "--json"]
    words += ["--prompt", str(tmp_path / "prompt.safetensors"), "--device", "cpu"]
    words += [word for key, value in fields.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    assert main(["convert", "diad", *words]) == 0
    model = mendiff.load(tmp_path / "model")
    assert json.loads(capsys.readouterr().out)["threshold"] == model.threshold
    assert model.method.config.normalised
    ours = model.method.state_dict()
    for name, one in diad.state_dict().items():
        if name.startswith(("denoiser.guide.", "denoiser.unet.network.", "codec.")):
            assert torch.equal(ours[name], one), name
    torch.testing.assert_close(ours["denoiser.unet.prompt"], path.tensors["in.context.empty"])


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("control_model.down23.0.weight", "lacks 'denoiser.guide.fusion.branches.1.2.0.weight'"),
        ("model.diffusion_model.out.2.bias", "lacks 'denoiser.unet.network.conv_out.bias'"),
        (None, "has the unknown 'control_model.surplus.weight'"),
    ],
)
def test_missing_and_unknown_keys_are_named(weights, diad, key, sentence):
    tensors = {name: one for name, one in weights.tensors.items() if name != key}
    if key is None:
        tensors["control_model.surplus.weight"] = torch.zeros(3)
    with pytest.raises(InputError) as error:
        convert_diad(tensors, diad.config, "tiny.ckpt")
    assert sentence in str(error.value)


def test_autoencoder_alone_converts_too(weights, diad):
    prefix = "first_stage_model."
    alone = dict(weights.under(prefix)) | {"loss.discriminator.weight": torch.zeros(2)}
    named = convert_codec(alone, diad.config.codec, "ae.ckpt")
    ours = diad.codec.state_dict()
    assert named.keys() == ours.keys()
    assert all(torch.equal(named[name], ours[name]) for name in ours)


def test_metrics_of_the_published_evaluation(anomaly, diad_class):
    tensors, values, name = anomaly.tensors, anomaly.notes["values"], diad_class
    close = anomaly.tolerance("metrics")["atol"]
    rows = values["classes"][name]
    maps = tensors["metrics.preds"][rows][:, None]
    masks = tensors["metrics.masks"][rows][:, None] > 0  # grey edges count as anomalous there
    labels = masks.flatten(1).any(1)
    scores = tensors["metrics.image_scores"][rows]
    found = image_and_pixel_metrics(scores, labels, maps, masks)
    published = {"pixel_ap": "appx", "pixel_f1max": "f1px", "image_ap": "apsp", "image_f1max": "f1sp"}
    for ours, theirs in published.items():
        assert found[ours] == pytest.approx(values["metrics"][theirs][f"{name}_{theirs}_auc"], abs=close)
    for ours, theirs in (("pixel_auroc", "pixel"), ("image_auroc", "max")):
        # Below one half, the published code turns the ranking around; we tell the truth.
        turned = max(found[ours], 1 - found[ours])
        assert turned == pytest.approx(values["metrics"][theirs][f"{name}_{theirs}_auc"], abs=close)
