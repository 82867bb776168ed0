"""Draws what runs recorded: returns against steps over seeds, or the gradients of every layer.

python scripts/plot.py runs/ppo-CartPole-v1-* --out returns.png
python scripts/plot.py runs/ppo-CartPole-v1-1 --kind gradients --out gradients.svg
"""

from __future__ import annotations

import sys

try:
    import math
    import textwrap
    from collections.abc import Iterator, Sequence
    from dataclasses import dataclass
    from pathlib import Path
    from typing import Any, Literal

    import matplotlib as mpl
    import numpy as np
    import tyro
    from matplotlib.axes import Axes
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullLocator

    import envs  # noqa: F401 (first: it says so if `agents` is another distribution's)

    # isort: split
    from agents.doctor.history import Layers, Table, layers_of, part_of, positions, rows_of
    from agents.doctor.rules.steps import USUAL_RATIO
    from agents.doctor.statistics import STATISTICS
    from agents.runner.arguments import bad_input, guarded, parse
    from agents.runner.results import (
        Run,
        bootstrap_interval,
        common_grid,
        grouped,
        interpolate,
        iqm,
        read_runs,
    )
except KeyboardInterrupt:  # while this takes its time
    sys.exit(130)

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f6a00")
"""Okabe and Ito's palette, which colour-blind readers can tell apart."""
INK, FAINT, ALARM = "#333333", "#b0b0b0", "#c0152f"
NO_RECORD: Any = {"facecolor": "white", "edgecolor": FAINT, "hatch": "/////", "lw": 0}
STYLE: Any = {
    "axes.edgecolor": "#888888",
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "savefig.dpi": 160,
    "svg.hashsalt": "chainrule",  # the same data give the same file
    "text.color": INK,
    "xtick.color": "#666666",
    "ytick.color": "#666666",
}


@dataclass(frozen=True)
class Options:
    """Draw what runs recorded."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs. Returns are averaged over runs that differ in nothing but their seeds;
    gradients are of one run."""
    out: Path
    """The picture to write: FILE.png or FILE.svg."""
    kind: Literal["returns", "gradients"] = "returns"
    """Returns against steps, or the gradient norm of every layer over time."""


def draw(options: Options) -> None:
    """Write the picture. Raises ValueError or OSError, and leaves nothing, when it cannot."""
    if options.out.suffix not in (".png", ".svg"):
        raise ValueError(f"--out {options.out}: the name has to end in .png or .svg")
    if not options.runs:
        raise ValueError("no run was given: name one or more folders of runs")
    if options.kind == "gradients" and len(options.runs) > 1:
        raise ValueError(f"--kind gradients draws one run, {len(options.runs)} were given")
    runs = read_runs(options.runs)
    with mpl.rc_context(STYLE):
        figure = returns_figure(runs) if options.kind == "returns" else gradients_figure(runs[0])
        metadata = {"Date": None} if options.out.suffix == ".svg" else {}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(options.out, metadata=metadata)


def _look(i: int) -> dict[str, Any]:
    """Colour and line style of the i-th curve of a panel: no two of 21 share both."""
    return {"color": COLORS[i % len(COLORS)], "ls": ("-", "--", ":")[i // len(COLORS) % 3]}


# ------------------------------------------------------------------------------------- returns


def returns_figure(runs: Sequence[Run]) -> Figure:
    """Evaluation returns against steps: a panel for each environment, a look for each agent."""
    groups = grouped(runs)
    by_env = {env: {label: g for (e, label), g in groups.items() if e == env} for env, _ in groups}
    looks = {label: _look(i) for i, label in enumerate(sorted({label for _, label in groups}))}
    columns = min(3, len(by_env))
    rows = math.ceil(len(by_env) / columns)
    figure = Figure(figsize=(max(6.4, 4.6 * columns), 3.8 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for panel in axes.flat[len(by_env) :]:
        panel.set_visible(False)
    below = []
    for panel, (env, members) in zip(axes.flat, by_env.items(), strict=False):
        for label, seeds in members.items():
            if len(seeds) == 1:
                _one_run(panel, seeds[0], label, looks[label], alone=len(runs) == 1)
            else:
                _many_seeds(panel, seeds, label, looks[label])
        panel.set_title(env, loc="left", fontsize=10, fontweight="bold")
        panel.set_xlabel("environment steps")
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        panel.set_xlim(left=0)
        panel.grid(axis="y", color="#eeeeee")
        panel.set_axisbelow(True)
        if len(runs) > 1 and any(len(seeds) == 1 for seeds in members.values()):
            label = "worst and best episode of an evaluation"
            panel.fill([], [], color=FAINT, alpha=0.4, lw=0, label=label)
        below.append(_legend(panel))
    for panel in axes[:, 0]:
        panel.set_ylabel("return of an evaluation episode")
    highest = [max(below[i : i + columns]) for i in range(0, len(below), columns)]
    figure.set_figheight(figure.get_figheight() + sum(highest))
    return figure


def _legend(panel: Axes) -> float:
    """Over the curves where it is short, else below them. Returns the inches of it there."""
    lines = sum(label.count("\n") + 1 for label in panel.get_legend_handles_labels()[1])
    if lines <= 4:
        panel.legend(loc="best")
        return 0.0
    panel.legend(loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=4.5)
    return 0.3 + 0.19 * lines


def _many_seeds(panel: Axes, runs: Sequence[Run], name: str, look: dict[str, Any]) -> None:
    color = look["color"]
    curves = [run.evaluations() for run in runs]
    for curve in curves:
        panel.plot(curve["step"], curve["mean_return"], **look, lw=0.6, alpha=0.35)
    steps, ends = (np.array([c[key][-1] for c in curves]) for key in ("step", "mean_return"))
    if max(curve["step"][0] for curve in curves) >= steps.min():  # nothing to take a mean along
        panel.scatter(steps, ends, color=color, label=_wrapped(f"{name}: {len(runs)} seeds"))
        return
    grid = common_grid([curve["step"] for curve in curves])
    values = np.array([interpolate(grid, c["step"], c["mean_return"]) for c in curves])
    panel.fill_between(grid, *bootstrap_interval(values), color=color, alpha=0.18, lw=0)
    label = _wrapped(f"{name}: IQM of {len(runs)} seeds, 95% interval")
    panel.plot(grid, iqm(values), **look, lw=1.8, label=label)


def _one_run(panel: Axes, run: Run, name: str, look: dict[str, Any], alone: bool) -> None:
    curve = run.evaluations()
    if alone:
        _training_episodes(panel, run)
    if "min_return" in curve and "max_return" in curve:
        low, high = curve["min_return"], curve["max_return"]
        label = "its worst and best episode" if alone else None  # else one entry is for all
        _band(panel, curve["step"], low, high, color=look["color"], alpha=0.12, label=label)
    label = _wrapped(f"{name}, seed {run.seed}" + ": mean of an evaluation" * alone)
    x, y = curve["step"], curve["mean_return"]
    panel.plot(x, y, **look, lw=1.6, marker=_dot(y), label=label)


def _dot(values: np.ndarray) -> str:
    """The marker of a curve: there is one where a single value makes no line."""
    return "o" if np.isfinite(values).sum() == 1 else ""


def _band(panel: Axes, x: np.ndarray, low: np.ndarray, high: np.ndarray, **look: Any) -> None:
    """What lies between two curves; of single values a bar, for they have no area."""
    if _dot(high):
        panel.vlines(x, low, high, lw=5, **look)
    else:
        panel.fill_between(x, low, high, lw=0, **look)


def _wrapped(label: str) -> str:
    """A label no wider than a panel, however many settings are in it."""
    return textwrap.fill(label, 50)


def _training_episodes(panel: Axes, run: Run) -> None:
    try:
        episodes = run.episodes()
    except ValueError:
        return  # only a background: a run that has not finished an episode has none
    window = max(1, len(episodes["step"]) // 50)
    smooth = np.convolve(episodes["return"], np.ones(window) / window, mode="valid")
    label = f"training episodes, mean of {window}" if window > 1 else "training episodes"
    look: Any = {"color": FAINT, "lw": 1, "marker": _dot(smooth), "zorder": 1}
    panel.plot(episodes["step"][window - 1 :], smooth, label=label, **look)


# ----------------------------------------------------------------------------------- gradients


def gradients_figure(run: Run) -> Figure:
    """One run's gradients: the total norm, what was clipped or skipped, every layer over time,
    how far each layer's weights move in an update, and the share of dormant units."""
    updates = run.updates()
    learners = list(layers_of(run.gradients(), updates))
    rows = sum(len(learner.names) for learner in learners)
    dormant = list(_dormant(learners))
    heights = [1.5, 0.16 * len(learners), max(1.6, 0.3 * rows)]
    if dormant:
        heights.append(max(1.1, 0.16 * len(dormant)))  # its legend has a line a layer
    figure = Figure(figsize=(10, 1.6 + sum(heights)), layout="constrained")
    grid = figure.add_gridspec(
        len(heights), 3, height_ratios=heights, width_ratios=[1, 0.15, 0.02], hspace=0.02
    )
    heat = figure.add_subplot(grid[2, 0])
    total = figure.add_subplot(grid[0, 0], sharex=heat)
    clipped = figure.add_subplot(grid[1, 0], sharex=heat)
    ratio = figure.add_subplot(grid[2, 1], sharey=heat)
    figure.suptitle(
        f"Gradients of {run.agent} on {run.env}, seed {run.seed}",
        x=0.01,
        ha="left",
        fontsize=12,
        fontweight="bold",
    )
    _total_norm(total, updates, [learner.learner for learner in learners], run.config)
    _clipped(clipped, updates, [learner.learner for learner in learners])
    image = _heat_map(heat, learners)
    bar = figure.colorbar(image, cax=figure.add_subplot(grid[2, 2]), extend="both")
    bar.set_label("gradient norm of the layer")
    _decimal_ticks(bar.ax.yaxis)
    _update_ratio(ratio, learners)
    panels = [total, clipped, heat]
    if dormant:
        panels.append(figure.add_subplot(grid[3, 0], sharex=heat))
        _dormant_units(panels[-1], dormant)
    for panel in panels[:-1]:
        panel.tick_params(axis="x", labelbottom=False, length=0)
    panels[-1].set_xlabel("environment steps")
    panels[-1].xaxis.set_major_formatter(EngFormatter(sep=""))
    heat.set_xlim(0, max(updates["step"]))
    return figure


def _total_norm(
    panel: Axes, updates: Table, learners: Sequence[str], config: dict[str, Any]
) -> None:
    skipped = np.empty(0)
    for i, learner in enumerate(learners):
        own, look = rows_of(updates, learner), _look(i)
        at, mean = positions(own), own["grad_norm"]
        panel.plot(at, mean, **look, lw=1.2, marker=_dot(mean), label=learner, clip_on=False)
        _band(panel, at, mean, own["grad_norm_max"], color=look["color"], alpha=0.2, clip_on=False)
        skipped = np.append(skipped, at[own["skipped"] > 0])
    if skipped.size:
        panel.plot(
            skipped,
            np.full(skipped.size, 0.97),
            "v",
            transform=panel.get_xaxis_transform(),
            color=ALARM,
            ms=5,
            clip_on=False,
            label="skipped: not finite",
        )
    panel.set_yscale("log")
    limits = set(_values(config.get("config"), "max_grad_norm"))
    if len(limits) == 1:
        limit = limits.pop()
        panel.axhline(limit, color=INK, lw=0.8, ls=(0, (4, 3)), label=f"clipped above {limit:g}")
    label = "mean to maximum of an interval"  # one entry for all learners
    panel.fill([], [], color=FAINT, alpha=0.4, lw=0, label=label)
    panel.fill_between([], [], label="no record", **NO_RECORD)
    _decimal_ticks(panel.yaxis)
    panel.set_ylabel("total\ngradient norm")
    panel.grid(axis="y", color="#eeeeee")
    panel.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=5, borderaxespad=0.1)


def _clipped(panel: Axes, updates: Table, learners: Sequence[str]) -> None:
    """A strip a learner: the darker, the larger the share of an interval's steps was clipped."""
    for row, learner in enumerate(learners):
        own = rows_of(updates, learner)
        made = np.diff(own["update"], prepend=0)
        share = np.where(made > 0, own["clipped"] / np.maximum(made, 1), np.nan)
        panel.pcolormesh(
            _edges(positions(own)),
            [row, row + 1],
            np.clip(share, 0, 1)[None],
            cmap="Greys",
            vmin=0,
            vmax=1,
            rasterized=True,
        )
        panel.axhline(row, color="white", lw=3)
    panel.patch.set(**NO_RECORD)
    panel.set_ylim(len(learners), 0)
    panel.set_yticks([len(learners) / 2], ["clipped, 0–100%"])
    panel.tick_params(axis="y", length=0)


def _heat_map(panel: Axes, learners: Sequence[Layers]) -> Any:
    norms = np.concatenate([learner.columns["grad_norm"].ravel() for learner in learners])
    norms = norms[np.isfinite(norms) & (norms > 0)]
    low, high = np.quantile(norms, (0.01, 0.99)) if norms.size else (1e-3, 1.0)
    scale = LogNorm(low, max(high, low * 1.5), clip=True)
    ticks, labels, row = [], [], 0
    for learner in learners:
        values = learner.columns["grad_norm"]
        values = np.ma.masked_invalid(np.where(values == 0, low, values))
        image = panel.pcolormesh(
            _edges(learner.at),
            np.arange(row, row + len(learner.names) + 1),
            values,
            cmap="inferno",
            norm=scale,
            rasterized=True,
        )
        for i, name in enumerate(learner.names):
            if i and part_of(name) != part_of(learner.names[i - 1]):
                panel.axhline(row + i, color="white", lw=3)
            ticks.append(row + i + 0.5)
            labels.append(_label(learner, name, learners))
        row += len(learner.names)
        if row < sum(len(other.names) for other in learners):
            panel.axhline(row, color="white", lw=7)
    panel.patch.set(**NO_RECORD)
    panel.set_ylim(row, 0)
    panel.set_yticks(ticks, labels)
    panel.tick_params(axis="y", length=0, labelcolor=INK)
    panel.set_ylabel("layer, input at the top")
    panel.spines[:].set_visible(False)
    return image


def _update_ratio(panel: Axes, learners: Sequence[Layers]) -> None:
    """Each layer's update over its weights: the median, and where 80% of the records lie."""
    band = STATISTICS["update_ratio"]
    panel.axvspan(band.low, band.high, color="#009e73", alpha=0.1, lw=0)
    panel.axvline(USUAL_RATIO, color="#009e73", lw=0.8, alpha=0.6)
    row = 0
    for learner in learners:
        for values in learner.columns.get("update_ratio", np.empty((len(learner.names), 0))):
            known = values[np.isfinite(values) & (values > 0)]
            if known.size:
                low, middle, high = np.quantile(known, (0.1, 0.5, 0.9))
                panel.plot([low, high], [row + 0.5] * 2, color=INK, lw=1)
                panel.plot(middle, row + 0.5, "o", color=INK, ms=3.5)
            row += 1
    panel.set_xscale("log")
    left, right = panel.get_xlim()
    panel.set_xlim(min(left, band.low / 2), max(right, 2 * band.high))
    panel.set_xticks([1e-5, 1e-3, 1e-1][: 2 + (right > 2 * band.high)])
    panel.xaxis.set_minor_locator(NullLocator())
    panel.tick_params(axis="y", left=False, labelleft=False)
    panel.set_xlabel("update / weight,\nusual in green")
    panel.xaxis.set_label_position("top")
    panel.xaxis.tick_top()
    panel.xaxis.set_in_layout(False)  # there is room for it beside the panels above
    panel.spines[:].set_visible(False)


def _dormant(learners: Sequence[Layers]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(name, where, share of dormant units) of every layer that has units of its own."""
    for learner in learners:
        shares = learner.columns.get("dormant", np.empty((0, 0)))
        for name, share in zip(learner.names, shares, strict=False):
            if np.isfinite(share).any():
                yield _label(learner, name, learners), learner.at, share


def _dormant_units(panel: Axes, layers: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> None:
    for i, (name, at, share) in enumerate(layers):
        # Above the axis and not clipped by it, so that a line at 0 is seen whole.
        look = {**_look(i), "marker": _dot(share), "clip_on": False, "zorder": 3}
        panel.plot(at, share, **look, lw=1.2, label=name)
    most = max(np.nanmax(share) for _, _, share in layers)
    if most == 0:
        panel.text(0.5, 0.5, "no dormant units", transform=panel.transAxes, ha="center")
    panel.set_ylim(0, max(0.1, 1.1 * most))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    panel.set_ylabel("dormant\nunits")
    panel.grid(axis="y", color="#eeeeee")
    legend = panel.legend(loc="lower left", bbox_to_anchor=(1, 0), borderaxespad=0.3)
    legend.set_in_layout(False)


def _label(learner: Layers, layer: str, learners: Sequence[Layers]) -> str:
    return f"{learner.learner}: {layer}" if len(learners) > 1 else layer


def _edges(at: np.ndarray) -> np.ndarray:
    """The bounds of the intervals that the records at these steps close."""
    first = at[0] - (at[1] - at[0]) if len(at) > 1 else 0.0
    return np.concatenate([[max(first, 0.0)], at])


def _decimal_ticks(axis: Any) -> None:
    """Ticks at decades, and at 2 and 5 between them where there are few, written as decimals."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 1000 else (1.0, 2.0, 5.0)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _values(tree: Any, key: str) -> Iterator[float]:
    """Every number under `key` in a nested dict."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            if name == key and isinstance(value, int | float) and math.isfinite(value):
                yield float(value)
            else:
                yield from _values(value, key)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: 2 with one line for bad input."""

    def run() -> int:
        with bad_input():
            options = parse(Options, sys.argv[1:] if argv is None else argv)
            draw(options)
            print(options.out)
        return 0

    return guarded("plot.py", run)


if __name__ == "__main__":
    sys.exit(main())
