"""Each rule finds its own in a made-up history, and nothing is found in a healthy one."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from agents import PPO, PPOConfig
from agents.core.files import config_to_json
from agents.doctor.finding import Advice, severity
from agents.doctor.history import History, Series
from agents.doctor.rules import RULES, diagnose
from agents.runner.settings import read_arguments

ROWS = 40
STEPS = np.linspace(1000, 40_000, ROWS)
LAYERS = ("policy.trunk.0", "policy.trunk.1", "policy.head", "value.trunk.0", "value.head")
RISE = np.linspace(0, 1, ROWS)
CONFIG: dict[str, Any] = {
    "steps": 40_000,
    "config": config_to_json(PPOConfig()),
}
DQN = {"target_every": 100, "buffer_size": 20_000, "updates_per_step": 0.5, "batch_size": 64}
HISTOGRAM = {"value": "categorical", "v_min": 0.0, "v_max": 50.0}
OTHERS = DQN | HISTOGRAM
"""Settings of DQN that PPO has not."""


def history(
    updates: dict[str, Any] | None = None,
    gradients: dict[str, dict[str, Any]] | None = None,
    config: dict[str, Any] | None = None,
    returns: Any = None,
    length: Any = 20.0,
    truncated: Any = 0.0,
    estimate: Any = 60.0,
) -> History:
    """A healthy run of one learner, but for what is given: numbers, or arrays over its rows."""

    def column(value: Any) -> np.ndarray:
        return np.broadcast_to(np.asarray(value, float), ROWS).copy()

    own = {
        "step": STEPS,
        "update": np.arange(1, ROWS + 1) * 160,
        "grad_norm": 0.4,
        "grad_norm_max": 1.0,
        "clipped": 20.0,
        "skipped": 0.0,
        "cosine": 0.2,
        "snr": 0.1,
        "kl": 0.01,
        "clip_fraction": 0.1,
        "explained_variance": 0.8,
        "value_max": 50.0,
        "value_bound": 100.0,
        "reward_max": 1.0,
        "entropy_ratio": 0.6,
        "action_top": 0.6,
        "obs_std_min": 0.1,
        "obs_std_max": 1.0,
        "obs_constant": 0.0,
    } | (updates or {})
    table: dict[str, np.ndarray] = {name: column(value) for name, value in own.items()}
    table["learner"] = np.full(ROWS, "ppo", object)
    table["nonfinite"] = np.where(table["skipped"] > 0, "loss term 'value'", "").astype(object)
    usual = {
        "grad_norm": 0.2,
        "weight_norm": 11.0,
        "update_ratio": 1e-3,
        "zero_fraction": 0.0,
        "dormant": 0.0,
    }
    layers: dict[str, Any] = {"step": np.repeat(STEPS, len(LAYERS))}
    layers["update"] = np.repeat(table["update"], len(LAYERS))
    layers["layer"] = np.tile(np.array(LAYERS, object), ROWS)
    layers["learner"] = np.full(ROWS * len(LAYERS), "ppo", object)
    for name, value in usual.items():
        by_layer = (gradients or {}).get(name, {})
        columns = [column(by_layer.get(layer, by_layer.get("all", value))) for layer in LAYERS]
        layers[name] = np.stack(columns, axis=1).ravel()
    rising = 20 + 400 * RISE
    evaluations = {
        "step": STEPS,
        "mean_return": column(rising if returns is None else returns),
        "value_estimate": column(estimate),
        "discounted_return": column(60.0),
    }
    episodes = {
        "step": STEPS,
        "return": evaluations["mean_return"],
        "length": column(length) + (np.arange(ROWS) % 7 if np.ndim(length) == 0 else 0),
        "truncated": column(truncated),
    }
    settings = {**CONFIG, "config": {**CONFIG["config"], **(config or {})}}
    return History(settings, episodes, table, layers, evaluations)


def optim(**changes: Any) -> dict[str, Any]:
    return {"optim": {**CONFIG["config"]["optim"], **changes}}


LATE = np.where(np.arange(ROWS) >= ROWS // 2, 1.0, 0.0)
DEAD = {"policy.trunk.1": 0.85}
DYING = {"policy.trunk.1": 0.95 * np.sqrt(RISE)}
FLAT = 20.0 + np.arange(ROWS) % 3
CASES: dict[str, dict[str, Any]] = {
    "non_finite": {"updates": {"skipped": LATE}},
    "target_never_moves": {
        "updates": {"target_distance": 0.01 + RISE},
        "config": {**DQN, "target_every": 10**6},
    },
    "no_reward": {"updates": {"reward_max": 0.0}},
    "observations": {"updates": {"obs_std_max": 500.0}},
    "constant_observations": {"updates": {"obs_constant": 1.0}},
    "reward_scale": {"updates": {"reward_max": 1e5}},
    "truncation": {"length": np.where(np.arange(ROWS) % 3, 31.0, 200.0)},
    "support": {"config": HISTOGRAM},
    "lr_too_high": {"gradients": {"update_ratio": {"all": 0.1}}},
    "lr_too_low": {"gradients": {"update_ratio": {"all": 1e-7}}},
    "too_few_updates": {"config": {"rollout_size": 20_000}},
    "replay_too_small": {"config": {**DQN, "buffer_size": 128}},
    "vanishing": {"gradients": {"grad_norm": {"policy.trunk.0": 1e-6}}},
    "dead_units": {"gradients": {"dormant": DEAD, "zero_fraction": DEAD}},
    "plasticity": {"gradients": {"dormant": DYING, "zero_fraction": DYING}},
    "exploding": {"updates": {"grad_norm": 10.0 ** (6 * RISE), "grad_norm_max": 1e6}},
    "overestimation": {"updates": {"value_max": 50 + 1000 * RISE}},
    "too_many_epochs": {"updates": {"kl": 0.6, "clip_fraction": 0.7}},
    "critic_drowns_actor": {
        "updates": {"clipped": 160.0},
        "gradients": {"grad_norm": {"policy.head": 1e-4, "value.head": 1.0}},
    },
    "clip_sets_step": {
        "updates": {"clipped": 160.0, "grad_norm": 1.0},
        "config": optim(max_grad_norm=1e-4),
    },
    "entropy_collapse": {"updates": {"entropy_ratio": 0.001}, "returns": FLAT},
    "constant_action": {"updates": {"action_saturation": 1.0}},
    "critic_not_fitting": {
        "updates": {"explained_variance": 0.0},
        "estimate": 1.0,
        "returns": FLAT,
    },
    "noise": {"updates": {"snr": 0.01, "cosine": 0.001}, "returns": FLAT},
    "forgotten": {"returns": 20 + 400 * np.sin(np.pi * RISE)},
    "looks_healthy": {"returns": FLAT},
}


def test_every_rule_has_a_case() -> None:
    assert set(CASES) == {rule.name for rule in RULES}
    assert all(0 < rule.weight <= 1 for rule in RULES)


def test_a_healthy_run_is_given_a_clean_bill() -> None:
    assert diagnose(history()) == []


def test_nothing_is_said_before_there_is_anything() -> None:
    assert diagnose(History(CONFIG)) == []


@pytest.mark.parametrize("name", CASES)
def test_the_right_rule_stands_first(name: str) -> None:
    findings = diagnose(history(**CASES[name]))
    assert findings, "nothing was found"
    assert findings[0].rule.name == name, [finding.rule.name for finding in findings]
    evidence = findings[0].evidence
    assert 0 <= evidence.began <= STEPS[-1]
    assert 0.4 <= evidence.severity <= 1
    assert evidence.because.endswith(".")
    assert evidence.advice


@pytest.mark.parametrize("name", CASES)
def test_advice_names_a_field_there_is_and_a_value_that_it_takes(name: str) -> None:
    """Of PPO's, for a history of PPO; the cases of a replay have fields of their own."""
    for advice in diagnose(history(**CASES[name]))[0].evidence.advice:
        if advice.field is None:
            continue
        assert advice.field.startswith("agent.")
        *path, last = advice.field.split(".")[1:]
        config: Any = PPOConfig()
        for key in path:
            config = getattr(config, key)
        if last in OTHERS and not hasattr(config, last):
            continue
        replace(config, **{last: advice.value})  # raises where it is impossible


def test_what_a_run_has_already_or_its_agent_lacks_is_not_advised() -> None:
    def fields(config: dict[str, Any], **case: Any) -> list[str | None]:
        (finding,) = diagnose(history(**case, config=config))
        return [advice.field for advice in finding.evidence.advice]

    vanishing, network = CASES["vanishing"], CONFIG["config"]["network"]
    norm, relu, few = "agent.network.norm", "agent.network.activation", "agent.network.hidden_sizes"
    deep = network | {"hidden_sizes": [64, 64, 64]}
    assert fields({"network": deep}, **vanishing) == [relu, norm, few]
    assert fields({"network": deep | {"norm": "layer"}}, **vanishing) == [relu, few]
    all_set = network | {"norm": "layer", "activation": "relu", "hidden_sizes": [64, 64]}
    assert fields({"network": all_set}, **vanishing) == [None]
    without = {key: value for key, value in CONFIG["config"].items() if key != "target_kl"}
    (finding,) = diagnose(replace(history(**CASES["too_many_epochs"]), config={"config": without}))
    assert "agent.target_kl" not in [advice.field for advice in finding.evidence.advice]


def test_advice_is_possible_beside_what_is_set() -> None:
    """Rewards are clipped or normalised, not both."""
    for setting in ("clip_reward", "normalize_reward"):
        for name in ("reward_scale", "critic_drowns_actor", "critic_not_fitting"):
            for finding in diagnose(history(**CASES[name], config={setting: True})):
                fields = {advice.field for advice in finding.evidence.advice}
                assert not fields & {"agent.clip_reward", "agent.normalize_reward"}, name


def test_a_finding_stands_where_it_began() -> None:
    (finding,) = diagnose(history(updates={"skipped": LATE}))
    assert finding.evidence.began == pytest.approx(STEPS[ROWS // 2])
    kl = np.where(np.arange(ROWS) >= 10, 0.5, 0.01)
    found = diagnose(history(updates={"kl": kl}))
    assert found[0].evidence.began == pytest.approx(STEPS[10])


def test_the_learning_rate_advised_follows_from_how_far_updates_go() -> None:
    """Ten times the usual 1e-3 above what is measured: a hundredth of the rate."""
    (finding,) = diagnose(history(gradients={"update_ratio": {"all": 0.1}}))
    advice = finding.evidence.advice[0]
    assert (advice.field, advice.value) == ("agent.optim.lr", 3e-6)
    assert str(advice).startswith("--agent.optim.lr 3e-06")


def test_a_learning_rate_that_moves_nothing_is_raised_to_where_first_steps_are_usual() -> None:
    """Measured where weights have not moved: 1e-2 there is 1e-3 later."""
    (finding,) = diagnose(history(gradients={"update_ratio": {"all": 1e-6}}))
    advice = finding.evidence.advice[0]
    assert (advice.field, advice.value) == ("agent.optim.lr", pytest.approx(3e-4 * 1e4))


@pytest.mark.parametrize(("kl", "epochs"), [(0.5, 2), (0.222, 3), (50.0, 1)])
def test_the_epochs_advised_follow_from_how_far_a_round_goes(kl: float, epochs: int) -> None:
    """10 passes, as PPO's; the divergence grows as their square."""
    (finding,) = diagnose(history(updates={"kl": kl}))
    assert finding.evidence.advice[0].value == epochs


@pytest.mark.parametrize(("tau", "every"), [(1.0, 100), (0.02, 2), (0.001, 1)])
def test_a_target_that_moves_a_part_of_the_way_moves_more_often(tau: float, every: int) -> None:
    case = CASES["target_never_moves"]
    replayed = {**case["config"], "rollout_size": None, "tau": tau}
    (finding,) = diagnose(history(case["updates"], config=replayed))
    assert finding.evidence.advice[0].value == every


def test_a_target_of_what_learns_from_rollouts_moves_with_each() -> None:
    case = CASES["target_never_moves"]
    (finding,) = diagnose(history(case["updates"], config={**case["config"], "rollout_size": 1000}))
    assert finding.evidence.advice[0].value == 160  # of 6,400 updates in 40,000 steps


def test_values_with_entropy_to_come_in_them_are_not_held_to_the_rewards_bound() -> None:
    """Three times what rewards add up to is much for a return, and nothing for a soft value."""
    high = {"value_max": 300.0}
    (finding,) = diagnose(history(high))
    assert (finding.rule.name, finding.evidence.statistic) == ("overestimation", "value_max")
    assert diagnose(history(high, config={"initial_temperature": 1.0})) == []
    (finding,) = diagnose(history({"value_max": 1e5}, config={"initial_temperature": 1.0}))
    assert finding.rule.name == "overestimation"


def test_a_critic_with_settings_of_its_own_is_judged_and_advised_by_them() -> None:
    """As in SAC: the actor's learning rate is none of the critic's business."""

    def renamed(h: History) -> History:
        critic = {"ppo": "critic"}
        for table in (h.updates, h.gradients):
            table["learner"] = np.array([critic[name] for name in table["learner"]], object)
        return h

    network = {**CONFIG["config"]["network"], "norm": "layer", "hidden_sizes": [64] * 3}
    settings = {"critic_optim": optim(lr=3e-2)["optim"], "critic_network": network}
    high = renamed(history(gradients={"update_ratio": {"all": 0.1}}, config=settings))
    assert diagnose(high)[0].evidence.advice[0].flag == "--agent.critic-optim.lr 0.0003"
    vanishing = renamed(history(**CASES["vanishing"], config=settings))
    fields = [advice.field for advice in diagnose(vanishing)[0].evidence.advice]  # norm it has
    assert fields == ["agent.critic_network.activation", "agent.critic_network.hidden_sizes"]


def critic_and_actor(critic: Any, actor: Any, **settings: Any) -> History:
    """Each with what it skipped in each row, the critic's rows before the actor's."""
    tables = [history({"skipped": skipped}).updates for skipped in (critic, actor)]
    for table, name in zip(tables, ("critic", "actor"), strict=True):
        table["learner"][:] = name
    both = {name: np.concatenate([t[name] for t in tables]) for name in tables[0]}
    config = {"critic_optim": optim()["optim"]} | settings
    return replace(history(config=config), updates=both, gradients={})


@pytest.mark.parametrize(("row", "often"), [(4, 100), (5, 300)])
def test_the_learner_that_failed_first_is_told_first(row: int, often: int) -> None:
    """By an earlier row, or in the same one by a larger share of its updates."""
    critic, actor = np.zeros((2, ROWS))
    critic[5], actor[row] = 200, often
    evidence = diagnose(critic_and_actor(critic, actor))[0].evidence
    assert (evidence.learner, evidence.began) == ("actor", STEPS[row])
    assert evidence.because == (
        f"{often} of {6400 + often} updates of actor and 200 of 6600 updates of critic were not "
        f"finite and were left out; the first by step {STEPS[row]:,.0f}: loss term 'value'."
    )


def test_where_updates_are_not_finite_the_rate_that_is_too_high_is_lowered() -> None:
    """Of a layer of 64 units 1e20 moves 5.7e20 of its length, where 0.01 is usual.

    What it spoils is the other's loss first, which is made of its outputs.
    """
    high, none = optim(lr=1e20)["optim"], np.zeros(ROWS)
    assert flags(critic_and_actor(LATE, none, optim=high))[2] == "--agent.optim.lr 0.002"
    spoiled = critic_and_actor(none, LATE, critic_optim=high)
    assert flags(spoiled)[2] == "--agent.critic-optim.lr 0.002"
    assert flags(critic_and_actor(none, LATE))[2] == "--agent.optim.lr 3e-05"


def test_a_histogram_is_given_room_on_the_side_where_returns_are() -> None:
    def flags(low: float, high: float, returns: float) -> list[str]:
        h = history(estimate=returns, config={**HISTOGRAM, "v_min": low, "v_max": high})
        h.evaluations["discounted_return"][:] = returns
        return [a.flag for finding in diagnose(h) for a in finding.evidence.advice]

    assert flags(0.0, 50.0, 60.0) == ["--agent.v-max 90"]
    assert flags(0.0, 100.0, -20.0) == ["--agent.v-min -30"]
    assert flags(0.0, 50.0, 50.4) == flags(-30.0, 0.0, -20.0) == []


def flags(h: History) -> list[str]:
    """What the first finding advises, as flags."""
    return [advice.flag for advice in diagnose(h)[0].evidence.advice]


def test_a_trust_region_is_made_smaller_and_not_its_critic_slower() -> None:
    h = history(updates={"kl": 0.5, "clip_fraction": math.nan}, config={"max_kl": 0.4})
    assert flags(h) == ["--agent.max-kl 0.02"]  # 0.4 went to 0.5
    assert "nan" not in diagnose(h)[0].evidence.because


def test_few_updates_because_they_began_late_are_begun_sooner() -> None:
    """6,400 of 10 in 40,000 steps, where two a step were asked for."""
    config = {**DQN, "updates_per_step": 2.0, "batch_size": 10, "learning_starts": 36_000}
    assert flags(history(config=config)) == ["--agent.learning-starts 800"]
    for few in ({"updates_per_step": 0.16}, {"learning_starts": 1}):
        assert flags(history(config=config | few)) == ["--agent.updates-per-step 3"]
    begun = history(config=config)
    assert diagnose(replace(begun, config={**begun.config, "steps": 10**6})) == []


@pytest.mark.parametrize(
    ("settings", "advised"),
    [
        ({"epsilon_steps": 1000}, ["--agent.epsilon-steps 20000"]),
        ({"epsilon_steps": 1000, "network": {"noisy": True}}, []),
        ({"exploration": "boltzmann", "temperature": 1.0}, ["--agent.temperature 3"]),
    ],
)
def test_more_is_tried_by_what_the_agent_explores_with(
    settings: dict[str, Any], advised: list[str]
) -> None:
    h = history(returns=FLAT)
    own = {k: v for k, v in h.config["config"].items() if k != "entropy_weight"}
    h = replace(h, config={**h.config, "config": own | settings})
    assert diagnose(h)[0].rule.name == "looks_healthy"
    assert [flag for flag in flags(h) if flag] == advised


def test_with_a_penalty_dead_units_have_a_gradient() -> None:
    quiet = {"dormant": DEAD}
    assert diagnose(history(gradients=quiet)) == []
    (finding,) = diagnose(history(gradients=quiet, config=optim(l2=1e-4)))
    assert finding.rule.name == "dead_units"


def test_soft_values_are_not_held_against_returns_without_entropy() -> None:
    assert diagnose(history(estimate=500.0))[0].rule.name == "overestimation"
    assert diagnose(history(estimate=500.0, config={"initial_temperature": 1.0})) == []


@pytest.mark.parametrize(("momentum", "found"), [(0.9, False), (0.5, True)])
def test_what_is_noise_depends_on_adams_memory(momentum: float, found: bool) -> None:
    """Of independent gradients Adam's two moments leave a tenth, or with β₁ = 0.5 a third."""
    betas = optim(betas=[momentum, 0.999])
    h = history(updates={"snr": 0.3, "cosine": 0.001}, returns=FLAT, config=betas)
    names = [finding.rule.name for finding in diagnose(h)]
    assert ("noise" in names) == found


def test_a_searched_step_has_no_learning_rate_to_judge() -> None:
    h = history(gradients={"update_ratio": {"all": 0.1}}, config={"max_kl": 0.01})
    for table in (h.updates, h.gradients):
        table["learner"] = np.full(len(table["learner"]), "policy", object)
    assert diagnose(h) == []


def test_values_beside_a_searched_step_are_advised_by_their_own_learner() -> None:
    h = history(estimate=500.0, config={"max_kl": 0.01, "normalize_reward": True})
    for table in (h.updates, h.gradients):
        table["learner"] = np.where(np.arange(len(table["learner"])) % 2, "value", "policy")
    flags = [advice.flag for finding in diagnose(h) for advice in finding.evidence.advice]
    assert "--agent.optim.lr 0.0001" in flags


def test_a_return_that_rises_and_falls_by_chance_was_not_lost() -> None:
    jagged = np.where(np.arange(ROWS) % 4 == 3, 50.0, 20 + 400 * RISE)
    assert diagnose(history(returns=jagged)) == []
    (finding,) = diagnose(history(returns=np.where(RISE > 0.8, 50.0, 20 + 400 * RISE)))
    assert (finding.rule.name, finding.evidence.began) == ("forgotten", STEPS[RISE <= 0.8][-1])
    assert finding.evidence.figures["last"] == 50
    assert finding.change is not None
    assert finding.change.flag == "--agent.optim.schedule linear"


def test_a_critic_whose_layers_stand_still_is_found_though_the_return_rises() -> None:
    still = {"value.trunk.0": 1e-7, "value.head": 1e-7}
    blind = {"explained_variance": -0.1}
    assert diagnose(history(updates=blind)) == []
    assert diagnose(history(gradients={"update_ratio": still})) == []
    (finding,) = diagnose(history(updates=blind, gradients={"update_ratio": still}))
    assert finding.rule.name == "critic_not_fitting"


@pytest.mark.parametrize(
    ("advice", "flag"),
    [
        (Advice("why", "agent.normalize_obs", True), "--agent.normalize-obs"),
        (Advice("why", "agent.network.shared_trunk", False), "--agent.network.no-shared-trunk"),
        (Advice("", "agent.network.hidden_sizes", (64, 64)), "--agent.network.hidden-sizes 64 64"),
        (Advice("", "agent.network.conv", "a_b"), "--agent.network.conv a_b"),
        (Advice("why"), ""),
    ],
)  # fmt: skip
def test_advice_is_a_flag_to_be_pasted(advice: Advice, flag: str) -> None:
    assert advice.flag == flag


@pytest.mark.parametrize("name", CASES)
def test_the_flag_says_the_value(name: str) -> None:
    """What a person pastes is what an automation sets."""
    begun = history(**CASES[name])
    for finding in diagnose(begun):
        for advice in finding.evidence.advice:
            if advice.field and advice.field.removeprefix("agent.") not in OTHERS:
                a = read_arguments(PPO, ["--env", "x", "--steps", "1", *advice.flag.split()])
                now = replace(begun, config={"config": config_to_json(a.agent)})
                assert not advice.changes(now), advice


def test_the_change_to_follow_is_the_first_that_is_a_setting() -> None:
    (finding,) = diagnose(history(**CASES["no_reward"]))
    assert finding.evidence.advice[0].field is None
    assert finding.change == finding.evidence.advice[1]
    (finding,) = diagnose(history(**CASES["constant_observations"]))
    assert finding.change is None


def test_severity_grows_with_the_decades_beyond() -> None:
    assert severity(1.0, 1.0) == 0.5
    assert severity(10.0, 1.0) == severity(1.0, 10.0) == 0.75
    assert severity(math.inf, 1.0) == 1.0


def test_began_passes_over_a_single_outlier() -> None:
    series = Series(np.arange(10.0), np.zeros(10))
    wrong = np.array([1, 0, 0, 0, 0, 1, 1, 0, 1, 1], bool)
    assert series.began(wrong) == 5.0


def test_the_first_episodes_are_those_that_began_first() -> None:
    """Of two environments at once the short ones end first, however many follow them."""
    h = history(returns=np.arange(ROWS, dtype=float))
    h.episodes["length"][:] = 2.0
    h.episodes["step"] = np.arange(ROWS) * 4.0
    h.episodes["length"][12], h.episodes["return"][12] = 24.0, 500.0  # it began with the first
    h.episodes["return"][3] = math.inf
    first = replace(h, config={**h.config, "num_envs": 2, "steps": 3200}).untrained
    assert sorted(first) == [0, 1, 2, 4, 5, 6, 7, 8, 9, 500]  # that began by step 32
    first = replace(h, config={**h.config, "num_envs": 2, "steps": 100}).untrained
    assert sorted(first) == [0, 1, 2, 500]


def test_a_mean_that_beats_most_single_returns_is_no_rise() -> None:
    """Few returns are high: their mean, which an evaluation is, beats three of four of them."""
    skewed = np.where(np.arange(ROWS) % 5 == 0, 100.0, 10.0)
    h = history(returns=skewed, length=8.0)
    h.episodes["step"] = np.arange(ROWS) * 10.0
    h.evaluations["mean_return"] = np.full(ROWS, 28.0)
    h.evaluations["episodes"] = np.full(ROWS, 5.0)
    (finding,) = diagnose(h)
    assert finding.rule.name == "looks_healthy"
    risen = h.evaluations | {"mean_return": np.where(RISE < 0.7, 28.0, 101.0)}
    assert diagnose(replace(h, evaluations=risen)) == []


@pytest.mark.parametrize(("means", "rises"), [([9.7, 29.55, 183.15], True), ([20.0] * 3, False)])
def test_of_few_evaluations_the_first_is_not_a_late_one(means: list[float], rises: bool) -> None:
    h = history(returns=FLAT)
    evaluations = {"step": STEPS[[0, ROWS // 2, -1]], "mean_return": np.array(means)}
    names = [finding.rule.name for finding in diagnose(replace(h, evaluations=evaluations))]
    assert names == ([] if rises else ["looks_healthy"])
