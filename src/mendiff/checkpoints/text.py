"""Prompt embeddings from a CLIP text encoder, which is discarded after use."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mendiff.checkpoints.files import read_json
from mendiff.checkpoints.names import refuse
from mendiff.checkpoints.weights import read_weights
from mendiff.errors import InputError

END = "</w>"
PARTS = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\s\w]|_)+")
"""CLIP's splitting of a text: contractions, words, single digits, runs of other characters."""
_PLAIN = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
_OTHER = [byte for byte in range(256) if byte not in _PLAIN]
_LETTERS = {byte: chr(byte) for byte in _PLAIN} | {byte: chr(256 + at) for at, byte in enumerate(_OTHER)}
"""Printable character of every byte, as in CLIP's vocabulary."""


def embed(weights: Mapping[str, Tensor], texts: Sequence[list[int]], source: str) -> Tensor:
    """Embed N texts with a CLIP text encoder, (N,L,D).

    Args:
        weights: the encoder's state dict with transformers' names without "text_model."; it defines the size.
        texts: token ids of each text, without start and end tokens.
        source: origin of the weights, for messages.
    """
    transformers = _transformers()
    tokens, width = _shape(weights, "embeddings.token_embedding.weight", source)
    length, _ = _shape(weights, "embeddings.position_embedding.weight", source)
    hidden, _ = _shape(weights, "encoder.layers.0.mlp.fc1.weight", source)
    settings = transformers.CLIPTextConfig(
        vocab_size=tokens,
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=len({key.split(".")[2] for key in weights if key.startswith("encoder.layers.")}),
        num_attention_heads=max(1, width // 64),
        max_position_embeddings=length,
        bos_token_id=tokens - 2,
        eos_token_id=tokens - 1,
    )
    with torch.random.fork_rng(devices=[]):  # the constructor draws random weights
        encoder: Any = transformers.CLIPTextModel(settings)
    encoder.train(False)
    own = encoder.state_dict()
    named = {key: weights[bare] for key in own if (bare := key.removeprefix("text_model.")) in weights}
    lacking = (key.removeprefix("text_model.") for key in own.keys() - named.keys())
    missing = sorted(key for key in lacking if not key.endswith("position_ids"))
    refuse("lacks", missing, source, "a CLIP text encoder")
    encoder.load_state_dict(named, strict=False)
    # The second last token of CLIP is the start token; the last token is used for end and padding.
    rows = torch.full((len(texts), length), tokens - 1)
    for row, words in zip(rows, texts, strict=True):
        kept = words[: length - 2]
        row[: len(kept) + 1] = torch.tensor([tokens - 2, *kept])
    with torch.no_grad():
        embeddings: Tensor = encoder(rows).last_hidden_state
    return embeddings


def words_of(text: str, vocabulary: Path, merges: Path) -> list[int]:
    """CLIP's token ids of a text (byte-pair encoding), without start and end tokens.

    Args:
        text: any text; case and repeated spaces are ignored.
        vocabulary: vocab.json, token to id.
        merges: merges.txt, a pair per line, ordered by rank.

    Source: Sennrich et al. 2016; splitting of CLIP (Radford et al. 2021).
    """
    ids = read_json(vocabulary)
    pairs = [tuple(line.split()) for line in merges.read_text(encoding="utf-8").splitlines()]
    ranks = {(pair[0], pair[1]): rank for rank, pair in enumerate(pair for pair in pairs if len(pair) == 2)}
    words = []
    for part in PARTS.findall(" ".join(text.lower().split())):
        letters = [_LETTERS[byte] for byte in part.encode()]
        words += _merged([*letters[:-1], letters[-1] + END], ranks)
    strange = [word for word in words if word not in ids]
    if strange:
        raise InputError(f"{vocabulary}: expected CLIP's vocabulary, but it lacks {strange[0]!r}.")
    return [int(ids[word]) for word in words]


def _merged(tokens: list[str], ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """Merge adjacent tokens with the lowest rank until no pair has a rank."""
    while len(tokens) > 1:
        neighbours = list(pairwise(tokens))
        best = min(neighbours, key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            break
        joined: list[str] = []
        for token in tokens:
            if joined and (joined[-1], token) == best:
                joined[-1] += token
            else:
                joined.append(token)
        tokens = joined
    return tokens


def read_prompts(path: Path, names: tuple[str, ...]) -> list[Tensor]:
    """Read prompt embeddings (1,L,D) by name from a safetensors file; a single one is used for all names."""
    tensors = read_weights(path)
    if len(tensors) == 1:
        return list(tensors.values()) * len(names)
    if set(tensors) != set(names):
        raise InputError(
            f"{path}: expected prompt embeddings named {' and '.join(names)}, or a single one, got "
            f"{', '.join(sorted(tensors)) or 'none'}."
        )
    return [tensors[name] for name in names]


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise InputError(
            "prompt: expected the package transformers for the text encoder; pip install "
            "'mendiff[convert]', or give --prompt."
        ) from error
    return transformers


def _shape(weights: Mapping[str, Tensor], key: str, source: str) -> torch.Size:
    refuse("lacks", [] if key in weights else [key], source, "a CLIP text encoder")
    return weights[key].shape
