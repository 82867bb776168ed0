"""A run's folder as training writes it, made up, so that what reads it is tested without it."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

LAYERS = (  # as they are recorded: the two trunks are one stack, layer by layer
    "policy.trunk.0",
    "value.trunk.0",
    "policy.trunk.1",
    "value.trunk.1",
    "policy.head",
    "value.head",
)


def write(path: Path, header: str, rows: list[list[object]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header.split(","), *rows])


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """make_run(agent, env, seed, final=500.0, steps=50_000, records=40) -> the run's folder."""

    def make(
        agent: str = "ppo",
        env: str = "CartPole-v1",
        seed: int = 100,
        final: float = 500.0,
        steps: int = 50_000,
        records: int = 40,
    ) -> Path:
        path = tmp_path / "runs" / f"{agent}-{env}-{seed}"
        path.mkdir(parents=True)
        rng = np.random.default_rng(seed)
        config = {
            "agent": agent,
            "env": env,
            "seed": seed,
            "num_envs": 8,
            "steps": steps,
            "config": {"optim": {"lr": 1e-3, "max_grad_norm": 0.5}},
        }
        (path / "config.json").write_text(json.dumps(config))
        at = np.linspace(steps / records, steps, records).astype(int)
        rise = 1 / (1 + np.exp(-8 * (at / steps - 0.35)))
        returns = final * np.clip(rise + rng.normal(0, 0.05, records), 0, 1)
        returns[-1] = final
        write(
            path / "evaluations.csv",
            "step,episodes,mean_return,std_return,min_return,max_return",
            [[s, 20, r, 10.0, r - 20, r + 5] for s, r in zip(at, returns, strict=True)],
        )
        write(
            path / "episodes.csv",
            "step,episode,return,length,seconds",
            [
                [s, i, r * rng.uniform(0.5, 1), int(abs(r)), i * 0.5]
                for i, (s, r) in enumerate(zip(at, returns, strict=True))
            ],
        )
        norm = np.exp(rng.normal(0, 0.3, records)) * (2 - rise)
        write(
            path / "updates.csv",
            "step,update,learner,loss,grad_norm,grad_norm_max,clipped,skipped,lr,cosine,snr,nonfinite",
            [
                [
                    s,
                    (i + 1) * 64,
                    agent,
                    0.1,
                    n,
                    n * 3,
                    int(64 * min(n / 3, 1)),
                    int(i == records // 2),
                    1e-3,
                    "",
                    0.1,
                    "loss term 'value'" if i == records // 2 else "",
                ]
                for i, (s, n) in enumerate(zip(at, norm, strict=True))
            ],
        )
        write(
            path / "gradients.csv",
            "step,update,learner,layer,grad_norm,weight_norm,update_ratio,zero_fraction,dormant",
            [
                [
                    s,
                    (i + 1) * 64,
                    agent,
                    layer,
                    n * 10.0 ** (k % 2 - 0.4 * k) * np.exp(rng.normal(0, 0.15)),
                    8.0,
                    1e-3 * np.exp(rng.normal(-0.3 * k, 0.5)),
                    0.0,
                    "" if "head" in layer else 0.15 * rise[i] * (k % 2) + 0.02,
                ]
                for i, (s, n) in enumerate(zip(at, norm, strict=True))
                for k, layer in enumerate(LAYERS)
            ],
        )
        return path

    return make
