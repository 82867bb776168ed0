"""The pictures, from made-up runs: they are written, they are legible data, bad input is named."""

import re
from collections.abc import Callable
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from agents.runner.results import read_run
from scripts.plot import gradients_figure, layers_of, main, returns_figure

MakeRun = Callable[..., Path]


@pytest.mark.parametrize("kind", ["returns", "gradients"])
def test_png_shows_something(make_run: MakeRun, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "pictures" / "run.png"  # the folder is made
    assert main([str(make_run()), "--out", str(out), "--kind", kind]) == 0
    pixels = matplotlib.image.imread(out)
    assert min(pixels.shape[:2]) > 400
    assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 50


@pytest.mark.parametrize("kind", ["returns", "gradients"])
def test_svg_is_the_same_each_time(make_run: MakeRun, tmp_path: Path, kind: str) -> None:
    run = str(make_run())
    first, second = tmp_path / "a.svg", tmp_path / "b.svg"
    for out in (first, second):
        assert main([run, "--out", str(out), "--kind", kind]) == 0
    assert first.read_text().startswith("<?xml")
    assert first.read_bytes() == second.read_bytes()


def test_returns_have_a_panel_a_task_and_a_band_an_agent(make_run: MakeRun) -> None:
    paths = [make_run(agent, seed=seed) for agent in ("ppo", "dqn") for seed in range(3)]
    paths.append(make_run("ppo", "Acrobot-v1", final=-80.0))
    figure = returns_figure([read_run(path) for path in paths])
    acrobot, cartpole = figure.axes
    assert [panel.get_title("left") for panel in figure.axes] == ["Acrobot-v1", "CartPole-v1"]
    labels = cartpole.get_legend_handles_labels()[1]
    assert labels == [f"{agent}: IQM of 3 seeds, 95% interval" for agent in ("dqn", "ppo")]
    assert len(cartpole.lines) == 2 * (3 + 1)  # each seed thin, their IQM thick
    ends = [np.asarray(line.get_ydata())[-1] for line in cartpole.lines]
    np.testing.assert_allclose(ends, 500.0)
    assert np.asarray(acrobot.lines[-1].get_ydata())[-1] == -80.0


def test_layers_stand_in_forward_order_by_trunk(make_run: MakeRun) -> None:
    (layers,) = layers_of(read_run(make_run(records=5)).gradients())
    assert layers.names == [
        *("policy.trunk.0", "policy.trunk.1", "policy.head"),
        *("value.trunk.0", "value.trunk.1", "value.head"),
    ]
    table = read_run(make_run(seed=1, records=5)).gradients()
    (layers,) = layers_of(table)
    for name, row in zip(layers.names, layers.columns["grad_norm"], strict=True):
        np.testing.assert_array_equal(row, table["grad_norm"][table["layer"] == name])


def test_learners_that_record_at_other_steps_keep_their_own(tmp_path: Path) -> None:
    (tmp_path / "gradients.csv").write_text(
        "step,update,learner,layer,grad_norm\n"
        "8,1,critic,trunk.0,1\n8,1,critic,head,2\n16,2,critic,trunk.0,3\n16,2,critic,head,4\n"
        "16,1,actor,head,5\n"
    )
    (tmp_path / "config.json").write_text('{"agent": "sac", "env": "Pendulum-v1", "seed": 0}')
    critic, actor = layers_of(read_run(tmp_path).gradients())
    assert (critic.learner, actor.learner) == ("critic", "actor")
    np.testing.assert_array_equal(critic.columns["grad_norm"], [[1, 3], [2, 4]])
    np.testing.assert_array_equal(actor.columns["grad_norm"], [[5]])
    np.testing.assert_array_equal(actor.steps, [16])


def test_gradients_mark_the_steps_that_were_skipped_and_the_limit(make_run: MakeRun) -> None:
    run = read_run(make_run(records=40))
    labels = gradients_figure(run).axes[1].get_legend_handles_labels()[1]
    assert "skipped: not finite" in labels
    assert "clipped above 0.5" in labels


def test_gradients_are_drawn_where_none_is_finite(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(records=3)
    for name in ("gradients.csv", "updates.csv"):
        text = (run / name).read_text()
        (run / name).write_text(re.sub(r"(?<=,)\d+\.\d+", "nan", text))
    assert main([str(run), "--kind", "gradients", "--out", str(tmp_path / "a.png")]) == 0


def test_a_single_record_is_drawn(make_run: MakeRun, tmp_path: Path) -> None:
    run = str(make_run(records=1))
    for kind in ("returns", "gradients"):
        assert main([run, "--kind", kind, "--out", str(tmp_path / f"{kind}.png")]) == 0


def test_bad_input_exits_2_with_one_line_and_leaves_nothing(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, empty, bare = make_run(), make_run(seed=1), make_run(seed=2)
    (empty / "evaluations.csv").write_text("")
    (bare / "gradients.csv").unlink()
    (tmp_path / "file").write_text("")
    out = tmp_path / "out" / "a.png"
    cases = [
        ([run, "--out", tmp_path / "a.jpeg"], r"has to end in \.png or \.svg"),
        ([tmp_path / "nowhere", "--out", out], "nowhere: no such folder"),
        ([tmp_path, "--out", out], "not a run's folder"),
        ([empty, "--out", out], r"evaluations\.csv: empty"),
        ([bare, "--out", out, "--kind", "gradients"], r"gradients\.csv: no such file"),
        ([run, empty, "--out", out, "--kind", "gradients"], "draws one run, 2 were given"),
        (["--out", out], "no run was given"),
        ([run, "--out", tmp_path / "file" / "a.png"], "file"),
        ([run, "--out", out, "--kind", "loss"], "loss"),
        ([run, "--out", out, "--sort", "x"], "sort"),
    ]
    for arguments, message in cases:
        assert main([str(argument) for argument in arguments]) == 2, arguments
        error = capsys.readouterr().err
        assert re.search(message, error), error
        assert error.count("\n") == 1
        assert error.startswith("plot.py: ")
    assert not out.parent.exists()
