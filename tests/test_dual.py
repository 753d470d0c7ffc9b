"""One size of active set: the solution satisfies the equations of its optimum, no excess is above the certificate."""

import numpy as np
import pytest
import torch

from raydistill.method.dual import Problem, certify_gap, solve_problem


def draw_problem(seed, images=30, patterns=7, specialists=3, scale=2.0):
    """Random masses; each specialist is outside of pattern 0 and of others at random; some patterns are missing."""
    generator = torch.Generator().manual_seed(seed)
    present = torch.rand(images, patterns, generator=generator) < 0.8
    present[:, 0] = True
    outside = torch.rand(images, patterns, specialists, generator=generator) < 0.5
    outside[:, 0] = True
    outside &= present[:, :, None]
    numbers = torch.randn(images, patterns + specialists, generator=generator, dtype=torch.float64)
    shares = (scale * numbers).softmax(1) * (1 + specialists)
    return Problem(shares[:, :patterns] * present, shares[:, patterns:], outside.double(), present)


def measure_objective(problem, q):
    """-Σ mass log q - Σ dustbin log(q outside), (n,), in numpy."""
    mass, dustbins, outside, q = (x.numpy() for x in (problem.mass, problem.dustbins, problem.outside, q))
    left_out = np.einsum("npa,np->na", outside, q)
    return -(mass * np.log(np.where(mass > 0, q, 1.0))).sum(1) - (dustbins * np.log(left_out)).sum(1)


@pytest.mark.parametrize("specialists", [1, 2, 5])
def test_solution_satisfies_the_equations_of_the_optimum(specialists):
    problem = draw_problem(0, specialists=specialists)
    q, gap, _ = solve_problem(problem, 1e-12, 100)
    price = problem.dustbins / (problem.outside.mT @ q[:, :, None]).squeeze(2)
    slack = problem.total - (problem.outside @ price[:, :, None]).squeeze(2)
    torch.testing.assert_close(q * slack, problem.mass, atol=1e-6, rtol=0)
    assert gap.max() <= 1e-12
    np.testing.assert_allclose(q.sum(1), 1.0, atol=1e-13)
    assert not q[~problem.present].any()


@pytest.mark.parametrize("specialists", [1, 2, 5])
def test_certificate_bounds_the_excess_of_any_distribution(specialists):
    problem = draw_problem(1, specialists=specialists)
    solution = solve_problem(problem, 1e-12, 100)[0]
    least = measure_objective(problem, solution)
    generator = torch.Generator().manual_seed(0)
    for noise in (1e-6, 1e-3, 0.1, 1.0):
        other = solution * (noise * torch.randn(solution.shape, generator=generator, dtype=torch.float64)).exp()
        other /= other.sum(1, keepdim=True)
        excess, gap = measure_objective(problem, other) - least, certify_gap(problem, other).numpy()
        assert (excess >= -1e-11).all()
        assert (excess <= gap + 1e-11).all()
        assert (gap <= 20 * noise * np.exp(6 * noise)).all()  # and says little where there is little to say


def test_images_can_be_taken_out():
    problem = draw_problem(2)
    q, _, _ = solve_problem(problem, 1e-12, 100)
    rows = torch.tensor([3, 17])
    torch.testing.assert_close(solve_problem(problem.take(rows), 1e-12, 100)[0], q[rows], atol=1e-6, rtol=0)


def test_em_alone_ends_at_the_same_objective():
    problem = draw_problem(3)
    newton, by_em = (solve_problem(problem, 1e-8, steps) for steps in (100, 0))
    assert by_em[2] == 0
    assert by_em[1].max() <= 1e-8
    difference = measure_objective(problem, newton[0]) - measure_objective(problem, by_em[0])
    np.testing.assert_allclose(difference, 0, atol=1e-8)
