"""One self-contained HTML page of runs: no network, nothing to install, opens from disk.

The words are put into `page.html` here; the curves go along as JSON, thinned out so that a long run
takes no more room than a short one, and are drawn by `page.js` in the browser.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import jinja2
import numpy as np

from agents.doctor.finding import Finding
from agents.doctor.history import History, Layers
from agents.doctor.rules import diagnose
from agents.doctor.statistics import STATISTICS, Statistic
from agents.doctor.verdict import HEALTHY, verdict
from agents.runner.results import Run, flattened, grouped

POINTS = 240
"""Points that a curve is thinned out to at the most."""
HEAT = {
    "grad_norm": "gradient norm",
    "update_ratio": "update / weight",
    "weight_norm": "weight norm",
    "feature_norm": "feature norm",
    "zero_fraction": "zero gradient",
    "dormant": "dormant units",
}
"""Columns of gradients.csv that can be shown by layer and time."""
SHOWN_FIRST = (
    *("grad_norm", "update_ratio", "clipped_share", "kl", "explained_variance", "entropy_ratio"),
    *("value_max", "td_error_p99", "snr", "cosine", "dormant", "clip_fraction"),
)
COLORS = (
    *("#2563a8", "#d4600f", "#16876a", "#b3478c", "#8a6d00", "#4aa3d8", "#7a4fc0", "#5d6b78"),
    *("#c0392b", "#3f7d20"),
)
DASHES = ("", "6 3", "2 3")
"""Of the first ten curves, of the next ten, and of those after these, as SVG takes them."""
ALWAYS_MAXIMUM = ("grad_norm_max", "td_error_max", "value_max", "skipped_share")
"""Of these a thinned curve keeps the largest in each part, of the others the mean."""


def render(runs: Sequence[Run]) -> str:
    """The page. Raises ValueError for a run that cannot be read."""
    histories = [run.history() for run in runs]
    findings = [diagnose(history) for history in histories]
    labels = {id(run): label for (_, label), members in grouped(runs).items() for run in members}
    groups = list(dict.fromkeys((run.env, labels[id(run)]) for run in runs))
    several = len(groups) > 1
    data: dict[str, Any] = {
        "runs": [
            {
                "name": _name(run, labels[id(run)], runs, several),
                "env": run.env,
                "group": groups.index((run.env, labels[id(run)])),
                **_curves(history),
                "findings": [_mark(finding) for finding in found],
            }
            for run, history, found in zip(runs, histories, findings, strict=True)
        ],
        "groups": [
            {"env": env, "label": label, "look": _look(i)} for i, (env, label) in enumerate(groups)
        ],
        "statistics": {name: _band(statistic) for name, statistic in STATISTICS.items()},
        "heat": HEAT,
    }
    for i, run in enumerate(data["runs"]):  # a colour a run where there is one group
        run["look"] = _look(run["group"] if several else i)
    settings = [_settings(run) for run in runs]
    keys = list(dict.fromkeys(key for each in settings for key in each))
    differing = [key for key in keys if len({repr(each.get(key)) for each in settings}) > 1]
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    folder = files("agents.report")
    return environment.from_string((folder / "page.html").read_text()).render(
        title=_title(runs),
        style=(folder / "page.css").read_text(),
        script=(folder / "page.js").read_text(),
        # In a script element "<" could end it; in JSON it can be written otherwise.
        data=json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
        runs=[
            {
                "name": entry["name"],
                "swatch": entry["look"]["swatch"],
                "path": str(run.path),
                "steps": _steps(history, run),
                "evaluation": _last_evaluation(history),
                "findings": found,
                "verdict": verdict(history, found),
                "command": run.config.get("command", ""),
            }
            for entry, run, history, found in zip(
                data["runs"], runs, histories, findings, strict=True
            )
        ],
        keys=keys,
        differing=differing,
        healthy=HEALTHY,
        settings=settings,
    )


def _look(i: int) -> dict[str, str]:
    """Of the i-th curve: its colour, its dashes, and both as the background of a swatch in CSS."""
    color, dash = COLORS[i % len(COLORS)], DASHES[i // len(COLORS) % len(DASHES)]
    if not dash:
        return {"color": color, "dash": dash, "swatch": color}
    drawn, left = map(int, dash.split())
    stripes = f"{color} 0 {drawn}px, transparent {drawn}px {drawn + left}px"
    return {"color": color, "dash": dash, "swatch": f"repeating-linear-gradient(90deg, {stripes})"}


def _title(runs: Sequence[Run]) -> str:
    what = list(dict.fromkeys(f"{run.agent} on {run.env}" for run in runs))
    return ", ".join(what[:3]) + (f" and {len(what) - 3} more" if len(what) > 3 else "")


def _name(run: Run, label: str, runs: Sequence[Run], several: bool) -> str:
    """What tells a run from the others."""
    env = f" on {run.env}" if len({other.env for other in runs}) > 1 else ""
    return f"{label}{env}, seed {run.seed}" if several else f"seed {run.seed}"


def _steps(history: History, run: Run) -> str:
    """How many it has recorded, and of how many where that is less."""
    planned = f" of {run.steps:,}" if history.steps < run.steps else ""
    return f"{history.steps:,.0f}{planned}"


def _last_evaluation(history: History) -> str:
    table = history.evaluations
    if not table:
        return "–"
    spread = table["std_return"][-1] if "std_return" in table else math.nan
    return f"{table['mean_return'][-1]:.4g}" + (f" ± {spread:.3g}" if spread == spread else "")


def _settings(run: Run) -> dict[str, str]:
    tree = {key: value for key, value in run.config.items() if key != "command"}
    return {name.removeprefix("config."): str(v) for name, v in flattened(tree).items()}


def _mark(finding: Finding) -> dict[str, Any]:
    evidence = finding.evidence
    return {
        "title": finding.rule.title,
        "at": _number(evidence.began),
        "statistic": evidence.statistic or "returns",
        "learner": evidence.learner,
    }


def _band(statistic: Statistic) -> dict[str, Any]:
    return {
        "title": statistic.title,
        "says": statistic.says,
        "low": _number(statistic.low),
        "high": _number(statistic.high),
        "log": statistic.log,
    }


# ---------------------------------------------------------------------------------------- curves


def _curves(history: History) -> dict[str, Any]:
    curves: dict[str, Any] = {"steps": _number(history.steps), "statistics": {}, "heat": []}
    several = len(history.learners) > 1
    for learner in history.learners:
        names = history.names(learner)
        for name in sorted(names, key=lambda n: _order(n, names)):
            series = history.series(name, learner)
            how = np.nanmax if name in ALWAYS_MAXIMUM else np.nanmean
            at, values = thinned(series.at, series.values, how)
            key = f"{learner}/{name}" if several else name
            curves["statistics"][key] = {
                "name": name,
                "learner": learner,
                "at": _numbers(at),
                "y": _numbers(values),
            }
        if learner in history.layers:
            curves["heat"].append(_heat(history.layers[learner]))
    evaluations, episodes = history.evaluations, history.trained
    if evaluations:
        curves["evaluations"] = {
            name: _numbers(evaluations[name])
            for name in ("step", "mean_return", "min_return", "max_return")
            if name in evaluations
        }
    if episodes:
        at, values = thinned(episodes.at, episodes.values, np.nanmean)
        curves["episodes"] = {"at": _numbers(at), "y": _numbers(values)}
    return curves


def _order(name: str, names: Sequence[str]) -> tuple[int, int]:
    first = SHOWN_FIRST.index(name) if name in SHOWN_FIRST else len(SHOWN_FIRST)
    return first + (name not in STATISTICS), list(names).index(name)


def _heat(layers: Layers) -> dict[str, Any]:
    columns = {}
    at = layers.at
    for name in HEAT:
        if name in layers.columns and np.isfinite(layers.columns[name]).any():
            rows = [thinned(layers.at, row, np.nanmean) for row in layers.columns[name]]
            at = rows[0][0]
            columns[name] = [_numbers(values) for _, values in rows]
    return {
        "learner": layers.learner,
        "layers": layers.names,
        "at": _numbers(at),
        "columns": columns,
    }


def thinned(
    at: np.ndarray, values: np.ndarray, how: Any, points: int = POINTS
) -> tuple[np.ndarray, np.ndarray]:
    """A curve of at most `points`: `how` (nanmean, nanmax) over equally many values each.

    The last one stands where the curve ends. Nothing is changed where it is short already.
    """
    if len(at) <= points:
        return at, values
    ends = np.linspace(0, len(at), points + 1).astype(int)[1:]
    starts = np.append(0, ends[:-1])
    found = [
        how(part) if np.isfinite(part := values[a:b]).any() else math.nan
        for a, b in zip(starts, ends, strict=True)
    ]
    return at[ends - 1], np.array(found)


def _number(value: float) -> float | int | None:
    """With four digits, which is more than a screen shows; None where it is not finite."""
    if not math.isfinite(value):
        return None
    short = float(f"{value:.4g}")
    return int(short) if short == int(short) and abs(short) < 1e15 else short


def _numbers(values: Any) -> list[float | int | None]:
    return [_number(float(value)) for value in values]
