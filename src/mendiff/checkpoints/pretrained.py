"""Pretrained parts of a method: Stable Diffusion's networks and prompts, and timm's backbones.

Every part is loaded strictly, from a local folder or file, or from the hub's cache or the hub.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mendiff.checkpoints.files import read_json
from mendiff.checkpoints.hub import hub_file, is_hub_id
from mendiff.checkpoints.import_diad import CODEC, TEXT, UNET, convert_codec, text_weights
from mendiff.checkpoints.import_files import read_checkpoint
from mendiff.checkpoints.names import check_finite, check_places, load_exactly, under
from mendiff.checkpoints.text import embed, read_prompts, words_of
from mendiff.checkpoints.weights import read_weights
from mendiff.errors import InputError
from mendiff.methods.base import Method
from mendiff.nets.codec import CodecConfig, KLCodec
from mendiff.nets.denoiser import Denoiser
from mendiff.nets.features import FeatureExtractor, hub_id
from mendiff.nets.published import renewed_codec_names, unet_names
from mendiff.nets.semantic_guided import GuidedDenoiser

STABLE_DIFFUSION = "stable-diffusion-v1-5/stable-diffusion-v1-5"
TOKENIZER = "openai/clip-vit-large-patch14"
"""Repository with Stable Diffusion v1's vocabulary, which single-file checkpoints do not have."""
WEIGHTS = "diffusion_pytorch_model"
BESIDE_SHAPE = ("sample_size", "upcast_attention", "force_upcast")
"""diffusers settings that may differ because they do not change the network's function."""
PROMPTS = ("prompt", "no_prompt")
NOT_FOR_IT = (
    "--pretrained: expected a method and preset with Stable Diffusion's UNet, such as --method glad --preset "
    "paper."
)
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


def find_pretrained(sources: Sources, extractors: Mapping[str, str]) -> dict[str, Path]:
    """Locate the files of all parts, before large networks are built.

    Args:
        sources: see Sources.
        extractors: timm's names of the backbones, by the method's parts; `features` may be a local file.
    """
    files = {} if sources.diffusion is None else open_diffusion(sources.diffusion).find(sources)
    if sources.prompt is not None:
        files["prompt"] = sources.prompt
    for part, name in extractors.items():
        given = sources.features if part == "features" else None
        files[part] = timm_file(name) if given is None else given
    return files


def extractors_of(method: Method) -> dict[str, str]:
    """Timm's names of a method's backbones, by the method's parts."""
    return {part: one.config.name for part, one in method.parts.items() if isinstance(one, FeatureExtractor)}


def load_pretrained(method: Method, sources: Sources) -> list[str]:
    """Load pretrained weights into a method's networks; returns a line per part with its source.

    Args:
        method: changed in place.
        sources: see Sources.

    Raises:
        InputError: if a part is missing, damaged or has another architecture.
    """
    lines = load_diffusion(method, sources) if sources.diffusion or sources.prompt else []
    file = sources.features
    lines += load_features(method, None if file is None else (read_weights(file), str(file)))
    check_finite(
        method.state_dict(), "the pretrained weights", method.INFINITE
    )  # weights from pickles were not checked yet
    return lines


def load_diffusion(method: Method, sources: Sources) -> list[str]:
    """Load UNet, autoencoder and prompts; arguments and result as for load_pretrained."""
    denoiser = next((one for one in method.modules() if isinstance(one, Denoiser)), None)
    if denoiser is None or denoiser.config.kind != "conditional_unet":
        raise InputError(NOT_FOR_IT)
    place = None if sources.diffusion is None else open_diffusion(sources.diffusion)
    lines = []
    if place is not None and sources.unet:
        lines.append(f"UNet: {place.load_unet(denoiser)}")
        for one in method.modules():
            if isinstance(one, GuidedDenoiser):
                one.restart_guide()
    codec = getattr(method, "codec", None)
    if place is not None and sources.codec and isinstance(codec, KLCodec):
        lines.append(f"autoencoder: {place.load_codec(codec)}")
    names = denoiser.config.categories
    text = f"prompt {denoiser.config.prompt!r}" + (f" with {len(names)} categories" if names else "")
    lines.append(f"{text}: {_set_prompts(denoiser, place, sources.prompt)}")
    return lines


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


def load_features(method: Method, given: tuple[Mapping[str, Tensor], str] | None = None) -> list[str]:
    """Load the weights of the method's feature extractors, if it has any; returns a line per part.

    Args:
        method: changed in place.
        given: (state dict with timm's names, source) for `features`; None for timm's weights from the hub.
            Other extractors, such as that of GLAD's stop rule, always use timm's weights.
    """
    if given is not None and not isinstance(getattr(method, "features", None), FeatureExtractor):
        raise InputError(f"{given[1]}: expected a config with features.name, the backbone of these weights.")
    lines = []
    for name, extractor in method.parts.items():
        if not isinstance(extractor, FeatureExtractor):
            continue
        if given is not None and name == "features":
            weights, where = given
        else:
            file = timm_file(extractor.config.name)
            weights, where = read_weights(file), str(file)
        extractor.load_backbone(weights, where)
        lines.append(f"{name.replace('_', ' ')}, {extractor.config.name}: {where}")
    return lines


def timm_file(name: str) -> Path:
    """Timm's weights of a backbone, from the hub's cache or the hub."""
    repository = hub_id(name)
    if not repository:
        raise InputError(f"features: timm has no weights for {name}; give --features-weights.")
    try:
        return hub_file(repository, "model.safetensors")
    except InputError as error:
        raise InputError(
            f"{error}, or give --features-weights, a safetensors file of timm's {name}."
        ) from error


def _set_prompts(denoiser: Denoiser, place: Diffusion | None, file: Path | None) -> str:
    if file is not None:
        names = (*denoiser.config.categories, PROMPTS[1]) if denoiser.config.categories else PROMPTS
        source, embeddings = str(file), read_prompts(file, names)
    elif place is not None:
        weights, words, source = place.text([*denoiser.config.prompts, ""])
        embeddings = list(embed(weights, words, source).split(1))
    else:
        raise InputError("--prompt: expected a file of prompt embeddings, as no text encoder is given.")
    expected = denoiser.prompt.shape
    for one in embeddings:
        if one.shape != expected:
            raise InputError(
                f"{source}: expected prompt embeddings of shape {tuple(expected)}, got {tuple(one.shape)}; "
                "see --set denoiser.prompt_length."
            )
    denoiser.set_prompts(torch.cat(embeddings[:-1]), embeddings[-1])
    return source


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
