import pytest
import torch
from torch import nn

from tagseg.networks.optimisers import poly_optimiser, poly_step_optimiser, step_optimiser


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_rates_and_decay(kind: str):
    backbone, head = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), nn.Conv2d(4, 2, 1)
    backbone[0].bias.requires_grad_(False)
    made = poly_optimiser(
        backbone, head, kind=kind, learning_rate=0.1, head_factor=10, weight_decay=0.5, steps=4, power=0.9
    )  # type: ignore[arg-type]
    optimiser, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    rate_of = {id(p): (g["initial_lr"], g["weight_decay"]) for g in optimiser.param_groups for p in g["params"]}
    assert rate_of[id(backbone[0].weight)] == (0.1, 0.5)
    assert rate_of[id(backbone[1].weight)] == (0.1, 0.0)
    assert rate_of[id(head.weight)] == (1.0, 0.5)
    assert rate_of[id(head.bias)] == (1.0, 0.0)
    assert id(backbone[0].bias) not in rate_of
    rates = []
    for _ in range(5):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    torch.testing.assert_close(rates, [0.1 * (1 - t / 4) ** 0.9 for t in range(5)])


def test_the_rate_may_stay_before_it_falls_and_everything_may_be_decayed():
    layer = nn.Conv2d(3, 4, 1)
    made = poly_optimiser(
        nn.ModuleList(), layer, kind="adamw", learning_rate=0.1, head_factor=1, weight_decay=0.5, steps=10, hold=0.6,
        decay_all=True,
    )  # fmt: skip
    rate = made["lr_scheduler"]["scheduler"].lr_lambdas[0]
    assert [rate(t) for t in (0, 5, 6, 8, 10)] == pytest.approx([1, 1, 1, 0.5**0.9, 0])
    assert {group["weight_decay"] for group in made["optimizer"].param_groups} == {0.5}


def test_four_rates_and_a_slow_start():
    backbone, head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)
    made = poly_step_optimiser(backbone, head, learning_rate=0.1, weight_decay=0.5, steps=10, slow=2)
    groups = made["optimizer"].param_groups
    assert [g["initial_lr"] for g in groups] == pytest.approx([0.1, 0.2, 1, 2])
    rate = made["lr_scheduler"]["scheduler"].lr_lambdas[0]
    assert [rate(t) for t in (0, 1, 2, 10)] == pytest.approx([0.01, 0.01 * 0.9**0.9, 0.8**0.9, 0])


def test_the_rate_may_fall_several_times():
    backbone, head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)
    made = step_optimiser(
        backbone, head, learning_rate=0.1, weight_decay=0.5, steps=10, drops=(0.3, 0.8), head_factor=5
    )  # fmt: skip
    groups = made["optimizer"].param_groups
    assert [g["initial_lr"] for g in groups] == pytest.approx([0.1, 0.2, 0.5, 1])
    rate = made["lr_scheduler"]["scheduler"].lr_lambdas[0]
    assert [rate(t) for t in (0, 2, 3, 7, 8)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])
