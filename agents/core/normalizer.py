"""Running mean and variance: part of the agent, learned while it observes, saved with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

EPSILON = 1e-8
ROUNDING = float(np.finfo(np.float32).eps)
"""How far rewards that are alike may be apart, as a share of their size."""


class RunningMoments:
    """Mean and variance over everything seen, by columns (Chan et al. 1979, in float64)."""

    def __init__(self, size: int) -> None:
        self.mean = np.zeros(size)
        self.variance = np.ones(size)
        self.count = 0

    def update(self, x: np.ndarray) -> bool:
        """Learn from rows `(B, size)`. Non-finite input is refused whole: False, nothing moved."""
        if not len(x) or not np.isfinite(x).all():
            return not len(x)
        x = np.asarray(x, np.float64)
        total = self.count + len(x)
        mean, variance = (x[0], 0.0) if len(x) == 1 else (x.mean(0), x.var(0))
        delta = mean - self.mean
        summed = self.variance * self.count + variance * len(x)
        self.variance = (summed + delta**2 * self.count * len(x) / total) / total
        self.mean = self.mean + delta * len(x) / total
        self.count = total
        return True

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean.copy(), "variance": self.variance.copy(), "count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.mean = np.array(state["mean"], np.float64)
        self.variance = np.array(state["variance"], np.float64)
        self.count = int(state["count"])


class ObservationNormalizer(RunningMoments):
    """Brings the numeric columns of stored observations to mean 0 and variance 1.

    Columns that hold categories pass unchanged. The result is clipped to ±`limit`; what is not
    finite becomes nan, which no clipping may hide from the learner's guard.
    """

    def __init__(self, numeric: np.ndarray, limit: float = 10.0) -> None:
        super().__init__(len(numeric))
        self.numeric = numeric
        self.limit = limit

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        """Observations `(..., size)` normalised, float32."""
        z = (obs - self.mean) / np.sqrt(self.variance + EPSILON)
        normal = np.where(np.isfinite(z), np.clip(z, -self.limit, self.limit), np.nan)
        return np.where(self.numeric, normal, obs).astype(np.float32)

    def undone(self, normal: np.ndarray) -> np.ndarray:
        """Observations `(..., size)` as they were, of ones that were not clipped."""
        obs = normal * np.sqrt(self.variance + EPSILON) + self.mean
        return np.where(self.numeric, obs, normal)

    def tensor(self, obs: Tensor) -> Tensor:
        """The same for a tensor, on its device."""
        return torch.from_numpy(self(obs.cpu().numpy())).to(obs.device)


class RewardScaler(RunningMoments):
    """Divides rewards by the standard deviation of the discounted return (Engstrom et al. 2020).

    Unlike Gymnasium's wrapper it lies in the agent, so it is saved and resumed with it.
    """

    def __init__(self, gamma: float) -> None:
        super().__init__(1)
        self.gamma = gamma
        self.returns = np.zeros(0)

    def observe(self, reward: np.ndarray, done: np.ndarray, valid: np.ndarray) -> bool:
        """Learn from one step of N environments. Non-finite rewards are refused."""
        if self.returns.shape != reward.shape:
            self.returns = np.zeros(reward.shape)
        returns = np.where(valid, self.gamma * self.returns + reward, self.returns)
        accepted = self.update(returns[valid, None])
        self.returns = np.where(done, 0.0, returns if accepted else self.returns)
        return accepted

    def cut(self, where: np.ndarray) -> None:
        """Forget the unfinished returns of environments that begin anew."""
        if self.returns.shape == where.shape:
            self.returns = np.where(where, 0.0, self.returns)

    @property
    def scale(self) -> float:
        """What a reward is multiplied by; 1 as long as the returns vary by rounding alone."""
        deviation = np.sqrt(self.variance[0])
        varies = self.count > 0 and deviation > ROUNDING * abs(self.mean[0])
        return float(1.0 / deviation) if varies else 1.0

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"returns": self.returns.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.returns = np.array(state["returns"], np.float64)
