"""How commands end: signals, full disks, lack of memory, readers that go away."""

import csv
import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest

import mendiff.model as mendiff_model
from mendiff.cli import main

pytestmark = pytest.mark.filterwarnings(r"ignore:::lightning\..*")


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


@pytest.mark.parametrize(
    ("failure", "ended"),
    [
        (KeyboardInterrupt, (130, "interrupted.")),
        (PermissionError(13, "Permission denied", "x"), (1, "x: Permission denied")),
        (
            OSError(errno.EFBIG, "File too large", "x"),
            (
                1,
                "x: File too large; raise the file size limit (see 'ulimit -f') or choose another folder.",
            ),
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", b"caf\xe9\n"),
            (1, "caf\\udce9\\n: No space left on device; free some space or choose another folder."),
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
    sentence = f"interrupted. Partial results are in {kept}; add --resume to continue."
    assert err.splitlines()[-1] == f"mendiff predict: {sentence}"
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
        [sys.executable, "-m", "mendiff", *map(str, words)], stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    return process.communicate()[1].decode(), process.returncode


def test_a_reader_that_goes_away_ends_a_command_quietly(model):
    assert closed_pipe("info", "--help")[0] == ""
    assert closed_pipe("info", model) == ("", 141)


def test_a_closed_output_is_an_exit_code(model, monkeypatch, capsys):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert main(["info", str(model), "--json"]) == 141
        monkeypatch.undo()
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_tables_without_a_reader_do_not_keep_a_run_from_being_written(model, data, tmp_path):
    err, code = closed_pipe("evaluate", model, data, "-o", tmp_path / "run")
    assert code == 141
    assert err.splitlines()[-1].startswith(f"run: {tmp_path / 'run'}")
    assert (tmp_path / "run/run.json").is_file()
