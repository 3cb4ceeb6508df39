"""Stable Diffusion on disk: a folder in diffusers' layout, on the hub or local, or a single file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from mendiff.checkpoints.files import read_json
from mendiff.checkpoints.hub import hub_file, is_hub_id
from mendiff.checkpoints.import_diad import CODEC, TEXT, UNET, convert_codec, text_weights
from mendiff.checkpoints.import_files import read_checkpoint
from mendiff.checkpoints.names import check_places, load_exactly, under
from mendiff.checkpoints.text import words_of
from mendiff.checkpoints.weights import read_weights
from mendiff.errors import InputError
from mendiff.nets.codec import KLCodec
from mendiff.nets.codec_config import CodecConfig
from mendiff.nets.denoiser import Denoiser
from mendiff.nets.published import renewed_codec_names, unet_names

STABLE_DIFFUSION = "stable-diffusion-v1-5/stable-diffusion-v1-5"
TOKENIZER = "openai/clip-vit-large-patch14"
"""Repository with Stable Diffusion v1's vocabulary, which single-file checkpoints do not have."""
WEIGHTS = "diffusion_pytorch_model"
BESIDE_SHAPE = ("sample_size", "upcast_attention", "force_upcast")
"""diffusers settings that may differ because they do not change the network's function."""
UNET_NAME, CODEC_NAME = "Stable Diffusion's UNet", "Stable Diffusion's autoencoder"


@dataclass(frozen=True)
class Sources:
    """Sources of pretrained parts.

    Attributes:
        diffusion: Stable Diffusion as a folder in diffusers' layout, a single-file checkpoint, or a hub id;
            None for methods without it.
        prompt: safetensors file with the embeddings "prompt" and "no_prompt", (1,L,D), or a single embedding
            for both. With prompts per category: an embedding per category name, and "no_prompt". None for
            Stable Diffusion's text encoder.
        features: safetensors file with the backbone's weights; None for timm's weights.
        unet, codec: whether UNet and codec are loaded from `diffusion`; False if another file provides them.
    """

    diffusion: str | None = None
    prompt: Path | None = None
    features: Path | None = None
    unet: bool = True
    codec: bool = True


class Diffusion(Protocol):
    """Stable Diffusion on disk, in any layout."""

    def find(self, sources: Sources) -> dict[str, Path]:
        """Paths of all files by content; downloads from the hub if needed; a missing file is an error."""

    def load_unet(self, denoiser: Denoiser) -> str:
        """Load the denoiser's network; returns the file."""

    def load_codec(self, codec: KLCodec) -> str:
        """Load the codec; returns the file."""

    def text(self, prompts: Sequence[str]) -> tuple[dict[str, Tensor], list[list[int]], str]:
        """(text encoder weights with transformers' names, token ids of every prompt, file)."""


def open_diffusion(source: str) -> Diffusion:
    """Open Stable Diffusion from a folder, a single file or a hub id."""
    path = Path(source)
    if path.is_dir():
        return _Folder(partial(_local_file, path))
    if path.is_file():
        return _SingleFile(path)
    if is_hub_id(source):
        return _Folder(partial(hub_file, source))
    raise InputError(
        "--pretrained: expected a folder in diffusers' layout, a single-file checkpoint, or a hub id such as "
        f"{STABLE_DIFFUSION}, got {source!r}, which does not exist."
    )


class _Folder:
    """Stable Diffusion in diffusers' layout: unet/, vae/, text_encoder/, tokenizer/.

    Args:
        find: returns the first existing file of the given names; raises InputError if there is none.
    """

    def __init__(self, find: Callable[..., Path]) -> None:
        self._find = find

    def find(self, sources: Sources) -> dict[str, Path]:
        parts = (
            ("unet", WEIGHTS, sources.unet),
            ("vae", WEIGHTS, sources.codec),
            ("text_encoder", "model", sources.prompt is None),
        )
        return {part: self._weights(part, name) for part, name, wanted in parts if wanted}

    def load_unet(self, denoiser: Denoiser) -> str:
        self._check_settings("unet", denoiser.network)
        file = self._weights("unet", WEIGHTS)
        load_exactly(denoiser.network, read_weights(file), str(file), UNET_NAME)
        return str(file)

    def load_codec(self, codec: KLCodec) -> str:
        self._check_settings("vae", codec.network)
        file = self._weights("vae", WEIGHTS)
        load_exactly(codec.network, renewed_codec_names(read_weights(file)), str(file), CODEC_NAME)
        return str(file)

    def text(self, prompts: Sequence[str]) -> tuple[dict[str, Tensor], list[list[int]], str]:
        file = self._weights("text_encoder", "model")
        weights = {key.removeprefix("text_model."): one for key, one in read_weights(file).items()}
        return weights, [_words(one, self._find, "tokenizer/") for one in prompts], str(file)

    def _weights(self, part: str, name: str) -> Path:
        return self._find(f"{part}/{name}.safetensors", f"{part}/{name}.fp16.safetensors")

    def _check_settings(self, part: str, network: nn.Module) -> None:
        """Refuse another architecture by its settings, which are clearer than a list of shapes."""
        file = self._find(f"{part}/config.json")
        stated, ours = read_json(file), _plain(network)
        kind = type(network).__name__
        if stated.get("_class_name", kind) != kind:
            raise InputError(f"{file}: expected the settings of a {kind}, got a {stated['_class_name']}.")
        for key in sorted(ours.keys() & stated.keys() - set(BESIDE_SHAPE)):
            # Versions of diffusers differ in null and false.
            alike = stated[key] == ours[key] or not (stated[key] or ours[key])
            if not key.startswith("_") and not alike:
                raise InputError(
                    f"{file}: expected {key} {ours[key]} as in the preset, got {stated[key]}; use Stable "
                    "Diffusion v1-4 or v1-5 with the paper's presets."
                )


class _SingleFile:
    """Stable Diffusion as a single file with latent diffusion's names: .safetensors or .ckpt."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._weights: dict[str, Tensor] = {}

    def find(self, sources: Sources) -> dict[str, Path]:
        """The path of the file; its content is not checked."""
        return {"diffusion": self._path}

    def load_unet(self, denoiser: Denoiser) -> str:
        network: Any = denoiser.network
        weights = self._under(UNET, UNET_NAME)
        named = unet_names(weights, network.config)
        check_places(weights, named, network.state_dict(), str(self._path))
        network.load_state_dict(named)
        return str(self._path)

    def load_codec(self, codec: KLCodec) -> str:
        weights = under(CODEC, self._under(CODEC, CODEC_NAME))
        config = CodecConfig("kl", network=dict(codec.network.config))
        codec.load_state_dict(convert_codec(weights, config, str(self._path)))
        return str(self._path)

    def text(self, prompts: Sequence[str]) -> tuple[dict[str, Tensor], list[list[int]], str]:
        weights = text_weights(self._under(TEXT, "a CLIP text encoder"))
        return weights, [_words(one, partial(hub_file, TOKENIZER)) for one in prompts], str(self._path)

    def _under(self, prefix: str, part: str) -> dict[str, Tensor]:
        if self._path.suffix == ".safetensors":
            found = read_weights(self._path, (prefix,))
        else:
            self._weights = self._weights or read_checkpoint(self._path)
            found = under(prefix, self._weights, keep=True)
        if not found:
            raise InputError(
                f"{self._path}: expected {part} in a single-file checkpoint (names below {prefix[:-1]}), "
                "found none."
            )
        return found


def _words(prompt: str, find: Callable[..., Path], folder: str = "") -> list[int]:
    """Token ids of a prompt; the empty prompt needs no vocabulary."""
    if not prompt:
        return []
    return words_of(prompt, find(f"{folder}vocab.json"), find(f"{folder}merges.txt"))


def _local_file(root: Path, *names: str) -> Path:
    for name in names:
        if (root / name).is_file():
            return root / name
    wanted = names[0]
    pickles = [one.name for one in (root / wanted).parent.glob("*.bin")]
    but = f"there is only {pickles[0]}, a pickle" if pickles else "there is no such file"
    raise InputError(
        f"{root / wanted}: expected this file of Stable Diffusion in diffusers' layout, but {but}; download: "
        f"hf download {STABLE_DIFFUSION} {wanted} --local-dir {root}"
    )


def _plain(network: Any) -> dict[str, Any]:
    """A network's settings as after a JSON round trip."""
    return {key: list(one) if isinstance(one, tuple) else one for key, one in network.config.items()}
