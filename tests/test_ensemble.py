"""Equation 5 against a scipy optimisation of its definition, limits, planted cases, and the checks of its inputs."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits
from torch.overrides import TorchFunctionMode

from raydistill.method import patterns
from raydistill.method.ensemble import MAX_ACTIVE, choose_active, solve_ensemble
from raydistill.method.image_by_image import solve_rows


@pytest.fixture(autouse=True)
def _one_thread():
    """Tiny vectors: measured, scipy's threads made these tests 20 times as slow on a busy machine."""
    with threadpool_limits(1):
        yield


@dataclass(frozen=True)
class Case:
    """generalist: (N, K) log-probabilities; members: (M, K); active: (N, M); answers: one block a specialist."""

    generalist: torch.Tensor
    members: torch.Tensor
    active: torch.Tensor
    answers: list[torch.Tensor]

    def solve(self, **options):
        return solve_ensemble(self.generalist, self.members, self.active, self.answers, **options)

    def take(self, image):
        """The case of one image."""
        rows = self.active.cumsum(0)[image] - 1
        own = [
            block[row : row + 1] if on else block[:0]
            for block, row, on in zip(self.answers, rows, self.active[image], strict=True)
        ]
        return Case(self.generalist[image : image + 1], self.members, self.active[image : image + 1], own)

    def opinions(self, image):
        """log p_g, and (members, log p_m) of each active specialist, in numpy."""
        one = self.take(image)
        asked = torch.nonzero(one.active[0])[:, 0].tolist()
        return one.generalist[0].numpy(), [(self.members[m].numpy(), one.answers[m][0].numpy()) for m in asked]


def draw_log_probs(generator, rows, columns, scale, dtype=torch.float64):
    return (scale * torch.randn(rows, columns, generator=generator, dtype=torch.float64)).log_softmax(1).to(dtype)


def draw_members(generator, groups, classes, disjoint):
    if not disjoint:
        members = torch.rand(groups, classes, generator=generator) < 0.3
        members[torch.arange(groups), torch.randint(1, classes, (groups,), generator=generator)] = True
        members[:, 0] = False  # no group holds every class
        return members
    shuffled = torch.randperm(classes, generator=generator)
    owner = torch.empty(classes, dtype=torch.int64)
    owner[shuffled] = torch.arange(classes) % (groups + 1)
    return owner == torch.arange(groups)[:, None]


def draw_case(seed, *, images=20, classes=20, groups=8, active=None, disjoint=False, scale=2.0, dtype=torch.float64):
    """Random opinions. active: specialists for each image; None: any number, mixed."""
    generator = torch.Generator().manual_seed(seed)
    members = draw_members(generator, groups, classes, disjoint)
    order = torch.rand(images, groups, generator=generator).argsort(1)
    count = torch.randint(groups + 1, (images, 1), generator=generator) if active is None else active
    asked = order < count
    answers = [
        draw_log_probs(generator, int(asked[:, m].sum()), int(members[m].sum()) + 1, scale, dtype)
        for m in range(groups)
    ]
    return Case(draw_log_probs(generator, images, classes, scale, dtype), members, asked, answers)


def compare(log_p, log_q):
    """KL(p, q) in nats."""
    return float((np.exp(log_p) * (log_p - log_q)).sum())


def normalise(logits):
    return logits - np.logaddexp.reduce(logits)


def reduce_to_group(log_q, members):
    """log q over a group's classes and the sum of the others."""
    return np.append(log_q[members], np.logaddexp.reduce(log_q[~members]))


def measure_objective(log_q, log_generalist, specialists):
    """KL(p_g, q) + Σ KL(p_m, q): equation 5 as the paper writes it."""
    return compare(log_generalist, log_q) + sum(
        compare(log_p, reduce_to_group(log_q, members)) for members, log_p in specialists
    )


def minimise_with_scipy(log_generalist, specialists):
    """log q by L-BFGS on logits, as the paper does by gradient descent, and the objective there."""

    def evaluate(logits):
        log_q = normalise(logits)
        q = np.exp(log_q)
        gradient = q - np.exp(log_generalist)
        for members, log_p in specialists:
            pulled = np.empty_like(q)
            pulled[members] = np.exp(log_p[:-1])
            pulled[~members] = np.exp(log_p[-1] + normalise(logits[~members]))
            gradient += q - pulled
        return measure_objective(log_q, log_generalist, specialists), gradient

    options = {"maxiter": 5000, "maxfun": 20000, "ftol": 1e-15, "gtol": 1e-9, "maxcor": 30}
    found = minimize(evaluate, log_generalist, jac=True, method="L-BFGS-B", options=options)
    return normalise(found.x), found.fun


def check_optimal(case, solution):
    """Against scipy, image by image."""
    for image in range(len(case.active)):
        opinions = case.opinions(image)
        log_q = solution.log_probs[image].numpy()
        log_reference, least = minimise_with_scipy(*opinions)
        excess = measure_objective(log_q, *opinions) - least
        assert excess <= float(solution.gap[image]) + 1e-9  # the certificate tells the truth
        assert abs(excess) <= 1e-6
        np.testing.assert_allclose(np.exp(log_q), np.exp(log_reference), atol=1e-4)


@pytest.mark.parametrize("disjoint", [False, True], ids=["overlapping", "disjoint"])
@pytest.mark.parametrize("active", range(1, 9))
def test_agrees_with_scipy(active, disjoint):
    """320 problems in all."""
    for seed, (classes, scale) in enumerate([(12, 1.0), (17, 2.0), (26, 3.0), (40, 2.0)]):
        case = draw_case(seed, images=5, classes=classes, active=active, disjoint=disjoint, scale=scale)
        solution = case.solve()
        assert solution.gap.max() <= 1e-9
        check_optimal(case, solution)


def test_without_specialists_is_the_generalist():
    case = draw_case(0, active=0)
    solution = case.solve()
    assert torch.equal(solution.log_probs, case.generalist)
    assert solution.gap.tolist() == [0.0] * 20
    assert solution.iterations == 0


def test_images_without_specialists_stay_exact_among_others():
    case = draw_case(1, images=60)
    alone = ~case.active.any(1)
    assert 0 < alone.sum() < 60
    solution = case.solve()
    assert torch.equal(solution.log_probs[alone], case.generalist[alone])
    assert not solution.gap[alone].any()


def test_one_specialist_has_a_closed_form():
    """The mean of p_g and of p_m, whose dustbin is shared in the generalist's proportions."""
    case = draw_case(2, images=40, active=1)
    solution = case.solve()
    for image in range(40):
        log_generalist, [(members, log_p)] = case.opinions(image)
        specialist = np.exp(log_p[-1]) * np.exp(log_generalist) / np.exp(log_generalist[~members]).sum()
        specialist[members] = np.exp(log_p[:-1])
        expected = (np.exp(log_generalist) + specialist) / 2
        np.testing.assert_allclose(solution.log_probs[image].exp(), expected, rtol=1e-9)


@pytest.mark.parametrize("active", [1, 3, 8])
def test_specialists_that_agree_change_nothing(active):
    case = draw_case(3, active=active)
    agreeing = [
        torch.from_numpy(
            np.stack([reduce_to_group(row, members.numpy()) for row in case.generalist[case.active[:, m]].numpy()])
        )
        if case.active[:, m].any()
        else case.answers[m]
        for m, members in enumerate(case.members)
    ]
    solution = replace(case, answers=agreeing).solve(tolerance=1e-12)
    torch.testing.assert_close(solution.log_probs.exp(), case.generalist.exp(), atol=1e-5, rtol=0)


def test_order_of_classes_does_not_matter():
    case = draw_case(4)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    answers = []
    for members, block in zip(case.members, case.answers, strict=True):
        place = torch.full((20,), -1)
        place[members] = torch.arange(int(members.sum()))
        answers.append(torch.cat([block[:, place[order][members[order]]], block[:, -1:]], 1))
    moved = Case(case.generalist[:, order], case.members[:, order], case.active, answers).solve(tolerance=1e-12)
    torch.testing.assert_close(
        moved.log_probs.exp(), case.solve(tolerance=1e-12).log_probs[:, order].exp(), atol=1e-5, rtol=0
    )


def test_a_batch_of_mixed_sets_is_each_image_alone():
    case = draw_case(5, images=50)
    together = case.solve(tolerance=1e-12).log_probs.exp()
    alone = torch.cat([case.take(image).solve(tolerance=1e-12).log_probs.exp() for image in range(50)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_type_is_kept_and_probabilities_sum_to_one(dtype):
    case = draw_case(6, images=100, classes=300, dtype=dtype)
    solution = case.solve()
    assert (solution.log_probs.dtype, solution.gap.dtype) == (dtype, torch.float64)
    rounding = 1e-6 if dtype == torch.float32 else 1e-13
    np.testing.assert_allclose(solution.log_probs.double().exp().sum(1), 1.0, atol=rounding)
    exact = draw_case(6, images=100, classes=300).solve()
    torch.testing.assert_close(solution.log_probs.double().exp(), exact.log_probs.exp(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("disjoint", [False, True], ids=["overlapping", "disjoint"])
def test_extreme_gaps_stay_finite(dtype, disjoint):
    """Logit gaps of 1000s: most probabilities underflow to 0, opinions contradict each other."""
    for seed in range(10):
        case = draw_case(seed, images=100, scale=1e3, dtype=dtype, disjoint=disjoint)
        solution = case.solve()
        assert not solution.log_probs.isnan().any()
        assert solution.gap.max() <= 1e-6
        rounding = 1e-4 if dtype == torch.float32 else 1e-9  # near 1000, float32's numbers are 6e-5 apart
        np.testing.assert_allclose(solution.log_probs.double().exp().sum(1), 1.0, atol=rounding)


def test_impossible_classes_stay_finite():
    """-inf in the generalist and in specialists, dustbins included."""
    for seed in range(10):
        case = draw_case(seed, images=100)
        generator = torch.Generator().manual_seed(seed)

        def rule_out(log_probs):
            out = torch.rand(log_probs.shape, generator=generator) < 0.5  # noqa: B023
            return log_probs.masked_fill(out & (log_probs < log_probs.amax(1, keepdim=True)), -torch.inf).log_softmax(1)

        hard = Case(rule_out(case.generalist), case.members, case.active, [rule_out(x) for x in case.answers])
        solution = hard.solve()
        assert not solution.log_probs.isnan().any()
        assert solution.gap.max() <= 1e-6
        np.testing.assert_allclose(solution.log_probs.exp().sum(1), 1.0, atol=1e-9)


def test_chunks_do_not_change_the_answer(monkeypatch):
    case = draw_case(7, images=200)
    whole = case.solve(tolerance=1e-12)
    monkeypatch.setattr(patterns, "CHUNK_BYTES", 40_000)
    assert patterns._choose_chunk(case.members, case.active) < 20
    parts = case.solve(tolerance=1e-12)
    torch.testing.assert_close(parts.log_probs.exp(), whole.log_probs.exp(), atol=1e-5, rtol=0)
    assert parts.gap.max() <= 1e-12


class CountCalls(TorchFunctionMode):
    """Counts the calls that Python makes to torch."""

    count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


def test_python_does_not_loop_over_images():
    case = draw_case(8, images=40)
    many = Case(
        case.generalist.repeat(40, 1), case.members, case.active.repeat(40, 1), [x.repeat(40, 1) for x in case.answers]
    )
    with CountCalls() as few_calls:
        few = case.solve()
    with CountCalls() as many_calls:
        more = many.solve()
    assert more.iterations <= few.iterations + 1
    assert many_calls.count <= 1.1 * few_calls.count
    assert few.iterations < 40


def test_what_newton_leaves_is_finished():
    case = draw_case(9, active=2)
    solution = case.solve(tolerance=1e-7, max_iterations=1)
    assert solution.iterations == 1
    assert solution.gap.max() <= 1e-7
    check_optimal(case, solution)


def test_inputs_stay_as_they_are():
    case = draw_case(10)
    before = case.generalist.clone()
    solution = replace(case, generalist=case.generalist.requires_grad_()).solve()
    assert torch.equal(case.generalist, before)
    assert not solution.log_probs.requires_grad


def test_nothing_in_nothing_out():
    case = draw_case(11, images=0)
    solution = case.solve()
    assert solution.log_probs.shape == (0, 20)
    assert len(solution.gap) == 0


def test_as_many_active_specialists_as_are_allowed():
    case = draw_case(12, images=3, classes=60, groups=MAX_ACTIVE, active=MAX_ACTIVE)
    solution = case.solve()
    assert solution.gap.max() <= 1e-9
    check_optimal(case, solution)


MEMBERS = torch.tensor([[1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 0]]).bool()
PROBS = torch.tensor([[0.4, 0.3, 0.2, 0.1, 0.0], [0.1, 0.4, 0.1, 0.1, 0.3], [0.1, 0.2, 0.2, 0.0, 0.5]])


@pytest.mark.parametrize(
    ("top_n", "expected"),
    [
        (1, [[1, 0, 0], [1, 1, 0], [0, 0, 0]]),  # classes 0; 1; 4, which is in no group
        (2, [[1, 1, 0], [1, 1, 0], [1, 1, 0]]),  # 0, 1; 1, 4; 4 and 1 or 2
        (4, [[1, 1, 1], [1, 1, 1], [1, 1, 0]]),
        (5, [[1, 1, 1], [1, 1, 1], [1, 1, 1]]),
    ],
)
def test_specialists_of_the_most_probable_classes_are_active(top_n, expected):
    probs = PROBS.clone()
    probs[1, [0, 2, 3]] = torch.tensor([0.11, 0.08, 0.11])
    probs[2, [1, 2]] = torch.tensor([0.21, 0.19])
    assert choose_active(probs.log(), MEMBERS, top_n).int().tolist() == expected


@pytest.mark.parametrize("top_n", [0, -1, 6])
def test_refuses_a_wrong_top_n(top_n):
    with pytest.raises(ValueError, match=f"top_n: {top_n} is not allowed; give 1 to 5, the number of classes"):
        choose_active(PROBS.log(), MEMBERS, top_n)


def test_refuses_members_of_other_classes():
    with pytest.raises(ValueError, match=r"members: shape \(3, 4\) is not allowed, only \(any, 5\); give a row a spec"):
        choose_active(PROBS.log(), MEMBERS[:, :4])


def good():
    case = draw_case(0, images=4, classes=6, groups=2, active=2)
    return {"generalist": case.generalist, "members": case.members, "active": case.active, "answers": case.answers}


def full_group(case):
    size = int(case["members"][0].sum()) + 1
    block = torch.full((4, 7), -float(np.log(7)), dtype=torch.float64)
    assert size <= 6
    return {"members": torch.stack([torch.ones(6).bool(), case["members"][1]]), "answers": [block, case["answers"][1]]}


def many_groups(_):
    case = draw_case(0, images=4, classes=6, groups=41, active=41)
    return {"generalist": case.generalist, "members": case.members, "active": case.active, "answers": case.answers}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda c: {"generalist": c["generalist"][0]},
            r"^generalist_log_probs: shape \(6,\) .* only \(any, any\); give",
        ),
        (lambda c: {"members": c["members"][:, :5]}, r"^members: shape \(2, 5\) is not allowed, only \(any, 6\); give"),
        (
            lambda c: {"active": c["active"][:3]},
            r"^active: shape \(3, 2\) is not allowed, only \(4, 2\); give a row an",
        ),
        (lambda c: {"members": c["members"].int()}, r"^members: torch.int32 .* only torch.bool; give members != 0$"),
        (lambda c: {"active": c["active"].float()}, r"^active: torch.float32 .* only torch.bool; give active != 0$"),
        (
            lambda c: {"generalist": c["generalist"].half()},
            r"^generalist_log_probs: torch.float16 .* convert to float32",
        ),
        (lambda c: {"answers": c["answers"][:1]}, r"^specialist_log_probs: 1 given, allowed is 2; give one a group$"),
        (
            lambda c: {"answers": [c["answers"][0][:, 1:], c["answers"][1]]},
            r"^specialist_log_probs\[0\]: shape .* is not allowed, only \(4, .*\); give .* the dustbin$",
        ),
        (
            lambda c: {"answers": [c["answers"][0], c["answers"][1][:3]]},
            r"^specialist_log_probs\[1\]: shape \(3, .* only \(4, .*\); give a row for each image where it is active",
        ),
        (full_group, r"^members: row 0 holds all 6 classes, at most 5 are allowed; leave some to its dustbin$"),
        (many_groups, r"^active: 41 specialists for one image, at most 40 are allowed; lower top_n or the overlap$"),
        (
            lambda c: {"generalist": c["generalist"].exp()},
            r"^generalist_log_probs, specialist_log_probs: .* sum to .*, allowed is 3 for .*; give outputs of log_s",
        ),
        (lambda c: {"answers": [c["answers"][0] * torch.nan, c["answers"][1]]}, r"sum to nan, allowed is 3 for"),
    ],
)
def test_refuses_wrong_inputs(change, told):
    case = Case(**{**good(), **change(good())})
    with pytest.raises(ValueError, match=told) as raised:
        case.solve()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("tolerance", [0.0, -1.0, float("nan")])
def test_refuses_a_tolerance_that_cannot_be_reached(tolerance):
    with pytest.raises(ValueError, match=f"^tolerance: {tolerance} is not allowed; give nats above 0, such as 1e-9$"):
        draw_case(0).solve(tolerance=tolerance)


@pytest.mark.parametrize("disjoint", [False, True])
@pytest.mark.parametrize("scale", [1.0, 4.0, 12.0])
def test_image_by_image_is_as_by_operations(disjoint, scale):
    """float32 on processors takes the compiled loops, float64 PyTorch's operations."""
    left = 0
    for seed in range(6):
        case = draw_case(seed, images=120, classes=40, groups=9, disjoint=disjoint, scale=scale, dtype=torch.float32)
        solution = case.solve()
        exact = Case(case.generalist.double(), case.members, case.active, [x.double() for x in case.answers]).solve()
        assert solution.log_probs.dtype == torch.float32
        assert solution.gap.max() <= 1e-9
        torch.testing.assert_close(solution.log_probs.double(), exact.log_probs, rtol=2e-6, atol=5e-6)
        steps = solve_rows(case.generalist, case.members, case.active, case.answers, 1e-9)[2]
        left += int((steps < 0).sum())
    assert left < 0.05 * 6 * 120 * (1 if scale < 10 else 10)


def test_images_that_float32_cannot_hold_are_solved_by_operations():
    case = draw_case(3, images=60, classes=30, active=3, scale=60.0, dtype=torch.float32)
    steps = solve_rows(case.generalist, case.members, case.active, case.answers, 1e-9)[2]
    assert (steps < 0).sum() > 10
    solution = case.solve()
    exact = Case(case.generalist.double(), case.members, case.active, [x.double() for x in case.answers]).solve()
    torch.testing.assert_close(solution.log_probs.double(), exact.log_probs, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(solution.gap, exact.gap, rtol=0, atol=1e-9)


def test_images_share_the_tables_of_their_sets_in_any_order():
    case = draw_case(5, images=50, classes=30, dtype=torch.float32)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    answers = []
    for block, asked in zip(case.answers, case.active.t(), strict=True):
        row = asked.cumsum(0) - 1
        answers.append(block[row[order[asked[order]]]])
    shuffled = Case(case.generalist[order], case.members, case.active[order], answers).solve()
    torch.testing.assert_close(shuffled.log_probs, case.solve().log_probs[order])


@pytest.mark.parametrize(
    "groups", [[[0, 1, 2], [3, 4, 5]], [[0, 1, 2, 3, 4], [1, 2, 3, 4, 5]], [[2], [2, 3], [2, 3, 4]]]
)
def test_image_by_image_of_groups_that_hold_every_class_or_lie_in_each_other(groups):
    members = torch.zeros(len(groups), 6, dtype=torch.bool)
    for row, classes in zip(members, groups, strict=True):
        row[classes] = True
    generator = torch.Generator().manual_seed(0)
    answers = [draw_log_probs(generator, 4, len(classes) + 1, 2.0, torch.float32) for classes in groups]
    active = torch.ones(4, len(groups), dtype=torch.bool)
    case = Case(draw_log_probs(generator, 4, 6, 2.0, torch.float32), members, active, answers)
    exact = Case(case.generalist.double(), members, active, [x.double() for x in answers]).solve()
    torch.testing.assert_close(case.solve().log_probs.double(), exact.log_probs, rtol=2e-6, atol=5e-6)
    assert (solve_rows(case.generalist, members, active, answers, 1e-9)[2] >= 0).all()
