"""Fits that are interrupted or find the disk full, and how they go on."""

import errno
import json
import signal

import pytest
import torch
from safetensors import SafetensorError

import mendiff
from mendiff.training import loop
from tests.commands import settings

pytestmark = pytest.mark.filterwarnings(r"ignore:::lightning\..*")


def test_a_full_disk_at_the_first_checkpoint_leaves_nothing(run, data, tmp_path, monkeypatch):
    import lightning.fabric.plugins.io.torch_io as torch_io

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch_io, "_atomic_save", full)
    code, _, err = run("fit", data, "-o", tmp_path / "model", "--json", *settings())
    assert code == 2
    assert "expected free disk space, but the disk is full" in err
    assert len(err.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cwd"]


def test_a_full_disk_at_a_later_checkpoint_leaves_the_last_one_to_go_on_from(
    run, data, tmp_path, monkeypatch
):
    import lightning.fabric.plugins.io.torch_io as torch_io

    from mendiff.anomalib_models import training

    save, saved = torch_io._atomic_save, []

    def full(checkpoint, path):
        saved.append(checkpoint["global_step"])
        if len(saved) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(checkpoint, path)

    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(torch_io, "_atomic_save", full)
    words = ("fit", data, "-o", tmp_path / "model", "--json", *settings(training__steps="4"))
    code, _, err = run(*words)
    assert code == 2
    assert "expected free disk space, but the disk is full" in err
    assert err.endswith(
        "The last complete checkpoint is kept: run the same command with --resume to continue.\n"
    )
    assert len(err.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [".model.fit", "cwd"]
    code, _, err = run(*words, "--resume")
    assert code == 0, err
    assert saved[:3] == [1, 2, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cwd", "model"]


def test_a_full_disk_at_a_checkpoint_of_a_codec_is_told_alike(run, data, tmp_path, monkeypatch):
    save, saved = loop.save_file, []

    def full(tensors, path, metadata):
        saved.append(metadata["step"])
        if len(saved) == 2:
            path.write_bytes(b"half")
            raise SafetensorError("Error while serializing: I/O error: No space left (os error 28)")
        save(tensors, path, metadata)

    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(loop, "save_file", full)
    changes = ("--set", "training.steps=3", "--set", "training.batch_size=2", "--set", "crop=0")
    code, _, err = run("fit-codec", data, "-o", tmp_path / "codec", "--json", *changes)
    assert code == 2
    assert err.endswith(
        "The last complete checkpoint is kept: run the same command with --resume to continue.\n"
    )
    kept = sorted(one.name for one in (tmp_path / ".codec.fit").iterdir())
    assert kept == [loop.CHECKPOINT, "manifest.json"]
    assert run("fit-codec", data, "-o", tmp_path / "codec", "--json", "--resume", *changes)[0] == 0
    assert saved == ["1", "2", "2", "3"]


def test_a_full_disk_at_the_end_of_a_fit_loses_nothing(run, data, tmp_path, monkeypatch):
    from mendiff.checkpoints import weights

    def full(*_):
        raise SafetensorError("Error while serializing: I/O error: No space left (os error 28)")

    out, write = tmp_path / "model", weights.save_file
    monkeypatch.setattr(weights, "save_file", full)
    code, _, err = run("fit", data, "-o", out, "--json", *settings())
    assert code == 2
    assert "expected free disk space, but the disk is full" in err
    assert "The training result is kept: run the same command with --resume to continue." in err
    assert len(err.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [".model.fit", "cwd"]
    monkeypatch.setattr(weights, "save_file", write)
    assert run("fit", data, "-o", out, "--json", "--resume", *settings())[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cwd", "model"]


def test_interrupted_fit_is_resumed_and_equals_an_unbroken_one(run, model, data, tmp_path, monkeypatch):
    from mendiff.anomalib_models import training

    fit, handler = ("fit", data, "-o", tmp_path / "model", *settings()), signal.getsignal(signal.SIGINT)
    update = training._Watcher.on_train_batch_end

    def interrupted(self, trainer, *args, **options):
        update(self, trainer, *args, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
        patch.setattr(training._Watcher, "on_train_batch_end", interrupted)
        code, _, err = run(*fit)
        signal.signal(signal.SIGINT, handler)
    assert code == 130
    assert "interrupted; run the same command with --resume to continue" in err
    assert not (tmp_path / "model").exists()
    assert (tmp_path / ".model.fit").is_dir()
    code, _, err = run(*fit, "--resume", "--json")
    assert code == 0, err
    unbroken = json.loads((model / "calibration.json").read_text())
    assert json.loads((tmp_path / "model/calibration.json").read_text()) == unbroken
    assert not (tmp_path / ".model.fit").exists()


CODEC_STAGE = {
    "codec.kind": "tiny",
    "codec.network": "{encoder_block_out_channels: [8, 8], decoder_block_out_channels: [8, 8], "
    "num_encoder_blocks: [1, 1], num_decoder_blocks: [1, 1], upsampling_scaling_factor: 2, "
    "latent_channels: 3}",
    "codec.normalise": "true",
    "codec.fit.images": "24",
    "codec.fit.batch_size": "4",
    "codec.fit.crop": "16",
    "codec.fit.anomalies": "2",
}


def test_a_fit_interrupted_after_its_last_step_goes_on_and_equals_an_unbroken_one(
    run, model, data, tmp_path, monkeypatch
):
    from mendiff.anomalib_models import module, training

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    words = ("fit", data, "-o", tmp_path / "model", "--json", *settings())
    with monkeypatch.context() as patch:
        patch.setattr(module, "calibrate", interrupted)
        assert run(*words)[0] == 130
    code, _, err = run(*words, "--resume")
    assert code == 0, err
    for name in ("model.safetensors", "calibration.json"):
        assert (tmp_path / "model" / name).read_bytes() == (model / name).read_bytes()


def test_a_fit_interrupted_while_its_codec_learns_goes_on_from_there(run, data, tmp_path, monkeypatch):
    fit = ("fit", data, *settings(**CODEC_STAGE), "-o")
    assert run(*fit, tmp_path / "unbroken")[0] == 0
    keep, kept = loop.save_checkpoint, []

    def interrupted(checkpoint, learning, step):
        keep(checkpoint, learning, step)
        kept.append(step)
        raise KeyboardInterrupt

    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
        patch.setattr(loop, "save_checkpoint", interrupted)
        code, _, err = run(*fit, tmp_path / "model")
        signal.signal(signal.SIGINT, handler)
    assert code == 130
    assert kept == [1]
    assert "run the same command with --resume to continue" in err
    code, _, err = run(*fit, tmp_path / "model", "--resume", "--set", "codec.fit.images=40")
    assert code == 2
    assert "codec.fit.images" in err
    code, _, err = run(*fit, tmp_path / "model", "--resume")
    assert code == 0, err
    first, second = (mendiff.load(tmp_path / name).method.state_dict() for name in ("unbroken", "model"))
    assert all(torch.equal(one, second[name]) for name, one in first.items())
    assert not (tmp_path / ".model.fit").exists()


def test_a_slip_and_an_interrupt_before_training_leave_what_can_be_resumed(
    run, refused, data, tmp_path, monkeypatch
):
    def interrupted(*args, **options):
        (tmp_path / ".model.fit/last.ckpt").write_text("weights")
        raise KeyboardInterrupt

    fit = ("fit", data, "-o", tmp_path / "model", *settings())
    monkeypatch.setattr("mendiff.anomalib_models.train", interrupted)
    assert run(*fit)[0] == 130
    refused(*fit, "--set", "training.stps=3")
    code, _, err = run(*fit, "--resume")
    assert code == 130
    assert "interrupted; run the same command with --resume to continue" in err
    assert (tmp_path / ".model.fit/last.ckpt").read_text() == "weights"


def test_interrupt_before_the_first_checkpoint_leaves_nothing(run, data, tmp_path, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("mendiff.anomalib_models.train", interrupted)
    code, out, err = run("fit", data, "-o", tmp_path / "model", *settings())
    assert (code, out) == (130, "")
    assert err.endswith("mendiff fit: interrupted.\n")
    assert [path.name for path in tmp_path.iterdir()] == ["cwd"]
