"""What tests of several rooms share; networks are imported where a fixture needs them."""

import os
import random
import shutil
from contextlib import contextmanager

# Before torch is imported: workers share out the cores, and so do the commands that they start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from hypothesis import settings
from safetensors.torch import save_file

from tests.networks import SMALL_UNET

pytest_plugins = ["tests.commands"]

settings.register_profile("mendiff", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("mendiff")


def pytest_addoption(parser):
    parser.addoption("--fuzz", type=int, default=0, help="mutated images to try; a few unless given")
    parser.addoption("--fuzz-from", type=int, default=0, help="number of the first case")


class Fuzz:
    """How many cases of a fuzz test to run, and from which on."""

    def __init__(self, asked, first):
        self._asked, self._first = asked, first

    def cases(self, few, share=1.0):
        """Numbers of the cases: a few, or that share of what was asked for."""
        count = round(self._asked * share) or few
        return range(self._first, self._first + count)


@pytest.fixture(scope="session")
def fuzz(pytestconfig):
    return Fuzz(pytestconfig.getoption("--fuzz"), pytestconfig.getoption("--fuzz-from"))


# What makes a method's "tiny" preset small enough for tests; one that is small already needs no line.
TINY = {
    "glad": {
        "image_size": 32,
        "crop": 0,
        "codec.factor": 4,
        "denoiser.network": SMALL_UNET,
        "readout.bank_size": 200,
        "readout.enlarge": 0,
    },
    "diad": {
        "image_size": 32,
        "readout.bank_size": 200,
        "readout.enlarge": 0,
        "crop": 0,
        "codec.factor": 4,
        "denoiser.network": {
            **{key: value for key, value in SMALL_UNET.items() if key != "add_attention"},
            "mid_block_type": "UNetMidBlock2D",
            "cross_attention_dim": 8,
        },
    },
    "ran": {
        "image_size": 32,
        "crop": 0,
        "gradient.steps": 4,
        "gradient.every": 2,
        "denoiser.network": {
            **SMALL_UNET,
            "block_out_channels": [16, 24, 32],
            "down_block_types": ["DownBlock2D"] * 3,
            "up_block_types": ["UpBlock2D"] * 3,
        },
    },
}

# Published layouts at tiny size.
UNET = {
    "in_channels": 4,
    "out_channels": 4,
    "sample_size": 8,
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "norm_num_groups": 4,
    "cross_attention_dim": 6,
    "attention_head_dim": 2,
}
CODEC = {
    "block_out_channels": [8, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "sample_size": 16,
    "scaling_factor": 0.3,
}
TOKENS = 5
BACKBONE = "test_vit.r160_in1k"
"""timm's smallest transformer: patches of 16 pixels, 160 pixels as trained."""
HUB = "somebody/tiny-diffusion"


@pytest.fixture(scope="session")
def small_codec():
    """The config of an AutoencoderTiny small enough for tests: factor 2, 2 channels."""
    from mendiff.nets.codec_config import CodecConfig

    widths = {"encoder_block_out_channels": [8, 8], "decoder_block_out_channels": [8, 8]}
    blocks = {"num_encoder_blocks": [1, 1], "num_decoder_blocks": [1, 1]}
    return CodecConfig("tiny", network={**widths, **blocks, "latent_channels": 2})


@pytest.fixture(autouse=True, scope="session")
def few_flaws():
    """One synthetic defect per held-back image in a fit: scoring them dominates its cost."""
    from mendiff.methods import base_readout
    from mendiff.runs import power

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base_readout, "PROBES_PER_IMAGE", 1)
        patch.setattr(power, "PER_IMAGE", 1)
        yield


@pytest.fixture
def rng():
    """A seeded CPU generator."""
    return torch.Generator().manual_seed(0)


@pytest.fixture
def streams():
    """(count, seed) to the random numbers of a training batch: a stream per image."""
    from mendiff.diffusion.random import PerImageRandom

    return lambda count=4, seed=0: PerImageRandom(torch.arange(count) + 1000 * seed)


@pytest.fixture
def global_rng_untouched():
    """A context that fails where its body draws from the random numbers that the whole process shares."""

    @contextmanager
    def check():
        before = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())
        yield
        after = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())
        assert torch.equal(before[0], after[0])
        assert before[1:] == after[1:]

    return check


@pytest.fixture(scope="session")
def tiny_config():
    """(name, further changes) to a config for tests."""
    from mendiff.methods.base import find_preset
    from mendiff.methods.config import override

    def make(name="glad", changes=None):
        return override(
            find_preset(name, "tiny"),
            {"image_size": 32, "features.name": ""} | TINY.get(name, {}) | (changes or {}),
        )

    return make


@pytest.fixture(scope="session")
def tiny_method(tiny_config):
    """(name, further changes) to a method with seeded random weights."""
    from mendiff.methods.base import find_method

    def make(name="glad", changes=None):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return find_method(name)(tiny_config(name, changes)).eval()

    return make


@pytest.fixture(scope="session")
def pictures():
    """Four smooth pictures of 32 pixels, (4,3,32,32) in [0,1]."""
    coarse = torch.rand(4, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bicubic").clamp(0, 1)


@pytest.fixture
def bundled(tmp_path, monkeypatch):
    """Random bundled networks in a folder of their own, as if the package held them; the folder."""
    from safetensors.torch import save_file

    from mendiff.checkpoints import bundled
    from mendiff.checkpoints.codecs import save_codec
    from mendiff.nets.codec import make_codec
    from mendiff.nets.codec_config import BUNDLED_NETWORK, CodecConfig
    from mendiff.nets.student import Student, StudentConfig

    trained, folder = tmp_path / "trained", tmp_path / "bundled"
    (trained / bundled.CODEC).mkdir(parents=True)
    config = CodecConfig("tiny", network={**BUNDLED_NETWORK, "scaling_factor": 0.7})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        student, codec = Student(StudentConfig()), make_codec(config)
    save_file({name: one.half() for name, one in student.state_dict().items()}, trained / bundled.FEATURES)
    weights = {name: one.half() for name, one in codec.state_dict().items()}
    save_codec(trained / bundled.CODEC, config, weights, {})
    monkeypatch.setattr(bundled, "FOLDER", folder)
    bundled.install(trained, [bundled.FEATURES, "codec/config.json", "codec/codec.safetensors"])
    return folder


# Published weights at tiny size, written by the packages that define their layouts.


@pytest.fixture(scope="session")
def networks():
    """(UNet, autoencoder, backbone) as diffusers and timm build them, with seeded weights."""
    import timm
    from diffusers import AutoencoderKL, UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        unet = UNet2DConditionModel.from_config(UNET).eval()
        codec = AutoencoderKL.from_config(CODEC).eval()
        backbone = timm.create_model(BACKBONE, pretrained=False).eval()
    return unet, codec, backbone


@pytest.fixture(scope="session")
def _written(networks, tmp_path_factory):
    root = tmp_path_factory.mktemp("published") / "diffusion"
    unet, codec, backbone = networks
    unet.save_pretrained(root / "unet")
    codec.save_pretrained(root / "vae")
    prompts = torch.randn(
        2, 1, TOKENS, UNET["cross_attention_dim"], generator=torch.Generator().manual_seed(1)
    )
    save_file({"prompt": prompts[0].clone(), "no_prompt": prompts[1].clone()}, root / "prompts.safetensors")
    save_file(backbone.state_dict(), root / "backbone.safetensors")
    return root


@pytest.fixture
def diffusion(_written, tmp_path):
    """A folder in diffusers' layout of one's own, with prompts and a backbone beside it."""
    return shutil.copytree(_written, tmp_path / "diffusion")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub, and no network; call it to put a file in: (repository, name, file)."""
    from huggingface_hub import constants

    root = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(root))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def put(repository, name, file):
        folder = root / f"models--{repository.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True, exist_ok=True)
        (folder / "refs/main").write_text("0" * 40)
        place = folder / "snapshots" / ("0" * 40) / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
        return place

    return put


@pytest.fixture
def hub(diffusion, cache):
    """The same folder in the hub's cache, under HUB."""
    for part in ("unet", "vae"):
        for name in ("config.json", "diffusion_pytorch_model.safetensors"):
            cache(HUB, f"{part}/{name}", diffusion / part / name)
    return HUB


@pytest.fixture
def shrunk():
    """Changes that bring a paper preset of GLAD or DiAD to the size of these networks."""
    return {
        "image_size": 32,
        "codec.network": CODEC,
        "denoiser.network": UNET,
        "denoiser.prompt_length": TOKENS,
        "features.name": BACKBONE,
        "features.layers": ["block2"],
    }
