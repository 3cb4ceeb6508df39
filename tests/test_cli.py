"""The command line, in this process: what it writes, what it says, and how it ends."""

import csv
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import unicodedata
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.models import get_model
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import save_file

import mendiff
import mendiff.model as mendiff_model
from mendiff.anomalib_models import GoodImages, MethodModule, module_class
from mendiff.checkpoints import store
from mendiff.checkpoints.codecs import open_codec, read_codec
from mendiff.checkpoints.store import read_weights
from mendiff.cli import main
from mendiff.cli.app import parse_settings
from mendiff.cli.terminal import Terminal
from mendiff.demo.data import DemoConfig
from mendiff.evaluation.data import open_data
from mendiff.methods.base import METHODS, find_method
from mendiff.training import loop
from mendiff.training.split import choose
from mendiff.workflows import demo, fit_codec, predict
from mendiff.workflows.bench import chosen_rows
from mendiff.workflows.fit_config import Plan, make_config
from mendiff.workflows.locks import only_one
from mendiff.workflows.testing import find, read_tests

pytestmark = pytest.mark.filterwarnings(r"ignore:::lightning\..*")

NETWORK = (
    "{block_out_channels: [8, 16], layers_per_block: 1, down_block_types: [DownBlock2D, DownBlock2D], "
    "up_block_types: [UpBlock2D, UpBlock2D], norm_num_groups: 4, add_attention: false}"
)
GUIDED_NETWORK = NETWORK.replace(
    "add_attention: false", "mid_block_type: UNetMidBlock2D, cross_attention_dim: 8"
)
SETTINGS = {
    "image_size": "32",
    "crop": "0",
    "denoiser.network": NETWORK,
    "training.steps": "2",
    "training.batch_size": "2",
}
METRICS = [
    *("image_auroc", "image_ap", "image_f1max"),
    *("pixel_auroc", "pixel_ap", "pixel_f1max", "aupro", "aupro_005", "dice"),
]
TWINS = ["twin_psnr_inside", "twin_psnr_outside", "twin_features_inside", "twin_features_outside"]
TOLD = ["mean", "categories", "at_threshold", "binned", "unreadable", "complete"]


def settings(**changes):
    chosen = SETTINGS | {key.replace("__", "."): value for key, value in changes.items()}
    return [word for key, value in chosen.items() for word in ("--set", f"{key}={value}")]


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


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_category(tmp_path_factory.mktemp("data") / "plate")


@pytest.fixture(scope="module")
def model(data):
    out = data.parent / "model"
    assert main(["fit", str(data), "-o", str(out), "--json", *settings()]) == 0
    return out


@pytest.fixture
def own_model(model, tmp_path):
    return shutil.copytree(model, tmp_path / "own_model")


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


RAN = ("--method", "ran", *settings(codec__factor="8", noise_steps="[20, 90]", gradient__steps="2"))


@pytest.fixture(scope="module")
def plates(tmp_path_factory):
    """Two categories: plates, and the same in negative."""
    root = tmp_path_factory.mktemp("plates")
    draw_category(root / "dark")
    shutil.copytree(root / "dark", root / "light")
    for path in (root / "light").rglob("*.png"):
        if "ground_truth" not in path.parts:
            Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    return root


# Reading the command line.


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


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate")])
def test_lack_of_memory_is_one_sentence_that_says_what_to_do(run, model, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr("mendiff.workflows.info.load", fail)
    code, out, err = run("info", model)
    assert (code, out) == (1, "")
    assert err.startswith("mendiff info: there is not enough memory; choose a smaller --image-size")
    assert len(err.splitlines()) == 1
    monkeypatch.setattr("mendiff.workflows.info.load", lambda *_: [][0])
    with pytest.raises(IndexError):  # a mistake of ours stays one
        run("info", model)


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
        (["fit", "x"], "mendiff fit: expected -o/--out DIR, where to write the model"),
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
            "calibrate, report, tune, benchmark, convert, plan, info), got 'fti'",
        ),
        (
            ["fit", "x", "-o", "y", "--config", "no.yaml"],
            "--config: expected a YAML file, but there is no such",
        ),
        (["demo", "--categories", "zebra"], "--categories: expected some of blister, fabric, flange, tile"),
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
        (b"\x89PNG", "--config: expected a YAML file in UTF-8, got another kind of file."),
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


@pytest.mark.parametrize(
    ("failure", "ended"),
    [
        (KeyboardInterrupt, (130, "interrupted.")),
        (PermissionError(13, "Permission denied", "x"), (1, "x: Permission denied")),
        (
            OSError(errno.EFBIG, "File too large", "x"),
            (
                1,
                "x: File too large; raise the limit on the size of files (see 'ulimit -f') or choose another "
                "place.",
            ),
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", b"caf\xe9\n"),
            (1, "caf\\udce9\\n: No space left on device; make room or choose another place."),
        ),
    ],
)
def test_interrupt_and_disk_errors_are_one_line(run, model, monkeypatch, failure, ended):
    def fail(*_):
        raise failure

    monkeypatch.setattr("mendiff.workflows.info.load", fail)
    code, out, err = run("info", model)
    assert out == ""
    assert (code, err) == (ended[0], f"mendiff info: {ended[1]}\n")


@pytest.fixture
def usual_signals():
    """What signals do in a terminal; background jobs of a shell ignore some, and so do commands then."""
    usual = {signal.SIGINT: signal.default_int_handler}
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    before = {number: signal.signal(number, usual.get(number, signal.SIG_DFL)) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
def test_a_signal_ends_a_command_as_ctrl_c_does(
    run, model, data, tmp_path, monkeypatch, usual_signals, number, code
):
    before, read, calls = signal.getsignal(number), mendiff_model.Model.read, []

    def ended(model, path):
        calls.append(path)
        if len(calls) == 2:
            os.kill(os.getpid(), number)
            time.sleep(10)
        return read(model, path)

    monkeypatch.setattr(mendiff_model.Model, "read", ended)
    words = ("predict", model, data / "test", "-o", tmp_path / "found", "--batch-size", "1")
    got, _, err = run(*words)
    assert got == code
    kept = tmp_path / "found-unfinished"
    assert err.splitlines()[-1] == f"mendiff predict: interrupted. What was found so far is in {kept}."
    rows = list(csv.DictReader((kept / "predictions.csv").read_text().splitlines()))
    told = json.loads((kept / "predictions.json").read_text())
    assert [row["image"] for row in rows] == [row["image"] for row in told["images"]] == [str(calls[0])]
    assert told["complete"] is False
    assert (kept / rows[0]["heat_map"]).is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cwd", "found-unfinished"]
    assert signal.getsignal(number) is before


def closed_pipe(*words):
    """Run a command in a process of its own whose reader has gone; gives (code, standard error)."""
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.Popen(
        [sys.executable, "-m", "mendiff.cli", *map(str, words)], stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    return process.communicate()[1].decode(), process.returncode


def test_a_reader_that_goes_away_ends_a_command_quietly(model):
    assert closed_pipe("info", model, "--json") == ("", 141)
    assert closed_pipe("info", "--help")[0] == ""
    assert closed_pipe("info", model) == ("", 141)


@pytest.mark.slow
def test_tables_without_a_reader_do_not_keep_a_run_from_being_written(model, data, tmp_path):
    err, code = closed_pipe("evaluate", model, data, "-o", tmp_path / "run")
    assert code == 141
    assert err.splitlines()[-1].startswith(f"run: {tmp_path / 'run'}")
    assert (tmp_path / "run/run.json").is_file()


# check


def test_check_counts_what_is_there_and_ends_with_0_when_it_is_clean(run, data, plates):
    code, out, err = run("check", plates)
    assert (code, err) == (0, "")
    assert "dark" in out
    assert "faults: 0, warnings: 0" in out
    code, out, err = run("check", data, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "data": str(data),
        "faults": 0,
        "warnings": 0,
        "categories": [
            {"name": "plate", "layout": "mvtec", "train": 9, "test_good": 2, "test_defective": 2, "masks": 2}
        ],
        "findings": [],
    }


def test_check_tells_all_faults_and_ends_with_2(run, refused, data, tmp_path):
    wrong = shutil.copytree(data, tmp_path / "set" / "wrong")
    (tmp_path / "set" / "hollow").mkdir()
    for mask in (wrong / "ground_truth/scratch").iterdir():
        mask.unlink()
    shutil.copy(wrong / "train/good/0.png", wrong / "test/good/copy.png")
    code, out, err = run("check", tmp_path / "set")
    assert (code, err) == (2, "")
    assert out.count("fault: ") == 3
    assert out.count("warning: ") == 1
    assert "faults: 3, warnings: 1" in out
    code, out, err = run("check", tmp_path / "set", "--json")
    assert (code, err) == (2, "")
    result = json.loads(out)
    assert (result["faults"], result["warnings"]) == (3, 1)
    kinds = [(finding["kind"], finding["hard"]) for finding in result["findings"]]
    assert kinds == [("empty", True), ("missing mask", True), ("missing mask", True), ("overlap", False)]
    assert result["findings"][3]["paths"] == [
        str(wrong / "test/good/copy.png"),
        str(wrong / "train/good/0.png"),
    ]
    assert "no such folder" in refused("check", tmp_path / "absent")
    assert "--layout: expected one of auto, bmad, " in refused("check", data, "--layout", "zebra")


def test_warnings_alone_do_not_make_check_fail(run, data, tmp_path):
    twice = shutil.copytree(data, tmp_path / "twice")
    shutil.copy(twice / "train/good/0.png", twice / "train/good/copy.png")
    code, out, _ = run("check", twice)
    assert code == 0
    assert "faults: 0, warnings: 1" in out


def test_fit_and_evaluate_refuse_faults_and_tell_a_few_warnings_of_each_kind(
    run, refused, model, data, tmp_path
):
    wrong = shutil.copytree(data, tmp_path / "wrong")
    for index in range(7):
        shutil.copy(wrong / f"train/good/{index}.png", wrong / f"train/good/copy{index}.png")
        (wrong / f"train/good/empty{index}.png").touch()
    code, _, err = run("evaluate", model, wrong, "--json")
    assert code == 0
    assert err.count("the same picture as") == 1
    assert ", and 6 more pictures alike; keep one." in err
    assert err.count("the file is empty") == 5
    assert err.splitlines()[-1] == "warning: 2 more of this kind (unreadable): see 'mendiff check'."
    for mask in (wrong / "ground_truth/scratch").iterdir():
        mask.write_bytes(mask.read_bytes()[:60])
    fit = ("fit", wrong, "-o", tmp_path / "m", *settings())
    for words in (fit, ("evaluate", model, wrong)):
        sentence = refused(*words)
        assert "0_mask.png: the image is truncated or damaged" in sentence
        assert sentence.endswith("1 more: see 'mendiff check'.")


def test_a_category_named_twice_or_empty_is_one_sentence(refused, model, plates, tmp_path):
    for words in (("fit", plates, "-o", tmp_path / "m", *settings()), ("evaluate", model, plates)):
        sentence = refused(*words, "--categories", "dark", "dark")
        assert "dark: 2 categories have this name" in sentence
    shutil.copytree(plates, tmp_path / "set")
    (tmp_path / "set/empty/train/good").mkdir(parents=True)
    for words in (("fit", tmp_path / "set", "-o", tmp_path / "m"), ("evaluate", model, tmp_path / "set")):
        assert "empty/train/good: no images found" in refused(*words)
    shutil.rmtree(tmp_path / "set/empty/train")
    for words in (("fit", tmp_path / "set", "-o", tmp_path / "m"), ("evaluate", model, tmp_path / "set")):
        assert "empty: an empty folder among categories" in refused(*words)


def test_fit_and_evaluate_take_a_list_of_folders(run, data, tmp_path):
    (tmp_path / "parts.yaml").write_text(
        f"plate: {{train: {data}/train/good, good: {data}/test/good, defective: {data}/test/scratch, "
        f"masks: {data}/ground_truth}}"
    )
    code, out, err = run("fit", tmp_path / "parts.yaml", "-o", tmp_path / "model", "--json", *settings())
    assert (code, err) == (0, "")
    assert json.loads(out)["categories"] == ["plate"]
    listed = run("evaluate", tmp_path / "model", tmp_path / "parts.yaml", "--json")
    assert listed == run("evaluate", tmp_path / "model", data, "--json", "--layout", "mvtec")
    assert listed[0] == 0


# fit


def test_a_second_fit_into_a_place_is_refused_while_the_first_runs(refused, data, tmp_path):
    with only_one(tmp_path / "model", "training"):
        sentence = refused("fit", data, "-o", tmp_path / "model", *settings())
        assert "another training into this place is running; wait for its end" in sentence
        for command in ("fit-codec", "fit-features", "benchmark", "demo"):
            words = ("--model", tmp_path) if command == "fit-features" else ()
            data_of = () if command == "demo" else (data,)
            assert "into this place is running" in refused(
                command, *data_of, "-o", tmp_path / "model", *words
            )


def test_a_model_folder_that_comes_up_during_a_fit_stays_and_the_model_too(run, data, tmp_path, monkeypatch):
    from mendiff.workflows import fit

    out, save = tmp_path / "model", fit.save

    def meanwhile(*args):
        out.mkdir()
        (out / "mine").write_text("mine")
        save(*args)

    monkeypatch.setattr(fit, "save", meanwhile)
    code, _, err = run("fit", data, "-o", out, "--json", *settings())
    assert code == 2
    assert err.endswith(f"the outcome (a model) is in {tmp_path / 'model-2'}.\n")
    assert (out / "mine").read_text() == "mine"
    assert mendiff.load(tmp_path / "model-2").info["images"] == 9
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cwd", "model", "model-2"]


def test_fit_writes_a_model_and_says_so(run, data, tmp_path):
    code, out, err = run("fit", data / "train/good", "-o", tmp_path / "model", *settings())
    assert (code, out) == (0, "")
    assert "9 good images of good, 32 pixels, 2 steps on cpu" in err
    assert f"model: {tmp_path / 'model'}" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cwd", "model"]


def test_fit_needs_images(run, refused, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "no images found" in refused("fit", tmp_path / "empty", "-o", tmp_path / "m", *settings())
    assert "no such folder" in refused("fit", tmp_path / "none", "-o", tmp_path / "m", *settings())
    one = draw(tmp_path / "one", 1)
    sentence = refused("fit", one, "-o", tmp_path / "m", *settings())
    assert (
        "expected at least 2 good images, one to learn from and one to set the threshold by, got 1"
        in sentence
    )
    shutil.copy(one / "0.png", one / "same.png")
    code, _, err = run("fit", one, "-o", tmp_path / "m", *settings())
    assert code == 2
    assert "expected at least 2 different good ones" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cwd", "empty", "one"]


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (2, "from 2 good images, 1 of which it was trained on: the rate of 1 % is a guess"),
        (3, "from 3 good images, 2 of which it was trained on: the rate of 1 % is a guess"),
        (5, "from 2 held-back images: the rate of 1 % is a guess"),
        (7, "from 3 held-back images: the rate of 1 % is a guess"),
    ],
)
@pytest.mark.parametrize("method", ["glad", "ran"])
def test_few_images_are_fitted_with_one_warning_of_what_the_threshold_is_worth(
    run, tmp_path, method, count, words
):
    few = draw(tmp_path / "few", count)
    chosen = RAN if method == "ran" else settings()
    code, out, err = run("fit", few, "-o", tmp_path / "model", "--json", *chosen)
    assert code == 0, err
    assert words in json.loads(out)["worth"]
    assert err.count("warning:") == 1
    assert words in err
    assert words in " ".join(run("info", tmp_path / "model")[1].replace("│", " ").split())
    assert mendiff.load(tmp_path / "model").predict(sorted(few.iterdir())).score.isfinite().all()


def test_fit_says_that_a_rate_is_extrapolated_and_keeps_the_one_that_was_asked_for(run, data, tmp_path):
    words = ("--false-alarm-rate", "0.05", *settings())
    code, out, err = run("fit", data, "-o", tmp_path / "model", *words)
    assert (code, out) == (0, "")
    assert "note: threshold from 4 held-back images" in err
    assert "the rate of 5 % is extrapolated; about 20 would measure it" in err
    model = mendiff.load(tmp_path / "model")
    assert model.calibration.false_alarm_rate == 0.05
    assert model.threshold < model.with_false_alarm_rate(0.01).threshold
    assert "meant to flag 5% of good parts" in " ".join(run("info", tmp_path / "model")[1].split())


def test_fit_names_a_defect_among_the_good_images_and_passes_over_it(run, tmp_path):
    good = draw(tmp_path / "good", 30)
    # Whether it is held back depends on its content.
    for seed in range(100):
        Image.fromarray(picture(np.random.default_rng(1000 + seed), defect=24)).save(good / "odd.png")
        seeds = {Path(name).name: at for at, name in GoodImages(sorted(good.iterdir()), 32).identities}
        if seeds["odd.png"] in choose(list(seeds.values())):
            break
    code, out, err = run("fit", good, "-o", tmp_path / "model", "--json", *settings(training__steps="30"))
    assert code == 0
    assert f"warning: {good / 'odd.png'}: stands out among the good images (score " in err
    assert json.loads(out)["standing_out"] == [str(good / "odd.png")]
    model = mendiff.load(tmp_path / "model")
    assert model.threshold < model.predict(good / "odd.png").score


def test_fit_goes_on_without_images_that_are_damaged(run, data, tmp_path):
    good = shutil.copytree(data / "train/good", tmp_path / "good")
    whole = (good / "0.png").read_bytes()
    (good / "cut.png").write_bytes(whole[: len(whole) // 2])
    (good / "text.jpg").write_text("no image")
    code, out, err = run("fit", good, "-o", tmp_path / "model", "--json", *settings())
    assert code == 0, err
    assert json.loads(out)["images"] == 9
    assert f"warning: {good / 'cut.png'}: the image is truncated or damaged" in err
    assert f"warning: {good / 'text.jpg'}: not an image that can be read" in err
    assert len(err.splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--image-size", "35"], "--image-size: expected a multiple of"),
        (["--set", "zebra=3"], "expected some of image_size, crop"),
        (["--set", "zebra.stripes=3"], "--set: expected a field of the config"),
        (["--set", "training.steps=many"], "config.training.steps: expected int, got 'many'"),
        (["--set", "training.steps=0"], "training.steps: expected at least 1, got 0"),
        (["--set", "training.learning_rate=-1"], "training.learning_rate: expected at least 0, got -1.0"),
        (["--set", "crop=-5"], "crop: expected at least 0, got -5"),
        (["--set", "crop=20"], "--set crop: expected a multiple of 8, got 20; try 16."),
        (["--set", "denoiser.network={zebra: 3}"], "settings of diffusers' UNet2DModel, got 'zebra'"),
        (["--set", "codec.factor=0"], "codec.factor: expected at least 1, got 0"),
        (["--device", "cuda:99"], "--device: expected auto or one of this machine's (cpu"),
        (["--textures", "nowhere"], "nowhere: no such file or folder"),
        (["--textures", "."], ".: no images found; expected files of type"),
        (["--devices", "10000"], "--devices: expected 1"),
        (["--strategy", "zebra"], "--strategy: expected one of auto, ddp, fsdp, got 'zebra'."),
        (["--strategy", "fsdp", "--set", "training.ema=0.5"], "--strategy fsdp: expected training.ema=0"),
        (
            ["--strategy", "fsdp", "--set", "training.ema=0", "--set", "training.optimizer=adafactor"],
            "got adafactor; add --set training.optimizer=adamw",
        ),
        (["--set", "training.batch_size=3", "--set", "training.accumulate=2"], "expected a multiple of 2 ("),
        (["--nodes", "2", "--set", "training.batch_size=3"], "training.batch_size: expected a multiple of 2"),
        (["--device", "abacus"], "--device: expected auto or one of this machine's (cpu"),
        (["--method", "zebra"], "method: expected one of diad, glad, ran"),
        (["--preset", "zebra"], "preset: expected one of tiny"),
        (["--categories", "zebra"], "--categories: expected some of plate, got 'zebra'"),
        (["--features-weights", "w.safetensors"], "expected a safetensors file, but there is no such file"),
        (["--pretrained", "x/y"], "--pretrained: expected a method and preset"),
        (["--method", "diad", "--preset", "paper"], "--pretrained: expected Stable Diffusion v1"),
        (["--preset", "paper/mvtec/rope"], "preset: expected paper/mvtec/ and one of carpet"),
        (["--resume"], "--resume: expected an interrupted fit"),
    ],
)
def test_fit_refuses(refused, data, tmp_path, words, sentence):
    assert sentence in refused("fit", data, "-o", tmp_path / "model", *settings(), *words)


@pytest.mark.parametrize(
    ("name", "kind", "sentence"),
    [
        (None, "other", "--features-weights: expected --features with it, timm's name of the backbone"),
        ("resnet18", "text", "expected a safetensors file, but it is damaged or of another kind"),
        ("resnet18", "none", "expected a safetensors file, but there is no such file"),
        ("resnet18", "other", "expected those of timm's resnet18"),
        ("zebranet", "other", "expected the name of a timm backbone, got 'zebranet'"),
    ],
)
def test_fit_refuses_wrong_features(refused, data, tmp_path, name, kind, sentence):
    weights = tmp_path / "weights.safetensors"
    if kind == "text":
        weights.write_text("no weights")
    if kind == "other":
        save_file({"zebra.weight": torch.zeros(3)}, weights)
    options = [*(["--features", name] if name else []), "--features-weights", weights]
    assert sentence in refused("fit", data, "-o", tmp_path / "model", *settings(), *options)


def test_fit_asks_how_images_must_look_where_all_running_means_are_zero(refused, data, tmp_path):
    import timm

    weights = tmp_path / "folded.safetensors"
    save_file(timm.create_model("test_efficientnet", pretrained=False).state_dict(), weights)
    words = ("fit", data, "-o", tmp_path / "model", *settings())
    named = ("--features", "test_efficientnet", "--features-weights", weights)
    sentence = refused(*words, *named)
    assert "all running means are zero" in sentence
    assert "--features-input tflite" in sentence
    assert "--features-input timm" in sentence
    assert "expected one of timm, tflite, got 'caffe'" in refused(*words, *named, "--features-input", "caffe")
    assert "--features-input: expected --features with it" in refused(*words, "--features-input", "tflite")


def test_fit_without_the_hub_names_the_command_that_fetches_a_backbone(refused, data, tmp_path, cache):
    words = ("fit", data, "-o", tmp_path / "model", *settings())
    for name in (("--features", "resnet18"), ("--set", "features.name=resnet18")):
        sentence = refused(*words, *name)
        assert "hf download timm/resnet18.a1_in1k model.safetensors, or give --features-weights" in sentence


def shrink(changes):
    return [word for key, one in changes.items() for word in ("--set", f"{key}={json.dumps(one)}")]


PAPER = ("--preset", "paper/mvtec/cable", "--device", "cpu", "--set", "training.steps=1", "--set", "steps=2")


def test_fit_fills_a_papers_preset_with_pretrained_parts(
    run, data, tmp_path, hub, diffusion, shrunk, networks
):
    words = ("--pretrained", hub, "--prompt", diffusion / "prompts.safetensors", *PAPER, *shrink(shrunk))
    words += ("--features-weights", diffusion / "backbone.safetensors", "--set", "training.batch_size=2")
    code, out, err = run("fit", data, "-o", tmp_path / "model", *words)
    assert (code, out) == (0, ""), err
    loaded = [line.partition(":")[0] for line in err.splitlines()[1:5]]
    assert loaded == ["UNet", "autoencoder", "prompt 'a photo of sks'", "features, test_vit.r160_in1k"]
    model = mendiff.load(tmp_path / "model")
    assert model.info["pretrained"][0].endswith("unet/diffusion_pytorch_model.safetensors")
    assert model.method.config.threshold == 0.4
    unet, codec, backbone = networks
    # One step at the published rate moves no weight further than that, and frozen parts not at all.
    pairs = ((unet, model.method.denoiser.network, 1e-5), (codec, model.method.codec.network, 0))
    for theirs, ours, most in pairs:
        own = ours.state_dict()
        moved = max(float((own[key] - one).abs().max()) for key, one in theirs.state_dict().items())
        assert moved <= most
    assert torch.equal(model.method.features.backbone.cls_token, backbone.cls_token)


def test_one_model_has_a_prompt_for_every_category(run, refused, plates, tmp_path, diffusion, shrunk):
    embeddings = torch.randn(3, 1, 5, 6, generator=torch.Generator().manual_seed(2))
    names = ("dark", "light", "no_prompt")
    prompts = tmp_path / "prompts.safetensors"
    save_file({name: one.clone() for name, one in zip(names, embeddings, strict=True)}, prompts)
    words = ["fit", plates, "-o", tmp_path / "model", "--preset", "paper/mvtec", "--pretrained", diffusion]
    words += ["--prompt", prompts, *shrink(shrunk), "--set", "features.name=''", "--device", "cpu"]
    words += ["--set", "training.steps=1", "--set", "training.batch_size=2", "--set", "steps=2"]
    sentence = refused(*words)
    assert "--categories: expected some that have a prompt (carpet, grid," in sentence
    words += ["--set", "denoiser.categories=[dark, light]", "--set", "both_ways=[light]"]
    sentence = refused(*words)
    assert sentence.endswith("for a model with prompts per category, got global.")
    code, _, err = run(*words, "--statistics", "category")
    assert code == 0, err
    assert f"prompt 'a photo of sks' with 2 categories: {prompts}" in err
    plain, dark, light = (mendiff.load(tmp_path / "model", category=name) for name in (None, "dark", "light"))
    for model, expected in ((plain, embeddings[:2].mean(0)), (dark, embeddings[0]), (light, embeddings[1])):
        torch.testing.assert_close(model.method.denoiser.prompt, expected)
    assert [one.method.readout.config.backward for one in (plain, dark, light)] == ["none", "none", "mean"]
    image = plates / "dark/test/good/0.png"
    scores = [one.predict(image).score.item() for one in (plain, dark, light)]
    assert len(set(scores)) == 3
    out = tmp_path / "found"
    text = run("predict", tmp_path / "model", image, "-o", out, "--category", "light", "--json")[1]
    assert json.loads(text)["images"][0]["score"] == pytest.approx(scores[2])


def test_a_codec_of_ones_own_takes_the_place_of_the_pretrained_one(
    run, data, tmp_path, diffusion, shrunk, networks
):
    from mendiff.checkpoints.codecs import save_codec
    from mendiff.nets.codec import CodecConfig

    weights = {f"network.{key}": one * 2 for key, one in networks[1].state_dict().items()}
    (tmp_path / "codec").mkdir()
    save_codec(tmp_path / "codec", CodecConfig("kl", network=shrunk["codec.network"]), weights, {})
    shutil.rmtree(diffusion / "vae")
    words = (
        "--pretrained",
        diffusion,
        "--prompt",
        diffusion / "prompts.safetensors",
        *PAPER,
        *shrink(shrunk),
    )
    words += ("--set", "features.name=''", "--set", "training.batch_size=2", "--codec", tmp_path / "codec")
    code, _, err = run("fit", data, "-o", tmp_path / "model", *words)
    assert code == 0, err
    assert f"autoencoder: {tmp_path / 'codec'}" in err
    own = mendiff.load(tmp_path / "model").method.codec.state_dict()
    assert all(torch.equal(own[key], one) for key, one in weights.items())


def test_a_full_disk_at_the_first_checkpoint_leaves_nothing(run, data, tmp_path, monkeypatch):
    import lightning.fabric.plugins.io.torch_io as torch_io

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch_io, "_atomic_save", full)
    code, _, err = run("fit", data, "-o", tmp_path / "model", "--json", *settings())
    assert code == 2
    assert "expected room on the disk, but it is full" in err
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
    assert "expected room on the disk, but it is full" in err
    assert err.endswith("The last whole checkpoint is kept: the same command with --resume goes on.\n")
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
    assert err.endswith("The last whole checkpoint is kept: the same command with --resume goes on.\n")
    kept = sorted(one.name for one in (tmp_path / ".codec.fit").iterdir())
    assert kept == [loop.CHECKPOINT, "manifest.json"]
    assert run("fit-codec", data, "-o", tmp_path / "codec", "--json", "--resume", *changes)[0] == 0
    assert saved == ["1", "2", "2", "3"]


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("training.optimizer=sgd", "training.optimizer: expected one of adamw, adamw8bit, adafactor"),
        ("training.optimizer=adamw8bit", "expected CUDA and the package bitsandbytes for 'adamw8bit'"),
        ("training.precision=fp16", "training.precision: expected auto, float32 or bf16 on cpu, got 'fp16'"),
        (
            "training.lora_rank=4",
            "training.lora_rank: expected 0 for a network that starts from random weights",
        ),
    ],
)
def test_savings_that_cannot_be_had_end_with_2(run, data, tmp_path, field, said):
    code, _, err = run("fit", data, "-o", tmp_path / "model", "--device", "cpu", *settings(), "--set", field)
    assert code == 2
    assert said in err.splitlines()[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cwd"]


def test_lora_without_peft_ends_with_2(run, data, tmp_path, diffusion, shrunk, monkeypatch):
    monkeypatch.setattr("mendiff.training.lora.find_spec", lambda name: None)
    words = (
        "--pretrained",
        diffusion,
        "--prompt",
        diffusion / "prompts.safetensors",
        *PAPER,
        *shrink(shrunk),
    )
    words += ("--features-weights", diffusion / "backbone.safetensors", "--set", "training.lora_rank=2")
    code, _, err = run("fit", data, "-o", tmp_path / "model", *words)
    assert code == 2
    assert "training.lora_rank: expected the package peft for LoRA, but it is not installed" in err


def test_offloaded_prediction_is_the_same_and_halved_one_is_close(run, model, data, tmp_path):
    scores = {}
    for name, flags in {"plain": [], "offload": ["--offload"], "half": ["--half"]}.items():
        code, told, err = run("predict", model, data / "test", "-o", tmp_path / name, "--json", *flags)
        assert code == 0, err
        scores[name] = [row["score"] for row in json.loads(told)["images"]]
    assert scores["offload"] == scores["plain"]
    assert scores["half"] != scores["plain"]
    assert scores["half"] == pytest.approx(scores["plain"], rel=0.3)


def test_a_full_disk_at_the_end_of_a_fit_loses_nothing(run, data, tmp_path, monkeypatch):
    from mendiff.checkpoints import weights

    def full(*_):
        raise SafetensorError("Error while serializing: I/O error: No space left (os error 28)")

    out, write = tmp_path / "model", weights.save_file
    monkeypatch.setattr(weights, "save_file", full)
    code, _, err = run("fit", data, "-o", out, "--json", *settings())
    assert code == 2
    assert "expected room on the disk, but it is full" in err
    assert "What was learned is kept: the same command with --resume goes on." in err
    assert len(err.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [".model.fit", "cwd"]
    monkeypatch.setattr(weights, "save_file", write)
    assert run("fit", data, "-o", out, "--json", "--resume", *settings())[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cwd", "model"]


def test_output_folder_in_use_needs_overwrite_and_foreign_files_stay(refused, run, data, own_model, tmp_path):
    fit = ("fit", data, *settings(), "-o")
    assert "it holds files; add --overwrite" in refused(*fit, own_model)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    assert "holds other files" in refused(*fit, tmp_path / "mine", "--overwrite")
    assert "it is a file" in refused(*fit, tmp_path / "mine/letter.txt")
    code, out, err = run(*fit, own_model, "--overwrite", "--seed", "5", "--json")
    assert code == 0, err
    assert json.loads((own_model / "config.json").read_text())["info"]["seed"] == 5
    assert json.loads(out)["model"] == str(own_model)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


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
    assert "interrupted; the same command with --resume goes on from here" in err
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


def test_a_fit_interrupted_while_its_codec_learns_goes_on_from_there(run, data, tmp_path, monkeypatch):
    fit = ("fit", data, *settings(**CODEC_STAGE), "-o")
    assert run(*fit, tmp_path / "unbroken")[0] == 0
    keep, kept = loop.keep, []

    def interrupted(checkpoint, learning, step):
        keep(checkpoint, learning, step)
        kept.append(step)
        raise KeyboardInterrupt

    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
        patch.setattr(loop, "keep", interrupted)
        code, _, err = run(*fit, tmp_path / "model")
        signal.signal(signal.SIGINT, handler)
    assert code == 130
    assert kept == [1]
    assert "the same command with --resume goes on from here" in err
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
    assert "interrupted; the same command with --resume goes on from here" in err
    assert (tmp_path / ".model.fit/last.ckpt").read_text() == "weights"


def test_interrupt_before_the_first_checkpoint_leaves_nothing(run, data, tmp_path, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("mendiff.anomalib_models.train", interrupted)
    code, out, err = run("fit", data, "-o", tmp_path / "model", *settings())
    assert (code, out) == (130, "")
    assert err.endswith("mendiff fit: interrupted.\n")
    assert [path.name for path in tmp_path.iterdir()] == ["cwd"]


# predict


def test_predict_writes_tables_and_pictures(run, model, data, tmp_path):
    code, out, err = run("predict", model, data / "test", "-o", tmp_path / "found", "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert result == json.loads((tmp_path / "found/predictions.json").read_text())
    assert set(result) == {"model", "threshold", "images", "unreadable", "left_out", "complete"}
    rows = list(csv.DictReader((tmp_path / "found/predictions.csv").read_text().splitlines()))
    assert [row["image"] for row in rows] == [row["image"] for row in result["images"]]
    assert [float(row["score"]) for row in rows] == [row["score"] for row in result["images"]]
    assert len(rows) == 4
    for row in result["images"]:
        assert row["defective"] == (row["score"] > result["threshold"])
        assert 0 < row["p_value"] <= 1
        assert size(tmp_path / "found" / row["heat_map"]) == (40, 40)
        assert size(tmp_path / "found" / row["reconstruction"]) == (40, 40)


def test_predict_takes_images_of_all_kinds(run, model, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    upright = picture(np.random.default_rng(0))[:30]
    Image.fromarray(upright[:, :, 0]).save(photos / "grey.png")
    Image.fromarray(upright[:, :, 0].astype(np.uint16) * 257).save(photos / "deep.png")
    Image.fromarray(np.dstack([upright, np.full((30, 40), 255, np.uint8)])).save(photos / "alpha.png")
    Image.fromarray(upright).save(photos / "plain.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter clockwise
    Image.fromarray(np.ascontiguousarray(np.rot90(upright))).save(photos / "turned.png", exif=exif)
    code, out, err = run("predict", model, photos, "-o", tmp_path / "found", "--json")
    assert (code, err) == (0, "")
    rows = {row["heat_map"]: row["score"] for row in json.loads(out)["images"]}
    score = {name: rows[f"heat_maps/{name}.png"] for name in ("grey", "deep", "alpha", "plain", "turned")}
    # Equal up to rounding, which depends on an image's place in the batch.
    assert [score["alpha"], score["turned"]] == pytest.approx([score["plain"]] * 2, rel=1e-5)
    assert score["deep"] == pytest.approx(score["grey"], rel=1e-5)
    assert size(tmp_path / "found/heat_maps/turned.png") == (40, 30)


def test_images_of_one_name_get_pictures_of_their_own(run, model, tmp_path):
    first = draw(tmp_path / "a", 1)
    second = draw(tmp_path / "b", 1, defect=16)
    shutil.copy(second / "0.png", second / "0-2.png")
    code, out, err = run("predict", model, first, second, "-o", tmp_path / "found", "--json")
    assert code == 0, err
    assert len({row["heat_map"] for row in json.loads(out)["images"]}) == 3
    assert len(list((tmp_path / "found/heat_maps").iterdir())) == 3


def test_predict_takes_names_of_all_kinds_and_keeps_what_is_written_apart(run, model, data, tmp_path):
    photos, picture = tmp_path / "photos", (data / "test/good/0.png").read_bytes()
    names = [
        *("a.jpg", "a.png/x.jpg", "A.jpg", "=1+1.png", "-2.png", "@x/new\nline.png", "\x1b[31mred.png"),
        *("L" * 230 + ".png", "L" * 231 + ".png", "検" * 80 + ".png", "検" * 80 + "/x.png", "plain.png"),
        *(unicodedata.normalize(form, "Tür.png") for form in ("NFC", "NFD")),
        os.fsdecode(b"caf\xe9.png"),
        os.fsdecode(b"caf\xe8.png"),
    ]
    for name in names:
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        (photos / name).write_bytes(picture)
    code, out, err = run("predict", model, photos, "-o", tmp_path / "found", "--json")
    assert (code, err) == (0, "")
    rows = json.loads(out)["images"]
    assert {row["image"] for row in rows} == {str(photos / name) for name in names}
    for kind in ("heat_map", "reconstruction"):
        places = [row[kind] for row in rows]
        assert all(size(tmp_path / "found" / place) == (40, 40) for place in places)
        # As file systems without capitals and with one form of Unicode see them.
        assert len({unicodedata.normalize("NFD", place).casefold() for place in places}) == len(names)
        assert all(place.isprintable() for place in places)
        assert max(len(part.encode()) for place in places for part in place.split("/")) <= 255
    written = (tmp_path / "found/predictions.csv").read_text(encoding="utf-8")
    assert len(list(csv.DictReader(written.splitlines(keepends=True)))) == len(names)
    assert "caf\\udce9.png" in written


def test_no_cell_of_a_table_begins_like_a_formula(run, model, data, tmp_path, monkeypatch):
    for name in ("=1+1.png", "+1.png", "-1.png", "@x.png", "\tx.png", "plain.png"):
        shutil.copy(data / "test/good/0.png", tmp_path / "cwd" / name)
    (tmp_path / "cwd/-cut.png").write_bytes(b"no image")
    assert run("predict", model, ".", "-o", tmp_path / "found")[0] == 3
    with (tmp_path / "found/predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7
    for row in rows:
        assert not any(value.startswith(("=", "+", "-", "@", "\t", "\r")) for value in row.values())
    assert {row["image"] for row in rows} >= {"'=1+1.png", "plain.png"}


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("Invalid data"), "the image can't be read (RuntimeError: Invalid data)."),
        (MemoryError(), "the image can't be read (MemoryError)."),
        (OSError(errno.ESTALE, "Stale file handle"), "the image can't be read (OSError: Stale file handle)."),
    ],
)
def test_what_goes_wrong_with_one_image_is_that_ones_own(
    run, model, data, tmp_path, monkeypatch, error, told
):
    read, bad = mendiff_model.Model.read, str(data / "test/good/1.png")

    def fail(model, path):
        if str(path) == bad:
            raise error
        return read(model, path)

    monkeypatch.setattr(mendiff_model.Model, "read", fail)
    code, out, err = run("predict", model, data / "test", "-o", tmp_path / "found", "--json")
    result = json.loads(out)
    assert (code, len(result["images"]), result["complete"]) == (3, 3, False)
    assert result["unreadable"] == [f"{bad}: {told}"]
    assert err == f"warning: {bad}: {told}\n"
    rows = list(csv.DictReader((tmp_path / "found/predictions.csv").read_text().splitlines()))
    assert [row["error"] for row in rows if row["image"] == bad] == [f"{bad}: {told}"]
    assert [row["score"] == "" for row in rows] == [row["image"] == bad for row in rows]


def test_an_image_whose_pictures_cannot_be_written_keeps_its_score(run, model, data, tmp_path, monkeypatch):
    save = predict.save_bands

    def fail(path, *args):
        if path.parts[-3:] == ("reconstructions", "scratch", "0.png"):
            raise OSError(errno.EINVAL, "Invalid argument", str(path))
        save(path, *args)

    monkeypatch.setattr(predict, "save_bands", fail)
    code, _, err = run("predict", model, data / "test", "-o", tmp_path / "found")
    assert code == 3
    assert "the pictures of 1 could not be written" in err.splitlines()[-1]
    rows = list(csv.DictReader((tmp_path / "found/predictions.csv").read_text().splitlines()))
    row = next(row for row in rows if row["error"])
    assert row["image"].endswith("scratch/0.png")
    assert float(row["score"]) >= 0
    assert (row["heat_map"], row["reconstruction"]) == ("heat_maps/scratch/0.png", "")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG])
def test_a_full_disk_keeps_what_was_found_so_far(run, model, data, tmp_path, monkeypatch, number):
    save = predict.save_bands

    def full(path, *args):
        if path.parts[-3:] == ("heat_maps", "scratch", "1.png"):
            raise OSError(number, os.strerror(number), str(path))
        save(path, *args)

    monkeypatch.setattr(predict, "save_bands", full)
    code, _, err = run("predict", model, data / "test", "-o", tmp_path / "found")
    kept, sentence = tmp_path / "found-unfinished", err.splitlines()[-1]
    assert code == 2
    assert " at 1.png" in sentence
    assert "choose another place." in sentence
    assert sentence.endswith(f"What was found so far is in {kept}.")
    assert len((kept / "predictions.csv").read_text().splitlines()) == 1 + 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cwd", "found-unfinished"]


def test_large_pictures_are_read_again_and_come_out_the_same(run, model, data, tmp_path, monkeypatch):
    assert run("predict", model, data / "test", "-o", tmp_path / "kept", "--json")[0] == 0
    monkeypatch.setattr(predict, "KEPT_BYTES", 0)
    assert run("predict", model, data / "test", "-o", tmp_path / "again", "--json")[0] == 0
    written = sorted(path.relative_to(tmp_path / "kept") for path in (tmp_path / "kept").rglob("*.*"))
    assert len(written) == 2 + 2 * 4
    for path in written:
        assert (tmp_path / "kept" / path).read_bytes() == (tmp_path / "again" / path).read_bytes()


def test_both_pictures_of_an_oblong_image_have_its_size(run, model, tmp_path):
    wide = np.random.default_rng(0).integers(0, 256, (30, 90, 3), dtype=np.uint8)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert run("predict", model, tmp_path / "wide.png", "-o", tmp_path / "found")[0] == 0
    for kind in ("heat_maps", "reconstructions"):
        assert size(tmp_path / "found" / kind / "wide.png") == (90, 30)


def test_predict_names_and_counts_the_files_that_it_passes_over(run, model, data, tmp_path, monkeypatch):
    left = [(data / "a.pgm", "type .pgm"), (data / "b.pgm", "type .pgm"), (data / "c", "broken link")]
    monkeypatch.setattr("mendiff.workflows.findings.images_left_out", lambda folder: left)
    code, out, err = run("predict", model, data / "test", "-o", tmp_path / "found", "--json")
    assert code == 0
    assert err == "warning: 3 files are not inspected: 2 (type .pgm), 1 (broken link).\n"
    told = [{"path": str(path), "reason": reason} for path, reason in left]
    assert json.loads(out)["left_out"] == told
    assert json.loads((tmp_path / "found/predictions.json").read_text())["left_out"] == told


def test_a_folder_that_comes_up_while_predict_runs_stays_and_the_findings_too(
    run, model, data, tmp_path, monkeypatch
):
    out, save = tmp_path / "found", predict.save_bands

    def meanwhile(*args):
        out.mkdir(exist_ok=True)
        (out / "mine").write_text("mine")
        save(*args)

    monkeypatch.setattr(predict, "save_bands", meanwhile)
    code, told, err = run("predict", model, data / "test", "-o", out, "--json")
    assert (code, told) == (2, "")
    assert err.endswith(f"the outcome (findings) is in {tmp_path / 'found-2'}.\n")
    assert [path.name for path in out.iterdir()] == ["mine"]
    assert len((tmp_path / "found-2/predictions.csv").read_text().splitlines()) == 1 + 4


def test_predict_names_damaged_images_and_goes_on(run, refused, model, data, tmp_path):
    photos = shutil.copytree(data / "test/scratch", tmp_path / "photos")
    (photos / "cut.png").write_bytes((photos / "0.png").read_bytes()[:200])
    code, out, err = run("predict", model, photos, "-o", tmp_path / "found", "--json")
    assert code == 3
    assert err.startswith(f"warning: {photos / 'cut.png'}: ")
    assert len(err.splitlines()) == 1
    assert len(json.loads(out)["images"]) == 2
    assert "cut.png" in json.loads(out)["unreadable"][0]
    rows = list(csv.DictReader((tmp_path / "found/predictions.csv").read_text().splitlines()))
    assert [(row["image"], row["score"]) for row in rows if row["error"]] == [(str(photos / "cut.png"), "")]
    code, _, err = run("predict", model, photos, "-o", tmp_path / "again")
    assert code == 3
    assert "2 images look defective" in err or "of 2 images look defective" in err
    assert "; 1 of 3 could not be read; see " in err


def test_predict_without_any_readable_image_ends_with_2_and_writes_nothing(run, model, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"")
    code, out, err = run("predict", model, tmp_path / "bad.png", "-o", tmp_path / "found")
    assert (code, out) == (2, "")
    assert "No readable image is left" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.png", "cwd"]


def test_predict_never_replaces_a_model(refused, own_model, data):
    sentence = refused("predict", own_model, data / "test", "-o", own_model, "--overwrite")
    assert "--overwrite would replace findings here, but this folder holds a model" in sentence


def test_predict_overwrites_only_when_told(run, refused, model, data, tmp_path):
    words = ("predict", model, data / "test/good", "-o", tmp_path / "found")
    assert run(*words)[0] == 0
    assert "add --overwrite" in refused(*words)
    (tmp_path / "found/old.txt").write_text("old")
    assert run(*words, "--overwrite")[0] == 0
    assert not (tmp_path / "found/old.txt").exists()


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda m: (m / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda m: (m / "config.json").write_text("{}"), "config.json is not mendiff's"),
        (lambda m: (m / "config.json").write_text("{"), "expected JSON, but it is damaged"),
        (
            lambda m: (m / "config.json").write_text('{"format": "mendiff", "version": 99}'),
            "expected a model of version 2 or older, got version 99",
        ),
        (
            lambda m: (m / "model.safetensors").write_bytes(b"short"),
            "expected the file that was written with this model, but it is damaged",
        ),
        (lambda m: shutil.rmtree(m), "there is no such folder"),
    ],
)
def test_damaged_model_is_refused(refused, own_model, data, tmp_path, damage, sentence):
    damage(own_model)
    assert sentence in refused("predict", own_model, data / "test", "-o", tmp_path / "found")


@pytest.mark.parametrize("words", [["--device", "cuda:99"], ["--batch-size", "0"]])
def test_predict_and_evaluate_refuse(refused, model, data, tmp_path, words):
    assert words[0] in refused("predict", model, data / "test", "-o", tmp_path / "found", *words)
    assert words[0] in refused("evaluate", model, data, *words)


# evaluate and info


def test_evaluate_json_has_exactly_the_metrics(run, model, data):
    code, out, err = run("evaluate", model, data, "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert list(result) == TOLD
    assert list(result["categories"]) == list(result["at_threshold"]) == ["plate"]
    assert list(result["mean"]) == list(result["categories"]["plate"]) == METRICS
    assert all(0 <= value <= 1 for value in result["mean"].values())
    assert result["mean"] == result["categories"]["plate"]


def test_evaluate_and_predict_give_an_image_the_same_score(run, model, data, tmp_path):
    code, out, _ = run("predict", model, data / "test", "-o", tmp_path / "found", "--batch-size", 3, "--json")
    assert code == 0
    predicted = {row["image"]: row["score"] for row in json.loads(out)["images"]}
    loaded, terminal = mendiff.load(model), Terminal(quiet=True)
    tests = read_tests(open_data(data)[0], loaded.image_size, terminal)
    found = find(loaded, tests, 2, terminal, "plate")
    evaluated = {
        str(sample.path): score for sample, score in zip(tests.samples, found.score.tolist(), strict=True)
    }
    assert evaluated == pytest.approx(predicted, rel=1e-4)


@pytest.fixture
def twinned(data, tmp_path):
    """The data with clean twins, of which one fits no image, and one can't be read."""
    root = shutil.copytree(data, tmp_path / "plate")
    draw(root / "test/hole", 2, defect=16, seed=3)
    shutil.copytree(root / "ground_truth/scratch", root / "ground_truth/hole")
    draw(root / "twin/scratch", 2, seed=2)
    draw(root / "twin/hole", 2, seed=3)
    Image.new("RGB", (30, 20)).save(root / "twin/hole/0.png")
    (root / "twin/hole/1.png").write_bytes(b"")
    return root


def test_evaluate_compares_reconstructions_with_clean_twins(run, model, twinned, tmp_path):
    words = ("-o", tmp_path / "run", "--report", tmp_path / "report.html", "--json")
    code, out, err = run("evaluate", model, twinned, *words)
    assert code == 0, err
    assert "expected a twin of its image's size, 40x40, got 30x20" in err.replace("\n", " ")
    assert err.count("twin/hole/") == 2
    result = json.loads(out)
    assert list(result) == ["mean", "categories", "twins", *TOLD[2:]]
    assert list(result["categories"]["plate"]) == [*METRICS, *TWINS]
    found = result["twins"]["plate"]
    assert (found["images"], list(found["kinds"])) == (2, ["scratch"])
    assert found["mean"] == {key: result["mean"][key] for key in TWINS}
    # The twins are drawn with the same random numbers: outside differs only what resizing carries there.
    assert found["untouched"]["twin_psnr_inside"] < 10 < 30 < found["untouched"]["twin_psnr_outside"]
    stored = json.loads((tmp_path / "run/run.json").read_text())
    assert stored["metrics"]["mean"] == result["mean"]
    assert "Against the clean twin" in (tmp_path / "report.html").read_text()


def test_evaluate_prints_the_figures_of_twins_beside_those_of_nothing_mended(run, model, twinned, data):
    code, text, _ = run("evaluate", model, twinned)
    assert code == 0
    assert "reconstructions against clean twins" in text
    assert "nothing mended" in text
    assert "nothing mended" not in run("evaluate", model, data)[1]


def test_evaluate_writes_a_report_and_measures_controls(run, model, data, tmp_path):
    words = ("--report", tmp_path / "report.html", "--controls", "--json")
    code, out, err = run("evaluate", model, data, *words)
    assert code == 0, err
    assert {"median colour", "memory bank", "untrained"} == set(json.loads(out)["controls"])
    page = (tmp_path / "report.html").read_text()
    assert all(name in page for name in ("scratch/0.png", "scratch/1.png", "good/0.png", "good/1.png"))


def test_evaluate_writes_a_run_and_report_makes_its_page(run, refused, model, data, tmp_path):
    out = tmp_path / "run"
    assert run("evaluate", model, data, "-o", out, "--report", out / "at-once.html")[0] == 0
    code, text, _ = run("report", out, "--json")
    told = json.loads(text)
    assert (code, told["report"], told["images"]) == (0, str(out / "report.html"), 4)
    page = (out / "report.html").read_text()
    assert told["bytes"] == (out / "report.html").stat().st_size
    assert page == (out / "at-once.html").read_text()
    assert all(f'data-name="{kind}/{i}.png"' in page for kind in ("good", "scratch") for i in (0, 1))
    assert "How a few verdicts came about" in page
    assert "PRO, regions of plate" in page
    assert "add --overwrite" in refused("evaluate", model, data, "-o", out)
    assert run("evaluate", model, data, "-o", out, "--overwrite")[0] == 0
    assert sorted(path.name for path in out.iterdir()) == ["pictures", "run.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cwd", "run"]


def test_pictures_of_a_run_keep_the_proportions_of_their_images(run, model, data, tmp_path):
    wide = shutil.copytree(data, tmp_path / "wide")
    for path in wide.rglob("*.png"):
        with Image.open(path) as image:
            image.resize((80, 40)).save(path)
    assert run("evaluate", model, wide, "-o", tmp_path / "run")[0] == 0
    sizes = {size(path) for path in (tmp_path / "run/pictures").glob("0*")}  # without the strips of a few
    assert sizes == {(32, 16)}  # the model sees 32 pixels: more would only be blur


def test_unreadable_test_images_are_named_in_the_run_and_end_with_3(run, model, data, tmp_path):
    torn = shutil.copytree(data, tmp_path / "torn")
    (torn / "test/scratch/0.png").write_bytes(b"no image")
    code, out, _ = run("evaluate", model, torn, "-o", tmp_path / "run", "--json")
    result, lost = json.loads(out), [str(torn / "test/scratch/0.png")]
    assert (code, result["complete"], result["unreadable"]) == (3, False, lost)
    told = json.loads((tmp_path / "run/run.json").read_text())["model_info"]
    assert told["unreadable test images"] == lost
    code, _, err = run("evaluate", model, torn)
    assert code == 3
    assert "note: 1 of 4 test images could not be read and are in no figure." in err


def test_a_page_that_comes_up_while_a_report_is_made_stays_and_the_report_too(
    run, model, data, tmp_path, monkeypatch
):
    from mendiff.report import html

    assert run("evaluate", model, data, "-o", tmp_path / "run")[0] == 0
    page, render = tmp_path / "page.html", html.render

    def meanwhile(report):
        page.write_text("mine")
        return render(report)

    for _ in range(2):  # where there was nothing, and where there was an earlier report
        with monkeypatch.context() as patch:
            patch.setattr(html, "render", meanwhile)
            code, _, err = run("report", tmp_path / "run", "-o", page)
        assert code == 2
        assert err.endswith(f"the report is {tmp_path / 'page-2.html'}.\n")
        assert page.read_text() == "mine"
        (tmp_path / "page-2.html").rename(page)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cwd", "page.html", "run"]


def test_report_refuses_what_is_no_run_and_leaves_foreign_files_alone(run, refused, model, data, tmp_path):
    assert "expected a run folder" in refused("report", model)
    assert "there is no such folder" in refused("report", tmp_path / "nowhere")
    assert run("evaluate", model, data, "-o", tmp_path / "run", "--json")[0] == 0
    page = tmp_path / "page.html"
    assert run("report", tmp_path / "run", "-o", page)[0] == 0
    assert run("report", tmp_path / "run", "-o", page)[0] == 0
    page.write_text("my own")
    assert "choose another name" in refused("report", tmp_path / "run", "-o", page)
    assert "choose another name" in refused("evaluate", model, data, "--report", page)
    assert page.read_text() == "my own"


def test_evaluate_table_keeps_whole_names_in_80_columns(run, model, data, tmp_path):
    for name in ("road_crack_panels", "metal_nut"):
        shutil.copytree(data, tmp_path / "set" / name)
    code, out, _ = run("evaluate", model, tmp_path / "set")
    assert code == 0
    assert "road_crack_panels" in out
    assert "category" in out
    assert "…" not in out
    assert max(map(len, out.splitlines())) <= 80


def test_evaluate_refuses_masks_of_another_size_and_data_without_tests(refused, model, data, tmp_path):
    wrong = shutil.copytree(data, tmp_path / "wrong")
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(wrong / "ground_truth/scratch/0_mask.png")
    assert "a mask must have its image's size, 40x40, got 20x20" in refused("evaluate", model, wrong)
    assert "expected test images" in refused("evaluate", model, data / "train/good")


# Further methods, and statistics of every category.


def test_ran_goes_through_fit_predict_with_explanations_and_evaluate(run, data, tmp_path):
    code, out, _ = run("fit", data, "-o", tmp_path / "ran", "--json", *RAN)
    assert code == 0
    assert json.loads(out)["config"]["noise_steps"] == [20, 90]
    scores, pictures = [], []
    for words in ([], ["--explain"]):
        out = tmp_path / f"found{len(words)}"
        code, text, _ = run("predict", tmp_path / "ran", data / "test", "-o", out, "--json", *words)
        assert code == 0
        scores.append([row["score"] for row in json.loads(text)["images"]])
        pictures.append((out / "reconstructions/good/0.png").read_bytes())
    assert scores[0] == scores[1]
    assert pictures[0] != pictures[1]
    code, text, _ = run("evaluate", tmp_path / "ran", data, "--json")
    assert code == 0
    assert list(json.loads(text)["mean"]) == METRICS


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("noise_steps=[1000]", "noise_steps: expected timesteps of the schedule, 1 to 999, got [1000]."),
        ("codec.factor=4", "layers: expected feature maps no coarser than the denoiser's deepest level"),
        ("features.layers=[stage9]", "layers: expected some of stage0..stage4 for resnet18, got 'stage9'."),
    ],
)
def test_fit_refuses_what_ran_cannot_do(refused, data, tmp_path, setting, sentence):
    words = ("--set", "features.name=resnet18") if "stage9" in setting else ("--features", "none")
    assert sentence in refused("fit", data, "-o", tmp_path / "ran", *RAN, *words, "--set", setting)


DIAD = ("--method", "diad", *settings(codec__factor="4", denoiser__network=GUIDED_NETWORK))


def test_diad_learns_several_categories_and_evaluate_prints_their_mean_and_pool(run, plates, tmp_path):
    out = tmp_path / "diad"
    words = ("--categories", "all", "--balance", "category", "--json")
    code, text, _ = run("fit", plates, "-o", out, *words, *DIAD)
    assert code == 0
    assert json.loads(text)["categories"] == ["dark", "light"]
    code, text, _ = run("evaluate", out, plates, "--json")
    assert code == 0
    result = json.loads(text)
    assert list(result) == ["mean", "categories", "pooled", *TOLD[2:]]
    assert list(result["pooled"]) == METRICS
    code, text, _ = run("evaluate", out, plates)
    metrics, _, at_threshold = text.partition("at the threshold")
    rows = [line.split()[1] for line in metrics.splitlines() if line.startswith("│")]
    assert rows == ["dark", "light", "mean", "pooled"]
    assert [line.split()[1] for line in at_threshold.splitlines() if line.startswith("│")] == [
        "dark",
        "light",
    ]
    code, text, _ = run("evaluate", out, plates, "--categories", "dark", "--json")
    assert "pooled" not in json.loads(text)


def test_codec_is_fitted_and_taken_by_fit(run, refused, data, tmp_path):
    codec = tmp_path / "codec"
    small = ("--set", "training.steps=12", "--set", "crop=0", "--set", "image_size=32")
    code, text, _ = run("fit-codec", data, "-o", codec, "--json", *small)
    assert code == 0
    result = json.loads(text)
    assert result["after"]["psnr"] > result["before"]["psnr"]
    assert result["config"]["network"]["scaling_factor"] != 1.0
    assert not (tmp_path / ".codec.fit").exists()
    again = tmp_path / "again"
    code, text, _ = run("fit-codec", data, "-o", again, "--start", codec, "--json", *small)
    assert code == 0
    assert json.loads(text)["before"]["psnr"] == pytest.approx(result["after"]["psnr"], abs=1e-3)
    assert json.loads(text)["config"]["network"] == result["config"]["network"]
    out = tmp_path / "on_latents"
    code, text, _ = run("fit", data, "-o", out, "--codec", codec, "--json", *DIAD)
    assert code == 0
    assert json.loads(text)["config"]["codec"] == result["config"]
    fitted = mendiff.load(out).method.codec.state_dict()
    assert all(torch.equal(one, fitted[name]) for name, one in open_codec(codec).state_dict().items())
    assert "RAN works on pixels" in refused("fit", data, "-o", tmp_path / "ran", "--codec", codec, *RAN)
    sentence = refused("fit", data, "-o", tmp_path / "no", "--codec", data, *DIAD)
    assert "expected a codec folder with config.json and codec.safetensors" in sentence


def test_a_codec_says_what_it_was_tuned_on_and_is_refused_for_other_pixels(run, refused, data, tmp_path):
    small = ("--set", "training.steps=2", "--set", "crop=0", "--set", "image_size=32", "--json")
    for pixels in ("symmetric", "imagenet"):
        words = (*small, "--set", f"codec.pixels={pixels}")
        code, text, _ = run("fit-codec", data, "-o", tmp_path / pixels, *words)
        assert code == 0
        assert json.loads(text)["config"]["pixels"] == read_codec(tmp_path / pixels)[0].pixels == pixels
    fit = ("fit", data, "-o", tmp_path / "no", *DIAD)
    sentence = refused(*fit, "--codec", tmp_path / "symmetric", "--set", "normalised=true")
    assert (
        "expected an autoencoder that was tuned on 'imagenet' pixels, got one tuned on 'symmetric'"
        in sentence
    )
    assert "or fit with --set normalised=false." in sentence
    sentence = refused(*fit, "--codec", tmp_path / "imagenet")
    assert (
        "expected an autoencoder that was tuned on 'symmetric' pixels, got one tuned on 'imagenet'"
        in sentence
    )
    sentence = refused("fit", data, "-o", tmp_path / "no", "--codec", tmp_path / "imagenet")
    assert sentence.endswith("tune it with mendiff fit-codec --set codec.pixels=symmetric.")
    out = tmp_path / "model"
    words = ("--codec", tmp_path / "imagenet", "--set", "normalised=true", "--json")
    assert run("fit", data, "-o", out, *DIAD, *words)[0] == 0
    assert mendiff.load(out).method.config.codec.pixels == "imagenet"


def interrupted_after_three(monkeypatch):
    """Have a training keep a checkpoint after every step and stop after the third; gives the steps kept."""
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    keep, kept = loop.keep, []

    def stop(*arguments):
        keep(*arguments)
        kept.append(arguments[-1])
        if kept == [1, 2, 3]:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "keep", stop)
    return kept


@pytest.mark.parametrize("rivals", [(), ("--set", "loss.adversarial_weight=0.5")], ids=["alone", "rivals"])
def test_interrupted_codec_goes_on_to_the_same_weights(run, data, tmp_path, monkeypatch, rivals):
    words = ("--set", "training.steps=6", "--set", "crop=0", "--set", "image_size=32", "--json", *rivals)
    assert run("fit-codec", data, "-o", tmp_path / "whole", *words)[0] == 0
    kept = interrupted_after_three(monkeypatch)
    assert run("fit-codec", data, "-o", tmp_path / "broken", *words)[0] == 130
    assert run("fit-codec", data, "-o", tmp_path / "broken", "--resume", *words)[0] == 0
    assert kept == [1, 2, 3, 4, 5, 6]
    one, other = (open_codec(tmp_path / name).state_dict() for name in ("whole", "broken"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_an_interrupted_codec_says_how_to_go_on_or_leaves_nothing(run, refused, data, tmp_path, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    words = ("fit-codec", data, "-o", tmp_path / "codec", "--set", "crop=0", "--set", "image_size=32")
    with monkeypatch.context() as patch:
        patch.setattr(fit_codec, "random_crops", stop)
        code, _, err = run(*words)
    assert code == 130
    assert err.endswith("mendiff fit-codec: interrupted.\n")
    assert [path.name for path in tmp_path.iterdir()] == ["cwd"]
    keep = loop.keep
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(loop, "keep", lambda *arguments: (keep(*arguments), stop()))
    code, _, err = run(*words)
    assert code == 130
    assert "interrupted; the same command with --resume goes on from here" in err
    assert (tmp_path / ".codec.fit/last.safetensors").is_file()
    refused(*words, "--set", "training.steps=0")
    sentence = refused(*words, "--resume", "--set", "codec.network.latent_channels=3")
    assert "--resume: expected what the interrupted training was started with, but" in sentence
    assert "config.codec.network.latent_channels was 8 and is 3" in sentence


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--set", "image_size=70"), "--set image_size: expected a multiple of 4, got 70; try 72."),
        (("--set", "image_size=-8"), "--set image_size: expected a multiple of 4, got -8; try 4."),
        (("--set", "crop=30"), "--set crop: expected a multiple of 4, got 30; try 32."),
        (("--set", "training.steps=0"), "training.steps: expected at least 1, got 0."),
        (("--preset", "huge"), "--preset: expected one of tiny, kl, got 'huge'."),
        (
            ("--features", "resnet18"),
            "expected both, got one; or --features auto",
        ),
        (("--start", "nowhere"), "nowhere: expected a codec folder"),
        (("--resume",), "--resume: expected an interrupted fit of"),
    ],
)
def test_fit_codec_refuses(refused, data, tmp_path, words, sentence):
    assert sentence in refused("fit-codec", data, "-o", tmp_path / "codec", *words)


@pytest.fixture
def backbone(tmp_path):
    """Options that name a small convolutional network and a file of random weights."""
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        weights = timm.create_model("test_resnet", pretrained=False).state_dict()
    for name in weights:
        if name.endswith("running_mean"):
            weights[name] -= 0.1  # zeros would say that norms are folded
    save_file(weights, tmp_path / "backbone.safetensors")
    return "--features", "test_resnet", "--features-weights", tmp_path / "backbone.safetensors"


def test_features_are_tuned_and_taken_by_fit(run, data, model, backbone, tmp_path):
    out, words = tmp_path / "tuned", ("--model", model, "--set", "training.steps=20", "--json")
    code, text, _ = run("fit-features", data, "-o", out, *words, *backbone)
    assert code == 0
    result = json.loads(text)
    assert result["after"]["distance"] < result["before"]["distance"]
    assert result["before"]["drift"] < 1e-6 < result["after"]["drift"]
    assert not (tmp_path / ".tuned.fit").exists()
    before, after = read_weights(backbone[-1]), read_weights(out / "features.safetensors")
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert "conv1.0.weight" in moved
    assert not any("running" in name or "tracked" in name for name in moved)
    fitted = tmp_path / "fitted"
    code, _, _ = run("fit", data, "-o", fitted, *settings(), *backbone[:3], out / "features.safetensors")
    assert code == 0
    own = mendiff.load(fitted).method.features.backbone.state_dict()
    assert all(torch.equal(one, after[name].to(one)) for name, one in own.items())


def test_a_heavier_hold_moves_features_less(run, data, model, backbone, tmp_path):
    words = ("--model", model, "--set", "training.steps=20", "--json", *backbone)
    drifts = []
    for weight in (0, 10):
        out = tmp_path / f"held{weight}"
        text = run("fit-features", data, "-o", out, "--set", f"keep_weight={weight}", *words)[1]
        drifts.append(json.loads(text)["after"]["drift"])
    assert drifts[1] < 0.5 * drifts[0]


def test_interrupted_features_go_on_to_the_same_weights(run, data, model, backbone, tmp_path, monkeypatch):
    words = ("--model", model, "--set", "training.steps=6", "--set", "crop=16", "--json", *backbone)
    assert run("fit-features", data, "-o", tmp_path / "whole", *words)[0] == 0
    kept = interrupted_after_three(monkeypatch)
    assert run("fit-features", data, "-o", tmp_path / "broken", *words)[0] == 130
    assert run("fit-features", data, "-o", tmp_path / "broken", "--resume", *words)[0] == 0
    assert kept == [1, 2, 3, 4, 5, 6]
    one, other = (read_weights(tmp_path / name / "features.safetensors") for name in ("whole", "broken"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "--model: expected a fitted model whose reconstructions to learn from, got none."),
        (("--model", "nowhere"), "nowhere: expected a model folder"),
        (("--features", "auto"), "--features: expected timm's name of a backbone to tune, got 'auto'."),
        (("--features", "zebra"), "features: expected the name of a timm backbone, got 'zebra'"),
        (("--preset", "huge"), "--preset: expected one of tiny, paper, got 'huge'."),
        (("--set", "features.layers=[block3]"), "layers: expected some of stage0..stage4 for test_resnet"),
        (("--set", "keep_weight=-1"), "keep_weight: expected at least 0"),
        (("--set", "crop=20"), "--set crop: expected a multiple of 16, got 20; try 16."),
        (("--resume",), "--resume: expected an interrupted fit of"),
    ],
)
def test_fit_features_refuses(refused, data, model, backbone, tmp_path, words, sentence):
    given = (*backbone, *(("--model", model) if words else ()), *words)
    assert sentence in refused("fit-features", data, "-o", tmp_path / "tuned", *given)


def test_overwrite_replaces_tuned_features_only_by_tuned_features(refused, run, data, own_model, backbone):
    sentence = refused("fit-features", data, "-o", own_model, "--overwrite", *backbone)
    assert "--overwrite would replace tuned features here, but this folder holds a model" in sentence


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
    assert "or holds other objects; save its state_dict alone." in sentence
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "other.ckpt").read_bytes()[:200])
    sentence = refused("convert", "codec", tmp_path / "cut.ckpt", "-o", tmp_path / "out")
    assert "the file ends early, after 200 bytes; fetch it again." in sentence


def test_fit_refuses_what_diad_cannot_do(refused, data, tmp_path):
    words = ("fit", data, "-o", tmp_path / "diad", *DIAD)
    assert "--image-size: expected a multiple of 8, got 36" in refused(*words, "--image-size", "36")
    sentence = refused(*words, "--set", "image_size=8")
    assert "at least 2 positions at the SG network's lowest level" in sentence
    assert "--balance: expected one of image, category, got 'x'." in refused(*words, "--balance", "x")


def test_every_category_can_have_a_threshold_of_its_own(run, refused, plates, tmp_path, monkeypatch):
    own = tmp_path / "own"
    words = ("--statistics", "category", *settings(readout__bank_size=200))
    assert run("fit", plates, "-o", own, "--json", *words)[0] == 0
    thresholds = json.loads(run("info", own, "--json")[1])["thresholds"]
    assert sorted(thresholds) == ["dark", "light"]
    assert thresholds["dark"] != thresholds["light"]
    # The networks are stored once: a category holds its statistics alone.
    assert (own / "categories/dark/model.safetensors").stat().st_size < (
        own / "model.safetensors"
    ).stat().st_size / 2
    rows = {}
    for category in ("dark", "light"):
        found = tmp_path / category
        code, text, _ = run(
            "predict", own, plates / "dark/test", "-o", found, "--category", category, "--json"
        )
        assert code == 0
        rows[category] = json.loads(text)
        assert rows[category]["threshold"] == thresholds[category]
    assert rows["dark"]["images"][0]["score"] != rows["light"]["images"][0]["score"]
    tests = open_data(plates)[0]
    model = mendiff.load(own, category="dark")
    found = find(model, read_tests(tests, model.image_size, Terminal(True)), 8, Terminal(True), "")
    by_path = {row["image"]: row["score"] for row in rows["dark"]["images"]}
    for sample, score in zip(tests.test, found.score.tolist(), strict=True):
        assert score == pytest.approx(by_path[str(sample.path)], rel=1e-4)
    code, text, _ = run("evaluate", own, plates, "--json")
    assert code == 0
    assert sorted(json.loads(text)["categories"]) == ["dark", "light"]
    # Where every category has its own, the common ones are not even read.
    opened, load = [], store.load
    with monkeypatch.context() as patch:
        patch.setattr(
            "mendiff.workflows.evaluate.load", lambda *given: (opened.append(given[2:]), load(*given))[1]
        )
        assert run("evaluate", own, plates, "--json")[0] == 0
    assert opened == [("dark",), ("light",)]
    # A category without statistics of its own is measured with the common ones, whatever came before it.
    both = shutil.copytree(plates, tmp_path / "both")
    (both / "light").rename(both / "other")
    shared, alone = tmp_path / "shared", mendiff.load(own)
    store.save(shared, alone.name, alone.method, alone.calibration, alone.info)
    others = [json.loads(run("evaluate", model, both, "--json")[1]) for model in (own, shared)]
    assert others[0]["categories"]["other"] == others[1]["categories"]["other"]
    words = ("predict", own, plates / "dark/test", "-o", tmp_path / "none", "--category", "grey")
    assert "(dark, light), got 'grey'" in refused(*words)


def test_a_category_that_the_model_does_not_know_is_refused(refused, model, data, tmp_path):
    words = ("predict", model, data / "test", "-o", tmp_path / "out", "--category", "plate")
    assert "knows (none: it has one threshold for all), got 'plate'" in refused(*words)


def test_statistics_of_a_category_with_too_few_images_are_refused(refused, plates, tmp_path):
    few = shutil.copytree(plates, tmp_path / "few")
    for path in sorted((few / "dark/train/good").iterdir())[1:]:
        path.unlink()
    words = ("fit", few, "-o", tmp_path / "out", "--statistics", "category", *settings())
    assert "expected at least 2 good images of dark, got 1" in refused(*words)
    assert "expected one of global, category, got 'some'" in refused(
        "fit", few, "-o", tmp_path / "out", "--statistics", "some"
    )


def test_info_describes_the_model(run, model):
    code, out, err = run("info", model, "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert (result["method"], result["image_size"], result["calibration_images"]) == ("glad", 32, 4)
    assert result["info"]["categories"] == ["plate"]
    assert result["config"]["training"]["steps"] == 2
    code, out, _ = run("info", model)
    assert code == 0
    assert "9 good images of plate" in out


# demo


def test_demo_draws_its_data_alone(run, refused, tmp_path, monkeypatch):
    small = partial(DemoConfig, size=64, n_train=2, n_test_good=1, n_defective=1)
    monkeypatch.setattr("mendiff.workflows.demo.DemoConfig", small)
    words = ("demo", "--make-data", tmp_path / "parts", "--categories", "tile")
    code, out, _ = run(*words, "--json")
    assert (code, json.loads(out)) == (0, {"data": str(tmp_path / "parts"), "categories": ["tile"]})
    assert len(list((tmp_path / "parts/tile").rglob("*.png"))) == 6  # one is the defective part's clean twin
    assert "not an empty folder" in refused(*words)


@pytest.mark.parametrize("method", ["glad", "diad"])
def test_demo_learns_tests_and_reports(run, tmp_path, monkeypatch, method):
    small = partial(DemoConfig, size=64, n_train=12, n_test_good=2, n_defective=2)
    monkeypatch.setattr("mendiff.workflows.demo.CALIBRATION", 6)
    monkeypatch.setattr("mendiff.workflows.demo.DemoConfig", small)
    calibrated, calibrate = [], mendiff_model.calibrate
    monkeypatch.setattr(
        mendiff_model, "calibrate", lambda *given: (calibrated.append(given), calibrate(*given))[1]
    )
    out, network = tmp_path / "demo", {"glad": NETWORK, "diad": GUIDED_NETWORK}[method]
    words = ("--method", method, *settings(denoiser__network=network))
    code, text, err = run("demo", "-o", out, "--categories", "tile", "fabric", *words)
    assert code == 0, err
    assert "fabric" in text
    assert "tile" in text
    assert str(out / "report.html") in err.replace("\n", "")
    assert ".demo." not in err  # the hidden folder is nobody's business
    result = json.loads((out / "demo.json").read_text())
    controls = result["controls"]
    assert set(controls) == {"median colour", "memory bank", "untrained"}
    assert all(set(rows["categories"]) == {"tile", "fabric"} for rows in controls.values())
    assert set(result["categories"]) == {"fabric", "tile"}
    assert "tile" in (out / "report.html").read_text()
    assert sorted(path.name for path in out.iterdir()) == ["data", "demo.json", "models", "report.html"]
    assert mendiff.load(out / "models/tile").info["categories"] == ["fabric", "tile"]
    # For each kind of part, its model and the untrained control, and never the shared network.
    assert len(calibrated) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cwd", "demo"]


@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_demos_own_settings_make_a_network_for_its_pictures(method):
    changes = demo.WHOLE_PICTURES | find_method(method).DEMO
    config = make_config(Plan(method, settings=changes), [])
    assert (config.image_size, config.crop) == (128, 0)
    assert config.training.steps <= 1200


def test_a_slip_in_the_demos_settings_shows_before_anything_is_drawn(refused, monkeypatch):
    monkeypatch.setattr("mendiff.workflows.demo.make_data", lambda *_: pytest.fail("drawn"))
    assert "config.training: expected some of" in refused("demo", "--set", "training.stps=3")
    assert "got 'zebra'" in refused("demo", "--set", "denoiser.network={zebra: 3}")


# A further method: one file and one line.

FOO = """
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from mendiff.methods.base import Method, MethodConfig, TrainingConfig
from mendiff.types import Detection


@dataclass(frozen=True)
class FooConfig(MethodConfig):
    strength: float = 1.0


PRESETS = {"tiny": FooConfig(image_size=32, training=TrainingConfig(steps=2, batch_size=2))}


class Foo(Method):
    Config: ClassVar = FooConfig
    PRESETS: ClassVar = PRESETS
    SEARCHED: ClassVar = {"strength": [1.0, 3.0]}
    DEMO: ClassVar = {"training.steps": 1}

    def __init__(self, config):
        super().__init__(config)
        self.mean = nn.Parameter(torch.zeros(1, 3, 1, 1))

    def training_loss(self, image, rng):
        return (image - self.mean).square().mean()

    def predict(self, image, seeds):
        found = self.config.strength * (image - self.mean).abs().amax(1, keepdim=True)
        rebuilt = self.mean.clamp(0, 1).expand_as(image)
        return Detection(found.flatten(1).amax(1), found, rebuilt, torch.zeros_like(seeds))
"""


def test_fourth_method_is_one_file_and_one_line(run, data, tmp_path, monkeypatch):
    (tmp_path / "foo_method.py").write_text(FOO)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(METHODS, "foo", "foo_method:Foo")
    model = tmp_path / "model"
    code, out, err = run("fit", data, "-o", model, "--method", "foo", "--set", "strength=2.0", "--json")
    assert code == 0, err
    assert json.loads(out)["config"]["strength"] == 2.0
    code, out, err = run("predict", model, data / "test", "-o", tmp_path / "found", "--json")
    assert code == 0, err
    assert len(json.loads(out)["images"]) == 4
    code, out, err = run("evaluate", model, data, "--json")
    assert code == 0, err
    assert json.loads(out)["mean"]["image_auroc"] == 1.0  # white squares are far from any mean
    good = tmp_path / "good"
    good.mkdir()
    for index in range(44):  # six are held back, three to calibrate by and three to compare on
        Image.fromarray(np.full((32, 32, 3), 100 + index, np.uint8)).save(good / f"{index}.png")
    assert run("fit", good, "-o", tmp_path / "plain", "--method", "foo")[0] == 0
    code, out, err = run("tune", tmp_path / "plain", good, "-o", tmp_path / "tuned", "--json")
    assert code == 0, err
    assert {trial["field"] for trial in json.loads(out)["trials"]} == {"strength"}
    assert "foo" in {row.method for row in chosen_rows(None, None, None, {})[0]}
    assert issubclass(module_class("foo"), MethodModule)
    assert isinstance(get_model("foo"), MethodModule)
    assert find_method("foo").DEMO == {"training.steps": 1}
