"""`mendiff report`: the page of a run."""

import json

import pytest

pytestmark = pytest.mark.filterwarnings(r"ignore:::lightning\..*")


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
    assert "Intermediate results of selected images" in page
    assert "PRO, regions of plate" in page
    assert "add --overwrite" in refused("evaluate", model, data, "-o", out)
    assert run("evaluate", model, data, "-o", out, "--overwrite")[0] == 0
    assert sorted(path.name for path in out.iterdir()) == ["pictures", "run.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cwd", "run"]


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
