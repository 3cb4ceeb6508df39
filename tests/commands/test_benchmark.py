"""Benchmarks: what is planned, resumed and refused; the controls stand in for methods that take long."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from mendiff.cli import main
from mendiff.commands.benchmark import Bench, chosen_rows, planned, printed
from mendiff.commands.job import MODEL, Job, end_with, result_file
from mendiff.commands.queue import outcomes, outcomes_of_ray, prepared
from mendiff.errors import InputError
from mendiff.evaluation.ablations import ABLATIONS, Row
from mendiff.evaluation.suites import SUITES
from mendiff.methods.base import METHODS, find_method, find_preset
from mendiff.methods.config import override


def bench(
    rows, categories=("nut", "bolt"), multi_class=False, seeds=(0,), suite=None, preset="tiny", tmp_path=None
):
    return Bench(rows, list(categories), multi_class, tmp_path, "auto", seeds, preset, None, None, suite)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Two categories of small pictures, bright squares as defects."""
    root, rng = tmp_path_factory.mktemp("parts"), np.random.default_rng(0)
    for category in ("bolt", "nut"):
        for folder, count, defect in (("train/good", 10, 0), ("test/good", 3, 0), ("test/dot", 3, 9)):
            place = root / category / folder
            place.mkdir(parents=True)
            for number in range(count):
                image = rng.integers(90, 120, (40, 40, 3), dtype=np.uint8)
                image[10 : 10 + defect, 10 : 10 + defect] = 255
                Image.fromarray(image).save(place / f"{number}.png")
                if defect:
                    mask = np.zeros((40, 40), np.uint8)
                    mask[10 : 10 + defect, 10 : 10 + defect] = 255
                    truth = root / category / "ground_truth/dot"
                    truth.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(mask).save(truth / f"{number}_mask.png")
    return root


def run(parts, out, *options):
    return main(["benchmark", str(parts), "-o", str(out), "--methods", "median-colour", *options])


@pytest.fixture(scope="module")
def finished(parts, tmp_path_factory):
    """A finished run of the two controls."""
    out = tmp_path_factory.mktemp("runs") / "run"
    assert run(parts, out, "memory-bank", "--json") == 0
    return out


def without_times(path):
    data = json.loads(path.read_text())
    for one in data["results"]:
        for key in ("fit_seconds", "images_per_second", "peak_gb"):
            one.pop(key)
    return data


def test_every_row_and_category_stands_in_the_tables(finished):
    data = json.loads((finished / "results.json").read_text())

    assert {one["label"] for one in data["results"]} == {"median-colour", "memory-bank"}
    text = (finished / "results.md").read_text()
    assert text.splitlines()[0].startswith(
        "| image AUROC / pixel AUROC / pixel AP / AUPRO | bolt | nut | mean |"
    )
    assert "median-colour" in (finished / "results.csv").read_text()
    assert r"\begin{tabular}" in (finished / "results.tex").read_text()
    found = {(one["label"], one["category"], one["metric"]): one["value"] for one in data["figures"]}
    assert found["median-colour", "bolt", "image_auroc"] == 1.0  # a white square on grey


def test_what_is_done_is_not_done_again_and_what_is_missing_comes_out_alike(parts, finished, tmp_path):
    before, kept = without_times(finished / "results.json"), {}
    for folder in (finished / "jobs").iterdir():
        for path in folder.glob("*.result.json"):
            kept[path] = path.stat().st_mtime_ns
    lost = next(path for path in kept if "memory-bank" in path.name)
    lost.unlink()

    assert run(parts, finished, "memory-bank", "--json") == 0

    assert without_times(finished / "results.json") == before
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items() if path != lost)


def test_tables_show_the_jobs_of_earlier_commands_too(parts, finished):
    before = (finished / "results.csv").read_text()

    assert main(["benchmark", str(parts), "-o", str(finished), "--methods", "memory-bank", "--json"]) == 0

    assert sorted((finished / "results.csv").read_text().splitlines()) == sorted(before.splitlines())


def test_our_methods_compare_pixels_alone_where_no_features_were_asked_for(parts, tmp_path):
    asked = ["--methods", "glad", "--categories", "bolt", "--features", "none"]
    small = ["--set", "glad.training.steps=1", "--set", "glad.crop=32"]

    assert main(["benchmark", str(parts), "-o", str(tmp_path / "run"), *asked, *small]) == 0

    config = json.loads((tmp_path / "run/jobs/glad-bolt-0" / MODEL / "config.json").read_text())
    assert config["config"]["features"]["name"] == ""


def test_a_folder_of_other_work_is_refused(parts, finished, capsys):
    code = run(parts, finished, "memory-bank", "--preset", "other")

    assert code == 2
    assert "preset: tiny before, other now" in capsys.readouterr().err


def test_a_job_that_fails_is_named_and_the_others_go_on(parts, tmp_path, capsys):
    code = run(parts, tmp_path / "run", "patchcore", "--categories", "nut")

    told = capsys.readouterr().err
    assert code == 2
    assert "1 of 2 jobs failed" in told
    assert "patchcore: expected a pretrained backbone" in told
    results = json.loads((tmp_path / "run/results.json").read_text())["results"]
    assert [one["label"] for one in results] == ["median-colour"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--suite", "glad-mars"], "--suite: expected one of glad-mvtec"),
        (["--suite", "glad-mvtec"], "expected categories carpet"),
        (["--jobs", "0"], "--jobs: expected at least 1"),
        (["--set", "steps=3"], "METHOD.FIELD=VALUE"),
        (["--set", "glad.steps=3"], "a method of this benchmark (median-colour)"),
        (["--ablation", "diad-sff"], "expected one of them, got both"),
    ],
)
def test_bad_input_is_one_sentence(parts, tmp_path, capsys, options, sentence):
    assert run(parts, tmp_path / "run", *options) == 2

    told = capsys.readouterr().err.strip()
    assert sentence in told
    assert len(told.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_rows_that_are_trained_alike_share_one_fit(tmp_path):
    rows = (Row("a", "ran"), Row("b", "ran", changes={"kl_weight": 1.0}), Row("c", "ran", {"steps": 2}))

    jobs = planned(bench(rows, seeds=(0, 1), tmp_path=tmp_path), "cpu")

    assert len(jobs) == 2 * 2 * 2  # fits x categories x seeds
    assert jobs["a-nut-1"].rows == {"a": {}, "b": {"kl_weight": 1.0}}
    assert jobs["c-bolt-0"].settings == {"steps": 2}


def test_a_multi_class_job_learns_all_categories(tmp_path):
    jobs = planned(bench((Row("a", "ran"),), multi_class=True, tmp_path=tmp_path), "cpu")

    assert list(jobs) == ["a-all-0"]
    assert jobs["a-all-0"].categories == ["nut", "bolt"]


def test_settings_are_for_the_method_that_they_name():
    rows, _ = chosen_rows(None, None, ["glad", "ran"], {"ran.training.steps": 7})

    assert [row.settings for row in rows] == [{}, {"training.steps": 7}]


def test_a_suite_brings_the_papers_figures_of_ours_and_of_its_peers(tmp_path):
    rows = (Row("glad", "glad"), Row("patchcore", "patchcore"), Row("median-colour", "median-colour"))

    known = printed(bench(rows, suite=SUITES["glad-mvtec"], tmp_path=tmp_path))

    assert known["glad"]["carpet"] == {"image_auroc": 0.99, "pixel_auroc": 0.985}
    assert known["patchcore"]["mean"] == {"image_auroc": 0.991, "pixel_auroc": 0.981}
    assert not any(known["median-colour"].values())


@pytest.mark.parametrize(
    ("suite", "preset", "expected"),
    [
        ("glad-visa", "paper", "paper/visa/candle"),
        ("diad-visa", "paper", "paper/visa"),
        ("ran-mvtec", "paper", "paper"),
        ("glad-visa", "tiny", "tiny"),
    ],
)
def test_a_suite_takes_the_published_settings_of_its_categories(tmp_path, suite, preset, expected):
    chosen = SUITES[suite]
    rows = (Row(chosen.method, chosen.method), Row("memory-bank", "memory-bank"))

    jobs = planned(bench(rows, chosen.categories, suite=chosen, preset=preset, tmp_path=tmp_path), "cpu")

    first = chosen.categories[0]
    assert jobs[f"{chosen.method}-{first}-0"].preset == expected
    assert jobs[f"memory-bank-{first}-0"].preset == preset


@pytest.mark.parametrize("name", ABLATIONS)
def test_the_settings_of_every_ablation_fit_their_method(name):
    labels = [row.label for row in ABLATIONS[name].rows]
    assert len(set(labels)) == len(labels)
    for row in ABLATIONS[name].rows:
        assert row.method in METHODS
        config = override(find_preset(row.method, "tiny"), {**row.settings, **row.changes})
        if "features.name" not in row.settings and "features.layers" not in row.changes:
            find_method(row.method)(override(config, {"image_size": 64}))


def test_another_file_where_the_job_should_be_is_refused(tmp_path):
    place = tmp_path / "jobs/a-nut-0"
    place.mkdir(parents=True)
    (place / "job.json").write_text('{"strange": 1}')

    with pytest.raises(InputError, match="expected a job of this version"):
        prepared(tmp_path, "a-nut-0", Job("median-colour", {"a": {}}, "parts", ["nut"]))


def test_several_jobs_run_at_once(parts, tmp_path):
    rows = (Row("median-colour", "median-colour"),)
    jobs = planned(bench(rows, ("bolt", "nut"), tmp_path=parts), "cpu")
    folders = [prepared(tmp_path, name, job) for name, job in jobs.items()]

    assert sorted(outcomes(folders, 2, None)) == [(folder, "") for folder in sorted(folders)]
    assert all(result_file(folder, "median-colour").is_file() for folder in folders)


def test_jobs_run_on_a_ray_cluster(parts, tmp_path):
    pytest.importorskip("ray")
    jobs = planned(bench((Row("median-colour", "median-colour"),), ("nut",), tmp_path=parts), "cpu")
    folders = [prepared(tmp_path, name, job) for name, job in jobs.items()]

    assert list(outcomes_of_ray(folders, "local")) == [(folders[0], "")]


def test_a_job_ends_when_the_benchmark_that_started_it_is_gone(monkeypatch):
    monkeypatch.setattr(os, "getppid", lambda: 1)
    monkeypatch.setattr(os, "_exit", sys.exit)

    with pytest.raises(SystemExit):
        end_with(parent=4321)


@pytest.mark.slow
def test_a_killed_run_goes_on_and_equals_an_unbroken_one(parts, tmp_path):
    small = {"image_size": 32, "crop": 0, "training.steps": 40, "training.batch_size": 2}
    options = ["--methods", "glad", "--categories", "nut", "--json"]
    options += [word for key, value in small.items() for word in ("--set", f"glad.{key}={value}")]
    command = [sys.executable, "-m", "mendiff.cli", "benchmark", str(parts), *options]
    broken, whole = tmp_path / "broken", tmp_path / "whole"

    running = subprocess.Popen([*command, "-o", str(broken)])
    fitting = broken / "jobs/glad-nut-0" / f".{MODEL}.fit"
    while not fitting.is_dir() and running.poll() is None:
        time.sleep(0.05)
    running.kill()  # its job, a process of its own, is to end by itself
    running.wait()
    assert not (broken / "results.json").exists()

    for out in (broken, whole):
        assert subprocess.run([*command, "-o", str(out)]).returncode == 0
    assert without_times(broken / "results.json") == without_times(whole / "results.json")


def test_tables_of_others_are_never_replaced(parts, tmp_path, capsys):
    (tmp_path / "results.csv").write_text("mine")
    assert run(parts, tmp_path) == 2
    assert "expected a new folder or that of a benchmark, but it holds another results.csv" in (
        capsys.readouterr().err
    )
    assert [one.name for one in tmp_path.iterdir()] == ["results.csv"]
    assert run(parts, tmp_path / "results.csv") == 2
    assert (tmp_path / "results.csv").read_text() == "mine"


def test_what_a_killed_benchmark_was_writing_goes(parts, finished):
    left = [finished / ".results.csv.0123.part", next((finished / "jobs").iterdir()) / ".x.0123.part"]
    for one in left:
        one.write_text("half")
    assert run(parts, finished, "memory-bank", "--json") == 0
    assert not any(one.exists() for one in left)


@pytest.mark.slow
def test_sigterm_ends_a_benchmark_and_its_jobs(parts, tmp_path):
    words = [sys.executable, "-m", "mendiff.cli", "benchmark", str(parts), "-o", str(tmp_path / "run")]
    words += ["--methods", "glad", "--categories", "bolt", "--set", "glad.training.steps=100000"]
    process = subprocess.Popen([*words, "--features", "none"], stderr=subprocess.PIPE, text=True)
    log = tmp_path / "run/jobs/glad-bolt-0/log.txt"
    while not (log.is_file() and "pixels" in log.read_text()):
        assert process.poll() is None
        time.sleep(0.1)
    process.terminate()
    told = process.communicate()[1]
    assert process.returncode == 143
    assert told.splitlines()[-1] == "mendiff benchmark: interrupted; the same command goes on from here."
    left = [one.name for one in (tmp_path / "run/jobs/glad-bolt-0").iterdir()]
    assert sorted(left) == ["job.json", "log.txt"]
    assert "Traceback" not in log.read_text()
    assert [one.name for one in tmp_path.iterdir()] == ["run"]
