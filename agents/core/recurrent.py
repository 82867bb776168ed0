"""Recurrent layers: a GRU or an LSTM as plain operations on a state that is passed in and out.

torch.nn.GRU and torch.nn.LSTM have no rule for vmap and break a compiled graph, and cannot begin
anew in the midst of a sequence. These can, and may be a *stack* of E members, as in `blocks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from agents.core.initialization import Init, initialize

Cell = Literal["gru", "lstm"]


class History(NamedTuple):
    """Observations in their order, as a network that remembers reads them in the place of a batch.

    From the state before the first row it goes from row to row; the state is zero where an episode
    starts. Of `T N` rows the network gives out those that are asked for, in one axis.
    """

    obs: Tensor
    """`(T, N, size)`"""
    state: Tensor
    """`(N, state size)`, before the first row."""
    start: Tensor
    """`(T, N)`, whether a row is the first of an episode."""
    rows: Tensor
    """`(B,)`, numbers t N + n of rows."""


class Recurrent(nn.Module):
    """A layer of `size` units that remember, for one member or a stack of E.

    `names` are what the gradient statistics call the members. An LSTM begins with a bias of 1 on
    its forget gate, remembering (Gers et al. 2000). The matrices of each gate are drawn apart.
    """

    def __init__(
        self,
        cell: Cell,
        inputs: int,
        size: int,
        names: tuple[str, ...],
        init: Init,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.layer_names = names
        self.cell = cell
        self.size = size
        self.members = len(names)
        gates = 3 if cell == "gru" else 4
        self.state_size = self.members * size * (1 if cell == "gru" else 2)
        """Numbers in the state of one environment: h of each member, of an LSTM h and c."""
        self.weight = nn.Parameter(torch.empty(self.members, inputs, gates * size))
        self.recurrent_weight = nn.Parameter(torch.empty(self.members, size, gates * size))
        for weight in (self.weight, self.recurrent_weight):
            for gate in weight.detach().split(size, dim=-1):
                initialize(gate.mT, init, 1.0, generator)
        self.bias = nn.Parameter(torch.zeros(self.members, 1, gates * size))
        self.recurrent_bias = None
        if cell == "gru":
            self.recurrent_bias = nn.Parameter(torch.zeros(self.members, 1, size))
        else:
            with torch.no_grad():
                self.bias[..., size : 2 * size] = 1.0

    def forward(
        self, x: Tensor, state: Tensor, start: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Features `(T, N, in)` to `(T, N, size)`, and the states `(N, state size)` after them.

        A stack reads `(E, T, N, in)` and gives `(E, T, N, size)`. `start` is as in `History`.
        """
        weight, recurrent_weight = self._own(self.weight), self._own(self.recurrent_weight)
        lead, rows = x.shape[:-1], x.flatten(-3, -2)
        parts = self._own(state.unflatten(-1, (self.members, -1)).movedim(-2, 0))  # ([E,] N, S)
        # What does not depend on the state is one product for all T.
        x = _product(self._own(self.bias), rows, weight).unflatten(-2, lead[-2:])
        keep = None if start is None else (~start).to(x.dtype).unsqueeze(-1).unbind()
        if self.recurrent_bias is not None:
            h, after = gru(x, parts, recurrent_weight, self._own(self.recurrent_bias), keep)
        else:
            h, after = lstm(x, parts, recurrent_weight, keep)
        after = after.unsqueeze(0) if self.members == 1 else after
        return h, after.movedim(0, -2).flatten(-2)

    def _own(self, stack: Tensor) -> Tensor:
        """What one member reads in the place of a stack of one."""
        return stack[0] if self.members == 1 else stack


def gru(
    x: Tensor, h: Tensor, weight: Tensor, bias: Tensor, keep: Sequence[Tensor] | None
) -> tuple[Tensor, Tensor]:
    """r, z = σ(x_rz + W_rz h), n = tanh(x_n + r (W_n h + b)), h' = (1 - z) n + z h.

    Cho et al. 2014 in the form of cuDNN. `x` `(..., T, N, 3 size)` holds what the gates r, z, n get
    from the input, `h` is `(..., N, size)`, `keep` `(N, 1)` for each t is 0 where h is forgotten
    first. Returns all h' `(..., T, N, size)`, and the last.
    """
    size = h.shape[-1]
    weight_rz, weight_n = weight.split([2 * size, size], -1)
    x_rz, x_n = x.split([2 * size, size], -1)
    hs = []
    for t, (rz, n) in enumerate(zip(x_rz.unbind(-3), x_n.unbind(-3), strict=True)):
        if keep is not None:
            h = h * keep[t]
        r, z = torch.sigmoid(_product(rz, h, weight_rz)).chunk(2, -1)
        n = torch.tanh(torch.addcmul(n, r, _product(bias, h, weight_n)))
        h = torch.lerp(n, h.to(n.dtype), z)
        hs.append(h)
    return torch.stack(hs, -3), h


def lstm(
    x: Tensor, state: Tensor, weight: Tensor, keep: Sequence[Tensor] | None
) -> tuple[Tensor, Tensor]:
    """i, f, o = σ(x_ifo + W_ifo h), g = tanh(x_g + W_g h), c' = f c + i g, h' = o tanh(c').

    Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000. `x`
    `(..., T, N, 4 size)` holds what the gates i, f, o, g get from the input, `state`
    `(..., N, 2 size)` is h beside c, `keep` `(N, 1)` for each t is 0 where they are forgotten
    first. Returns all h' `(..., T, N, size)`, and the last state.
    """
    h, c = state.chunk(2, -1)
    size = h.shape[-1]
    hs = []
    for t, gates in enumerate(x.unbind(-3)):
        if keep is not None:
            h, c = h * keep[t], c * keep[t]
        ifo, g = _product(gates, h, weight).split([3 * size, size], -1)
        i, f, o = torch.sigmoid(ifo).chunk(3, -1)
        c = torch.addcmul(f * c, i, torch.tanh(g))
        h = o * torch.tanh(c)
        hs.append(h)
    return torch.stack(hs, -3), torch.cat([h, c], -1)


def _product(bias: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """x W + b, for one member or for each of a stack."""
    return (torch.addmm if x.ndim == 2 else torch.baddbmm)(bias, x, weight)
