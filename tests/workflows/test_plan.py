import json
import re

import pytest

from mendiff.cli import main
from mendiff.errors import InputError
from mendiff.methods.base import METHODS
from mendiff.workflows import plan
from mendiff.workflows.plan import choose_training, parse_memory, planned_config, predict_command

SMALL = (
    "{block_out_channels: [16, 32], layers_per_block: 1, down_block_types: [DownBlock2D, DownBlock2D], "
    "up_block_types: [UpBlock2D, UpBlock2D], norm_num_groups: 8, add_attention: false}"
)
WORDS = ["plan", "--method", "glad", "--preset", "tiny", "--size", "64", "--set", f"denoiser.network={SMALL}"]


@pytest.mark.parametrize(
    ("text", "size"),
    [("24GB", 24 * 10**9), ("24 GiB", 24 * 2**30), ("11000mb", 11 * 10**9), ("0.5GB", 5 * 10**8)],
)
def test_sizes_of_memory(text, size):
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["24", "", "GB", "-3GB", "24 potatoes", "0GB", "1e3GB", "24KB", "24GB/s"])
def test_malformed_sizes_end_with_2(text, capsys):
    assert main([*WORDS, f"--memory={text}"]) == 2
    err = capsys.readouterr().err
    assert f"--memory: expected a size such as 24GB, 24GiB or 11000MB, got {text!r}." in err
    assert err.count("\n") == 1


def test_unknown_optimizer_ends_with_2(capsys):
    assert main([*WORDS, "--set", "training.optimizer=sgd"]) == 2
    assert "expected one of adamw, adamw8bit, adafactor, got 'sgd'" in capsys.readouterr().err


def test_size_that_the_networks_cannot_take_ends_with_2(capsys):
    assert main([*WORDS[:6], "65", *WORDS[7:]]) == 2
    assert "--size: expected a multiple of" in capsys.readouterr().err


def test_plan_for_people_is_a_table_and_two_commands(capsys):
    assert main([*WORDS, "--memory", "4GB"]) == 0
    out = capsys.readouterr().out
    assert "activations" in out
    assert "mendiff fit DATA -o MODEL --method glad --preset tiny --image-size 64" in out


def test_too_little_memory_ends_with_2_and_says_how_much_it_takes(capsys):
    assert main([*WORDS, "--memory", "600MB"]) == 2
    err = capsys.readouterr().err
    assert re.search(r"--memory: expected at least 0\.[78] GB to train glad at 64 pixels, got 0\.6 GB", err)


class Fixed:
    """Stands for a rehearsal: 100 MB per image, a tenth of that with checkpointing; moments of 900 MB."""

    def __init__(self, name, config, **options):
        self.lora = config.training.lora_rank

    def training(self, plan, half):
        count = plan.batch_size // plan.accumulate
        kept = count * (10 if plan.checkpointing else 100) * 10**6
        state = {"adamw": 900, "adamw8bit": 300, "adafactor": 10}[plan.optimizer] * 10**6
        state = 1 if self.lora else state
        return memory_footprint(kept + state)

    def prediction(self, batch, offload=False):
        return memory_footprint(batch * 10**9)


def memory_footprint(needed):
    from mendiff.training.memory import CONTEXT, WASTE, Footprint

    return Footprint(0, 0, 0, 0, round((needed - CONTEXT) / (1 + WASTE)))


@pytest.mark.parametrize(
    ("room", "expected"),
    [
        (10_000, {"accumulate": 1}),
        (1_750, {"accumulate": 4}),
        (1_000, {"accumulate": 32}),
        (999, {"accumulate": 4, "checkpointing": True}),
        (909, {"accumulate": 1, "checkpointing": True, "optimizer": "adamw8bit"}),
        (300, {"accumulate": 2, "checkpointing": True, "optimizer": "adafactor"}),
        (15, {"accumulate": 32, "checkpointing": True, "lora_rank": 16}),
    ],
)
def test_the_mildest_remedy_is_chosen(room, expected, monkeypatch):
    monkeypatch.setattr("mendiff.training.lora.find_spec", lambda name: True)
    monkeypatch.setattr(plan, "MemoryEstimator", Fixed)
    config = planned_config("glad", "paper", 512, {})
    chosen = choose_training("glad", config, room * 10**6, {})
    told = {key.partition(".")[2]: value for key, value in chosen.changes.items()}
    assert told.pop("precision") == "bf16"
    assert {"accumulate": 1, **told} == expected


def test_plan_gives_json_with_commands_that_use_it(capsys, monkeypatch):
    monkeypatch.setattr(plan, "MemoryEstimator", Fixed)
    assert main(["plan", "--memory", "2.5GB", "--size", "256", "--batch", "32", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["training"]["needed"] <= told["memory"] == 2_500_000_000
    chosen = {"training.batch_size": 32, "training.precision": "bf16", "training.accumulate": 2}
    assert told["training"]["settings"] == {"image_size": 256, **chosen}
    pairs = " ".join(f"--set {key}={value}" for key, value in chosen.items())
    assert told["fit"].startswith("mendiff fit DATA -o MODEL --method glad --preset paper --pretrained ")
    assert told["fit"].endswith(f"--image-size 256 {pairs}")
    assert told["predict"] == "mendiff predict MODEL IMAGES -o FINDINGS --batch-size 2"


def test_what_was_given_stays(monkeypatch):
    monkeypatch.setattr(plan, "MemoryEstimator", Fixed)
    given = {"training.optimizer": "adamw", "training.accumulate": 2, "training.precision": "float32"}
    config = planned_config("glad", "paper", 512, given)
    assert choose_training("glad", config, 2 * 10**9, given).changes == {"training.checkpointing": True}
    with pytest.raises(InputError, match=r"at least 1\.1 GB to train glad at 512 pixels, got 1\.0 GB"):
        choose_training("glad", config, 10**9, {**given, "training.lora_rank": 0})


def test_without_peft_lora_is_left_out_and_named(monkeypatch):
    monkeypatch.setattr("mendiff.training.lora.find_spec", lambda name: None)
    monkeypatch.setattr(plan, "MemoryEstimator", Fixed)
    config = planned_config("glad", "paper", 512, {})
    with pytest.raises(InputError, match=r"smaller --size, or pip install 'mendiff\[lora\]' and plan"):
        choose_training("glad", config, 15 * 10**6, {})
    ran = planned_config("ran", "paper", None, {})
    with pytest.raises(InputError, match=r"choose a smaller --size\.$"):
        choose_training("ran", ran, 10**6, {})


@pytest.mark.parametrize("name", METHODS)
def test_every_paper_preset_can_be_planned(name):
    assert planned_config(name, "paper", None, {}).image_size in (256, 512)
    list(plan._remedies(planned_config(name, "paper", None, {}), {}))


def test_predict_options_are_written_as_flags():
    options = {"batch_size": 2, "half": True, "offload": True}
    assert predict_command(options).endswith("-o FINDINGS --batch-size 2 --half --offload")
