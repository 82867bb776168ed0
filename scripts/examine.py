"""Examines a run's last checkpoint, explains its agent, or makes a step that failed again.

python scripts/examine.py runs/ppo-CartPole-v1-0
python scripts/examine.py runs/ppo-CartPole-v1-0 --replay
python scripts/examine.py runs/ppo-CartPole-v1-0 --explain action --method lrp
python scripts/examine.py runs/ppo-CartPole-v1-0 --unit policy.trunk.1:17
"""

from __future__ import annotations

import sys

try:
    import json
    import math
    from collections.abc import Sequence
    from dataclasses import dataclass
    from pathlib import Path
    from typing import Any

    import torch
    import tyro
    from rich.table import Table

    import envs  # noqa: F401  (first: it says so if `agents` is another distribution's)

    # isort: split
    from agents import load
    from agents.core.files import CheckpointError
    from agents.runner import postmortem
    from agents.runner.arguments import BadInput, bad_input, check_ranges, guarded, parse
    from agents.runner.examine import examine
    from agents.runner.explain import Method, Output, explain, explain_unit
    from agents.runner.progress import UnendingConsole
except KeyboardInterrupt:  # while this takes its time
    sys.exit(130)

DIFFERS = 1
"""Exit code of a replay that does not give what the post-mortem says."""


@dataclass(frozen=True)
class Arguments:
    """Examine the last checkpoint of a run: features, noise, curvature, loss terms, plasticity."""

    run: tyro.conf.Positional[Path]
    """The run's folder; with --replay a post-mortem's will do."""
    replay: bool = False
    """Make the steps again that were not finite, from the post-mortems that they left."""
    explain: Output | None = None
    """Explain by the features of observations what the agent estimates as return, or what it does
    (of an action of several components, the first one); each feature is then masked to see what it
    is worth."""
    method: Method | None = None
    """How to explain: gradient times input, integrated gradients, or layer-wise relevance
    propagation; None: integrated."""
    unit: str | None = None
    """LAYER:INDEX of a hidden unit, the layer by its name in gradients.csv and with LEARNER: before
    it where several learners have one of that name: the observations, within the range of those
    seen, at which it is largest and least."""
    episodes: int = 20
    """Episodes for each masked feature."""
    gradients: int = 16
    """Updates whose gradients the noise scale is taken from."""
    probe: int = 512
    """Observations that features, plasticity, churn and explanations are looked at on."""
    seed: int = 0
    """For random directions and targets."""
    out: Path | None = None
    """File for what was found, as JSON; None: examination.json in the run's folder, or
    explanation.json, or of a unit activation.json."""


def main(argv: Sequence[str] | None = None) -> int:
    """Examine as the command line says. Returns the exit code."""

    def run() -> int:
        with bad_input():
            a = parse(Arguments, sys.argv[1:] if argv is None else argv)
            positive = (1, math.inf)
            check_ranges(a, gradients=positive, probe=positive, episodes=positive)
            check_ranges(a, seed=(0, 2**63 - 1))
            if a.method is not None and a.explain is None:
                raise BadInput(f"--method {a.method} is a way to explain: give --explain too")
            if a.explain is not None and a.replay:
                raise BadInput("--explain goes without --replay: give one of them")
            if a.unit is not None and (a.explain is not None or a.replay):
                raise BadInput("--unit goes without --explain and --replay: give one of them")
            if not a.run.is_dir():
                raise BadInput(f"{a.run} is no folder: give that of a run")
            torch.set_num_threads(1)
            if a.replay:
                return _replay(a.run)
            if a.explain is not None:
                what, method = "explanation", a.method or "integrated"
                report = explain(a.run, a.explain, method, a.seed, a.probe, a.episodes)
                table = _explained(report, a.run)
            elif a.unit is not None:
                what, report = "activation", explain_unit(a.run, a.unit, a.seed, a.probe)
                table = _activated(report, a.run)
            else:
                what, report = "examination", examine(a.run, a.seed, a.gradients, a.probe)
                table = _examined(report, a.run)
            out = a.out or a.run / f"{what}.json"
            out.write_text(json.dumps(report, indent=2) + "\n")
        _print(table)
        print(f"{what}: written to {out}")
        return 0

    return guarded("examine.py", run)


def _replay(folder: Path) -> int:
    """Make every post-mortem's step again and say whether it went as it did."""
    found = [folder] if (folder / "report.json").is_file() else postmortem.folders(folder)
    if not found:
        raise BadInput(
            f"{folder} holds no post-mortem: no step of it was skipped, or none was kept"
        )
    code = 0
    for path in found:
        report = postmortem.read_report(path)
        print(f"{path.name}: step {report['step']}, update {report['update']}")
        print(f"  {report['learner']}: {report['nonfinite']}, gradient norm {report['grad_norm']}")
        for name, value in report["terms"].items():
            print(f"  loss term {name} = {value}")
        for kind in ("batch", "inputs"):
            for name, one in report[kind].items():
                if "not_finite" in one:
                    where = ", ".join(map(str, one["first"]))
                    print(
                        f"  {kind} {name}: {one['not_finite']} not finite, the first at [{where}]"
                    )
        try:
            agent = load(path / "agent.safetensors")
            different = postmortem.differences(report, postmortem.replay(path, agent))
        except CheckpointError as error:
            raise BadInput(str(error)) from None
        for line in different:
            print(f"  differs: {line}")
        print(
            "  replayed: " + ("not the same" if different else "the same term, layer and numbers")
        )
        code = code or (DIFFERS if different else 0)
    return code


def _print(table: Table) -> None:
    console = UnendingConsole()
    if not console.is_terminal:
        console = UnendingConsole(width=140)
    console.print(table)


def _explained(report: dict[str, Any], folder: Path) -> Table:
    """An explanation as a table."""
    title = f"{folder}: the {report['explained']} of {report['agent']} by {report['method']}"
    table = Table(title=title)
    for column in ("feature", "share", "return without it", "where output is largest", "least"):
        table.add_column(column)
    for row in report["features"]:
        i = row["feature"]
        ends = (f"{report['extremes'][end]['obs'][i]:.3g}" for end in ("largest", "least"))
        without = f"{row['masked_return']:.2f}" if "masked_return" in row else ""
        table.add_row(str(i), f"{row['share']:.1%}", without, *ends)
    table.add_section()
    ends = (f"{report['extremes'][end]['output']:.3g}" for end in ("largest", "least"))
    table.add_row("whole", "", f"{report['return']:.2f}" if "return" in report else "", *ends)
    return table


def _activated(report: dict[str, Any], folder: Path) -> Table:
    """What a unit answers to as a table."""
    table = Table(title=f"{folder}: unit {report['unit']} of {report['agent']}")
    for column in ("feature", "where unit is largest", "least", "range of those seen"):
        table.add_column(column)
    largest, least = (report["extremes"][end] for end in ("largest", "least"))
    seen = zip(report["seen"]["least"], report["seen"]["largest"], strict=True)
    rows = zip(largest["obs"], least["obs"], seen, strict=True)
    for i, (high, low, (start, stop)) in enumerate(rows):
        table.add_row(str(i), f"{high:.3g}", f"{low:.3g}", f"{start:.3g} to {stop:.3g}")
    table.add_section()
    table.add_row("unit", f"{largest['output']:.3g}", f"{least['output']:.3g}", "")
    return table


def _examined(report: dict[str, Any], folder: Path) -> Table:
    """An examination as a table."""
    table = Table(title=f"{folder}: {report['agent']} at step {report['step']}")
    for column in ("learner", "what", "found", "meaning"):
        table.add_column(column, overflow="fold")
    for name, found in report["learners"].items():
        for row in _rows(found):
            table.add_row(name, *row)
        table.add_section()
    churn = report["churn"]
    if "changed" in churn:
        meaning = "greedy actions that one update changes"
        table.add_row("", "policy churn", f"{churn['changed']:.1%}", meaning)
    if "moved" in churn:
        meaning = "how far one update moves greedy actions"
        table.add_row("", "policy churn", f"{churn['moved']:.2g} of the range", meaning)
    return table


def _rows(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    rows = [
        (
            f"features of {layer}",
            f"effective rank {f['effective_rank']} of {f['width']}, stable {f['stable_rank']:.1f}, "
            f"norm {f['norm']:.3g}",
            "few of many: all that the task needs, or a representation that has collapsed",
        )
        for layer, f in found["features"].items()
    ]
    if "noise" in found:
        scale, size = found["noise"]["scale"], found["batch_size"]
        rows.append(
            (
                "gradient noise scale",
                f"{'inf' if scale is None else f'{scale:.3g}'} at batches of {size:.0f}",
                "a batch far below it is mostly noise, far above it a waste",
            )
        )
    if "curvature" in found:
        c = found["curvature"]
        if "why_not" in c:
            rows.append(("curvature", "unknown", c["why_not"]))
        else:
            rows.append(
                (
                    "curvature",
                    f"λ {c['eigenvalue']:.3g}, λ lr {c['times_lr']:.3g}",
                    f"beyond {c['limit']:.3g} steps overshoot",
                )
            )
    if "terms" in found:
        terms = found["terms"]
        norms = ", ".join(f"{name} {norm:.3g}" for name, norm in terms["norms"].items())
        rows.append(("loss terms, gradient norms", norms, f"{terms['trunk']} trunk"))
        for pair, cosine in terms["cosines"].items():
            meaning = "below 0 they pull against each other"
            rows.append((f"cosine {pair}", f"{cosine:.3f}", meaning))
    for network, p in found["plasticity"].items():
        ratio = "inf" if p["ratio"] is None else f"{p['ratio']:.2f}"
        rows.append(
            (
                f"plasticity of {network}",
                f"{p['trained']:.3g}, fresh {p['fresh']:.3g}, ratio {ratio}",
                "error after learning random functions; above 2 plasticity is lost",
            )
        )
    return rows


if __name__ == "__main__":
    sys.exit(main())
