"""`mendiff convert`: what is refused."""

from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.filterwarnings(r"ignore:::lightning\..*")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("ran", "weights.ckpt"), "KIND: expected one of glad, diad, codec, got 'ran'."),
        (("diad", "weights.ckpt"), "--good: expected a folder of good images"),
        (("codec", "weights.ckpt"), "weights.ckpt: expected a checkpoint, but there is no such file."),
    ],
)
def test_convert_refuses(refused, tmp_path, words, sentence):
    assert sentence in refused("convert", *words, "-o", tmp_path / "out")


def test_convert_refuses_checkpoints_of_another_kind(refused, data, tmp_path):
    good = ("--good", data / "train/good")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.ckpt")
    sentence = refused("convert", "diad", tmp_path / "other.ckpt", "-o", tmp_path / "out", *good)
    assert (
        "expected a DiAD checkpoint, but it holds no denoiser (names below model.diffusion_model)" in sentence
    )
    torch.save({"model": Path("x")}, tmp_path / "objects.ckpt")
    sentence = refused("convert", "diad", tmp_path / "objects.ckpt", "-o", tmp_path / "out", *good)
    assert "or has other objects; save only its state_dict." in sentence
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "other.ckpt").read_bytes()[:200])
    sentence = refused("convert", "codec", tmp_path / "cut.ckpt", "-o", tmp_path / "out")
    assert "the file ends after 200 bytes; download it again." in sentence
