"""The doctor's command line, on made-up runs."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts import report
from scripts.doctor import main

MakeRun = Callable[..., Path]


def finite(run: Path) -> Path:
    """The made-up run without the steps that it skips."""
    table = run / "updates.csv"
    text = table.read_text().replace(",1,0.001,,0.1,loss term 'value'", ",0,0.001,,0.1,")
    table.write_text(text)
    return run


def test_a_healthy_run_is_given_one_short_line(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(finite(make_run()))]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == "ppo on CartPole-v1, seed 100, 50,000 steps: healthy"
    assert "healthy bands" in second


def test_a_fault_is_said_with_figures_and_the_flag_to_change(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finite(make_run())
    table = run / "gradients.csv"
    header, *rows = table.read_text().splitlines()
    at = header.split(",").index("update_ratio")
    changed = [",".join([*(c := row.split(","))[:at], "0.2", *c[at + 1 :]]) for row in rows]
    table.write_text("\n".join([header, *changed, ""]))
    assert main([str(run)]) == 0
    out = capsys.readouterr().out
    assert "1. The learning rate is far too high (from step " in out
    assert "20.0% of its weights" in out
    assert "→ --agent.optim.lr 5e-06" in out


def test_skipped_steps_are_told_with_where_they_went_wrong(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(make_run())]) == 0
    out = capsys.readouterr().out
    assert re.search(r"1 of 2561 updates of ppo were not finite .*loss term 'value'", out)


def test_a_run_without_updates_is_not_judged(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run()
    (run / "updates.csv").write_text("")
    assert main([str(run)]) == 0
    out = capsys.readouterr().out
    assert "50,000 steps: no update recorded\n" in out
    assert "healthy" not in out


def test_a_run_that_has_just_begun_is_not_called_healthy(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    for records, word in ((7, "too early to say"), (8, "healthy")):
        assert main([str(finite(make_run(seed=records, records=records)))]) == 0
        assert f"steps: {word}\n" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["episodes", "updates", "gradients", "evaluations"])
def test_a_column_that_is_missing_is_named_or_not_needed(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """By the report too, which reads the same tables."""
    run = make_run()
    table = run / f"{name}.csv"
    whole = [line.split(",") for line in table.read_text().splitlines()]
    for i, column in enumerate(whole[0]):
        table.write_text("".join(",".join(row[:i] + row[i + 1 :]) + "\n" for row in whole))
        for script, ask in (("doctor", main), ("report", report.main)):
            code, error = ask([str(run)]), capsys.readouterr().err
            line = f"{script}.py: {table}: no column {column}\n"
            assert (code, error) in ((0, ""), (2, line))


def test_bad_input_is_one_line(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = make_run()
    (damaged / "gradients.csv").write_text("step,update\n1,2\n")
    broken = make_run(seed=1)
    (broken / "config.json").write_text(json.dumps({"agent": "ppo"}))
    for arguments, message in (
        ([tmp_path / "nowhere"], "no such folder"),
        ([damaged / "updates.csv"], "updates.csv: a file, no folder"),
        ([damaged], "no column learner, layer, grad_norm, zero_fraction"),
        ([broken], "no 'env' in it"),
        ([], "run"),
    ):
        assert main([str(argument) for argument in arguments]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
