"""How weights begin: orthogonal, Xavier, He. Drawn from a generator, never from global state."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Init = Literal["orthogonal", "xavier", "he"]


def initialize(weight: Tensor, init: Init, gain: float, generator: torch.Generator) -> None:
    """Fill a weight matrix `(out, in)`, or each of a stack `(E, out, in)`, in place.

    - orthogonal: WᵀW = gain² I (Saxe et al. 2014)
    - xavier: uniform with variance 2 gain² / (in + out) (Glorot & Bengio 2010)
    - he: normal with variance gain² / in; gain √2 is He et al. 2015 for ReLU
    """
    with torch.no_grad():
        for matrix in weight if weight.ndim == 3 else [weight]:
            if init == "orthogonal":
                nn.init.orthogonal_(matrix, gain, generator=generator)
            elif init == "xavier":
                nn.init.xavier_uniform_(matrix, gain, generator=generator)
            elif init == "he":
                matrix.normal_(0.0, gain / matrix.shape[1] ** 0.5, generator=generator)
            else:
                raise ValueError(f"unknown init {init!r}: use orthogonal, xavier or he")
