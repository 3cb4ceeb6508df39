import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from mendiff.checkpoints.pretrained import Sources, load_diffusion
from mendiff.checkpoints.text import _LETTERS, END, embed, read_prompts, words_of
from mendiff.errors import InputError
from mendiff.methods.base import find_method, find_preset
from mendiff.methods.config import override

MERGES = ["o f</w>", "s k", "sk s</w>", "p h", "a a", "ph o"]
LETTERS = list(_LETTERS.values())
TOKENS = [*LETTERS, *(letter + END for letter in LETTERS), *("".join(pair.split()) for pair in MERGES)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """(vocab.json, merges.txt) in CLIP's layout: all bytes, and a few merges."""
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "vocab.json").write_text(json.dumps({token: at for at, token in enumerate(TOKENS)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n", encoding="utf-8")
    return folder / "vocab.json", folder / "merges.txt"


def tokens(text, tokenizer):
    return [TOKENS[at] for at in words_of(text, *tokenizer)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("of", ["of</w>"]),
        ("  OF   sks ", ["of</w>", "sks</w>"]),
        ("pho", ["ph", "o</w>"]),  # "ph o" ends no word
        ("phos", ["pho", "s</w>"]),
        ("aaaa", ["aa", "a", "a</w>"]),
        ("it's 12!", ["i", "t</w>", "'", "s</w>", "1</w>", "2</w>", "!</w>"]),
        ("metal_nut"[5:], ["_</w>", "n", "u", "t</w>"]),
    ],
)
def test_texts_are_split_and_merged_as_clip_does(tokenizer, text, expected):
    assert tokens(text, tokenizer) == expected


@given(st.text("aofskpht OFS\n'\"!_-129²éİ漢", max_size=30))
def test_tokens_hold_every_letter_of_the_text(tokenizer, text):
    letters = {letter: byte for byte, letter in _LETTERS.items()}
    joined = "".join(token.removesuffix(END) for token in tokens(text, tokenizer))
    kept = bytes(letters[letter] for letter in joined).decode()
    assert kept == "".join(text.lower().split())


def test_a_vocabulary_that_is_another_is_refused(tokenizer, tmp_path):
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    with pytest.raises(InputError, match="expected CLIP's vocabulary, but it lacks 'of</w>'"):
        words_of("of", tmp_path / "vocab.json", tokenizer[1])


def test_prompts_are_read_by_name_or_one_for_all(tmp_path):
    path = tmp_path / "prompts.safetensors"
    save_file({"anything": torch.ones(1, 2, 3)}, path)
    one, other = read_prompts(path, ("prompt", "no_prompt"))
    assert torch.equal(one, other)
    save_file({"prompt": torch.ones(1), "no_prompt": torch.zeros(1)}, path)
    assert [float(one) for one in read_prompts(path, ("prompt", "no_prompt"))] == [1, 0]
    save_file({"prompt": torch.ones(1), "other": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="named prompt and no_prompt, or one alone, got other, prompt"):
        read_prompts(path, ("prompt", "no_prompt"))


@pytest.fixture(scope="module")
def encoder():
    transformers = pytest.importorskip("transformers", reason="an extra, to embed prompts only")
    settings = transformers.CLIPTextConfig(
        vocab_size=len(TOKENS) + 2,
        hidden_size=64,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=1,
        max_position_embeddings=5,
        bos_token_id=len(TOKENS),
        eos_token_id=len(TOKENS) + 1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.CLIPTextModel(settings).eval()


def bare(encoder):
    return {key.removeprefix("text_model."): one for key, one in encoder.state_dict().items()}


@pytest.mark.parametrize("words", [[], [3], [3, 4, 5], [3, 4, 5, 6, 7]])
def test_prompts_are_embedded_between_start_and_end_and_cut_to_length(encoder, words):
    start, end = len(TOKENS), len(TOKENS) + 1
    row = ([start, *words[:3], end, end, end, end])[:5]
    with torch.no_grad():
        expected = encoder(torch.tensor([row])).last_hidden_state
    torch.testing.assert_close(embed(bare(encoder), [words], "x"), expected)


def test_a_folders_own_text_encoder_embeds_the_configs_prompt(encoder, tokenizer, diffusion, shrunk):
    (diffusion / "text_encoder").mkdir()
    named = {f"text_model.{key}": one.contiguous() for key, one in bare(encoder).items()}
    save_file(named, diffusion / "text_encoder/model.safetensors")
    (diffusion / "tokenizer").mkdir()
    for file in tokenizer:
        (diffusion / "tokenizer" / file.name).write_text(file.read_text())
    changes = shrunk | {
        "denoiser.prompt": "of sks",
        "denoiser.network": {**shrunk["denoiser.network"], "cross_attention_dim": 64},
    }
    method = find_method("glad")(override(find_preset("glad", "paper"), changes))
    lines = load_diffusion(method, Sources(str(diffusion), unet=False))
    words = words_of("of sks", *tokenizer)
    torch.testing.assert_close(method.denoiser.prompt, embed(bare(encoder), [words], "x"))
    torch.testing.assert_close(method.denoiser.no_prompt, embed(bare(encoder), [[]], "x"))
    assert lines[-1] == f"prompt 'of sks': {diffusion / 'text_encoder/model.safetensors'}"


def test_every_category_gets_a_prompt_from_one_encoder(encoder, tokenizer, diffusion, shrunk):
    (diffusion / "text_encoder").mkdir()
    named = {f"text_model.{key}": one.contiguous() for key, one in bare(encoder).items()}
    save_file(named, diffusion / "text_encoder/model.safetensors")
    (diffusion / "tokenizer").mkdir()
    for file in tokenizer:
        (diffusion / "tokenizer" / file.name).write_text(file.read_text())
    network = {**shrunk["denoiser.network"], "cross_attention_dim": 64}
    changes = {"denoiser.prompt": "of", "denoiser.network": network, "denoiser.categories": ["pho", "sks"]}
    method = find_method("glad")(override(find_preset("glad", "paper"), shrunk | changes))
    lines = load_diffusion(method, Sources(str(diffusion), unet=False))
    expected = embed(bare(encoder), [words_of(f"of {name}", *tokenizer) for name in ("pho", "sks")], "x")
    torch.testing.assert_close(method.denoiser.category_prompts, expected)
    torch.testing.assert_close(method.denoiser.prompt, expected.mean(0, keepdim=True))
    assert lines[-1].startswith("prompt 'of' with 2 categories: ")
