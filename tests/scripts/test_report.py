"""The report, from made-up runs: whole in one file, small, escaped, and drawn by a real browser."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from agents.report.page import POINTS, thinned
from scripts.report import main

MakeRun = Callable[..., Path]
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
needs_browser = pytest.mark.skipif(
    not BROWSER, reason="no Chromium: apt-get install chromium (or have google-chrome on the path)"
)


def report(tmp_path: Path, *runs: Path) -> Path:
    out = tmp_path / "pages" / "report.html"
    assert main([*map(str, runs), "--out", str(out)]) == 0
    return out


def data_of(page: str) -> dict[str, Any]:
    """What its script draws from."""
    found = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def opened(page: Path, *options: str) -> str:
    """What the page is after its script has run."""
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={page.parent / 'profile'}", "--window-size=1280,2400"]
    return subprocess.run(
        [*command, *options, page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    ).stdout


def test_nothing_is_fetched_and_everything_is_in_it(make_run: MakeRun, tmp_path: Path) -> None:
    text = report(tmp_path, make_run()).read_text()
    assert not re.search(r'(src|href)="(?!#|data:,)', text)
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest", text)
    (run,) = data_of(text)["runs"]
    assert len(run["heat"][0]["layers"]) == 6
    assert run["evaluations"]["mean_return"][-1] == 500
    assert {"grad_norm", "update_ratio", "dormant", "clipped_share"} <= run["statistics"].keys()


def test_what_a_run_calls_itself_cannot_become_markup(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    config = json.loads((run / "config.json").read_text())
    config["env"] = "</script><img src=x onerror=alert(1)>"
    (run / "config.json").write_text(json.dumps(config))
    assert "<img" not in report(tmp_path, run).read_text()


def test_only_what_was_judged_is_called_healthy(make_run: MakeRun, tmp_path: Path) -> None:
    def words(run: Path) -> list[str]:
        table = run / "updates.csv"
        table.write_text(table.read_text().replace(",1,0.001,,0.1,", ",0,0.001,,0.1,"))
        page = report(tmp_path, run).read_text()
        return [
            *re.findall(r'<td><span class="(\w+)">(.*?)</span></td>', page)[0],
            *re.findall(r'<p class="clean">(.*?)</p>', page),
        ]

    silent = make_run(seed=1)
    (silent / "updates.csv").write_text("")
    assert words(silent)[:2] == ["dim", "no update recorded"]
    assert words(make_run(seed=2, records=7))[:2] == ["dim", "too early to say"]
    good, word, because = words(make_run(seed=3))
    assert (good, word) == ("good", "healthy")
    assert "healthy bands" in because


def test_no_two_seeds_are_drawn_alike(make_run: MakeRun, tmp_path: Path) -> None:
    page = report(tmp_path, *(make_run(seed=seed) for seed in range(12)))
    looks = [run["look"] for run in data_of(page.read_text())["runs"]]
    assert len({(look["color"], look["dash"]) for look in looks}) == 12
    assert len({look["swatch"] for look in looks}) == 12


def test_what_differs_between_runs_is_shown(make_run: MakeRun, tmp_path: Path) -> None:
    one, other = make_run(seed=1), make_run(seed=2)
    config = json.loads((other / "config.json").read_text())
    config["config"]["optim"]["lr"] = 0.02
    (other / "config.json").write_text(json.dumps(config))
    text = report(tmp_path, one, other).read_text()
    table = re.search(r'<table class="settings">.*?</table>', text, re.DOTALL)
    assert table is not None
    assert re.findall(r"<tr><th>(.*?)</th>", table[0])[1:] == ["seed", "optim.lr"]
    assert "<td>0.001</td><td>0.02</td>" in table[0]


def test_runs_of_several_environments_are_told_apart(make_run: MakeRun, tmp_path: Path) -> None:
    one, other = make_run(seed=1), make_run(env="Acrobot-v1", seed=1)
    text = report(tmp_path, one, other).read_text()
    assert '"name":"ppo on CartPole-v1, seed 1"' in text
    assert '"name":"ppo on Acrobot-v1, seed 1"' in text


def test_a_run_that_is_not_over_says_how_far_it_is(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    assert ">50,000<" in report(tmp_path, run).read_text()
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"steps": 80_000}))
    assert ">50,000 of 80,000<" in report(tmp_path, run).read_text()


def test_two_runs_of_one_seed_are_told_apart(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    again = shutil.copytree(run, tmp_path / "again")
    names = re.findall(r"<h3><i[^>]*></i>(.*?)</h3>", report(tmp_path, run, again).read_text())
    assert names == ["ppo, seed 100", f"ppo, folder={again}, seed 100"]


def test_thinning_keeps_peaks_and_ends() -> None:
    at, values = np.arange(1.0, 10_001), np.zeros(10_000)
    values[1234] = 7.0
    values[5000:6000] = np.nan
    short_at, short = thinned(at, values, np.nanmax)
    assert len(short_at) == len(short) == POINTS
    assert short_at[-1] == 10_000
    assert np.nanmax(short) == 7.0
    assert np.isnan(short).any()
    same_at, same = thinned(at[:5], values[:5], np.nanmax)
    np.testing.assert_array_equal((same_at, same), (at[:5], values[:5]))


@needs_browser
def test_a_browser_draws_all_of_it(make_run: MakeRun, tmp_path: Path) -> None:
    page = opened(report(tmp_path, make_run(seed=1), make_run("dqn", seed=2)))
    assert re.search(r'data-ready="\d+"', page), "the script did not come to its end"
    assert page.count('class="chart"') >= 8
    assert page.count("<canvas") == 3  # a scale and two maps
    for path in re.findall(r' d="(.*?)"', page):
        assert "NaN" not in path
    assert page.count('class="band"') >= 4


@needs_browser
def test_a_run_without_records_is_drawn_too(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(records=1)
    for name in ("gradients", "evaluations", "episodes"):
        (run / f"{name}.csv").unlink()
    assert 'data-ready="' in opened(report(tmp_path, run))


@needs_browser
def test_a_single_record_is_seen(make_run: MakeRun, tmp_path: Path) -> None:
    page = report(tmp_path, make_run(records=1))
    drawn = opened(page)
    dots, charts = drawn.count('class="alone"'), drawn.count('class="chart"')
    assert ">nothing" not in drawn
    assert dots == charts + 2  # the episode and the evaluation are above the charts
    out = tmp_path / "page.png"
    opened(page, f"--screenshot={out}")
    pixels = np.round(255 * matplotlib.image.imread(out)[..., :3])
    assert (pixels == (0xFD, 0xE7, 0x25)).all(-1).sum() > 10_000  # of the largest layer's row
    assert 'class="alone"' not in opened(report(tmp_path, make_run(seed=1, records=2)))


@needs_browser
def test_ten_long_runs_are_small_and_quick(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run(seed=seed, steps=1_000_000, records=2 * POINTS) for seed in range(10)]
    page = report(tmp_path, *runs)
    assert page.stat().st_size < 5e6
    ready = re.search(r'data-ready="(\d+)"', opened(page))
    assert ready is not None
    assert int(ready[1]) < 2000  # milliseconds from the script's start to the last chart


def test_bad_input_is_named(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run()
    cases: list[tuple[list[object], str]] = [
        ([], "no run was given"),
        ([tmp_path / "nowhere"], "nowhere: no such folder"),
        ([run, run], "is given twice"),
        ([run, "--out", tmp_path / "a.txt"], "has to end in .html"),
    ]
    for arguments, message in cases:
        assert main([str(argument) for argument in arguments]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
