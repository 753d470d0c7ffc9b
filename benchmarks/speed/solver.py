"""Line 3: equation 5 against the paper's gradient descent, against EM, and against a copy of the same bytes.

61 groups; a class is in one to eight of them, drawn evenly, and an image has the specialists of its most probable
class. Both baselines work on all K classes of a batch of images at once, from precomputed sums and masks, which are not
counted: one of their steps is a few passes over (images, specialists, K).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from benchmarks.speed.measure import Line, Part, Setup, Work, at_least, at_most, divide, take_turns, wait
from raydistill.method.ensemble import choose_active, solve_ensemble

GROUPS, MOST_ACTIVE = 61, 8
EXCESS = 1e-4  # nats, of gradient descent
GAP = 1e-9  # nats, of EM and ours
RATES = (0.03, 0.1, 0.3, 1.0)  # of Adam; the fastest counts


NOTES = (
    "2048 images of 2965 classes have 1368 different sets here, because groups are drawn evenly: the table of "
    "a set serves 1.5 images. A run's images share theirs far more often.",
    "An image reads and writes 28 kB, which a copy does in about 1.5 µs on a thread; the table above says "
    "where the rest goes. The passes over all K classes are vector instructions; the loops over the 900 cells "
    "gather and scatter, a nanosecond each. On a thread of a whole call an image takes 17 µs, because its "
    "numbers come from memory.",
    "Tried before: PyTorch's operations on chunks (`patterns.py`, now the general way) 150 µs an image with "
    "two threads; cells sorted by pattern, tables 8.7 µs instead of 3.6 for sums that were no faster; one "
    "running sum a pattern 3.0 µs instead of 0.7, because an addition waits for the one before. Not tried: "
    "tables kept between calls (8 kB a set, read from memory), several images of a set side by side in "
    "vectors.",
)


@dataclass(frozen=True)
class Images:
    """Inputs of `solve_ensemble`."""

    generalist: Tensor
    members: Tensor
    active: Tensor
    specialists: Sequence[Tensor]

    def solve(self) -> Tensor:
        """Our answer, (N, K)."""
        solution = solve_ensemble(self.generalist, self.members, self.active, self.specialists, tolerance=GAP)
        wait(self.generalist.device)
        return solution.log_probs

    def copy(self) -> float:
        """Read all inputs once, write the output once. Returns images."""
        torch.empty_like(self.generalist).copy_(self.generalist)
        for block in self.specialists:
            block.sum()
        wait(self.generalist.device)
        return len(self.generalist)

    def to(self, device: torch.device) -> Images:
        """The same on a device."""
        specialists = [block.to(device) for block in self.specialists]
        return Images(self.generalist.to(device), self.members.to(device), self.active.to(device), specialists)


def draw_images(count: int, classes: int, seed: int = 0) -> Images:
    """Random images with a most probable class, on which generalist and specialists agree by and large."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randint(1, MOST_ACTIVE + 1, (classes,), generator=generator)
    order = torch.rand(classes, GROUPS, generator=generator).argsort(dim=1)
    members = (order < numbers[:, None]).t().contiguous()
    top = torch.randint(classes, (count,), generator=generator)
    logits = 2 * torch.randn(count, classes, generator=generator)
    logits[torch.arange(count), top] += 12
    generalist = log_softmax(logits, dim=1)
    active = choose_active(generalist, members)
    specialists = []
    for group, rows in zip(members, active.t(), strict=True):
        noisy = logits[rows] + torch.randn(int(rows.sum()), classes, generator=generator)
        rest = noisy[:, ~group].logsumexp(dim=1, keepdim=True)
        specialists.append(log_softmax(torch.cat([noisy[:, group], rest], dim=1), dim=1))
    return Images(generalist, members, active, specialists)


@dataclass(frozen=True)
class Sums:
    """The same images for the baselines. mass: (N, K), a of equation 5; dustbins: (N, 8); outside: (N, 8, K)."""

    mass: Tensor
    dustbins: Tensor
    outside: Tensor

    def objective(self, log_q: Tensor) -> Tensor:
        """-Σ a log q - Σ d log(q outside), (N,): the divergences of equation 5 up to a constant."""
        rest = torch.einsum("nak,nk->na", self.outside, log_q.exp())
        return -(self.mass * log_q).sum(dim=1) - (self.dustbins * rest.clamp_min(1e-30).log()).sum(dim=1)


def sum_up(images: Images) -> Sums:
    """Sums and masks of all images."""
    count, classes = images.generalist.shape
    mass = images.generalist.exp()
    device = mass.device
    dustbins = torch.zeros(count, MOST_ACTIVE, device=device)
    outside = torch.zeros(count, MOST_ACTIVE, classes, device=device)
    filled = torch.zeros(count, dtype=torch.int64, device=device)
    for group, rows, block in zip(images.members, images.active.t(), images.specialists, strict=True):
        here = rows.nonzero().squeeze(1)
        probs, places = block.exp(), group.nonzero().squeeze(1)
        mass[here[:, None], places] += probs[:, :-1]
        dustbins[here, filled[here]] = probs[:, -1]
        outside[here, filled[here]] = (~group).float()
        filled[here] += 1
    return Sums(mass, dustbins, outside)


def descend(sums: Sums, start: Tensor, best: Tensor, rate: float, most: int = 3000) -> float:
    """Adam on the logits until each image is within EXCESS of its optimum. Returns images, 0 for too long."""
    logits = start.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([logits], lr=rate)
    for step in range(most):
        value = sums.objective(log_softmax(logits, dim=1))
        if step % 10 == 0 and float((value.detach() - best).amax()) <= EXCESS:
            return len(start)
        optimizer.zero_grad()
        value.sum().backward()
        optimizer.step()
    return 0.0


def run_em(sums: Sums, start: Tensor, most: int = 100_000) -> float:
    """EM until each image's certified gap is at most GAP, in float64. Returns images."""
    mass, dustbins, outside = sums.mass.double(), sums.dustbins.double(), sums.outside.double()
    total = mass.sum(dim=1, keepdim=True) + dustbins.sum(dim=1, keepdim=True)
    q = start.double().exp()
    for _ in range(most):
        prices = dustbins / torch.einsum("nak,nk->na", outside, q).clamp_min(1e-300)
        pull = torch.einsum("nak,na->nk", outside, prices)
        if float((mass / q + pull - total).amax()) <= GAP:
            break
        q = (mass + q * pull) / total
    return len(start)


def choose_rate(sums: Sums, start: Tensor, best: Tensor) -> float:
    """The rate of Adam that needs the least time."""
    trials = {str(rate): _descend(sums, start, best, rate) for rate in RATES}
    rates = take_turns(trials, 1)
    return max(RATES, key=lambda rate: rates[str(rate)][0])


def _descend(sums: Sums, start: Tensor, best: Tensor, rate: float) -> Work:
    return lambda: descend(sums, start, best, rate)


def measure_solver(setup: Setup) -> Part:
    """Line 3."""
    from benchmarks.speed.solver_profile import profile_image  # which draws its image here

    lines: list[Line] = []
    seconds: dict[int, list[float]] = {}
    sizes = ((523, 4096), (2965, 2048), (15_000, 512))
    for classes, count in sizes[1:] if setup.quick else sizes:
        images, few = (draw_images(*drawn).to(setup.device) for drawn in ((count, classes), (16, classes, 1)))
        sums = sum_up(few)
        best = sums.objective(few.solve())
        rate = choose_rate(sums, few.generalist, best)

        def solve(images: Images = images) -> float:
            return len(images.solve())

        def em(sums: Sums = sums, few: Images = few) -> float:
            return run_em(sums, few.generalist)

        contenders: dict[str, Work] = {"ours": solve, "copy": images.copy, "em": em}
        contenders["descent"] = _descend(sums, few.generalist, best, rate)
        rates = take_turns(contenders, setup.rounds)
        seconds[classes] = [1 / value for value in rates["ours"]]
        at = f"equation 5, {classes} classes"
        goal = at_least(1000) if classes == 2965 else None
        lines += [
            Line(f"{at}, to gradient descent (Adam)", divide(rates["ours"], rates["descent"]), goal),
            Line(f"{at}, to EM", divide(rates["ours"], rates["em"])),
            Line(f"{at}, time to that of a copy", divide(rates["copy"], rates["ours"]), at_most(3)),
        ]
    more = divide(seconds[15_000], seconds[2965])
    last = Line("equation 5, time at 15000 classes to that at 2965", more, at_most(6))
    return Part([*lines, last], NOTES, () if setup.quick else profile_image())
