"""Two commands at one output folder, and others who come in between: nothing is ever lost."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest

from mendiff.data import disk
from mendiff.errors import InputError
from mendiff.runs import places
from mendiff.runs.locks import exclusive_output
from mendiff.runs.places import TakenError, check_output, new_folder

ROUNDS = 100
FINDINGS = {"threshold": 1.0, "unreadable": []}

# Writes findings into the folder that is given, says when it has some, and waits to be ended.
WRITER = """
import sys, time
from pathlib import Path
from mendiff.runs.places import check_output, new_folder
place = check_output(Path(sys.argv[1]), False, "findings")
with new_folder(place, worth="predictions.csv") as draft:
    (draft / "note").write_text("first")
    if "rows" in sys.argv:
        (draft / "predictions.csv").write_text("image")
    print("ready", flush=True)
    time.sleep(100)
"""


@pytest.fixture(params=["swap in one step", "swap by a third name"])
def system(request, monkeypatch):
    """File systems that swap two folders in one step, and others."""
    if request.param == "swap by a third name":
        monkeypatch.setattr(disk, "_renameat2", lambda *_: False)


def write(folder, token):
    (folder / "predictions.json").write_text(json.dumps(FINDINGS))
    (folder / token).write_text(token)


def tokens(root):
    """What can be found without looking into hidden folders."""
    seen = [one.relative_to(root) for one in root.rglob("*")]
    return {one.name for one in seen if not any(part.startswith(".") for part in one.parts)}


class Command:
    """A command in steps: checks the place, opens a draft, writes, and publishes."""

    def __init__(self, out, token, overwrite):
        self.token, self.told, self.began, self.running = token, "", False, True
        self._steps = self._run(out, overwrite)

    def step(self):
        next(self._steps, None)

    def _run(self, out, overwrite):
        try:
            place = check_output(out, overwrite, "findings")
            self.began = True
            yield
            block = new_folder(place)
            draft = block.__enter__()
            yield
            write(draft, self.token)
            yield
            block.__exit__(None, None, None)
        except InputError as error:
            self.told = str(error)
        self.running = False


def intrude(rng, out, number):
    """What others do: put a file or folder at the place, a file into the folder there, or take it away."""
    token = f"theirs{number}"
    with suppress(FileExistsError, FileNotFoundError, NotADirectoryError):
        kind = rng.choice(["folder", "file", "inside"])
        if kind == "folder":
            out.mkdir()
            (out / token).write_text(token)
            return {token}
        if kind == "file":
            with out.open("x") as file:
                file.write(token)
            return {out.name}
        (out / token).write_text(token)
        return {token}
    return set()


@pytest.mark.usefixtures("system")
@pytest.mark.parametrize("overwrite", [False, True])
def test_of_two_commands_and_a_stranger_in_any_order_nothing_is_lost(tmp_path, overwrite):
    for seed in range(ROUNDS):
        rng, root = random.Random(seed), tmp_path / str(seed)
        out = root / "out"
        root.mkdir()
        if overwrite:
            out.mkdir()
            write(out, "old")
        commands = [Command(out, "first", overwrite), Command(out, "second", overwrite)]
        theirs, replaced = set(), set()
        while running := [one for one in commands if one.running]:
            one, before = rng.choice(running), [done.token for done in commands if not done.running]
            fresh = not one.began
            one.step()
            if overwrite and fresh and one.began:
                replaced |= set(before)  # what was whole when it began it may replace: it was told to
            if rng.random() < 0.3 and all(one.began or one.told for one in commands):
                theirs |= intrude(rng, out, len(theirs))
        began = {one.token for one in commands if one.began}
        assert began
        assert theirs | (began - replaced) <= tokens(root), seed
        for one in commands:
            if "meanwhile" in one.told:
                kept = one.told.rpartition(" is in ")[2].rstrip(".")
                assert (root / kept / one.token).read_text() == one.token
        assert not [one for one in root.iterdir() if one.name.startswith(".")], seed


@pytest.mark.usefixtures("system")
def test_of_two_commands_at_the_same_time_nothing_is_lost(tmp_path):
    for seed in range(ROUNDS):
        root, told = tmp_path / str(seed), {}
        (root / "out").mkdir(parents=True)
        write(root / "out", "old")
        barrier = threading.Barrier(2)

        def one_of_two(token, root=root, told=told, barrier=barrier):
            place = check_output(root / "out", True, "findings")
            barrier.wait()
            try:
                with new_folder(place) as draft:
                    write(draft, token)
                    barrier.wait()
            except TakenError as error:
                told[token] = str(error)

        both = [threading.Thread(target=one_of_two, args=(token,)) for token in ("first", "second")]
        for one in both:
            one.start()
        for one in both:
            one.join()
        assert {"first", "second"} <= tokens(root), seed
        assert len(told) == 1, seed
        assert not [one for one in root.iterdir() if one.name.startswith(".")], seed


def command(out, overwrite, meanwhile=lambda: None):
    with new_folder(check_output(out, overwrite, "findings")) as draft:
        write(draft, "ours")
        meanwhile()


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_comes_up_while_a_command_runs_stays_and_the_findings_are_beside_it(tmp_path, kind):
    out = tmp_path / "out"

    def theirs():
        if kind == "file":
            out.write_text("theirs")
        else:
            out.mkdir()
            (out / "theirs").write_text("theirs")

    with pytest.raises(TakenError, match=r"the path was created or changed meanwhile.* is in .*out-2\.$"):
        command(out, False, theirs)
    assert (out if kind == "file" else out / "theirs").read_text() == "theirs"
    assert (tmp_path / "out-2/ours").read_text() == "ours"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["out", "out-2"]


@pytest.mark.usefixtures("system")
def test_a_file_put_into_a_folder_that_is_to_be_replaced_stays(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    write(out, "old")
    with pytest.raises(TakenError):
        command(out, True, lambda: (out / "theirs").write_text("theirs"))
    assert {"old", "theirs", "ours"} <= tokens(tmp_path)


def test_a_folder_that_comes_up_in_the_last_moment_is_put_back(tmp_path, monkeypatch):
    out, swap = tmp_path / "out", places.exchange
    out.mkdir()
    write(out, "old")

    def late(one, other, spare):
        if not (tmp_path / "gone").exists():
            other.rename(tmp_path / "gone")
            other.mkdir()
            (other / "theirs").write_text("theirs")
        swap(one, other, spare)

    monkeypatch.setattr(places, "exchange", late)
    with pytest.raises(TakenError):
        command(out, True)
    assert (out / "theirs").read_text() == "theirs"
    assert {"old", "ours"} <= tokens(tmp_path)


def start(out, *words):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(out), *words], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    return process


def end(process):
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_the_next_command_cleans_up_after_a_killed_one_but_not_after_one_that_runs(tmp_path):
    out = tmp_path / "out"
    killed, alive = start(out, "rows"), start(out)
    try:
        end(killed)
        (tmp_path / ".out.0123abcd").mkdir()  # killed before it could write anything
        (tmp_path / ".out.abcd0123").mkdir()
        (tmp_path / ".out.abcd0123/mine").write_text("not ours")
        place = check_output(out, False, "findings")
        assert place.kept == (tmp_path / "out-unfinished",)
        assert (tmp_path / "out-unfinished/predictions.csv").read_text() == "image"
        hidden = [one for one in tmp_path.iterdir() if one.name.startswith(".out.")]
        assert len(hidden) == 2
        assert (tmp_path / ".out.abcd0123/mine").read_text() == "not ours"
    finally:
        end(alive)
    check_output(out, False, "findings")
    assert sorted(one.name for one in tmp_path.iterdir()) == [".out.abcd0123", "out-unfinished"]


def test_what_a_command_was_killed_in_the_midst_of_replacing_is_put_back(tmp_path):
    work = tmp_path / ".out.0123abcd"
    (work / places.DRAFT).mkdir(parents=True)
    (work / places.LOCK).touch()
    (work / places.ASIDE).mkdir()
    write(work / places.ASIDE, "old")
    with pytest.raises(InputError, match="add --overwrite"):
        check_output(tmp_path / "out", False, "findings")
    assert (tmp_path / "out/old").read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["out"]


def test_a_strangers_folder_that_was_swapped_in_a_killed_command_is_kept(tmp_path):
    work = tmp_path / ".out.0123abcd"
    (work / places.ASIDE).mkdir(parents=True)
    (work / places.LOCK).touch()
    (work / places.ASIDE / "theirs").write_text("theirs")
    (tmp_path / "out").mkdir()
    check_output(tmp_path / "out", False, "findings")
    assert (tmp_path / "out-2/theirs").read_text() == "theirs"


def test_of_a_failed_command_what_is_worth_it_is_kept_and_told(tmp_path):
    place = check_output(tmp_path / "out", False, "findings")

    def fail(rows):
        with new_folder(place, worth="predictions.csv") as draft:
            if rows:
                (draft / rows).write_text("image")
            raise ZeroDivisionError

    for rows, kept in (("", False), ("predictions.csv", True), ("predictions.csv", True)):
        with pytest.raises(ZeroDivisionError) as caught:
            fail(rows)
        told = getattr(caught.value, "__notes__", [])
        assert bool(told) == kept
        if kept:
            assert os.path.exists(told[0].rpartition(" in ")[2].rstrip("."))
    names = sorted(one.name for one in tmp_path.iterdir())
    assert names == ["out-unfinished", "out-unfinished-2"]


def test_of_two_that_may_not_share_a_place_the_second_is_refused_while_the_first_runs(tmp_path):
    out = tmp_path / "deep/model"
    with exclusive_output(out, "fit"):
        with (
            pytest.raises(InputError, match="another fit into this folder is running"),
            exclusive_output(out, "fit"),
        ):
            pass
        with exclusive_output(tmp_path / "other", "fit"):
            pass
    with exclusive_output(out, "fit"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_is_taken_over_at_once_when_its_process_is_killed(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from mendiff.runs.locks import exclusive_output\n"
        "with exclusive_output(Path(sys.argv[1]), 'fit'): print('ready', flush=True); time.sleep(100)"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "model")]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    with pytest.raises(InputError, match="is running"), exclusive_output(tmp_path / "model", "fit"):
        pass
    end(process)
    with exclusive_output(tmp_path / "model", "fit"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_is_waited_for(tmp_path):
    held = threading.Event()

    def first():
        with exclusive_output(tmp_path / "job", "job"):
            held.set()
            time.sleep(0.3)

    thread = threading.Thread(target=first)
    thread.start()
    held.wait()
    with exclusive_output(tmp_path / "job", "job", wait=60):
        pass
    thread.join()
    shutil.rmtree(tmp_path)
