"""How weights begin: orthogonal, Xavier, He. Drawn from a generator, never from global state."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Init = Literal["orthogonal", "xavier", "he"]


def initialize(weight: Tensor, init: Init, gain: float, generator: torch.Generator) -> None:
    """Fill a weight matrix `(out, in)` or kernel `(out, in, k, k)`, or each of a stack, in place.

    A kernel is taken for the matrix `(out, in k²)` that it applies to each patch.

    - orthogonal: WᵀW = gain² I (Saxe et al. 2014)
    - xavier: uniform with variance 2 gain² / (in + out) (Glorot & Bengio 2010)
      (a kernel's `out` counts k² times too: each output is one of k² patches' result)
    - he: normal with variance gain² / in; gain √2 is He et al. 2015 for ReLU
    """
    with torch.no_grad():
        for matrix in weight if weight.ndim in (3, 5) else [weight]:
            if init == "orthogonal":
                nn.init.orthogonal_(matrix, gain, generator=generator)
            elif init == "xavier":
                nn.init.xavier_uniform_(matrix, gain, generator=generator)
            elif init == "he":
                matrix.normal_(0.0, gain / matrix[0].numel() ** 0.5, generator=generator)
            else:
                raise ValueError(f"unknown init {init!r}: use orthogonal, xavier or he")
