"""Progress where there is no terminal; times are made up here."""

import io

import pytest
from rich.console import Console

from mendiff.cli import terminal
from mendiff.cli.terminal import Lines, Terminal


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves on."""
    now = [100.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    return now


def told(clock, last, steps):
    """The lines of a work of 100 steps whose steps end at given times."""
    lines = []
    progress = Lines(lines.append, "fitting", last)
    for done, at in steps:
        clock[0] = 100.0 + at
        progress(done, 100, "loss 0.5")
    return lines


def test_a_line_comes_every_half_minute_and_at_the_end(clock):
    steps = [(done, float(done)) for done in range(101)]
    assert told(clock, True, steps) == [
        "fitting 30/100, 0:00:30, 0:01:10 left, loss 0.5",
        "fitting 60/100, 0:01:00, 0:00:40 left, loss 0.5",
        "fitting 90/100, 0:01:30, 0:00:10 left, loss 0.5",
        "fitting 100/100, 0:01:40, 0:00:00 left, loss 0.5",
    ]


def test_work_that_is_no_news_in_the_end_says_nothing_when_it_is_quick(clock):
    assert told(clock, False, [(0, 0.0), (100, 29.0)]) == []


def test_time_left_of_a_resumed_work_counts_from_where_it_goes_on(clock):
    assert told(clock, True, [(80, 0.0), (90, 60.0)]) == ["fitting 90/100, 0:01:00, 0:01:00 left, loss 0.5"]


def test_time_left_leaves_out_the_wait_for_the_first_step(clock):
    assert told(clock, True, [(1, 40.0), (51, 90.0)]) == [
        "fitting 1/100, 0:00:40, loss 0.5",
        "fitting 51/100, 0:01:30, 0:00:49 left, loss 0.5",
    ]


def test_a_bar_in_a_file_is_lines(clock):
    terminal = Terminal()
    terminal.console = Console(file=io.StringIO(), width=20)
    assert list(terminal.track(["a", "b"], "testing a part")) == ["a", "b"]
    assert terminal.console.file.getvalue() == "testing a part 2/2, 0:00:00, 0:00:00 left\n"
    for quiet, fleeting in ((True, False), (False, True)):
        silent = Terminal(quiet, fleeting)
        silent.console = Console(file=io.StringIO())
        with silent.bar("testing") as update:
            update(1, 1, "")
        assert silent.console.file.getvalue() == ""
