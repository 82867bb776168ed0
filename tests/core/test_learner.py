"""The flat learner does what torch.optim does on each tensor, and what torch.optim does not."""

import copy
from typing import Any, get_args

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.func import grad, jacrev, vmap

from agents.core.files import join_state, split_state
from agents.core.learner import Learner, Step, Target
from agents.core.network import Network, NetworkConfig
from agents.core.optimizers import OptimConfig, Optimizer

STEPS = 100
TOLERANCE = 1e-6

each_optimizer = pytest.mark.parametrize("optimizer", get_args(Optimizer))


def build(seed: int = 0) -> nn.Sequential:
    """Matrices, which decay, and biases and a norm, which do not."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 2))


def data(steps: int = STEPS) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(steps, 16, 3, generator=generator)
    return list(zip(x, torch.stack([x.sum(-1), x.prod(-1)], -1), strict=True))


def fit(module: nn.Module):
    """A loss of two terms, with an aux of each kind."""

    def loss(x: Tensor, y: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        error = module(x) - y
        terms = {"mean": error.square().mean(), "worst": 0.1 * error.abs().amax()}
        return terms, {"bias": error.detach().mean(), "error": error.detach()}

    return loss


def groups(module: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """The parameters that decay, and those that do not."""
    parameters = list(module.parameters())
    return [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim < 2]


def distance(a: nn.Module, b: nn.Module) -> float:
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return max(float((p - q).abs().max().detach()) for p, q in pairs)


def same(a: Any, b: Any) -> bool:
    """Equality of states to the bit."""
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    return a == b


def new(seed: int = 0, **options: Any) -> tuple[Any, Learner]:
    module = build(seed)
    return module, Learner({"net": module}, OptimConfig(**options))


# Against torch.optim ----------------------------------------------------------------------------

RULES: dict[str, tuple[dict[str, Any], Any]] = {
    "sgd": ({"lr": 0.05}, torch.optim.SGD),
    "momentum": ({"optimizer": "sgd", "lr": 0.01, "momentum": 0.9}, torch.optim.SGD),
    "adam": ({"lr": 3e-3, "betas": (0.8, 0.99), "eps": 1e-5}, torch.optim.Adam),
    "adamw": ({"lr": 3e-3}, torch.optim.Adam),
    "rmsprop": ({"lr": 1e-3, "alpha": 0.95, "eps": 1e-5}, torch.optim.RMSprop),
    "rmsprop, momentum": (
        {"optimizer": "rmsprop", "lr": 1e-4, "momentum": 0.9, "eps": 1e-5},
        torch.optim.RMSprop,
    ),
    "adagrad": ({"lr": 0.05, "eps": 1e-10}, torch.optim.Adagrad),
}
each_rule = pytest.mark.parametrize("name", RULES)


def theirs(name: str, parameters: Any, **more: Any) -> torch.optim.Optimizer:
    options, kind = RULES[name]
    return kind(parameters, **{k: v for k, v in options.items() if k != "optimizer"}, **more)


def ours(name: str, **more: Any) -> tuple[nn.Sequential, Learner]:
    options: dict[str, Any] = {"optimizer": name, "weight_decay": 0.0} | RULES[name][0] | more
    return new(**options)


@each_rule
@pytest.mark.parametrize("limit", [None, 0.8])
def test_a_rule_is_that_of_torch_with_and_without_clipping(name, limit):
    module, learner = ours(name, max_grad_norm=limit)
    twin = build()
    optimizer, loss = theirs(name, twin.parameters()), fit(twin)
    clipped = 0
    for x, y in data():
        step = learner.minimize(fit(module), x, y)
        optimizer.zero_grad()
        sum(loss(x, y)[0].values()).backward()
        norm = nn.utils.clip_grad_norm_(twin.parameters(), limit or torch.inf)
        optimizer.step()
        assert step.grad_norm == pytest.approx(norm.item(), rel=1e-3)
        assert step.clipped == (norm.item() > (limit or torch.inf))
        clipped += step.clipped
    assert distance(module, twin) < TOLERANCE
    assert 0 < clipped < STEPS if limit else not clipped


@each_rule
def test_l2_is_the_weight_decay_of_torch_on_matrices_alone(name):
    module, learner = ours(name, l2=0.1)
    twin = build()
    decaying, rest = groups(twin)
    optimizer = theirs(name, [{"params": decaying, "weight_decay": 0.1}, {"params": rest}])
    loss = fit(twin)
    for x, y in data():
        learner.minimize(fit(module), x, y)
        optimizer.zero_grad()
        sum(loss(x, y)[0].values()).backward()
        optimizer.step()
    assert distance(module, twin) < TOLERANCE


@pytest.mark.parametrize(("optimizer", "decay"), [("adam", 0.3), ("adamw", 0.3), ("adamw", None)])
def test_decoupled_decay_is_that_of_adamw_on_matrices_alone(optimizer, decay):
    module, learner = new(optimizer=optimizer, lr=3e-3, weight_decay=decay)
    twin = build()
    decaying, rest = groups(twin)
    default = {} if decay is None else {"weight_decay": decay}
    reference = torch.optim.AdamW(
        [{"params": decaying, **default}, {"params": rest, "weight_decay": 0.0}], lr=3e-3
    )
    loss = fit(twin)
    for x, y in data():
        learner.minimize(fit(module), x, y)
        reference.zero_grad()
        sum(loss(x, y)[0].values()).backward()
        reference.step()
    assert distance(module, twin) < TOLERANCE


@each_optimizer
def test_without_a_gradient_decoupled_decay_shrinks_matrices_and_nothing_else(optimizer):
    module, learner = new(optimizer=optimizer, lr=0.1, weight_decay=0.5)
    before = copy.deepcopy(module)
    learner.step_along(torch.zeros_like(learner.flat.vector))
    for p, old in zip(module.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(p, old * (0.95 if p.ndim > 1 else 1.0))


def test_penalties_are_loss_terms_clipped_with_the_rest():
    module, learner = new(lr=3e-3, l1=0.02, l2=0.1, max_grad_norm=0.8)
    twin = build()
    optimizer, loss = torch.optim.Adam(twin.parameters(), lr=3e-3), fit(twin)
    for x, y in data():
        step = learner.minimize(fit(module), x, y)
        weights = torch.cat([w.reshape(-1) for w in groups(twin)[0]])
        penalties = {"l1": 0.02 * weights.abs().sum(), "l2": 0.05 * weights.square().sum()}
        terms = loss(x, y)[0] | penalties
        optimizer.zero_grad()
        sum(terms.values()).backward()
        nn.utils.clip_grad_norm_(twin.parameters(), 0.8)
        optimizer.step()
        assert step.terms == pytest.approx({k: v.item() for k, v in terms.items()}, rel=1e-4)
        assert step.loss == pytest.approx(sum(step.terms.values()))
    assert distance(module, twin) < TOLERANCE


def test_a_schedule_counts_environment_steps():
    module, learner = new(optimizer="sgd", lr=0.05, schedule="linear", final_lr=0.01)
    twin = build()
    optimizer, loss = torch.optim.SGD(twin.parameters(), lr=0.05), fit(twin)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.2, total_iters=80)
    learner.planned = 80 * 7
    for t, (x, y) in enumerate(data()):
        learner.env_steps = 7 * t
        step = learner.minimize(fit(module), x, y)
        assert step.lr == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.zero_grad()
        sum(loss(x, y)[0].values()).backward()
        optimizer.step()
        schedule.step()
    assert distance(module, twin) < TOLERANCE


# What a step says and keeps ---------------------------------------------------------------------


def test_a_step_says_what_the_loss_said():
    module, learner = new()
    seen: list[Step] = []
    learner.observer = lambda _, step: seen.append(step)
    x, y = data(1)[0]
    terms, aux = fit(module)(x, y)
    step = learner.minimize(fit(module), x, y)
    assert step.terms == pytest.approx({name: term.item() for name, term in terms.items()})
    assert step.scalars == pytest.approx({"bias": aux["bias"].item()})
    assert torch.equal(step.aux["error"], aux["error"])
    assert seen == [step]
    assert (step.update, step.skipped, step.nonfinite) == (1, False, "")


def test_gradient_and_step_along_make_minimize():
    (a, one), (b, two) = new(max_grad_norm=0.5, l1=1e-3), new(max_grad_norm=0.5, l1=1e-3)
    for x, y in data(5):
        whole = one.minimize(fit(a), x, y)
        terms, aux = two.gradient(fit(b), x, y)
        parts = two.step_along(two.flat.gradient, terms, aux)
        assert (whole.loss, whole.grad_norm) == (parts.loss, parts.grad_norm)
    assert same(one.state_dict(), two.state_dict())


@each_optimizer
@pytest.mark.parametrize("at", [3, 4])
def test_a_saved_learner_goes_on_bit_for_bit(optimizer, at):
    options = {
        "optimizer": optimizer,
        "momentum": 0.9 if optimizer in ("sgd", "rmsprop") else 0.0,
        "schedule": "cosine",
        "stats_every": 5,
    }
    (a, one), (b, two) = new(0, **options), new(1, **options)
    one.planned = 10
    batches = data(10)
    for t, (x, y) in enumerate(batches[:at], 1):
        one.minimize(fit(a), x, y)
        one.env_steps = t
    two.load_state_dict(join_state(*split_state(one.state_dict())))
    for t, (x, y) in enumerate(batches[at:], at + 1):
        steps = [learner.minimize(fit(m), x, y) for m, learner in ((a, one), (b, two))]
        one.env_steps = two.env_steps = t
        records = [step.record for step in steps if step.record]
        assert len(records) == 2 * (t % 5 == 0)
        if records:
            np.testing.assert_array_equal(records[0][0], records[1][0])
    assert same(one.state_dict(), two.state_dict())


def test_a_state_of_another_network_is_refused():
    learner = Learner({"net": nn.Linear(2, 2)}, OptimConfig())
    with pytest.raises(ValueError, match="6 weights, the state given has 66"):
        learner.load_state_dict(new()[1].state_dict())


# The guard --------------------------------------------------------------------------------------


def spoilt(module: Any, how: str):
    """`fit` with a term `bad` beside it."""
    head = module[3].weight

    def loss(x: Tensor, y: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        terms, aux = fit(module)(x, y)
        bad = {
            "nan": terms["mean"] * torch.nan,
            "inf": terms["mean"] * torch.inf,
            "constant": torch.tensor(-torch.inf),
            "gradient": (head - head.detach()).abs().sqrt().sum(),  # 0, of slope 0/0
            "overflow": 1e30 * (head - head.detach()).sum(),
        }[how]
        return terms | {"bad": bad}, aux

    return loss


@each_optimizer
@pytest.mark.parametrize(
    ("how", "where"),
    [
        ("nan", "loss term 'bad', layer '0'"),
        ("inf", "loss term 'bad', layer '0'"),
        ("constant", "loss term 'bad'"),
        ("gradient", "layer '3'"),
        ("overflow", "gradient norm"),
    ],
)
def test_a_step_that_is_not_finite_changes_nothing_and_says_where(optimizer, how, where):
    options = {"optimizer": optimizer, "weight_decay": 0.1, "stats_every": 2, "max_grad_norm": 1.0}
    (a, guarded), (b, spared) = new(**options), new(**options)
    seen: list[Step] = []
    guarded.observer = lambda _, step: seen.append(step)
    for x, y in data(4):
        before = guarded.state_dict()
        step = guarded.minimize(spoilt(a, how), x, y)
        assert seen[-1] is step
        assert (step.skipped, step.nonfinite, step.update) == (True, where, guarded.updates)
        assert same(guarded.state_dict(), before | {"skipped": before["skipped"] + 1})
        guarded.minimize(fit(a), x, y)
        spared.minimize(fit(b), x, y)
    assert same(guarded.state_dict() | {"skipped": 0}, spared.state_dict())
    assert guarded.skipped == 4


def test_a_direction_that_is_not_finite_is_guarded_too():
    _, learner = new()
    before = learner.state_dict()
    direction = torch.ones_like(learner.flat.vector)
    direction[-1] = torch.nan  # what does not decay lies last: the bias of the last layer
    assert learner.step_along(direction).nonfinite == "layer '3'"
    assert same(learner.state_dict(), before | {"skipped": 1})


# The flat vector --------------------------------------------------------------------------------


def test_modules_stay_what_they_were():
    module, twin = build(), build()
    learner = Learner({"net": module}, OptimConfig(lr=0.1))
    assert distance(module, twin) == 0.0
    assert list(module.state_dict()) == list(twin.state_dict())
    learner.minimize(fit(module), *data(1)[0])
    assert distance(module, twin) > 0.0
    module.load_state_dict(twin.state_dict())
    assert distance(module, twin) == 0.0
    pieces = learner.flat.split(learner.flat.vector)
    gradients = learner.flat.split(learner.flat.gradient)
    for name, parameter in module.named_parameters(prefix="net"):
        assert torch.equal(pieces[name], parameter)
        assert parameter.grad is not None
        assert gradients[name].data_ptr() == parameter.grad.data_ptr()
    decaying = torch.cat([p.reshape(-1) for p in groups(twin)[0]])
    assert torch.equal(learner.flat.vector[: learner.flat.decaying], decaying)


def test_a_parameter_belongs_to_one_learner():
    module, _ = new()
    with pytest.raises(ValueError, match=r"other\.weight already belongs to another learner"):
        Learner({"new": nn.Linear(2, 2), "other": module[3]}, OptimConfig())


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.ReLU(), "net: no trainable parameter"),
        (nn.Linear(2, 2).requires_grad_(False), "net: no trainable parameter"),
        (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double()), "share one dtype"),
    ],
)
def test_what_cannot_be_learned_is_an_error(module, message):
    with pytest.raises(ValueError, match=message):
        Learner({"net": module}, OptimConfig())


def test_a_loss_that_does_not_depend_on_the_learner_is_an_error():
    module, learner = new()

    def loss(x: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return {"value": module(x).detach().mean()}, {}

    with pytest.raises(ValueError, match="no loss term of value depends"):
        learner.minimize(loss, data()[0][0])


def test_only_the_learners_own_parameters_get_a_gradient():
    module, learner = new()
    other, frozen = new(1)

    def loss(x: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return {"through": other[3](torch.cat([module(x)] * 4, -1)).mean()}, {}

    learner.minimize(loss, data()[0][0])
    assert learner.flat.gradient.any()
    assert not frozen.flat.gradient.any()


def test_gradients_cut_off_the_flat_vector_are_an_error_not_a_standstill():
    module, learner = new()
    module.zero_grad()
    with pytest.raises(ValueError, match="zero_grad"):
        learner.minimize(fit(module), *data()[0])


def test_a_learner_cannot_be_deep_copied():
    with pytest.raises(TypeError, match="state_dict"):
        copy.deepcopy(new()[1])


def test_a_norm_over_several_axes_does_not_decay():
    module = nn.Sequential(nn.LayerNorm((4, 4)), nn.Flatten(), nn.Linear(16, 2))
    assert Learner({"net": module}, OptimConfig()).flat.decaying == 32


class Tied(nn.Module):
    """W Wx + b, with b frozen if asked."""

    def __init__(self, frozen: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.second.bias.requires_grad_(not frozen)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))[..., :2]


@pytest.mark.parametrize("frozen", [False, True])
def test_tied_parameters_are_learned_once_and_frozen_ones_not_at_all(frozen):
    module, twin = Tied(frozen), Tied(frozen)
    learner = Learner({"net": module}, OptimConfig(optimizer="sgd", lr=0.01))
    assert learner.flat.vector.numel() == 9 + 3 * (not frozen)
    bias = twin.second.bias.clone()
    optimizer = torch.optim.SGD([p for p in twin.parameters() if p.requires_grad], lr=0.01)
    for x, y in data(20):
        learner.minimize(fit(module), x, y)
        optimizer.zero_grad()
        sum(fit(twin)(x, y)[0].values()).backward()
        optimizer.step()
    assert distance(module, twin) < TOLERANCE
    assert module.first.weight is module.second.weight
    assert torch.equal(module.second.bias, bias) == frozen


# Targets ----------------------------------------------------------------------------------------


class Counting(nn.Module):
    """A layer with a buffer."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = build()
        self.register_buffer("calls", torch.zeros(()))


@pytest.mark.parametrize("tau", [1.0, 0.25])
def test_a_target_moves_a_share_of_the_way_and_copies_buffers(tau):
    module = Counting()
    learner = Learner({"net": module}, OptimConfig(lr=0.1))
    target = Target(learner)
    twin: Any = target.modules["net"]
    start = copy.deepcopy(module)
    learner.minimize(fit(module.layer), *data(1)[0])
    module.calls += 3
    assert distance(twin, start) == 0.0
    assert twin.calls == 0
    assert not any(p.requires_grad for p in twin.parameters())
    target.follow(tau)
    assert twin.calls == 3
    triples = zip(twin.parameters(), start.parameters(), module.parameters(), strict=True)
    for followed, old, goal in triples:
        expected = (1 - tau) * old + tau * goal
        torch.testing.assert_close(followed, expected, rtol=0.0, atol=1e-7)
    other = Target(Learner({"net": Counting()}, OptimConfig()))
    other.load_state_dict(join_state(*split_state(target.state_dict())))
    assert same(other.state_dict(), target.state_dict())
    assert distance(other.modules["net"], twin) == 0.0


# Curvature, and the loss as a function ----------------------------------------------------------


@pytest.mark.parametrize("make", [build, Tied])
def test_the_product_is_the_hessian_times_a_vector(make):
    module = make().double()
    learner = Learner({"net": module}, OptimConfig())
    x, y = (z.double() for z in data(1)[0])
    loss = learner.functional(fit(module))
    weights = learner.flat.vector

    def total(w: Tensor) -> Tensor:
        return sum(loss(w, x, y)[0].values())

    matrix = jacrev(grad(total))(weights.clone())
    product = learner.hessian(fit(module), x, y)
    for seed in range(3):
        vector = torch.randn(len(weights), generator=torch.Generator().manual_seed(seed)).double()
        torch.testing.assert_close(product(vector), matrix @ vector)
    assert not learner.flat.gradient.any()


@pytest.mark.parametrize("make", [build, Tied])
def test_stacked_gradients_are_the_separate_ones(make):
    module = make()
    learner = Learner({"net": module}, OptimConfig())
    loss = learner.functional(fit(module))
    (x0, y0), (x1, y1) = data(2)
    x, y = torch.stack([x0, x1]), torch.stack([y0, y1])
    weights = torch.stack([learner.flat.vector, learner.flat.vector.flip(0)])

    def total(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return sum(loss(w, x, y)[0].values())

    stacked = vmap(grad(total))(weights, x, y)
    values = vmap(loss)(weights, x, y)[0]
    for i in range(2):
        learner.flat.vector.copy_(weights[i])
        terms, _ = learner.gradient(fit(module), x[i], y[i])
        torch.testing.assert_close(stacked[i], learner.flat.gradient)
        torch.testing.assert_close({name: v[i] for name, v in values.items()}, terms)


# Options ----------------------------------------------------------------------------------------


def test_a_schedule_over_an_unknown_training_is_an_error():
    with pytest.raises(ValueError, match=r"linear schedule needs a length.*agent\.plan"):
        _ = new(schedule="linear")[1].lr


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"optimizer": "adamax"}, "optimizer is 'adamax': use sgd"),
        ({"schedule": "step"}, "schedule is 'step': use constant"),
        ({"lr": 0.0}, r"lr is 0\.0: use a positive number"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"l1": -1.0}, r"l1 is -1\.0"),
        ({"weight_decay": -1.0}, "weight_decay is -1"),
        ({"max_grad_norm": 0.0}, "max_grad_norm is 0"),
        ({"betas": (0.9, 1.0)}, "betas is"),
        ({"alpha": 1.0}, "alpha is 1"),
        ({"stats_every": -1}, "stats_every is -1"),
        ({"optimizer": "sgd", "momentum": 1.0}, r"momentum is 1\.0: use a number in \[0, 1\)"),
        ({"momentum": 0.9}, r"momentum is 0\.9, which has no effect with adam: use 0\.0"),
        ({"alpha": 0.9}, r"alpha is 0\.9, which has no effect with adam: use 0\.99"),
        (
            {"optimizer": "rmsprop", "betas": (0.5, 0.999)},
            r"betas is \(0\.5, 0\.999\), which has no effect with rmsprop: use \(0\.9, 0\.999\)",
        ),
        ({"final_lr": 0.1}, "need a schedule"),
        ({"schedule": "cyclical", "final_lr": 0.1}, r"final_lr is 0\.1: use at most optim\.lr"),
        ({"lr": "1e-3"}, "lr is '1e-3': expected float"),
        ({"warmup_steps": 1.5}, r"warmup_steps is 1\.5: expected int"),
        ({"eps": 0.0}, r"eps is 0\.0: use 1e-30 or more"),
    ],
)
def test_a_bad_option_says_what_would_be_right(option, message):
    with pytest.raises(ValueError, match=f"optim.{message}|{message}"):
        OptimConfig(**option)


# Precision --------------------------------------------------------------------------------------


def test_bfloat16_is_for_the_matrix_products_alone() -> None:
    """The gradient is that of float32 to two digits, and all that is kept is float32."""
    x = torch.randn(64, 5, generator=torch.Generator().manual_seed(1))
    y = x.prod(-1)
    gradients: dict[str, Tensor] = {}
    for precision in ("float32", "bfloat16", "bfloat16"):
        network = Network(
            spaces.Box(-9, 9, (5,)),
            {"value": "scalar"},
            NetworkConfig((32, 32)),
            torch.Generator().manual_seed(0),
        )
        learner = Learner({"net": network}, OptimConfig(precision=precision, stats_every=1))
        seen: list[torch.dtype] = []

        def loss(x: Tensor, y: Tensor, network: Any = network, seen: Any = seen) -> Any:
            value = network(x)["value"]
            seen.append(value.dtype)
            return {"fit": (value - y).square().mean()}, {}

        learner.gradient(loss, x, y)
        found = learner.flat.gradient.clone()
        assert precision not in gradients or torch.equal(found, gradients[precision])
        gradients[precision] = found
        step = learner.minimize(loss, x, y)
        assert (step.skipped, step.record is not None) == (False, True)
        assert seen == [torch.float32] * 2
        assert network(x)["value"].dtype == torch.float32  # acting knows nothing of it
        kept = (learner.flat.vector, learner.flat.gradient, *learner.moments.values())
        assert {tensor.dtype for tensor in kept} == {torch.float32}
        assert learner.minimize(loss, x * torch.nan, y).skipped
    full, half = gradients.values()
    assert 0 < (half - full).norm() / full.norm() < 0.03
