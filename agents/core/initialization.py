"""How weights begin: orthogonal, Xavier, He, sparse. Drawn from a generator, not global state."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

Init = Literal["orthogonal", "xavier", "he", "sparse"]

SPARSITY = 0.9
"""Share of a unit's incoming weights that begin at 0 with `sparse`."""


def initialize(weight: Tensor, init: Init, gain: float, generator: torch.Generator) -> None:
    """Fill a weight matrix `(out, in)` or kernel `(out, in, k, k)`, or each of a stack, in place.

    A kernel is taken for the matrix `(out, in k²)` that it applies to each patch.

    - orthogonal: WᵀW = gain² I (Saxe et al. 2014)
    - xavier: uniform with variance 2 gain² / (in + out) (Glorot & Bengio 2010)
      (a kernel's `out` counts k² times too: each output is one of k² patches' result)
    - he: normal with variance gain² / in; gain √2 is He et al. 2015 for ReLU
    - sparse: uniform in ±gain / √in, but for each unit 9 in 10 of its inputs begin at 0, so that
      learning from one transition disturbs little of the rest (Elsayed et al. 2024). A unit keeps
      one input at least: without any it would be a constant.
    """
    with torch.no_grad():
        for matrix in weight if weight.ndim in (3, 5) else [weight]:
            if init == "orthogonal":
                nn.init.orthogonal_(matrix, gain, generator=generator)
            elif init == "xavier":
                nn.init.xavier_uniform_(matrix, gain, generator=generator)
            elif init == "he":
                matrix.normal_(0.0, gain / matrix[0].numel() ** 0.5, generator=generator)
            elif init == "sparse":
                rows = matrix.flatten(1)
                outputs, inputs = rows.shape
                rows.uniform_(-gain / inputs**0.5, gain / inputs**0.5, generator=generator)
                zeros = min(math.ceil(SPARSITY * inputs), inputs - 1)
                order = torch.rand(outputs, inputs, generator=generator).argsort(-1)
                rows.scatter_(-1, order[:, :zeros].to(matrix.device), 0.0)
            else:
                raise ValueError(f"unknown init {init!r}: use orthogonal, xavier, he or sparse")
