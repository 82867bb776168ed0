"""Batch renormalisation: units brought to mean 0 and variance 1 over a batch.

Plain operations on statistics that are passed in and handed back. Nothing changes while acting, and
what a batch teaches is an output of the loss, which the learner keeps only with an accepted step.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

MOMENTUM = 0.99
"""Share of the running statistics that a batch leaves as it was."""
EPS = 1e-3
"""Added to variances, so that a unit that never varies is divided by no zero."""
R_MAX, D_MAX = 3.0, 5.0
"""How far renormalisation corrects a batch's standard deviation (a factor) and mean (in standard
deviations), Ioffe 2017."""
WARM_UP = 100_000
"""Batches before it corrects anything. Until then it is batch normalisation: the running statistics
are not yet to be relied on (Bhatt et al. 2024, their code)."""


def batch_renorm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    scale: Tensor,
    shift: Tensor,
    r_max: Tensor | float = R_MAX,
    d_max: Tensor | float = D_MAX,
    eps: float = EPS,
) -> tuple[Tensor, Tensor, Tensor]:
    """y = ((x - μ) / σ · r + d) · scale + shift, with μ and σ² of this batch `(B, F)`.

    r = clip(σ / σ_running, 1 / r_max, r_max) and d = clip((μ - μ_running) / σ_running, ±d_max) are
    constants to the gradient. Where neither is clipped, y is what the running statistics would
    give, with a gradient that knows of the batch; with r_max = 1 and d_max = 0 it is batch
    normalisation. Statistics, scale and shift are `(1, F)`; of a stack `(E, B, F)` every member has
    its own, `(E, 1, F)`.

    Ioffe 2017, "Batch renormalization", algorithm 1. Returns y, μ and σ² (the biased one), both
    detached.
    """
    seen = x.detach().to(torch.promote_types(x.dtype, mean.dtype))  # never of half precision
    batch_mean = seen.mean(-2, keepdim=True)
    batch_variance = (seen - batch_mean).square().mean(-2, keepdim=True)
    running = (variance + eps).sqrt()
    bound = torch.as_tensor(r_max, dtype=seen.dtype, device=x.device)
    limit = torch.as_tensor(d_max, dtype=seen.dtype, device=x.device)
    r = ((batch_variance + eps).sqrt() / running).clamp(1.0 / bound, bound)
    d = ((batch_mean - mean) / running).clamp(-limit, limit)
    y = _standardized(x, r * scale, d * scale + shift, eps)
    return y, batch_mean, batch_variance


def _standardized(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    """(x - μ) / σ · scale + shift. PyTorch's kernel, without the running statistics that it would
    change, takes half the time of the operations one by one, and all members at once as columns."""
    rows = x if x.ndim == 2 else x.movedim(0, 1).flatten(1)  # (B, E F)
    y = torch.batch_norm(rows, scale.flatten(), shift.flatten(), None, None, True, 0.0, eps, True)
    return y if x.ndim == 2 else y.unflatten(1, (x.shape[0], -1)).movedim(1, 0)


class BatchRenorm(nn.Module):
    """Normalises units `(..., F)`, or those of a stack of E members `(E, B, F)`, each by its own.

    `forward` uses the running statistics: it treats every row alike, whatever others there are.
    `learn` uses those of the batch, and hands back what the running ones become by it.
    """

    def __init__(self, features: int, names: tuple[str, ...]) -> None:
        super().__init__()
        self.layer_names = names
        shape = (1, features) if len(names) == 1 else (len(names), 1, features)
        self.norm_scale = nn.Parameter(torch.ones(shape))
        self.norm_bias = nn.Parameter(torch.zeros(shape))
        self.mean: Tensor
        self.variance: Tensor
        self.batches: Tensor
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("variance", torch.ones(shape))
        self.register_buffer("batches", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        factor = self.norm_scale * (self.variance + EPS).rsqrt()
        offset = self.norm_bias - self.mean * factor
        if len(self.layer_names) == 1:  # so that one row may come without a leading axis
            factor, offset = factor.squeeze(0), offset.squeeze(0)
        return torch.addcmul(offset, x, factor)

    def learn(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The output, and the buffers by name as they are to be after an accepted step."""
        rows = x if len(self.layer_names) > 1 else x.reshape(-1, x.shape[-1])
        warm = self.batches >= WARM_UP
        y, mean, variance = batch_renorm(
            rows,
            self.mean,
            self.variance,
            self.norm_scale,
            self.norm_bias,
            torch.where(warm, R_MAX, 1.0),
            torch.where(warm, D_MAX, 0.0),
        )
        return y.reshape(x.shape), {
            "mean": torch.lerp(mean, self.mean, MOMENTUM),
            "variance": torch.lerp(variance, self.variance, MOMENTUM),
            "batches": self.batches + 1.0,
        }
