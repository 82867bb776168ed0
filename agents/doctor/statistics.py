"""What each recorded statistic says, and the band in which it is healthy.

One table for the rules and the report: a threshold stands in one place. Those marked as calibrated
were set on the runs of `scripts/benchmark_doctor.py` with seeds below 100.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Statistic:
    """A column of the logs, or what is derived from one."""

    title: str
    says: str
    """What it tells, in one sentence."""
    low: float = -math.inf
    high: float = math.inf
    """The healthy band; both infinite where the statistic has none of its own."""
    log: bool = False
    """Whether it is read on a logarithmic scale."""


STATISTICS = {
    "grad_norm": Statistic("Gradient norm", "Length of the gradient before clipping.", log=True),
    "grad_norm_max": Statistic(
        "Largest gradient norm", "The longest gradient of each interval.", log=True
    ),
    "clipped_share": Statistic(
        "Clipped updates",
        "Share of the updates whose gradient was cut. Near 1 the limit sets the step.",
        high=0.95,
    ),
    "skipped_share": Statistic(
        "Skipped updates", "Share of the updates that were not finite and left out.", high=0.0
    ),
    "update_ratio": Statistic(
        "Update / weight, median layer",
        "How far an update moves a layer's weights, relative to them; 1e-3 is usual.",
        low=1e-5,
        high=3e-2,
        log=True,
    ),
    "dormant": Statistic(
        "Dormant units, worst layer",
        "Share of units that are silent beside the others of their layer.",
        high=0.75,
    ),
    "zero_fraction": Statistic(
        "Zero gradient, worst layer", "Share of gradient entries that are exactly 0.", high=0.95
    ),
    "feature_norm": Statistic(
        "Feature norm, largest layer", "Length of what a layer gives out.", log=True
    ),
    "weight_norm": Statistic("Weight norm, largest layer", "Length of its weights.", log=True),
    "cosine": Statistic(
        "Cosine of successive gradients",
        "Persistently negative means that the steps overshoot and swing back.",
        low=-0.3,
    ),
    "snr": Statistic(
        "Signal to noise of the updates",
        "From Adam's moments: how much successive gradients have in common.",
        log=True,
    ),
    "kl": Statistic(
        "KL from the old policy",
        "How far one round of updates moves the policy, in nats.",
        high=0.2,
        log=True,
    ),
    "clip_fraction": Statistic(
        "Ratios outside the clip", "Share of actions whose probability ratio was cut.", high=0.4
    ),
    "explained_variance": Statistic(
        "Explained variance",
        "How much of the returns the critic foresees: 1 is all, below 0 worse than their mean.",
        low=0.0,
    ),
    "entropy_ratio": Statistic(
        "Entropy / largest possible", "How undecided the policy is.", low=0.05
    ),
    "action_saturation": Statistic(
        "Actions at a bound", "Share of the actions' components at a bound or beyond.", high=0.9
    ),
    "action_top": Statistic(
        "Most frequent action", "Its share of all actions; 1: always the same.", high=0.98
    ),
    "obs_std_min": Statistic(
        "Smallest spread of an observation",
        "Standard deviation of the dimension that varies least, as the environment gives it.",
        low=1e-3,
        log=True,
    ),
    "obs_std_max": Statistic(
        "Largest spread of an observation",
        "Standard deviation of the dimension that varies most, as the environment gives it.",
        high=30.0,
        log=True,
    ),
    "obs_constant": Statistic(
        "Constant observations", "Share of dimensions that never changed.", high=0.5
    ),
    "value_max": Statistic("Largest |value|", "The largest value the critic gave.", log=True),
    "value_bound": Statistic(
        "Bound of values",
        "Largest reward / (1 − γ), which no true value exceeds but for entropy bonuses.",
        log=True,
    ),
    "reward_max": Statistic(
        "Largest |reward|",
        "As the agent learns from it: after scaling and clipping.",
        low=1e-3,
        high=1e3,
        log=True,
    ),
    "target_distance": Statistic(
        "Distance of the target network", "Relative to the weights; 0 just after a copy.", log=True
    ),
    "td_error_mean": Statistic("TD error", "Mean over a batch.", log=True),
    "td_error_p99": Statistic("TD error, 99th percentile", "Of a batch.", log=True),
    "td_error_max": Statistic("Largest TD error", "Of the interval's recorded batches.", log=True),
    "loss": Statistic("Loss", "The sum of the loss's terms."),
    "lr": Statistic("Learning rate", "As scheduled.", log=True),
    "policy_entropy": Statistic("Policy entropy", "How undecided the policy is, in nats."),
    "epsilon": Statistic("ε", "Probability of a random action."),
    "q": Statistic("Mean Q", "Mean value of the actions in the batch."),
}
"""By the name of the column, or of what `History.series` derives."""
