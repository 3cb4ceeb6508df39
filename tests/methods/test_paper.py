"""The papers' presets: settings, and networks of full size on the meta device, where they cost nothing."""

from dataclasses import replace

import pytest
import torch

from mendiff.methods.base import METHODS, describe_parameters, find_method, find_preset
from mendiff.methods.diad_config import PUBLISHED
from mendiff.methods.glad_settings import MPDD, MVTEC, PCB_BANK, VISA
from mendiff.nets.features import FeatureExtractor, FeaturesConfig, hub_id

GLAD = find_method("glad").PRESETS
CATEGORIES = {name: config for name, config in GLAD.items() if name.count("/") == 2}
# Table 8 of DiAD by timm's names, and which of timm's stages has stride 4; the paper's preset has resnet50.
TABLE_8 = {
    "vgg16": 2,
    "vgg19": 2,
    "resnet18": 1,
    "resnet34": 1,
    "resnet50": 1,
    "resnet101": 1,
    "wide_resnet50_2": 1,
    "wide_resnet101_2": 1,
    "efficientnet_b0": 1,
    "efficientnet_b2": 1,
    "efficientnet_b4": 1,
}


def on_meta(name, config):
    with torch.device("meta"):
        return find_method(name)(config)


@pytest.mark.parametrize("name", METHODS)
def test_full_size_networks_take_no_memory_on_the_meta_device(name):
    method = on_meta(name, find_preset(name, "paper"))
    assert {one.device.type for one in method.parameters()} == {"meta"}
    assert method.config.image_size % method.size_multiple == 0
    # UNets: Stable Diffusion's, DiAD's trained part of it with the SG network, DDPM's with RAN's head.
    trained = {"glad": 859_520_964, "diad": 981_447_764, "ran": 115_517_574}
    assert describe_parameters(method)["trained"] == trained[name]


def test_second_extractor_is_used_by_the_stop_rule_only():
    plain, tuned = (on_meta("glad", GLAD[f"paper/{name}"]) for name in ("mvtec/cable", "visa/candle"))
    own = {key for key in tuned.state_dict() if key.startswith("stop_features.")}
    assert tuned.state_dict().keys() - plain.state_dict().keys() == own
    assert len(own) == len(plain.features.state_dict())


def test_every_published_category_has_a_preset():
    assert [len(one) for one in (MVTEC, MPDD, VISA, PCB_BANK)] == [15, 6, 12, 7]
    assert len(CATEGORIES) == 40
    assert GLAD["paper/pcbbank/pcb3"] == GLAD["paper/visa/pcb3"]


def test_categories_differ_from_the_common_preset_in_published_settings_only():
    common = GLAD["paper"]
    assert common.threshold is None  # computed from good images
    for config in CATEGORIES.values():
        assert config.threshold is not None
        assert not config.reference
        kept = {
            name: getattr(common, name)
            for name in ("threshold", "start_timesteps", "sampler_steps", "min_timestep")
        }
        kept |= {name: getattr(common, name) for name in ("readout", "synthesis", "own_stop_features")}
        kept["noise_timestep"] = common.noise_timestep
        training = replace(config.training, steps=common.training.steps)
        assert replace(config, training=training, object_mask="none", **kept) == common


@pytest.mark.parametrize("name", [name for name in GLAD if name.startswith("paper")])
@torch.no_grad()
def test_reference_adds_noise_at_the_published_timestep(name, tiny_method, pictures):
    config = GLAD[name]
    # T' for MVTec-AD and MPDD; for VisA and PCB-Bank the published code draws it from T' - 1 to T' - 1.
    below = int(name.split("/")[1:2] in (["visa"], ["pcbbank"]))
    (start,) = config.start_timesteps
    glad = tiny_method(
        "glad",
        {
            "start_timesteps": [start],
            "sampler_steps": config.sampler_steps,
            "spacing": config.spacing,
            "noise_timestep": config.noise_timestep,
            "reference": True,
            "adaptive": False,
        },
    )
    seen = []
    glad.denoiser.register_forward_hook(lambda _, given, __: seen.append(given))
    z0 = glad.codec.encode(pictures)
    glad.reconstruct(z0, torch.ones_like(z0))
    expected = glad.schedule.add_noise(z0, torch.ones_like(z0), torch.full((len(z0),), start - below))
    assert torch.equal(seen[0][0], expected)
    assert len(seen) == config.sampler_steps


def test_multi_class_preset_has_a_prompt_per_category_and_the_most_frequent_settings():
    mvtec, visa = GLAD["paper/mvtec"], GLAD["paper/visa"]
    assert mvtec.denoiser.prompts[:2] == ("a photo of sks carpet", "a photo of sks grid")
    assert len(mvtec.denoiser.prompts) == 15
    assert (mvtec.both_ways, visa.both_ways) == (("transistor",), ("pcb1", "pcb4"))
    assert (mvtec.start_timesteps, mvtec.min_timestep, mvtec.sampler_steps, mvtec.threshold) == (
        (750,),
        350,
        25,
        None,
    )
    assert (visa.start_timesteps, visa.min_timestep, visa.sampler_steps, visa.threshold) == (
        (450,),
        200,
        15,
        None,
    )
    assert (visa.readout.resolution, visa.own_stop_features) == (256, True)
    assert mvtec.training.steps == 29_500
    assert mvtec.readout.backward == visa.readout.backward == "none"


def test_published_settings_are_in_their_fields():
    cable, white, pcb1 = (
        GLAD[f"paper/{name}"] for name in ("mvtec/cable", "mpdd/bracket_white", "pcbbank/pcb1")
    )
    assert (cable.start_timesteps, cable.threshold, cable.min_timestep, cable.sampler_steps) == (
        (750,),
        0.4,
        350,
        25,
    )
    assert (cable.training.steps, cable.training.batch_size, cable.training.learning_rate) == (1500, 32, 5e-6)
    assert (cable.readout.pixel_weight, cable.readout.resolution, cable.readout.backward) == (0, 0, "none")
    assert (cable.denoiser.guidance, cable.denoiser.prompt) == (9.0, "a photo of sks")
    assert (white.start_timesteps, white.min_timestep, white.object_mask) == ((450,), 200, "bright")
    assert white.synthesis.foreground == "bright"
    assert (pcb1.start_timesteps, pcb1.threshold, pcb1.min_timestep, pcb1.sampler_steps) == (
        (450,),
        0.3,
        200,
        15,
    )
    assert (pcb1.readout.pixel_weight, pcb1.readout.resolution, pcb1.readout.backward) == (1, 256, "sum")
    assert pcb1.own_stop_features


@pytest.mark.parametrize(
    ("preset", "steps"),
    [
        ("paper/mvtec", 75_750),
        ("paper/visa", 180_500),
        ("paper/mvtec3d", 55_500),
        ("paper/medical", 188_500),
    ],
)
def test_diads_epochs_become_steps_of_four_batches(preset, steps):
    config = find_preset("diad", preset)
    assert (config.training.steps, config.training.batch_size) == (steps, 48)
    assert replace(config, training=PUBLISHED.training) == PUBLISHED


@pytest.mark.parametrize(("name", "first"), TABLE_8.items())
def test_backbones_of_table_8_give_the_three_scales_of_the_paper(name, first):
    layers = tuple(f"stage{number}" for number in range(first, first + 3))
    with torch.device("meta"):
        extractor = FeatureExtractor(FeaturesConfig(name, layers))
        maps = extractor(torch.empty(1, 3, 256, 256))
    assert [tuple(one.shape[-2:]) for one in maps] == [(64, 64), (32, 32), (16, 16)]
    assert hub_id(name).startswith(f"timm/{name}.")


def test_models_without_timm_weights_have_no_repository():
    assert hub_id("vit_base_patch8_224.dino") == "timm/vit_base_patch8_224.dino"
    assert hub_id("zebranet") == ""
