import copy
import gc
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from mendiff.calibration import Calibration
from mendiff.checkpoints import store
from mendiff.checkpoints.pretrained import load_diffusion
from mendiff.checkpoints.stable_diffusion import Sources
from mendiff.checkpoints.text import _LETTERS, END, embed, read_prompts, words_of
from mendiff.errors import InputError
from mendiff.methods.base import find_method, find_preset
from mendiff.methods.config import override
from mendiff.model import Model

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
    with pytest.raises(InputError, match="named prompt and no_prompt, or a single one, got other, prompt"):
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


@pytest.fixture
def spoken(encoder, tokenizer, diffusion):
    """Stable Diffusion's folder with a text encoder, as transformers writes it, and a vocabulary."""
    encoder.save_pretrained(diffusion / "text_encoder")
    (diffusion / "tokenizer").mkdir()
    start, end = "<|startoftext|>", "<|endoftext|>"
    vocabulary = {token: at for at, token in enumerate([*TOKENS, start, end])}
    (diffusion / "tokenizer/vocab.json").write_text(json.dumps(vocabulary))
    (diffusion / "tokenizer/merges.txt").write_text(
        tokenizer[1].read_text(encoding="utf-8"), encoding="utf-8"
    )
    names = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": end}
    (diffusion / "tokenizer/tokenizer_config.json").write_text(json.dumps(names))
    return diffusion


@pytest.fixture
def glad(shrunk):
    """Further changes to a GLAD that the folder's text encoder fits."""
    network = {**shrunk["denoiser.network"], "cross_attention_dim": 64}
    common = shrunk | {"denoiser.network": network, "features.name": "", "steps": 2}
    return lambda **changes: find_method("glad")(
        override(find_preset("glad", "paper"), common | changes)
    ).eval()


def as_transformers_says(folder, texts):
    """What transformers' own tokenizer and text encoder make of some texts, (N,L,D)."""
    import transformers

    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer")
    encoder = transformers.CLIPTextModel.from_pretrained(folder / "text_encoder")
    length = encoder.config.max_position_embeddings
    rows = tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    with torch.no_grad():
        return encoder(rows["input_ids"]).last_hidden_state


def test_a_folders_own_text_encoder_embeds_the_configs_prompt(spoken, glad):
    method = glad(**{"denoiser.prompt": "of sks"})
    lines = load_diffusion(method, Sources(str(spoken), unet=False))
    expected = as_transformers_says(spoken, ["of sks", ""])
    torch.testing.assert_close(method.denoiser.prompt, expected[:1])
    torch.testing.assert_close(method.denoiser.no_prompt, expected[1:])
    assert lines[-1] == f"prompt 'of sks': {spoken / 'text_encoder/model.safetensors'}"


CATEGORIES = {"denoiser.prompt": "of", "denoiser.categories": ["pho", "sks", "metal_nut"]}


def test_every_category_gets_a_prompt_in_one_pass_of_one_encoder(
    spoken, glad, monkeypatch, global_rng_untouched
):
    import transformers

    texts, forward = ["of pho", "of sks", "of metal_nut", ""], transformers.CLIPTextModel.forward
    method, expected, passes = glad(**CATEGORIES), as_transformers_says(spoken, texts), []

    def counted(self, rows, *args, **kwargs):
        passes.append(tuple(rows.shape))
        return forward(self, rows, *args, **kwargs)

    monkeypatch.setattr(transformers.CLIPTextModel, "forward", counted)
    with global_rng_untouched():
        lines = load_diffusion(method, Sources(str(spoken), unet=False))
    assert passes == [(4, 5)]
    torch.testing.assert_close(method.denoiser.category_prompts, expected[:3])
    torch.testing.assert_close(method.denoiser.prompt, expected[:3].mean(0, keepdim=True))
    torch.testing.assert_close(method.denoiser.no_prompt, expected[3:])
    assert lines[-1].startswith("prompt 'of' with 3 categories: ")


def test_the_text_encoder_is_let_go(spoken, glad):
    import transformers

    def alive():
        gc.collect()
        return sum(type(one) is transformers.CLIPTextModel for one in gc.get_objects())

    method, before = glad(**CATEGORIES), alive()
    size = sum(one.numel() for one in method.state_dict().values())
    load_diffusion(method, Sources(str(spoken), unet=False))
    assert alive() == before
    assert sum(one.numel() for one in method.state_dict().values()) == size


def test_a_stored_model_judges_every_category_by_its_own_prompt(spoken, glad, pictures, tmp_path):
    unguided = {"denoiser.guidance": 0.0}  # the empty text would come in between
    method, calibration = glad(**CATEGORIES, **unguided), Calibration((1.0, 2.0), (1.0, 2.0))
    load_diffusion(method, Sources(str(spoken), unet=False))
    expected = dict(zip(("pho", "sks", "metal_nut"), method.denoiser.category_prompts.split(1), strict=True))
    chosen = []
    for name in expected:
        one = copy.deepcopy(method)
        one.choose_category(name)
        chosen.append((name, Model("glad", one, calibration, {})))
    store.save(tmp_path / "model", "glad", method, calibration, {}, chosen)
    for name, prompt in expected.items():
        model, seen = store.load(tmp_path / "model", category=name), []
        model.method.denoiser.network.register_forward_pre_hook(lambda _, args, to=seen: to.append(args[2]))
        model.predict(pictures[0])
        assert seen
        assert all(torch.equal(one, prompt.expand_as(one)) for one in seen)
