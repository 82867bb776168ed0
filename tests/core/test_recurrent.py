"""Our recurrent layers are PyTorch's, and begin anew where an episode starts."""

import pytest
import torch
from gymnasium import spaces
from torch import nn

from agents.core.network import Network, NetworkConfig
from agents.core.recurrent import History, Recurrent

T, N, INPUTS, SIZE = 7, 3, 5, 4
CELLS = pytest.mark.parametrize("cell", ["gru", "lstm"])
ORDER = {"gru": (0, 1, 2), "lstm": (0, 1, 3, 2)}
"""Where each of PyTorch's gates stands among ours; it has i, f, g, o."""
BOX = spaces.Box(-1, 1, (INPUTS,))


def layer(cell, members):
    own = Recurrent(cell, INPUTS, SIZE, tuple("abc"[:members]), "xavier", generator())
    with torch.no_grad():
        for parameter in own.parameters():
            parameter.normal_(0, 0.5, generator=generator())
    return own.double()


def generator():
    return torch.Generator().manual_seed(0)


def reordered(parameter, cell):
    """Our `(..., gates size)` as PyTorch's `(gates size, ...)`, and back."""
    gates = [parameter.split(SIZE, -1)[k] for k in ORDER[cell]]
    return torch.cat(gates, -1).mT if parameter.shape[-2] > 1 else torch.cat(gates, -1)[..., 0, :]


def twin(own, k):
    """PyTorch's layer with the weights of member k."""
    other = getattr(nn, own.cell.upper())(INPUTS, SIZE).double()
    with torch.no_grad():
        other.weight_ih_l0.copy_(reordered(own.weight[k], own.cell))
        other.weight_hh_l0.copy_(reordered(own.recurrent_weight[k], own.cell))
        other.bias_ih_l0.copy_(reordered(own.bias[k], own.cell))
        other.bias_hh_l0.zero_()
        if own.recurrent_bias is not None:
            other.bias_hh_l0[2 * SIZE :] = own.recurrent_bias[k, 0]
    return other


def theirs(other, x, state):
    """PyTorch's outputs and last state, from a state in our form."""
    parts = [part.unsqueeze(0).contiguous() for part in state.split(SIZE, -1)]
    out, last = other(x, tuple(parts) if len(parts) == 2 else parts[0])
    return out, torch.cat(last, -1)[0] if len(parts) == 2 else last[0]


@CELLS
@pytest.mark.parametrize("members", [1, 2])
def test_a_layer_is_pytorchs_forward_and_backward(cell, members):
    own = layer(cell, members)
    x = torch.randn(members, T, N, INPUTS, dtype=torch.float64, generator=generator())
    x.requires_grad_()
    state = torch.randn(N, own.state_size, dtype=torch.float64, generator=generator())
    state.requires_grad_()
    out, after = own(x if members > 1 else x[0], state)
    (out.sin().sum() + after.cos().sum()).backward()
    gradients = [leaf.grad.clone() for leaf in (x, state) if leaf.grad is not None]
    x.grad = state.grad = None
    width = own.state_size // members
    for k in range(members):
        other = twin(own, k)
        columns = slice(k * width, (k + 1) * width)
        their_out, their_after = theirs(other, x[k], state[:, columns])
        torch.testing.assert_close(out[k] if members > 1 else out, their_out, rtol=0, atol=1e-12)
        torch.testing.assert_close(after[:, columns], their_after, rtol=0, atol=1e-12)
        (their_out.sin().sum() + their_after.cos().sum()).backward()
        for mine, other_grad in (
            (own.weight, other.weight_ih_l0),
            (own.recurrent_weight, other.weight_hh_l0),
            (own.bias, other.bias_ih_l0),
        ):
            ours = reordered(mine.grad[k], cell)
            torch.testing.assert_close(ours, other_grad.grad, rtol=0, atol=1e-10)
        if own.recurrent_bias is not None:
            mine_b, their_b = own.recurrent_bias.grad[k, 0], other.bias_hh_l0.grad[2 * SIZE :]
            torch.testing.assert_close(mine_b, their_b, rtol=0, atol=1e-10)
    torch.testing.assert_close(gradients, [x.grad, state.grad], rtol=0, atol=1e-10)


@CELLS
def test_where_an_episode_starts_nothing_is_known_of_the_one_before(cell):
    own = layer(cell, 2)
    x = torch.randn(2, T, 1, INPUTS, dtype=torch.float64, generator=generator(), requires_grad=True)
    state = torch.randn(1, own.state_size, dtype=torch.float64)
    start = torch.zeros(T, 1, dtype=torch.bool)
    start[4] = True
    out, after = own(x, state, start)
    anew, after_anew = own(x[:, 4:], torch.zeros_like(state))
    torch.testing.assert_close(out[:, 4:], anew, rtol=0, atol=1e-14)
    torch.testing.assert_close(after, after_anew, rtol=0, atol=1e-14)
    out[:, 4:].sum().backward()
    assert x.grad is not None
    assert not x.grad[:, :4].any()
    assert x.grad[:, 4:].all()


@CELLS
@pytest.mark.parametrize("shared", [True, False])
def test_a_history_is_what_step_by_step_gives_and_only_the_rows_asked_for(cell, shared):
    config = NetworkConfig((6,), recurrent=cell, recurrent_size=5, shared_trunk=shared)
    network = Network(BOX, {"policy": 3, "value": "scalar"}, config)
    obs = torch.randn(T, N, INPUTS)
    start = torch.rand(T, N) < 0.3
    first = torch.from_numpy(network.begin(N)["state"]) + torch.randn(N, 1)
    steps, state = [], first
    for t in range(T):
        state = torch.where(start[t].unsqueeze(-1), 0, state)
        steps.append(network(obs[t], state=state))
        state = steps[-1]["state"]
    rows = torch.tensor([20, 0, 7, 13])
    output = network(History(obs, first, start, rows))
    for head in ("policy", "value"):
        together = torch.stack([step[head] for step in steps]).flatten(0, 1)[rows]
        torch.testing.assert_close(output[head], together, rtol=0, atol=1e-6)
    torch.testing.assert_close(output["state"], state, rtol=0, atol=1e-6)


@CELLS
def test_without_a_state_each_observation_is_the_first_of_an_episode(cell):
    config = NetworkConfig((6,), recurrent=cell, recurrent_size=5)
    network = Network(BOX, {"policy": 3, "value": "scalar"}, config)
    obs = torch.randn(4, 2, INPUTS)
    output = network(obs)
    assert output["value"].shape == (4, 2)
    assert output["state"].shape == (4, 2, network.begin(1)["state"].shape[1])
    torch.testing.assert_close(output, network(obs, state=torch.zeros_like(output["state"])))
    alone = network(obs[3, 1])
    torch.testing.assert_close(alone["policy"], output["policy"][3, 1])


def test_an_image_is_read_by_convolutions_before_it_is_remembered():
    space = spaces.Box(0, 1, (2, 5, 5))
    for shared in (True, False):
        config = NetworkConfig((6,), recurrent="gru", shared_trunk=shared)
        network = Network(space, {"policy": 3, "value": "scalar"}, config)
        obs = torch.rand(T, N, 50)
        start = torch.zeros(T, N, dtype=torch.bool)
        first = torch.from_numpy(network.begin(N)["state"])
        output = network(History(obs, first, start, torch.arange(T * N)))
        torch.testing.assert_close(output["value"][:N], network(obs[0])["value"])
        assert output["policy"].shape == (T * N, 3)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"recurrent_size": 4}, "no effect without a recurrent layer"),
        ({"recurrent": "gru", "recurrent_size": 0}, "recurrent_size is 0"),
        ({"recurrent": "gru", "hidden_sizes": ()}, "recurrent_size is None"),
        ({"recurrent": "lstm", "dropout": 0.1}, "goes without dropout"),
        ({"recurrent": "lstm", "noisy": True}, "goes without dropout and noisy"),
        ({"recurrent": "rnn"}, "recurrent is 'rnn'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        NetworkConfig(**settings)


def test_a_network_of_recurrent_layers_alone():
    config = NetworkConfig((), recurrent="gru", recurrent_size=4, shared_trunk=False)
    network = Network(BOX, {"policy": 3, "value": "scalar"}, config)
    assert network(torch.randn(2, INPUTS))["policy"].shape == (2, 3)
    assert network.memory is not None
    assert network.memory.layer_names == ("policy.gru", "value.gru")


def test_a_history_is_refused_by_a_network_without_a_memory():
    network = Network(BOX, {"q": 3})
    history = History(torch.zeros(1, 1, INPUTS), *[torch.zeros(1, 1)] * 3)
    with pytest.raises(ValueError, match=r"network\.recurrent"):
        network(history)
