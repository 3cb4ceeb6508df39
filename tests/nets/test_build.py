import pytest
from diffusers import AutoencoderTiny, UNet2DModel

from mendiff.errors import InputError
from mendiff.nets.build import build
from mendiff.nets.denoiser import plain_unet


def test_a_network_comes_from_its_settings_and_notes_in_config_files_are_left_out():
    network = build(UNet2DModel, plain_unet(8, 16) | {"_class_name": "UNet2DModel"}, "denoiser.network")
    assert list(network.config["block_out_channels"]) == [8, 16]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"block_out_chanels": [8]}, "got 'block_out_chanels'; did you mean block_out_channels?"),
        ({"zebra": 3}, r"got 'zebra' \(sample_size, in_channels, "),
        ({"block_out_channels": [8]}, "of a UNet2DModel, got invalid ones .*same number"),
        (plain_unet(7, 14), "got invalid ones .*divisible"),
        ({**plain_unet(8, 16), "down_block_types": ["Stairs"] * 2}, "got invalid ones .*Stairs"),
        ({**plain_unet(8, 16), "in_channels": "many"}, "got invalid ones"),
    ],
)
def test_settings_that_make_no_network_are_one_sentence(settings, sentence):
    with pytest.raises(InputError, match=f"^denoiser.network: expected (valid )?settings .*{sentence}"):
        build(UNet2DModel, settings, "denoiser.network")


def test_the_sentence_names_the_field_and_the_class():
    with pytest.raises(InputError, match=r"^codec\.network: expected settings of diffusers' AutoencoderTiny"):
        build(AutoencoderTiny, {"latents": 3}, "codec.network")
