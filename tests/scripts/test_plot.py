"""The pictures, from made-up runs: they are written, they are legible data, bad input is named."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.image
import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D

from agents.doctor.history import layers_of, positions
from agents.runner.results import Run, read_run
from scripts.plot import STYLE, gradients_figure, main, returns_figure

MakeRun = Callable[..., Path]


@pytest.mark.parametrize("kind", ["returns", "gradients"])
def test_png_shows_something(
    make_run: MakeRun, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pictures" / "run.png"  # the folder is made
    assert main([str(make_run()), "--out", str(out), "--kind", kind]) == 0
    assert capsys.readouterr().out == f"{out}\n"
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


def test_runs_so_short_that_they_have_one_evaluation_are_points(make_run: MakeRun) -> None:
    paths = [make_run("dqn", records=1)]
    paths += [make_run(seed=seed, steps=400, records=1) for seed in range(3)]
    (panel,) = returns_figure([read_run(path) for path in paths]).axes
    assert "ppo: 3 seeds" in panel.get_legend_handles_labels()[1]
    assert panel.lines[0].get_marker() == "o"
    points = np.asarray(panel.collections[-1].get_offsets())
    np.testing.assert_array_equal(points, [[400, 500]] * 3)


def test_runs_that_differ_in_more_than_their_seed_are_not_averaged(make_run: MakeRun) -> None:
    for seed in range(4):
        folder = make_run(seed=seed)
        config = json.loads((folder / "config.json").read_text())
        config["config"]["optim"]["lr"] = 1e-3 if seed < 2 else 1e-4
        config["command"] = f"python train_ppo.py --seed {seed}"
        (folder / "config.json").write_text(json.dumps(config))
    runs = [read_run(path) for path in folder.parent.iterdir()]
    (panel,) = returns_figure(runs).axes
    labels = panel.get_legend_handles_labels()[1]
    assert labels == [
        f"ppo, optim.lr={lr}: IQM of 2 seeds, 95% interval" for lr in ("0.001", "0.0001")
    ]


@pytest.mark.parametrize("seeds", [1, 2])
def test_curves_that_share_a_colour_differ_in_style(make_run: MakeRun, seeds: int) -> None:
    """Eleven agents, with one run and with several: there are seven colours."""
    paths = [make_run(f"agent{i:02}", seed=seed) for i in range(11) for seed in range(seeds)]
    (panel,) = returns_figure([read_run(path) for path in paths]).axes
    handles, _ = panel.get_legend_handles_labels()
    lines = [handle for handle in handles if isinstance(handle, Line2D)]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 11


def test_a_long_legend_is_below_the_curves_and_says_nothing_twice(make_run: MakeRun) -> None:
    runs = [read_run(make_run(seed=seed, steps=1000 * (1 + seed))) for seed in range(5)]
    few, many = (returns_figure(some) for some in (runs[:2], runs))
    for figure in (few, many):
        figure.draw_without_rendering()
    heights = []
    for figure, below in ((few, False), (many, True)):
        (panel,) = figure.axes
        legend = panel.get_legend()
        assert legend is not None
        labels = [text.get_text() for text in legend.get_texts()]
        band = "worst and best episode of an evaluation"
        count = len(panel.lines)
        assert labels == [
            *(f"ppo, steps={1000 * (1 + seed)}, seed {seed}" for seed in range(count)),
            band,
        ]
        assert (legend.get_window_extent().y1 < panel.bbox.y0) == below
        assert legend.get_window_extent().y0 > 0
        heights.append(panel.bbox.height)
    assert heights[1] == pytest.approx(heights[0], rel=0.1)


def test_layers_stand_in_forward_order_by_trunk(make_run: MakeRun) -> None:
    run = read_run(make_run(records=5))
    (layers,) = layers_of(run.gradients(), run.updates())
    assert layers.names == [
        *("policy.trunk.0", "policy.trunk.1", "policy.head"),
        *("value.trunk.0", "value.trunk.1", "value.head"),
    ]
    table = run.gradients()
    for name, row in zip(layers.names, layers.columns["grad_norm"], strict=True):
        np.testing.assert_array_equal(row, table["grad_norm"][table["layer"] == name])


UPDATES = "step,update,learner,grad_norm,grad_norm_max,clipped,skipped\n"


def write_run(path: Path, updates: str, gradients: str) -> Run:
    (path / "updates.csv").write_text(UPDATES + updates)
    header = "step,update,learner,layer,grad_norm,zero_fraction\n"
    (path / "gradients.csv").write_text(header + gradients.replace("\n", ",0\n"))
    config = {"agent": "sac", "env": "Pendulum-v1", "seed": 0, "steps": 16, "num_envs": 1}
    (path / "config.json").write_text(json.dumps(config))
    return read_run(path)


def test_learners_that_record_at_other_steps_keep_their_own(tmp_path: Path) -> None:
    run = write_run(
        tmp_path,
        "8,1,critic,1,1,0,0\n16,2,critic,1,1,0,0\n16,1,actor,1,1,0,0\n",
        "8,1,critic,trunk.0,1\n8,1,critic,head,2\n16,2,critic,trunk.0,3\n16,2,critic,head,4\n"
        "16,1,actor,head,5\n",
    )
    critic, actor = layers_of(run.gradients(), run.updates())
    assert (critic.learner, actor.learner) == ("critic", "actor")
    np.testing.assert_array_equal(critic.columns["grad_norm"], [[1, 3], [2, 4]])
    np.testing.assert_array_equal(actor.columns["grad_norm"], [[5]])
    np.testing.assert_array_equal(actor.at, [16])


def test_records_of_one_step_are_spread_over_the_steps_before_it(tmp_path: Path) -> None:
    """Two rollouts of 100 steps: 4, 4 and 2 updates after the first, then 4, 4 skipped, and 8."""
    run = write_run(
        tmp_path,
        "100,4,a,1,1,4,0\n100,8,a,1,1,0,0\n100,10,a,1,1,0,0\n"
        "200,14,a,1,1,0,0\n200,14,a,,,0,4\n200,22,a,1,1,0,0\n",
        "100,4,a,head,1\n100,8,a,head,2\n200,14,a,head,3\n200,22,a,head,4\n200,30,a,head,5\n",
    )
    at = [40, 80, 100, 125, 150, 200]
    np.testing.assert_allclose(positions(run.updates()), at)
    (layers,) = layers_of(run.gradients(), run.updates())
    np.testing.assert_allclose(layers.at, [40, 80, 125, 200])  # the last has no update's row yet
    np.testing.assert_array_equal(layers.columns["grad_norm"], [[1, 2, 3, 4]])
    total, clipped = gradients_figure(run).axes[1:3]
    np.testing.assert_allclose(np.asarray(total.lines[0].get_xdata()), at)
    shares: Any = clipped.collections[0].get_array()
    np.testing.assert_array_equal(shares.filled(np.nan).ravel(), [1, 0, 0, 0, np.nan, 0])
    assert clipped.patch.get_hatch()  # seen where there is nothing


@pytest.mark.parametrize(("share", "said"), [(0.0, ["no dormant units"]), (0.01, [])])
def test_units_that_are_all_awake_are_seen(
    make_run: MakeRun, tmp_path: Path, share: float, said: list[str]
) -> None:
    path = make_run(records=5) / "gradients.csv"
    lines = path.read_text().splitlines()
    rows = [re.sub("(?<=,)[^,]+$", str(share), line) for line in lines[1:]]
    path.write_text("\n".join([lines[0], *rows, ""]))
    panel = gradients_figure(read_run(path.parent)).axes[-1]
    assert [text.get_text() for text in panel.texts] == said
    assert not any(line.get_clip_on() for line in panel.lines)
    form = panel.yaxis.get_major_formatter()
    assert [form(value) for value in (0, 0.025, 0.07, 0.5)] == ["0%", "2.5%", "7%", "50%"]


def test_gradients_mark_the_steps_that_were_skipped_and_the_limit(make_run: MakeRun) -> None:
    run = read_run(make_run(records=40))
    labels = gradients_figure(run).axes[1].get_legend_handles_labels()[1]
    assert "skipped: not finite" in labels
    assert "clipped above 0.5" in labels


def run_with_all_entries(path: Path, learners: Sequence[str]) -> Run:
    """Its legend has every entry there can be: a step of each learner was skipped, one clipped."""
    updates = "".join(f"8,1,{name},1,2,1,0\n16,1,{name},,,0,1\n" for name in learners)
    run = write_run(path, updates, "".join(f"8,1,{name},head,1\n" for name in learners))
    run.config["config"] = {"optim": {"max_grad_norm": 0.5}}
    return run


LEARNERS = [("recurrent_ppo",), ("value", "policy"), ("critic", "actor", "temperature")]


@pytest.mark.parametrize("learners", LEARNERS)
def test_what_holds_for_all_learners_is_said_once(tmp_path: Path, learners: Sequence[str]) -> None:
    total = gradients_figure(run_with_all_entries(tmp_path, learners)).axes[1]
    assert total.get_legend_handles_labels()[1] == [
        *learners,
        "skipped: not finite",
        "clipped above 0.5",
        "mean to maximum of an interval",
        "no record",
    ]


@pytest.mark.parametrize("learners", LEARNERS)
def test_the_whole_legend_stands_over_panels_of_full_width(
    tmp_path: Path, learners: Sequence[str]
) -> None:
    with mpl.rc_context(STYLE):
        figure = gradients_figure(run_with_all_entries(tmp_path, learners))
        figure.draw_without_rendering()
    total = figure.axes[1]
    legend = total.get_legend()
    assert legend is not None
    box = legend.get_window_extent()
    assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
    assert total.bbox.y1 <= box.y0 < box.y1 <= figure.bbox.y1
    assert total.bbox.width > 0.6 * figure.bbox.width


def test_gradients_are_drawn_where_none_is_finite(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(records=3)
    for name in ("gradients.csv", "updates.csv"):
        text = (run / name).read_text()
        (run / name).write_text(re.sub(r"(?<=,)\d+\.\d+", "nan", text))
    assert main([str(run), "--kind", "gradients", "--out", str(tmp_path / "a.png")]) == 0


def test_a_single_record_is_drawn(make_run: MakeRun, tmp_path: Path) -> None:
    path = make_run(records=1)
    for kind in ("returns", "gradients"):
        assert main([str(path), "--kind", kind, "--out", str(tmp_path / f"{kind}.png")]) == 0


def test_a_single_record_is_a_dot_with_a_bar(make_run: MakeRun) -> None:
    """A line through one point would not be seen, nor an area over it."""
    run = read_run(make_run(records=1))
    (returns,), (_, total, *_, dormant) = returns_figure([run]).axes, gradients_figure(run).axes
    lines = [*returns.lines, total.lines[0], *dormant.lines]
    assert [line.get_marker() for line in lines] == ["o"] * (2 + 1 + 4)
    for panel in (returns, total):
        (bar,) = (c for c in panel.collections if isinstance(c, LineCollection))
        ((low, high),) = bar.get_segments()
        assert low[0] == high[0] == 50_000
        assert low[1] < high[1]


def test_many_records_are_a_line_with_an_area(make_run: MakeRun) -> None:
    run = read_run(make_run(records=3))
    (returns,), (_, total, *_, dormant) = returns_figure([run]).axes, gradients_figure(run).axes
    lines = [*returns.lines, total.lines[0], *dormant.lines]
    assert not any(line.get_marker() == "o" for line in lines)
    for panel in (returns, total):
        assert not any(isinstance(c, LineCollection) for c in panel.collections)


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
        ([run, run, "--out", out], "is given twice"),
        ([run, f"{run}/../{run.name}", "--out", out], "is given twice"),
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
