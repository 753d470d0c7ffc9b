"""Line 4, second half: several specialists at once in one worker, their parameters stacked, against one after another.

A step is forward, cross-entropy, backward and AdamW, each specialist on a batch of its own of 256, one thread as a
worker of a job of one CPU has. Stacked by torch.func (vmap over the stacked module), and, for fully connected networks,
by batched matrix products written out by hand.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.functional import cross_entropy

from benchmarks.speed.measure import Line, Part, Setup, Work, divide, take_turns
from benchmarks.speed.training import NORMALISATION
from raydistill.networks.models import build_model

BATCH = 256
CASES = (  # network, shape of an image, classes, hidden units
    ("mlp", (28, 28), 523, 96),
    ("mlp", (24, 24), 2965, 192),
    ("cnn", (28, 28), 523, 0),
)
TOGETHER = (4, 8)


def make_networks(name: str, shape: tuple[int, int], classes: int, hidden: int, count: int) -> list[nn.Module]:
    """So many networks of other seeds."""
    options: dict[str, object] = {"hidden": [hidden]} if name == "mlp" else {}
    return [
        build_model(name, options, input_shape=shape, classes=classes, normalisation=NORMALISATION, seed=seed)
        for seed in range(count)
    ]


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Backward pass and update."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def in_turn(networks: list[nn.Module], x: Tensor, y: Tensor, steps: int) -> Work:
    """One network's steps after the other's, as the pool's worker does them. x: (m, B, ...), y: (m, B)."""
    optimizers = [torch.optim.AdamW(network.parameters(), lr=1e-5, fused=True) for network in networks]

    def work() -> float:
        for network, optimizer, inputs, labels in zip(networks, optimizers, x, y, strict=True):
            for _ in range(steps):
                step(optimizer, cross_entropy(network(inputs), labels))
        return float(steps * len(networks))

    return work


def by_vmap(networks: list[nn.Module], x: Tensor, y: Tensor, steps: int) -> Work:
    """All networks in one step by torch.func."""
    parameters, buffers = stack_module_state(networks)
    base = copy.deepcopy(networks[0]).to("meta")
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-5, fused=True)

    def forward(parameters: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Tensor) -> Tensor:
        logits: Tensor = functional_call(base, (parameters, buffers), (inputs,))
        return logits

    def work() -> float:
        for _ in range(steps):
            logits = vmap(forward)(parameters, buffers, x)
            step(optimizer, cross_entropy(logits.flatten(0, 1), y.flatten()) * len(networks))
        return float(steps * len(networks))

    return work


def by_products(networks: list[nn.Module], x: Tensor, y: Tensor, steps: int) -> Work:
    """All fully connected networks in one step by torch.baddbmm."""
    layers = [[layer for layer in network.modules() if isinstance(layer, nn.Linear)] for network in networks]
    weights = [
        torch.stack([layer.weight.detach().T for layer in same]).requires_grad_() for same in zip(*layers, strict=True)
    ]
    biases = [
        torch.stack([layer.bias.detach()[None] for layer in same]).requires_grad_()
        for same in zip(*layers, strict=True)
    ]
    optimizer = torch.optim.AdamW([*weights, *biases], lr=1e-5, fused=True)
    normalise = networks[0].normalise

    def work() -> float:
        for _ in range(steps):
            hidden = normalise(x).flatten(2)
            for place, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
                hidden = torch.baddbmm(bias, hidden.relu() if place else hidden, weight)
            step(optimizer, cross_entropy(hidden.flatten(0, 1), y.flatten()) * len(networks))
        return float(steps * len(networks))

    return work


def measure_case(case: tuple[str, tuple[int, int], int, int], count: int, setup: Setup) -> list[Line]:
    """Both ways of stacking against one after another."""
    name, shape, classes, hidden = case
    steps = (3 if name == "cnn" else 8) if setup.quick else (6 if name == "cnn" else 16)
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (count, BATCH, *shape), generator=generator, dtype=torch.uint8)
    y = torch.randint(0, classes, (count, BATCH), generator=generator)
    contenders = {"in turn": in_turn(make_networks(*case, count), x, y, steps)}
    contenders["vmap"] = by_vmap(make_networks(*case, count), x, y, steps)
    if name == "mlp":
        contenders["products"] = by_products(make_networks(*case, count), x, y, steps)
    rates = take_turns(contenders, setup.rounds)
    size = "-".join(map(str, (shape[0] * shape[1], hidden, classes))) if name == "mlp" else f"{classes} classes"
    return [
        Line(
            f"{count} specialists at once by {way}, to one after another; {name} {size}",
            divide(rates[way], rates["in turn"]),
        )
        for way in contenders
        if way != "in turn"
    ]


def measure_stacked(setup: Setup) -> Part:
    """All networks, several numbers at once, one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        lines = [line for case in CASES for count in TOGETHER for line in measure_case(case, count, setup)]
    finally:
        torch.set_num_threads(threads)
    best = max(line.median for line in lines)
    return Part([Line("the best of these ways, to one after another", [best]), *lines], ())
