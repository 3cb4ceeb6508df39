"""Published DiAD checkpoints to ours: `diad.ckpt`, plain or as Lightning writes it, and fine-tuned codecs.

Everything that a checkpoint holds must find its place, and every place its weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mendiff.checkpoints.store import read_weights
from mendiff.errors import InputError
from mendiff.methods.diad import MEAN, STD, Diad, DiadConfig
from mendiff.nets.codec import CodecConfig, make_codec
from mendiff.nets.features import FeatureExtractor, make_features
from mendiff.nets.published import codec_names, guide_names, unet_names
from mendiff.scoring.readout import Readout

UNET, GUIDE, CODEC = "model.diffusion_model.", "control_model.", "first_stage_model."
TEXT, FEATURES = "cond_stage_model.", "pretrained_model."
CODEC_PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
SCHEDULE = re.compile(
    r"betas|logvar|(sqrt_|log_|sqrt_recip_|sqrt_recipm1_)?(one_minus_)?alphas_cumprod(_prev)?"
    r"|posterior_(variance|log_variance_clipped|mean_coef[12])"
)
"""Tables that the schedule's two numbers give again."""


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Tensors by name of a .safetensors, .ckpt, .pth or .bin file; objects other than tensors don't load."""
    path = Path(path)
    if path.suffix == ".safetensors":
        return read_weights(path)
    if not path.is_file():
        raise InputError(f"{path}: expected a checkpoint, but there is no such file.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of whatever kind a damaged file or a forbidden object brings up
        # torch's own words would advise to run whatever code the file holds.
        raise InputError(
            f"{path}: expected a checkpoint of tensors, but it is damaged, of another kind, or holds other "
            "objects; save its state_dict alone."
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]  # as Lightning writes it
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: expected a dictionary of tensors by name, got a {type(content).__name__}.")
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}


def convert_diad(weights: Mapping[str, Tensor], config: DiadConfig, source: str) -> dict[str, Tensor]:
    """A published DiAD state dict under the names of Diad(config): SG network, denoiser and codec.

    Args:
        weights: published names to tensors; on the meta device names and shapes are checked alike.
        config: with an SG network, a "conditional_unet" and the codec "kl".
        source: for messages.

    Raises:
        InputError: naming the first weight that is missing, unknown or misshapen.
    """
    for prefix, part in ((UNET, "denoiser"), (GUIDE, "SG network"), (CODEC, "autoencoder")):
        if not _under(prefix, weights):
            raise InputError(
                f"{source}: expected a DiAD checkpoint, but it holds no {part} (names below {prefix[:-1]})."
            )
    with torch.device("meta"):
        model = Diad(config)
    if model.denoiser.guide is None or config.codec.kind != "kl":
        raise InputError("config: expected an SG network and the codec 'kl' to convert weights for.")
    network: Any = model.denoiser.unet.network
    unet = unet_names(_under(UNET, weights, keep=True), network.config)
    guide = guide_names(_under(GUIDE, weights, keep=True), model.denoiser.guide.network.config)
    named = {f"denoiser.unet.network.{key}": value for key, value in unet.items()}
    named |= {f"denoiser.guide.{key}": value for key, value in guide.items()}
    named |= {
        f"codec.{key}": value
        for key, value in convert_codec(_under(CODEC, weights), config.codec, source).items()
    }
    prompts = ("denoiser.unet.prompt", "denoiser.unet.no_prompt")
    places = {
        key: value
        for key, value in model.state_dict().items()
        if key.startswith(("denoiser.", "codec.")) and key not in prompts
    }
    rest = {key: value for key, value in weights.items() if not key.startswith((TEXT, FEATURES))}
    _check(rest, named, places, source)
    return named


def convert_codec(weights: Mapping[str, Tensor], config: CodecConfig, source: str) -> dict[str, Tensor]:
    """A published autoencoder's state dict under the names of our codec of kind "kl".

    Args:
        weights: encoder, decoder and the two convolutions between them; a discriminator beside them is left.
        config: of kind "kl".
        source: for messages.
    """
    kept = {key: value for key, value in weights.items() if key.startswith(CODEC_PARTS)}
    if not kept:
        raise InputError(f"{source}: expected an autoencoder's weights (encoder..., decoder...), found none.")
    with torch.device("meta"):
        codec = make_codec(config)
    network: Any = codec.network
    named = codec_names(kept, network.config)
    others = {key: one for key, one in weights.items() if not key.startswith("loss.")}
    _check(others, named, codec.state_dict(), source)
    return named


def assemble(
    config: DiadConfig,
    named: Mapping[str, Tensor],
    features: Mapping[str, Tensor],
    prompt: Tensor,
    source: str,
) -> Diad:
    """A DiAD with these weights; the large networks are never initialised, which would take as much again.

    Args:
        config: see convert_diad.
        named: see convert_diad.
        features: of the feature extractor, under timm's names.
        prompt: embeddings of the empty text, (1,L,D).
        source: of the features, for messages.
    """
    with torch.device("meta"):
        model = Diad(config)
    with torch.random.fork_rng(devices=[]):
        model.features = make_features(config.features)
    model.readout = Readout(config.readout, model.features.channels)
    model.mean, model.std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    if isinstance(model.features, FeatureExtractor):
        model.features.load_backbone(features, source)
    expected = model.denoiser.unet.prompt.shape
    if prompt.shape != expected:
        raise InputError(
            f"prompt: expected embeddings of shape {tuple(expected)}, got {tuple(prompt.shape)}; see --set "
            "denoiser.prompt_length."
        )
    prompts = {f"denoiser.unet.{name}": prompt.clone() for name in ("prompt", "no_prompt")}
    model.load_state_dict({**named, **prompts}, strict=False, assign=True)
    model.eval()
    return model


def empty_prompt(weights: Mapping[str, Tensor]) -> Tensor | None:
    """Embeddings of the empty text by the checkpoint's text encoder, (1,77,768); None where it has none."""
    text = {key.removeprefix("transformer."): one for key, one in _under(TEXT, weights).items()}
    if not text:
        return None
    try:
        from transformers import CLIPTextConfig, CLIPTextModel
    except ImportError as error:
        raise InputError(
            "convert: expected the package transformers for the checkpoint's text encoder; "
            "pip install 'mendiff[convert]', or give --prompt."
        ) from error
    plain = {key.removeprefix("text_model."): one for key, one in text.items()}
    tokens, width = _shape(plain, "embeddings.token_embedding.weight")
    length, _ = _shape(plain, "embeddings.position_embedding.weight")
    layers = len({key.split(".")[2] for key in plain if key.startswith("encoder.layers.")})
    hidden, _ = _shape(plain, "encoder.layers.0.mlp.fc1.weight")
    settings = CLIPTextConfig(
        vocab_size=tokens,
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),
        max_position_embeddings=length,
        bos_token_id=tokens - 2,
        eos_token_id=tokens - 1,
    )
    encoder: Any = CLIPTextModel(settings)
    encoder.train(False)
    own = encoder.state_dict()
    named = {key: plain[bare] for key in own if (bare := key.removeprefix("text_model.")) in plain}
    missing = sorted(key for key in own.keys() - named.keys() if not key.endswith("position_ids"))
    _refuse("lacks", (f"{TEXT}{key}" for key in missing), "checkpoint")
    encoder.load_state_dict(named, strict=False)
    # The empty text is a start and then ends, the two last tokens of CLIP's vocabulary.
    text_tokens = torch.full((1, length), tokens - 1)
    text_tokens[0, 0] = tokens - 2
    with torch.no_grad():
        embeddings: Tensor = encoder(text_tokens).last_hidden_state
    return embeddings


def feature_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The feature extractor's weights under timm's names; none where training had not saved it."""
    return _under(FEATURES, weights)


def _shape(weights: Mapping[str, Tensor], key: str) -> torch.Size:
    _refuse("lacks", [] if key in weights else [f"{TEXT}{key}"], "checkpoint")
    return weights[key].shape


def _under(prefix: str, weights: Mapping[str, Tensor], *, keep: bool = False) -> dict[str, Tensor]:
    """The weights below a prefix, which is taken off unless it is to be kept."""
    return {
        key if keep else key.removeprefix(prefix): value
        for key, value in weights.items()
        if key.startswith(prefix)
    }


def _check(
    weights: Mapping[str, Tensor], named: Mapping[str, Tensor], places: Mapping[str, Tensor], source: str
) -> None:
    """Every weight in its place: none missing, none of another shape, none left over."""
    used = {_identity(one) for one in named.values()}
    left = (key for key, one in weights.items() if _identity(one) not in used and not SCHEDULE.fullmatch(key))
    _refuse("lacks", sorted(places.keys() - named.keys()), source)
    _refuse("has the unknown", sorted({*left, *(named.keys() - places.keys())}), source)
    _refuse(
        "has another shape of", sorted(key for key in places if named[key].shape != places[key].shape), source
    )


def _refuse(complaint: str, keys: Iterable[str], source: str) -> None:
    keys = list(keys)
    if keys:
        more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
        raise InputError(
            f"{source}: expected the weights of this configuration, but it {complaint} {keys[0]!r}{more}; "
            "see --set for other network sizes."
        )


def _identity(tensor: Tensor) -> tuple[int, int]:
    """The same for a tensor and a view of it from its beginning, on the meta device too."""
    return tensor.untyped_storage()._cdata, int(tensor.storage_offset())
