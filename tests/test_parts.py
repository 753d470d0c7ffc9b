"""The method's parts on arrays: against formulas, the pipeline's own pieces, and in an example's own loop."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import make_examples
from torch import nn
from torch.nn.functional import log_softmax

import raydistill
from raydistill.errors import ConfigError, DataError
from raydistill.method.specialists import Group
from raydistill.method.teacher import Ensemble

EXAMPLES = Path(raydistill.__file__).parent.parent / "docs" / "examples"
BLOBS = make_examples(count=600, classes=5)
X, Y = BLOBS.x.numpy(), BLOBS.y.numpy()
TRAIN, VALID = slice(0, 400), slice(400, 600)
HELD_OUT = X[VALID], Y[VALID]
MEMBERS = np.array([[1, 1, 0, 0, 0], [0, 1, 1, 0, 1]], bool)


def build(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 5))


def ask(network, x=X):
    with torch.no_grad():
        return network(torch.from_numpy(x))


@pytest.fixture(scope="module")
def generalist():
    network = build()
    raydistill.train_classifier(network, X[TRAIN], Y[TRAIN], valid=HELD_OUT, epochs=3)
    return network


@pytest.mark.parametrize("kind", ["numpy", "tensor", "lists"])
def test_affinity_is_the_formulas(kind):
    logits = np.random.default_rng(0).normal(size=(40, 4))
    labels = np.arange(40) % 4
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    sums = np.stack([probs[labels == own].sum(0) for own in range(4)])
    expected = (sums + sums.T) / 2 * (1 - np.eye(4))
    given = {
        "numpy": (logits, labels),
        "tensor": (torch.from_numpy(logits), torch.from_numpy(labels)),
        "lists": (logits.tolist(), labels.tolist()),
    }[kind]
    np.testing.assert_allclose(raydistill.confusion_affinity(*given).toarray(), expected, rtol=1e-12)


def test_combined_teachers_are_the_ensembles_answer():
    generalist, *specialists = networks = [build(seed) for seed in range(3)]
    groups = [Group(torch.from_numpy(np.flatnonzero(row)), 5) for row in MEMBERS]
    expected = Ensemble(generalist, specialists, groups, 2)(torch.from_numpy(X))
    first, *others = [ask(network).numpy() for network in networks]
    found = raydistill.combine_teachers(first, others, MEMBERS, top_n=2)
    torch.testing.assert_close(found.log_probs, expected)
    assert float(found.gap.max()) < 1e-8


def test_a_specialist_knows_its_group_better(generalist):
    before = {name: tensor.clone() for name, tensor in generalist.state_dict().items()}
    members = np.array([True, True, False, True, False])
    specialist = raydistill.train_specialist(generalist, X[TRAIN], Y[TRAIN], members, valid=HELD_OUT)
    own = members[HELD_OUT[1]]
    right = [
        (
            ask(network, HELD_OUT[0][own])[:, members].argmax(1).numpy() == (np.cumsum(members) - 1)[HELD_OUT[1][own]]
        ).mean()
        for network in (generalist, specialist)
    ]
    assert right[1] > right[0]
    assert all(torch.equal(tensor, before[name]) for name, tensor in generalist.state_dict().items())
    assert not specialist.training


def test_a_student_learns_what_only_the_targets_say(generalist):
    """Labels have no weight, and are wrong."""
    teacher = log_softmax(ask(generalist), dim=1)
    student = build(7)
    history = raydistill.distil_student(
        student,
        X,
        np.zeros_like(Y),
        teacher,
        temperature=2.0,
        label_weight=0.0,
        valid=HELD_OUT,
        epochs=6,
        learning_rate=1e-2,
    )
    agrees = (ask(student).argmax(1) == teacher.argmax(1)).double().mean()
    assert agrees > 0.9
    assert [record["epoch"] for record in history] == [1, 2, 3, 4, 5, 6]


def test_the_best_pair_is_the_one_with_the_highest_accuracy(generalist):
    best, trials = raydistill.choose_temperature(
        build, X[TRAIN], Y[TRAIN], ask(generalist, X[TRAIN]), valid=HELD_OUT, temperatures=(1, 4), epochs=1
    )
    assert [(trial.temperature, trial.label_weight) for trial in trials] == [(1, 0.0), (1, 0.25), (4, 0.0), (4, 0.25)]
    assert best.values[-1] == max(trial.values[-1] for trial in trials)


@pytest.mark.parametrize("top_k", [None, 2])
def test_targets_in_memory_are_the_teachers(top_k):
    exact = log_softmax(torch.randn(7, 6, generator=torch.Generator().manual_seed(0)) * 3, dim=1)
    targets = raydistill.SoftTargets.from_arrays(exact.numpy(), top_k)
    found = targets.read(torch.arange(7)).exp().numpy()
    expected = exact.exp().numpy()
    if top_k is not None:
        kept = expected >= np.sort(expected, axis=1)[:, -top_k][:, None]
        rest = np.where(kept, 0, expected).sum(1, keepdims=True) / (6 - top_k)
        expected = np.where(kept, expected, rest)
    np.testing.assert_allclose(found, expected, rtol=5e-3)
    np.testing.assert_allclose(targets.soften(torch.arange(7), 1.0), found, rtol=1e-5)


def test_training_leaves_random_numbers_alone(generalist):
    torch.manual_seed(11)
    before = torch.get_rng_state()
    raydistill.train_classifier(build_without_seed(), X[TRAIN], Y[TRAIN], valid=HELD_OUT, epochs=1)
    after_build = torch.get_rng_state()
    torch.set_rng_state(before)
    build_without_seed()
    assert torch.equal(torch.get_rng_state(), after_build)


def build_without_seed():
    return nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.5))


@pytest.mark.parametrize(
    ("call", "error", "told"),
    [
        (lambda: raydistill.confusion_affinity(X[:, 0], Y), DataError, "logits: shape"),
        (lambda: raydistill.confusion_affinity(X, Y[:-1]), DataError, "give as many"),
        (lambda: raydistill.confusion_affinity(X, Y + 2), DataError, "labels: label 6 .* allowed are 0 to 5"),
        (lambda: raydistill.train_classifier(build(), X, Y + 1, valid=HELD_OUT), DataError, "y: label 5"),
        (lambda: raydistill.train_classifier(build(), X, Y, valid=(X[:, :3], Y)), DataError, "give both the same"),
        (lambda: raydistill.train_classifier(build(), X, Y, valid=HELD_OUT, rate=1), ConfigError, "rate: unknown"),
        (
            lambda: raydistill.train_classifier(nn.Sequential(build(), nn.Flatten(0)), X, Y, valid=HELD_OUT),
            DataError,
            "network with logits",
        ),
        (
            lambda: raydistill.train_specialist(build(), X, Y, [True] * 5, valid=HELD_OUT),
            DataError,
            "give a boolean for each of 5 classes, 1 to 4 of them true",
        ),
        (lambda: raydistill.combine_teachers(X, [X], MEMBERS), DataError, "1 for 2 groups"),
        (
            lambda: raydistill.distil_student(
                build(), X, Y, ask(build())[:9], temperature=1, label_weight=0, valid=HELD_OUT
            ),
            DataError,
            "targets: 9 for 600 examples",
        ),
        (
            lambda: raydistill.distil_student(
                build(), X, Y, ask(build()), temperature=0, label_weight=0, valid=HELD_OUT
            ),
            ConfigError,
            "give above 0",
        ),
        (lambda: raydistill.SoftTargets.from_arrays(Y), ValueError, r"give floats \(N, K\)"),
        (lambda: raydistill.SoftTargets.from_arrays(X, 9), ValueError, "top_k: 9"),
    ],
)
def test_what_cannot_be_used_is_named(call, error, told):
    with pytest.raises(error, match=told):
        call()


def test_the_example_of_an_own_loop(capsys):
    accuracies = runpy.run_path(str(EXAMPLES / "own_loop.py"))["accuracies"]
    assert accuracies["ensemble"] >= accuracies["generalist"] - 0.01
    assert min(accuracies.values()) > 0.85
    assert len(capsys.readouterr().out.splitlines()) == 3
