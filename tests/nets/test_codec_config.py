import pytest

from mendiff.errors import InputError
from mendiff.nets.codec_config import CodecConfig
from mendiff.nets.codec_fit import CodecFitConfig


@pytest.mark.parametrize("factor", [0, -2])
def test_a_factor_below_one_is_refused(factor):
    with pytest.raises(InputError, match=f"codec.factor: expected at least 1, got {factor}."):
        CodecConfig(factor=factor)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"slicing": True}, "codec.slicing: expected false with 'space_to_depth'"),
        ({"kind": "tiny", "tiling": 64}, "codec.tiling: expected 0 for a codec of kind 'tiny'"),
        ({"kind": "kl", "tiling": -8}, "codec.tiling: expected at least 0"),
    ],
)
def test_savings_that_a_codec_has_no_use_for_are_refused(config, message):
    with pytest.raises(InputError, match=message):
        CodecConfig(**config)


def test_only_a_codec_with_weights_is_normalised_or_fitted():
    with pytest.raises(InputError, match=r"codec\.normalise: expected false"):
        CodecConfig("kl", normalise=True)
    with pytest.raises(InputError, match=r"codec\.fit\.images: expected 0"):
        CodecConfig("pixels", fit=CodecFitConfig(images=8))
