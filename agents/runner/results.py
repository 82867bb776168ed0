"""What runs left in their folders, read back, and the statistics that agents are compared by.

Everything here is a pure function of files or of arrays. A bad file is a ValueError of one line.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agents.core.files import check_types
from agents.doctor.history import History, Table

Array = NDArray[np.float64]
TEXT = ("learner", "layer", "nonfinite")
BOOKKEEPING = (
    *("checkpoint_every", "eval_every", "log_every", "eval_episodes", "max_episode_steps"),
    *("threads", "device"),
)
"""Settings that nothing of what is learned follows from; some follow from others themselves."""


@dataclass(frozen=True)
class Run:
    """A run's folder and what it says of itself."""

    path: Path
    agent: str
    env: str
    seed: int
    steps: int
    """How many it was to take."""
    num_envs: int
    config: dict[str, Any]
    """The whole of config.json."""

    @property
    def env_options(self) -> dict[str, Any]:
        """What `envs.make` takes beside the id to make the run's environment again.

        Raises ValueError where only the program that made it can.
        """
        options = self.config.get("env_options", {})
        if options is None:
            raise ValueError(
                f"the environment of the run in {self.path}, {self.env}, was made by a program: it "
                "is not registered, or was wrapped or changed, and cannot be made again here"
            )
        if not isinstance(options, dict):
            raise ValueError(f"{self.path / 'config.json'}: env_options is {options!r}, no dict")
        return options

    def episodes(self) -> Table:
        """Training episodes: step, episode, return, length, seconds."""
        return read_table(self.path / "episodes.csv", ("step", "return", "length"))

    def evaluations(self) -> Table:
        """Evaluations: step, episodes, mean_return, std_return, min_return, max_return.

        The last one of each step: a run that ended early was evaluated twice there.
        """
        table = read_table(self.path / "evaluations.csv", ("step", "episodes", "mean_return"))
        last = np.append(np.diff(table["step"]) != 0, True)
        return {name: column[last] for name, column in table.items()}

    def updates(self) -> Table:
        """Updates, each row a mean over an interval: step, update, learner, loss, grad_norm, …"""
        names = ("step", "update", "learner", "grad_norm", "grad_norm_max", "clipped", "skipped")
        return read_table(self.path / "updates.csv", names)

    def gradients(self) -> Table:
        """Layers, each row a mean over an interval: step, update, learner, layer, grad_norm, …"""
        names = ("step", "update", "learner", "layer", "grad_norm", "zero_fraction")
        return read_table(self.path / "gradients.csv", names)

    def history(self) -> History:
        """All of it, as the doctor reads it. Raises ValueError for a file that is damaged."""
        return read_history(self.path, self.config)


def read_history(path: Path, config: Mapping[str, Any]) -> History:
    """What the run in the folder `path` recorded. A file without rows yet counts as empty.

    Raises ValueError for a file that is damaged.
    """
    run = Run(path, "", "", 0, 0, 0, dict(config))
    tables: dict[str, Table] = {}
    for name in ("episodes", "updates", "gradients", "evaluations"):
        tables[name] = getattr(run, name)() if has_rows(path / f"{name}.csv") else {}
    return History(config, **tables)


def read_run(path: Path) -> Run:
    """The run in the folder `path`. Raises ValueError if there is none."""
    if not path.is_dir():
        raise ValueError(f"{path}: {'a file, no folder' if path.exists() else 'no such folder'}")
    file = path / "config.json"
    try:
        config = json.loads(file.read_text())
        if not isinstance(config, dict):
            raise TypeError(f"a run's settings have names, this is a {type(config).__name__}")
        names = ("agent", "env", "seed", "steps", "num_envs")
        run = Run(path=path, config=config, **{name: config[name] for name in names})
        check_types(run)
        return run
    except FileNotFoundError:
        raise ValueError(f"{path}: not a run's folder, it has no config.json") from None
    except KeyError as error:
        raise ValueError(f"{file}: no {error} in it") from None
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: unreadable ({error})") from None


def has_rows(file: Path) -> bool:
    """Whether a CSV file of a run has more than its header; one that is no text counts."""
    try:
        with file.open() as lines:
            return bool(next(lines, "")) and next(lines, "").endswith("\n")
    except (OSError, ValueError):  # missing, or no text: whoever reads it says so
        return file.exists()


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """The runs in these folders. Raises ValueError if one holds none or is given twice."""
    folders = [path.resolve() for path in paths]
    for path, folder in zip(paths, folders, strict=True):
        if folders.count(folder) > 1:
            raise ValueError(f"{path} is given twice: each run counts once")
    return [read_run(path) for path in paths]


def grouped(runs: Sequence[Run]) -> dict[tuple[str, str], list[Run]]:
    """The runs that differ in nothing but their seeds, by environment and label.

    The label is the agent's name, with the settings in which it differs from others of that name
    in the same environment, those of its bookkeeping only where the others do not tell them apart.
    A seed counts once: a second run of it has a label of its own, with its folder.
    """

    def task(run: Run) -> tuple[str, str]:
        return run.env, run.agent

    groups: dict[tuple[str, str], list[Run]] = {}
    for (env, agent), same in groupby(sorted(runs, key=lambda r: (*task(r), r.seed)), key=task):
        members = list(same)
        settings = [_settings(run) for run in members]
        names = dict.fromkeys(name for each in settings for name in each)
        differing = [name for name in names if _kinds(settings, [name]) > 1]
        for name in BOOKKEEPING:
            others = [other for other in differing if other != name]
            if _kinds(settings, others) == _kinds(settings, differing):
                differing = others
        for run, each in zip(members, settings, strict=True):
            label = ", ".join([agent, *(f"{name}={each.get(name)}" for name in differing)])
            if any(run.seed == other.seed for other in groups.get((env, label), ())):
                label += f", folder={run.path}"
            groups.setdefault((env, label), []).append(run)
    return groups


def _settings(run: Run) -> dict[str, Any]:
    """What is to be the same in runs that are averaged over, by name."""
    config = {k: v for k, v in run.config.items() if k not in ("seed", "command", "versions")}
    return {name.removeprefix("config."): v for name, v in flattened(config).items()}


def _kinds(settings: Sequence[Mapping[str, Any]], names: Sequence[str]) -> int:
    """How many kinds of runs there are by the settings of these names."""
    return len({repr([each.get(name) for name in names]) for each in settings})


def flattened(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of a nested dict by their path, such as optim.lr."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        below = isinstance(value, Mapping)
        flat |= flattened(value, f"{prefix}{name}.") if below else {f"{prefix}{name}": value}
    return flat


def difference(
    now: Mapping[str, Any], then: Mapping[str, Any], prefix: str = ""
) -> tuple[str, Any, Any] | None:
    """Where two nested dicts first differ: the path, and what each has there."""
    for name in {**now, **then}:
        one, other = now.get(name), then.get(name)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            if found := difference(one, other, f"{prefix}{name}."):
                return found
        elif one != other:
            return f"{prefix}{name}", one, other
    return None


def read_table(path: Path, required: Sequence[str] = ()) -> Table:
    """A CSV file of a run's folder as columns.

    A last line without its newline is left out: the run is still writing it. Raises ValueError
    for a missing or empty file, a missing column, or a row that does not fit.
    """
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: unreadable ({error})") from None
    header, *rows = list(csv.reader(text[: text.rfind("\n") + 1].splitlines())) or [[]]
    if header and (missing := [name for name in required if name not in header]):
        raise ValueError(f"{path}: no column {', '.join(missing)}")
    if not rows:
        raise ValueError(f"{path}: empty, nothing has been recorded yet")
    table: Table = {}
    try:
        for name, column in zip(header, zip(*rows, strict=True), strict=True):
            if name in TEXT:
                table[name] = np.array(column, dtype=object)
            else:
                table[name] = np.array([float(cell or "nan") for cell in column])
    except ValueError as error:
        raise ValueError(f"{path}: a row does not fit the header ({error})") from None
    return table


def common_grid(steps: Sequence[ArrayLike], points: int = 200) -> Array:
    """Evenly spaced steps `(points,)` on which every one of the curves is defined.

    Raises ValueError if there is no such range.
    """
    first = max(np.min(s) for s in steps)
    last = min(np.max(s) for s in steps)
    if first > last:
        raise ValueError("the curves have no range of steps in common")
    return np.linspace(first, last, points)


def interpolate(grid: Array, steps: Array, values: Array) -> Array:
    """A curve's values at the steps of `grid`, nan outside the curve: nothing is extrapolated."""
    return np.interp(grid, steps, values, left=np.nan, right=np.nan)


def area_under_curve(steps: ArrayLike, values: ArrayLike) -> float:
    """A curve's mean height over its steps, in the units of `values`; steps increase."""
    x, y = np.asarray(steps, dtype=float), np.asarray(values, dtype=float)
    return float(np.trapezoid(y, x) / (x[-1] - x[0])) if len(x) > 1 else float(y[0])


def iqm(values: ArrayLike, axis: int = 0) -> Any:
    """Interquartile mean: what is left when a quarter is cut off at either end, averaged.

    It ignores outliers as the median does and is as certain as the mean (Agarwal et al. 2021,
    "Deep RL at the edge of the statistical precipice").
    """
    ordered = np.sort(np.asarray(values, dtype=float), axis=axis)
    count = ordered.shape[axis]
    cut = count // 4
    return ordered.take(range(cut, count - cut), axis=axis).mean(axis=axis)


def bootstrap_interval(
    *strata: ArrayLike,
    statistic: Callable[..., Any] = iqm,
    confidence: float = 0.95,
    resamples: int = 2000,
) -> tuple[Any, Any]:
    """Bounds of a stratified percentile bootstrap interval (Agarwal et al. 2021).

    Each stratum `(seeds, ...)`, say a task's scores, is resampled within itself; `statistic`
    is taken over the pooled axis. Trailing axes, say the points of a curve, are kept, and a draw
    takes whole curves. Deterministic. Bounds are nan where a stratum has fewer than two seeds:
    one seed says nothing of the others.
    """
    arrays = [np.asarray(stratum, dtype=float) for stratum in strata]
    rng = np.random.default_rng(0)
    draws = [x[rng.integers(len(x), size=(resamples, len(x)))] for x in arrays]
    statistics = statistic(np.concatenate(draws, axis=1), axis=1)  # (resamples, ...)
    if min(len(x) for x in arrays) < 2:
        statistics = np.full_like(statistics, np.nan)
    tail = (1 - confidence) / 2
    low, high = np.quantile(statistics, (tail, 1 - tail), axis=0)
    return low, high
