"""Which processes there may be, and which of them this one is."""

import json
import os
import subprocess
import sys

import pytest

import mendiff
from mendiff.data.images import save_png
from mendiff.errors import InputError
from mendiff.runs.processes import check_processes, describe_processes, rank_of
from mendiff.types import Processes


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({}, 0),
        ({"LOCAL_RANK": "2"}, 2),
        ({"NODE_RANK": "1"}, 3),
        ({"NODE_RANK": "1", "LOCAL_RANK": "2"}, 5),
        ({"RANK": "4", "LOCAL_RANK": "1"}, 4),
        ({"SLURM_PROCID": "5"}, 5),
        # Lightning starts processes inside an interactive allocation, too; the allocation's own number is 0.
        ({"SLURM_PROCID": "0", "LOCAL_RANK": "1", "NODE_RANK": "0"}, 1),
    ],
)
def test_the_rank_is_what_the_launcher_says(environment, rank):
    assert rank_of(Processes(devices=3, nodes=2), environment) == rank


def test_a_single_process_is_the_first_whatever_the_environment_says():
    assert rank_of(Processes(), {"RANK": "3", "SLURM_PROCID": "2"}) == 0


@pytest.mark.parametrize(
    ("processes", "sentence"),
    [
        (Processes(strategy="dp"), "--strategy: expected one of auto, ddp, fsdp, got 'dp'."),
        (Processes(nodes=0), "--nodes: expected at least 1, got 0."),
        (Processes(devices=3), r"--devices: expected 1 to 2 \(cores of the processor here: 2\), got 3."),
        (Processes(devices=0), "--devices: expected 1 to 2"),
        (Processes("cuda", 5), r"--devices: expected 1 to 4 \(devices of kind cuda here: 4\), got 5."),
        (Processes("mps", 2), r"--devices: expected 1 \(devices of kind mps here: 1\), got 2."),
        (Processes("cuda:1", 2), "--device: expected cuda without a number for several processes"),
        (
            Processes("mps", strategy="fsdp"),
            "--strategy fsdp: expected --device cuda or cpu, got mps; choose ddp.",
        ),
    ],
)
def test_what_can_not_be_started_is_one_sentence(processes, sentence, monkeypatch):
    monkeypatch.setattr("mendiff.runs.processes.os.cpu_count", lambda: 2)
    monkeypatch.setattr("mendiff.runs.processes.torch.cuda.device_count", lambda: 4)
    with pytest.raises(InputError, match=sentence):
        check_processes(processes)


@pytest.mark.parametrize(
    "processes",
    [
        Processes(),
        Processes("cuda:3"),
        Processes("cuda", 4, 2, "fsdp"),
        Processes("cpu", 2),
        Processes("cpu", 2, 1, "fsdp"),
    ],
)
def test_what_can_be_started_passes(processes, monkeypatch):
    monkeypatch.setattr("mendiff.runs.processes.os.cpu_count", lambda: 2)
    monkeypatch.setattr("mendiff.runs.processes.torch.cuda.device_count", lambda: 4)
    check_processes(processes)


def test_people_read_how_many_there_are():
    assert describe_processes(Processes("cuda:1")) == "cuda:1"
    assert describe_processes(Processes("cuda", 2, 3)) == "6 processes on cuda"


@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_of_a_command_write_one_model_and_say_everything_once(tmp_path, pictures, strategy):
    (tmp_path / "good").mkdir()
    for number in range(8):
        picture = (pictures[number % 4] * 200 + number) / 255
        save_png((picture.permute(1, 2, 0) * 255).byte().numpy(), tmp_path / f"good/{number}.png")
    network = '{"block_out_channels": [16, 32], "down_block_types": ["DownBlock2D", "DownBlock2D"], '
    network += '"up_block_types": ["UpBlock2D", "UpBlock2D"], "norm_num_groups": 8, "add_attention": false}'
    words = [
        "fit",
        "good",
        "-o",
        "model",
        "--devices",
        "2",
        "--device",
        "cpu",
        "--json",
        "--image-size",
        "32",
    ]
    words += ["--set", "training.steps=2", "--set", "crop=0", "--set", "codec.factor=4"]
    words += ["--set", f"denoiser.network={network}", "--set", "training.ema=0", "--strategy", strategy]
    command = [sys.executable, "-m", "mendiff", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"] == 8
    assert sorted(one.name for one in tmp_path.iterdir()) == ["good", "model"]
    assert mendiff.load(tmp_path / "model").threshold == json.loads(done.stdout)["threshold"]
