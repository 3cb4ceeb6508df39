"""Command lines in this process, with small data and a small model: helpers and fixtures of several rooms."""

import json
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from mendiff.cli import main
from mendiff.cli.terminal import Terminal

NETWORK = (
    "{block_out_channels: [8, 16], layers_per_block: 1, down_block_types: [DownBlock2D, DownBlock2D], "
    "up_block_types: [UpBlock2D, UpBlock2D], norm_num_groups: 4, add_attention: false}"
)
GUIDED_NETWORK = NETWORK.replace(
    "add_attention: false", "mid_block_type: UNetMidBlock2D, cross_attention_dim: 8"
)
# The memory bank of the defaults is 100 times as large, and images are enlarged for it: most of a fit.
SMALL_READOUT = {"readout.bank_size": "200", "readout.enlarge": "0"}
SETTINGS = {
    "image_size": "32",
    "crop": "0",
    "denoiser.network": NETWORK,
    "training.steps": "2",
    "training.batch_size": "4",
    **SMALL_READOUT,
}
METRICS = [
    *("image_auroc", "image_ap", "image_f1max"),
    *("pixel_auroc", "pixel_ap", "pixel_f1max", "aupro", "aupro_005", "dice"),
]
TOLD = ["mean", "categories", "at_threshold", "binned", "unreadable", "complete"]


def settings(**changes):
    """Words that set a fit's small settings, with some changed; None leaves a field at its default."""
    chosen = SETTINGS | {key.replace("__", "."): value for key, value in changes.items()}
    given = {key: value for key, value in chosen.items() if value is not None}
    return [word for key, value in given.items() for word in ("--set", f"{key}={value}")]


DEFAULT_READOUT = {key.replace(".", "__"): None for key in SMALL_READOUT}
RAN = (
    *("--method", "ran"),
    *settings(
        codec__factor="8", start_timesteps="[20, 90]", gradient__steps="2", enlarge="0", **DEFAULT_READOUT
    ),
)
DIAD = ("--method", "diad", *settings(codec__factor="4", denoiser__network=GUIDED_NETWORK))
PAPER = (
    "--preset",
    "paper/mvtec/cable",
    "--device",
    "cpu",
    "--set",
    "training.steps=1",
    "--set",
    "sampler_steps=2",
)


def picture(rng, defect=0):
    image = np.full((40, 40, 3), 120, np.uint8) + rng.integers(0, 20, (40, 40, 3), dtype=np.uint8)
    image[8:24, 8 : 8 + defect] = 255
    return image


def draw(folder, count, defect=0, seed=0):
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for index in range(count):
        Image.fromarray(picture(rng, defect)).save(folder / f"{index}.png")
    return folder


def size(path):
    with Image.open(path) as image:
        return image.size


def draw_category(root):
    draw(root / "train/good", 9)
    draw(root / "test/good", 2, seed=1)
    draw(root / "test/scratch", 2, defect=16, seed=2)
    mask = np.zeros((40, 40), np.uint8)
    mask[8:24, 8:24] = 255
    (root / "ground_truth/scratch").mkdir(parents=True)
    for index in range(2):
        Image.fromarray(mask).save(root / f"ground_truth/scratch/{index}_mask.png")
    return root


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return draw_category(tmp_path_factory.mktemp("data") / "plate")


@pytest.fixture(scope="session")
def model(data):
    out = data.parent / "model"
    assert main(["fit", str(data), "-o", str(out), "--json", *settings()]) == 0
    return out


@pytest.fixture
def own_model(model, tmp_path):
    return shutil.copytree(model, tmp_path / "own_model")


@contextmanager
def jobs_in_process():
    """Run a benchmark's jobs in this process: to start another takes longer than their work."""
    from mendiff.workflows import job, queue, spec

    def run_here(folder, gpu):
        job.run(spec.read_moved(folder), folder, Terminal(quiet=True))
        return ""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queue, "run_job", run_here)
        yield


@pytest.fixture
def one_process():
    with jobs_in_process():
        yield


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Run a command line in an empty folder; gives (code, standard output, standard error)."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setenv("COLUMNS", "80")

    def go(*words):
        capsys.readouterr()
        code = main([str(word) for word in words])
        return code, *capsys.readouterr()

    return go


@pytest.fixture
def refused(run, tmp_path):
    """Run a command line that must end with one sentence and code 2, and write nothing."""

    def go(*words):
        before = sorted(tmp_path.rglob("*"))
        code, out, err = run(*words)
        assert (code, out) == (2, ""), err
        *progress, sentence = err.splitlines()  # some slips show only when the networks are built
        assert sentence.startswith("mendiff")
        assert not any(
            line.startswith("mendiff") or "Traceback" in line or "Error" in line for line in progress
        )
        assert sorted(tmp_path.rglob("*")) == before
        return sentence

    return go


@pytest.fixture(scope="session")
def plates(tmp_path_factory):
    """Two categories: plates, and the same in negative."""
    root = tmp_path_factory.mktemp("plates")
    draw_category(root / "dark")
    shutil.copytree(root / "dark", root / "light")
    for path in (root / "light").rglob("*.png"):
        if "ground_truth" not in path.parts:
            Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    return root


def shrink(changes):
    return [word for key, one in changes.items() for word in ("--set", f"{key}={json.dumps(one)}")]


def interrupted_after_three(monkeypatch):
    """Have a training keep a checkpoint after every step and stop after the third; gives the steps kept."""
    from mendiff.training import loop

    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    keep, kept = loop.save_checkpoint, []

    def stop(*arguments):
        keep(*arguments)
        kept.append(arguments[-1])
        if kept == [1, 2, 3]:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save_checkpoint", stop)
    return kept
