"""What the benchmark makes of runs: made-up ones, whose numbers are known."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from agents.runner.arguments import seed_list
from scripts import benchmark
from scripts.benchmark import main, markdown, runs_in, tabulate

MakeRun = Callable[..., Path]


@pytest.mark.parametrize(
    ("words", "seeds"),
    [
        (["100-104"], [100, 101, 102, 103, 104]),
        (["7"], [7]),
        (["3", "0-2", "1", "3-4"], [3, 0, 1, 2, 4]),
        (["5-5"], [5]),
    ],
)
def test_seeds(words: list[str], seeds: list[int]) -> None:
    assert seed_list(words) == seeds


@pytest.mark.parametrize("word", ["", "a", "1-", "-1", "4-1", "1-2-3", "1.5", "1,2"])
def test_bad_seeds_are_named(word: str) -> None:
    with pytest.raises(ValueError, match=f"--seeds {word}"):
        seed_list([word])


def test_row_holds_the_final_evaluations(make_run: MakeRun) -> None:
    finals = [500.0, 450.0, 475.0, 480.0, 100.0]
    for seed, final in zip(range(100, 105), finals, strict=True):
        folder = make_run("dqn", seed=seed, final=final).parent
    make_run("ppo", "Acrobot-v1", seed=3, final=-80.0)
    runs, failures = runs_in(folder)
    assert not failures
    acrobot, cartpole = tabulate(runs)
    assert (acrobot.task, acrobot.agent, acrobot.seeds) == ("Acrobot-v1", "ppo", [3])
    assert (acrobot.threshold, acrobot.reached) == (-100.0, 1)
    assert cartpole.seeds == [100, 101, 102, 103, 104]
    assert cartpole.returns == finals
    assert cartpole.mean == np.mean(finals)
    assert cartpole.iqm == pytest.approx((450 + 475 + 480) / 3)
    assert cartpole.interval[0] <= cartpole.iqm <= cartpole.interval[1]
    assert (cartpole.threshold, cartpole.reached) == (475.0, 3)
    assert (cartpole.steps, cartpole.episodes) == ([50_000] * 5, 20)
    assert cartpole.minutes == [pytest.approx(39 * 0.5 / 60)] * 5
    assert 0 < cartpole.area < max(finals)
    (_, lower) = tabulate(runs, threshold=450.0)
    assert lower.reached == 4


def test_task_without_a_threshold_has_none(make_run: MakeRun) -> None:
    (row,) = tabulate(runs_in(make_run(env="Private-v0").parent)[0])
    assert row.reached is None


def test_table_csv_curves_and_what_is_collected(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, final in ((0, 500.0), (1, 470.0)):
        out = make_run(seed=seed, final=final).parent
    kept = tmp_path / "results"
    assert main(["--table-only", "--out", str(out), "--collect", str(kept)]) == 0
    table = capsys.readouterr().out
    assert table == (out / "benchmark.md").read_text()
    cells = [cell.strip() for cell in table.splitlines()[2].strip("|").split("|")]
    assert cells[:6] == ["CartPole-v1", "ppo", "0–1", "50,000", "500.0, 470.0", "485.0"]
    assert cells[8] == "1 of 2 ≥ 475"
    with (out / "benchmark.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["returns"] == "500.0 470.0"
    assert float(row["iqm"]) == 485.0
    assert float(row["iqm_low"]) <= 485.0 <= float(row["iqm_high"])
    assert sorted(str(path.relative_to(kept)) for path in kept.rglob("*.*") if path.is_file()) == [
        "CartPole-v1.png",
        "benchmark.csv",
        "benchmark.md",
        "ppo-CartPole-v1-0/config.json",
        "ppo-CartPole-v1-0/evaluations.csv",
        "ppo-CartPole-v1-1/config.json",
        "ppo-CartPole-v1-1/evaluations.csv",
    ]
    # What was collected is enough to make the table again, but for the wall time.
    (again,) = tabulate(runs_in(kept)[0])
    assert again.returns == [500.0, 470.0]
    assert np.isnan(again.minutes).all()


def test_run_without_an_evaluation_is_reported(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    out = make_run(seed=0).parent
    (make_run(seed=1) / "evaluations.csv").unlink()
    assert main(["--table-only", "--out", str(out)]) == 1
    captured = capsys.readouterr()
    assert "ppo-CartPole-v1-1" in captured.err
    assert "ppo-CartPole-v1-1/evaluations.csv: no such file" in captured.out


def test_an_evaluation_without_the_column_of_its_episodes_is_reported(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    out, table = make_run(seed=0).parent, make_run(seed=1) / "evaluations.csv"
    table.write_text("step,mean_return\n1000,500.0\n")
    assert main(["--table-only", "--out", str(out)]) == 1
    assert f"{table}: no column episodes" in capsys.readouterr().out


@pytest.mark.parametrize("files", [["evaluations.csv"], []])
def test_run_that_has_only_just_begun_is_left_out(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str], files: list[str]
) -> None:
    """Another command may be training in the same folder."""
    out, begun = make_run(seed=0).parent, make_run(seed=1)
    for path in begun.glob("*.csv"):
        path.unlink()
    for name in files:
        (begun / name).write_text("step,episodes,mean_return\n")
    assert main(["--table-only", "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert captured.err == f"{begun}: left out, it has no evaluation yet\n"
    assert "Failed" not in captured.out


def test_run_that_fails_is_reported_and_the_others_go_on(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    # A folder whose run began with other settings is one that training refuses to resume.
    out = make_run(seed=0).parent
    config = json.loads((out / "ppo-CartPole-v1-0" / "config.json").read_text())
    (out / "ppo-CartPole-v1-0" / "config.json").write_text(json.dumps(config | {"agent": "dqn"}))
    arguments = ["--agents", "ppo", "--seeds", "0-1", "--steps", "600", "--out", str(out)]
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert "ppo-CartPole-v1-0 failed with exit status 2" in captured.err
    assert "ppo-CartPole-v1-1: evaluation: mean_return=" in captured.out
    assert "ppo-CartPole-v1-1" not in captured.err

    # Called again, the run that is finished is not trained again.
    log = (out / "ppo-CartPole-v1-1" / "updates.csv").stat().st_mtime_ns
    assert main(arguments) == 1
    assert "ppo-CartPole-v1-1: evaluation: mean_return=" in capsys.readouterr().out
    assert (out / "ppo-CartPole-v1-1" / "updates.csv").stat().st_mtime_ns == log


def test_settings_that_differ_are_rows_of_their_own(make_run: MakeRun) -> None:
    for seed in range(4):
        folder = make_run(seed=seed, steps=50_000 if seed < 3 else 80_000)
    rows = list(tabulate(runs_in(folder.parent)[0]))
    assert [(row.agent, row.seeds) for row in rows] == [
        ("ppo, steps=50000", [0, 1, 2]),
        ("ppo, steps=80000", [3]),
    ]


def test_a_seed_counts_once(make_run: MakeRun) -> None:
    folder = make_run(seed=0)
    again = shutil.copytree(folder, folder.parent / "again")
    make_run(seed=1, final=400.0)
    rows = list(tabulate(runs_in(folder.parent)[0]))
    assert [(row.agent, row.seeds) for row in rows] == [
        ("ppo", [0, 1]),
        (f"ppo, folder={folder}", [0]),  # `again` comes first in the alphabet
    ]
    assert again.is_dir()


def test_runs_that_ended_early_are_listed(make_run: MakeRun) -> None:
    whole, early = make_run(seed=0), make_run(seed=1)
    runs = runs_in(whole.parent)[0]
    assert "Ended early" not in markdown(list(tabulate(runs)))
    lines = (early / "evaluations.csv").read_text().splitlines(keepends=True)
    (early / "evaluations.csv").write_text("".join(lines[:-30]))
    listed = markdown(list(tabulate(runs))).partition("Ended early")[2].splitlines()
    assert listed[2:] == ["- ppo on CartPole-v1, seed 1: at step 12,500 of 50,000"]


def test_a_module_is_imported_for_the_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--agents", "ppo", "--envs", "gymnasium.envs.classic_control:CartPole-v1"]
    out = tmp_path / "out"
    assert main([*words, "--seeds", "0", "--steps", "600", "--out", str(out)]) == 0
    name = "gymnasium.envs.classic_control-CartPole-v1"
    assert (out / f"ppo-{name}-0" / "config.json").exists()
    assert (out / f"{name}.png").exists()
    assert "≥ 475" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--agents is empty"),
        (["--agents", "ppo", "--envs"], "--envs is empty"),
        (["--agents", "ppo", "--seeds"], "--seeds is empty"),
        (["--agents", "ppo", "--seeds", "0-999999999999"], "give 10,000 seeds at the most"),
        (["--agents", "ppo", "--seeds", "0-9999", "10000"], "--seeds 10000: give 10,000"),
        (["--agents", "ppo", "--envs", "Taxi-v4"], "--steps is missing: ppo has no preset"),
        (["--agents", "ppo", "dqn", "--envs", "Pendulum-v1", "--steps", "9"], "Discrete"),
        (["--agents", "ppo", "--threads", "99999999999"], "--threads is 99999999999: use 1 to"),
        (["--agents", "pppo"], "--agents pppo: there is "),
        (["--agents", "ppo", "--envs", "CartPool-v1"], "CartPool"),
        (["--agents", "ppo", "--seeds", "9-1"], "--seeds 9-1"),
        (["--agents", "ppo", "--jobs", "0"], "--jobs is 0"),
        (["--agents", "ppo", "--steps", "0"], "--steps is 0"),
        (["--table-only"], "no runs in it"),
    ],
)
def test_bad_input_exits_2_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert benchmark.main([*arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
