"""Reading the command line: what it accepts, and what it says of slips."""

import json

import pytest

from mendiff.cli.app import parse_settings
from tests.commands import settings

pytestmark = pytest.mark.filterwarnings(r"ignore:::lightning\..*")


@pytest.mark.parametrize(
    ("written", "value"),
    [("1e-4", 1e-4), ("{norm_eps: 1e-05, a: -2E3}", {"norm_eps": 1e-5, "a": -2e3}), ("1e", "1e"), ("3", 3)],
)
def test_settings_know_numbers_with_an_exponent(written, value):
    found = parse_settings([f"some.field={written}"])["some.field"]
    assert found == value
    assert type(found) is type(value)


def test_a_mapping_for_a_group_of_settings_changes_only_what_it_names():
    nested = {"training": {"steps": 3}, "denoiser.network": {"a": 1}, "codec": {"network": {"b": 2}}}
    flat = {"training.steps": 3, "denoiser.network": {"a": 1}, "codec.network": {"b": 2}}
    assert parse_settings(nested) == parse_settings([nested]) == flat
    assert parse_settings(["training={steps: 3, ema: 0.5}"]) == {"training.steps": 3, "training.ema": 0.5}


def test_nothing_at_all_shows_help(run):
    code, out, err = run()
    assert (code, out) == (2, "")
    assert "usage: mendiff" in err
    assert all(name in err for name in ("demo", "fit", "predict", "evaluate", "report", "info"))


@pytest.mark.parametrize(
    "name", ["demo", "check", "fit", "predict", "explain", "evaluate", "report", "tune", "benchmark", "info"]
)
def test_help_has_usage_and_examples(run, name):
    code, out, _ = run(name, "--help")
    assert code == 0
    assert f"usage: mendiff {name}" in out
    assert f"  mendiff {name}" in out.partition("examples:")[2]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["fit", "x"], "mendiff fit: expected -o/--out DIR, output folder for the model"),
        (["fit"], "mendiff fit: expected DATA, "),
        (["predict"], "mendiff predict: expected MODEL, a model folder"),
        (["predict", "m", "-o", "x"], "mendiff predict: expected IMAGES, image files or folders"),
        (["fit", "x", "-o"], "-o/--out: expected a value after it, got none"),
        (["fit", "x", "-o", "y", "--sed", "3"], "unknown option --sed; did you mean --"),
        (["fit", "x", "-o", "y", "--zebra"], "unknown option --zebra. See 'mendiff fit --help'"),
        (["fit", "x", "-o", "y", "z"], "expected no further argument, got 'z'"),
        (["fit", "x", "-o", "y", "--seed", "a"], "--seed: expected a whole number, got 'a'"),
        (["fit", "x", "-o", "y", "--resume=3"], "--resume: expected no value, got '3'"),
        (["demo", "--seed", "9" * 20], "--seed: expected a whole number of at most 18 digits, got 9999"),
        (
            ["fti"],
            "expected a command (demo, check, fit, fit-codec, fit-features, predict, explain, evaluate, "
            "calibrate, monitor, report, tune, distill, benchmark, convert, export, plan, info), got 'fti'",
        ),
        (
            ["fit", "x", "-o", "y", "--config", "no.yaml"],
            "--config: expected a YAML file, but there is no such",
        ),
        (["demo", "--categories", "zebra"], "--categories: expected one of blister, fabric, flange, tile"),
        (["demo", "--set", "zebra"], "--set: expected key=value such as training.steps=2000, got 'zebra'"),
        (["demo", "--set", "a=[1"], "--set a: expected a YAML value such as 3 or [1, 2], got '[1'"),
    ],
)
def test_slip_on_the_command_line_is_one_sentence(refused, words, sentence):
    assert sentence in refused(*words)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("zebra: 3", "--config: unknown key zebra"),
        ("a: [1", "--config: expected YAML, but line 1 can't be read"),
        ("- 1\n- 2", "--config: expected options and values"),
        ("seed: abc", "--seed: expected a whole number, got 'abc'"),
        ("image-size: 64", "--config: expected keys with underscores, such as image_size"),
        ("resume: maybe", "--resume: expected true or false, got 'maybe'"),
        (b"\x89PNG", "--config: expected a YAML file in UTF-8, got a file in another encoding."),
    ],
)
def test_bad_config_file_is_one_sentence(refused, tmp_path, text, sentence):
    (tmp_path / "bad.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert sentence in refused("fit", "x", "-o", "y", "--config", tmp_path / "bad.yaml")


def test_config_file_stands_for_options(run, data, tmp_path):
    plan = {"data": str(data), "out": str(tmp_path / "model"), "seed": 3, "set": settings()[1::2]}
    (tmp_path / "fit.yaml").write_text(json.dumps(plan))
    code, out, err = run("fit", "--config", tmp_path / "fit.yaml", "--json")
    assert code == 0, err
    result = json.loads(out)
    assert (result["seed"], result["config"]["training"]["steps"]) == (3, 2)
    assert (tmp_path / "model/model.safetensors").is_file()
