import pytest
import torch

from mendiff.checkpoints.import_diad import SCHEDULE, TEXT, empty_prompt
from mendiff.checkpoints.import_files import read_checkpoint
from mendiff.errors import InputError


def test_lightning_and_plain_checkpoints_read_alike(tmp_path):
    weights = {"a.weight": torch.ones(2), "b": torch.zeros(1)}
    torch.save(weights, tmp_path / "plain.ckpt")
    torch.save({"state_dict": weights, "epoch": 1}, tmp_path / "lightning.ckpt")
    plain, lightning = (read_checkpoint(tmp_path / f"{name}.ckpt") for name in ("plain", "lightning"))
    assert plain.keys() == lightning.keys() == weights.keys()
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(InputError, match="expected a dictionary of tensors by name, got a list"):
        read_checkpoint(tmp_path / "list.ckpt")


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_a_checkpoint_that_ends_early_is_refused_before_it_is_read(tmp_path, monkeypatch, share):
    path = tmp_path / "cut.ckpt"
    torch.save({"a": torch.zeros(5000)}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    monkeypatch.setattr(torch, "load", None)
    with pytest.raises(InputError, match=r"cut\.ckpt: expected a complete checkpoint, but the file ends"):
        read_checkpoint(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_numbers_are_read_when_they_are_needed_where_the_file_lets_us(tmp_path, monkeypatch, zipped):
    path, load, mapped = tmp_path / "x.pth", torch.load, []
    torch.save({"a": torch.arange(3.0)}, path, _use_new_zipfile_serialization=zipped)

    def told(*args, mmap, **kwargs):
        mapped.append(mmap)
        return load(*args, mmap=mmap, **kwargs)

    monkeypatch.setattr(torch, "load", told)
    assert read_checkpoint(path)["a"].tolist() == [0, 1, 2]
    assert mapped == [zipped]


def test_tables_of_the_schedule_are_known():
    roots = ("", "sqrt_", "sqrt_one_minus_", "log_one_minus_", "sqrt_recip_", "sqrt_recipm1_")
    known = ["betas", "logvar", "alphas_cumprod_prev", *(f"{root}alphas_cumprod" for root in roots)]
    ends = ("variance", "log_variance_clipped", "mean_coef1", "mean_coef2")
    known += [f"posterior_{end}" for end in ends]
    assert all(SCHEDULE.fullmatch(name) for name in known)
    assert not SCHEDULE.fullmatch("alphas")
    assert not SCHEDULE.fullmatch("control_model.betas")


def test_empty_text_is_embedded_by_the_checkpoints_own_encoder():
    transformers = pytest.importorskip("transformers", reason="an extra, for published checkpoints only")
    settings = transformers.CLIPTextConfig(
        vocab_size=50,
        hidden_size=64,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=1,
        max_position_embeddings=7,
        bos_token_id=48,
        eos_token_id=49,
    )
    torch.manual_seed(0)
    encoder = transformers.CLIPTextModel(settings).eval()
    bare = {key.removeprefix("text_model."): one for key, one in encoder.state_dict().items()}
    weights = {f"{TEXT}transformer.text_model.{key}": one for key, one in bare.items()}
    with torch.no_grad():
        expected = encoder(torch.tensor([[48, *[49] * 6]])).last_hidden_state
    torch.testing.assert_close(empty_prompt(weights), expected)
    assert empty_prompt({"other": torch.zeros(1)}) is None
    del weights[f"{TEXT}transformer.text_model.encoder.layers.1.mlp.fc2.bias"]
    with pytest.raises(InputError, match=r"lacks 'encoder\.layers\.1\.mlp\.fc2\.bias'"):
        empty_prompt(weights)
