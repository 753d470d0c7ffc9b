"""Rare classes: Bayes' rule in a world that is known, samplers' shares, and what a run with planted imbalance gains."""

import json

import numpy as np
import pytest
import torch
from builders import estimate_gradient, make_examples, quick_config, run_quick
from scipy.special import log_softmax, softmax
from scipy.stats import binomtest
from sklearn.metrics import balanced_accuracy_score
from torch import nn

from raydistill.deployment.model_card import describe_results
from raydistill.errors import DataError
from raydistill.method.specialists import Group, balance_group, enriched_loss, soft_enriched_loss
from raydistill.report import format_table, read_report
from raydistill.report.shares import describe_shares, measure_distances
from raydistill.results import Report
from raydistill.settings.config import BalanceConfig
from raydistill.settings.networks import SpecialistsConfig
from raydistill.stages.feeding import sample_rows
from raydistill.stages.specialists import sample_group
from raydistill.training.balance import Balance, balance_soft_loss, balanced_label_loss, read_balance, sample_by_weight
from raydistill.training.batches import Batch
from raydistill.training.losses import batch_label_loss, distil, label_loss
from raydistill.training.scoring import score_labels

COUNTS = np.array([900, 80, 15, 4, 1])
SHARES = COUNTS / COUNTS.sum()
LABELS = torch.from_numpy(np.repeat(np.arange(5), COUNTS))
WORDS = ("natural", "sqrt", "equal")
EXPONENT = {"natural": 0.0, "sqrt": 0.5, "equal": 1.0}


def balance_of(prior="natural", sampling="natural") -> Balance:
    balance = read_balance(BalanceConfig(prior=prior, sampling=sampling), LABELS.bincount())
    assert balance is not None
    return balance


def posterior(likelihood, shares):
    """P(class | what is seen), for likelihoods (seen, K) and shares (K,)."""
    joint = likelihood * shares
    return joint / joint.sum(1, keepdims=True)


LIKELIHOOD = np.random.default_rng(0).dirichlet(np.ones(7), 5).T  # of 7 things that can be seen, given each class


def test_nothing_asked_for_is_nothing():
    assert read_balance(BalanceConfig(), LABELS.bincount()) is None
    assert balanced_label_loss(None) is batch_label_loss


@pytest.mark.parametrize("prior", WORDS)
@pytest.mark.parametrize("sampling", WORDS)
def test_the_offset_is_bayes_rule(prior, sampling):
    """The logits of the posterior for the shares wanted, with it, are those of the posterior under sampling."""
    if prior == sampling == "natural":
        return
    wanted, sampled = SHARES ** (1 - EXPONENT[prior]), SHARES ** (1 - EXPONENT[sampling])
    logits = np.log(posterior(LIKELIHOOD, wanted))
    balance = balance_of(prior, sampling)
    np.testing.assert_allclose(softmax(logits + balance.offset().numpy(), 1), posterior(LIKELIHOOD, sampled), rtol=1e-4)
    held_out = softmax(logits + balance.offset(sampled=False).numpy(), 1)
    np.testing.assert_allclose(held_out, posterior(LIKELIHOOD, SHARES), rtol=1e-4)


@pytest.mark.parametrize("sampling", WORDS)
def test_classes_are_sampled_in_their_shares(sampling):
    rows = torch.randperm(1000, generator=torch.Generator().manual_seed(3))
    shares = SHARES ** (1 - EXPONENT[sampling])
    expected = 2000 * shares / shares.sum()
    examples = make_examples(1000, 5)
    examples = type(examples)(examples.x, LABELS, examples.class_names)
    sampler = sample_rows(examples, rows, 2000, balance_of("equal", sampling))
    drawn = sampler(torch.Generator().manual_seed(1))
    np.testing.assert_allclose(LABELS[drawn].bincount(minlength=5), expected, atol=1.5)
    each = drawn.bincount(minlength=1000)[rows[LABELS[rows] == 0]]
    assert each.max() - each.min() <= 1
    assert torch.equal(drawn, sampler(torch.Generator().manual_seed(1)))
    assert not torch.equal(drawn, sampler(torch.Generator().manual_seed(2)))


def test_all_rows_come_over_the_epochs():
    sampler = sample_by_weight(torch.arange(50), torch.ones(50, dtype=torch.float64), 20)
    drawn = torch.cat([sampler(torch.Generator().manual_seed(seed)) for seed in range(30)])
    assert len(drawn.unique()) == 50


def test_rows_without_labels_are_sampled_as_before():
    weights = balance_of("equal", "equal").weigh_rows(torch.tensor([0, 0, 4, -1, -1]))
    assert weights[3:].tolist() == [1.0, 1.0]
    assert float(weights[:3].mean()) == pytest.approx(1.0)
    assert float(weights[2] / weights[0]) == pytest.approx(900.0, rel=1e-4)


def group_posterior(likelihood, members, own_share, shares):
    """Over a group's classes and the dustbin, where the group's classes together have a share of the examples."""
    inside = np.isin(np.arange(5), members)
    enriched = np.where(
        inside, own_share * shares / shares[inside].sum(), (1 - own_share) * shares / shares[~inside].sum()
    )
    of_classes = posterior(likelihood, enriched)
    return np.concatenate([of_classes[:, members], of_classes[:, ~inside].sum(1, keepdims=True)], 1)


@pytest.mark.parametrize("dustbin", ["merged", "single"])
@pytest.mark.parametrize(("prior", "sampling"), [("equal", "natural"), ("sqrt", "equal"), ("natural", "sqrt")])
def test_a_specialist_holds_for_the_same_shares_as_the_generalist(dustbin, prior, sampling):
    """The loss of the true posterior, at the shares wanted, is the entropy of the enriched one: no other is lower."""
    group, balance = Group(torch.tensor([1, 3]), 5, dustbin), balance_of(prior, sampling)
    settings = SpecialistsConfig()
    parts = torch.where(torch.isin(LABELS, group.members))[0], torch.where(~torch.isin(LABELS, group.members))[0]
    sampler, shift = sample_group(settings, parts, LABELS, balance)
    wanted, sampled = SHARES ** (1 - EXPONENT[prior]), SHARES ** (1 - EXPONENT[sampling])
    logits = torch.from_numpy(np.log(posterior(LIKELIHOOD, wanted)))
    if dustbin == "single":  # what is seen of the classes outside is mixed as they are sampled
        mixed = (LIKELIHOOD * sampled)[:, [0, 2, 4]].sum(1) / sampled[[0, 2, 4]].sum() * wanted[[0, 2, 4]].sum()
        logits = torch.from_numpy(np.log(LIKELIHOOD * wanted))
        logits[:, 0] = torch.from_numpy(np.log(mixed))
    loss = enriched_loss(group, shift, balance_group(balance, group, sampled=True))
    labels = torch.tensor([1, 3, 0])  # the two members, and one of the dustbin
    got = np.stack(
        [np.exp(-loss(logits, Batch(labels, logits, torch.full((7,), int(label))))[0].numpy()) for label in labels], 1
    )
    np.testing.assert_allclose(got, group_posterior(LIKELIHOOD, [1, 3], 0.5, sampled), rtol=1e-4)
    drawn = torch.cat([sampler(torch.Generator().manual_seed(seed)) for seed in range(40)])
    inside = torch.isin(LABELS[drawn], group.members)
    assert float(inside.double().mean()) == pytest.approx(0.5)
    for part, classes in ((inside, [1, 3]), (~inside, [0, 2, 4])):
        found = LABELS[drawn[part]].bincount(minlength=5)[classes].numpy()
        expected = sampled[classes] / sampled[classes].sum()
        np.testing.assert_allclose(found / found.sum(), expected, atol=0.03)


def test_a_soft_dustbin_hears_the_generalist_at_the_shares_in_training():
    group, balance = Group(torch.tensor([1, 3]), 5, "soft"), balance_of("equal")
    offset = balance_group(balance, group, sampled=True)
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    answers, labels = 2 * logits.roll(1, 0), torch.tensor([0, 1, 2, 4])
    got, _ = soft_enriched_loss(group, 0.7, nn.Identity(), offset)(logits, Batch(labels, answers, labels))
    lowered = np.log(SHARES) - 0.7 * np.isin(np.arange(5), [0, 2, 4])
    log_probs = log_softmax(logits.numpy() + lowered, 1)
    outside = softmax(np.where(np.isin(np.arange(5), [1, 3]), -np.inf, answers.numpy() + np.log(SHARES)), 1)
    expected = -np.where(labels == 1, log_probs[:, 1], np.where(outside > 0, outside * log_probs, 0).sum(1))
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("label_weight", [0.3, 1.0])
def test_a_students_labels_have_the_offset_and_its_targets_none(label_weight):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    targets = torch.softmax(torch.randn(6, 5, generator=generator, dtype=torch.float64), 1)
    labels = torch.tensor([0, 4, -1, 2, -1, 1])
    batch = Batch(labels, logits, labels)

    def soft(z, batch):
        return distil(z, targets, batch.labels, 2.0, 0.0)

    loss = balance_soft_loss(soft, balance_of("equal"), label_weight)
    got, gradient = loss(logits, batch)
    z, weights = logits.numpy(), np.where(labels >= 0, label_weight, 0.0)
    soft_part = -4 * (targets.numpy() * log_softmax(z / 2, 1)).sum(1)
    hard_part = -log_softmax(z + np.log(SHARES), 1)[np.arange(6), labels.clamp_min(0)]
    np.testing.assert_allclose(got, (1 - weights) * soft_part + weights * hard_part, rtol=1e-6)
    np.testing.assert_allclose(gradient, estimate_gradient(lambda moved: loss(moved, batch), logits), atol=1e-8)


def test_a_balanced_label_loss_is_that_of_logits_with_the_offset():
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 4, 3, 2, 0, 1])
    got = balanced_label_loss(balance_of("equal"))(logits, Batch(labels, logits, labels))
    torch.testing.assert_close(got, label_loss(logits + torch.from_numpy(np.log(SHARES)).float(), labels))


def test_held_out_rows_are_judged_at_the_shares_wanted():
    generator = torch.Generator().manual_seed(0)
    x, rows = torch.randn(1000, 5, generator=generator), torch.arange(100, 1000)
    x[torch.arange(1000), LABELS] += 2
    examples = type(make_examples())(x, LABELS, tuple("abcde"))
    model = nn.Linear(5, 5)
    nn.init.eye_(model.weight)
    nn.init.zeros_(model.bias)
    score = score_labels(examples, rows, balance_of("equal"))(model)
    predicted = x[rows].argmax(1)
    assert score.accuracy == pytest.approx(balanced_accuracy_score(LABELS[rows], predicted))
    log_probs = log_softmax(x[rows].double().numpy() + np.log(SHARES), 1)
    assert score.loss == pytest.approx(-log_probs[np.arange(900), LABELS[rows]].mean(), rel=1e-5)


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Six blobs that overlap, two of them with a twentieth of the others' examples; the test split is as uneven."""
    folder, generator = tmp_path_factory.mktemp("uneven"), np.random.default_rng(0)
    centres = 1.2 * generator.normal(size=(6, 8))
    parts = {}
    for part, large in (("train", 600), ("test", 400)):
        y = np.repeat(np.arange(6), [large] * 4 + [large // 20] * 2)
        parts |= {f"x_{part}": (centres[y] + generator.normal(size=(len(y), 8))).astype(np.float32), f"y_{part}": y}
    np.savez(folder / "data.npz", **parts)
    runs = {
        name: run_quick(
            quick_config(
                folder / name,
                data=f"npz:{folder / 'data.npz'}",
                specialists={"groups": 2, "epochs": 2},
                search={"trials": 1, "epochs": 1},
                generalist={"epochs": 6},
                student={"epochs": 8},
                balance=balance,
                transfer={"without": ["1"]} if balance == {"prior": "sqrt"} else {},
                report={"int8": balance == {"prior": "sqrt"}},
            )
        )
        for name, balance in (
            ("plain", {}),
            ("equal", {"prior": "equal"}),
            ("both", {"prior": "equal", "sampling": "sqrt"}),
            ("sampling", {"sampling": "equal"}),
            ("sqrt", {"prior": "sqrt"}),
        )
    }
    return {
        name: read_report(run) | {"run": run, "page": (run.stage_folder("report") / "report.html").read_text()}
        for name, run in runs.items()
    }


@pytest.mark.parametrize("name", ["equal", "both"])
def test_rare_classes_gain(reports, name):
    plain, balanced = reports["plain"], reports[name]
    for model in ("generalist", "ensemble", "student"):
        assert balanced[model]["balanced_accuracy"] > plain[model]["balanced_accuracy"] + 0.02
    labels_only = (report["controls"]["labels_only"]["balanced_accuracy"] for report in (plain, balanced))
    assert next(labels_only) < next(labels_only)
    assert balanced["student"]["balanced_accuracy"] > balanced["generalist"]["balanced_accuracy"] - 0.03


def test_the_report_tells_of_rare_classes(reports):
    balance = reports["equal"]["balance"]
    assert (balance["prior"], balance["sampling"]) == ("equal", "natural")
    assert balance["largest_class"]["examples"] > 15 * balance["smallest_class"]["examples"]
    worst = reports["plain"]["student"]["worst_classes"]
    assert {worst[0]["class"], worst[1]["class"]} == {"4", "5"}
    assert worst[0]["examples"] == 20


@pytest.mark.parametrize(("name", "told"), [("plain", False), ("equal", True), ("both", True)])
def test_loss_and_calibration_that_look_worse_by_intent_are_told(reports, name, told):
    """On the page beside both kinds of figures, and in the printed table's verdict, once each."""
    report = reports[name]
    sentence = report["conclusions"].get("shares", "Loss and calibration error look worse")
    assert (sentence in format_table(report)) is told
    assert ("shares" in report["conclusions"]) is told
    page = report["page"]
    for section, after in (("models", "confusions"), ("confidence", "training")):
        part = page[page.index(f'id="{section}"') : page.index(f'id="{after}"')]
        assert part.count(sentence) == told
    if told:
        assert "all as frequent (balance.prior equal), for which 31% of the test examples" in sentence
        assert f"balanced accuracy, {report['student']['balanced_accuracy']:.2%} for the student" in sentence


def find_weights(run, prior):
    """Of the test examples, (N,): wanted share of the class / its share of the test split."""
    labels = np.load(run.stage_folder("report") / "labels.npy")
    fit = np.load(run.stage_folder("splits") / "fit.npy")
    wanted = np.bincount(np.load(run.stage_folder("data") / "y.npy")[fit]) ** (1 - EXPONENT[prior])
    return (wanted / wanted.sum() / (np.bincount(labels) / len(labels)))[labels]


@pytest.mark.parametrize(("name", "prior"), [("equal", "equal"), ("both", "equal"), ("sqrt", "sqrt")])
def test_models_are_judged_at_the_shares_wanted(reports, name, prior):
    report = reports[name]
    weights, stage = find_weights(report["run"], prior), report["run"].stage_folder("report")
    right = dict(zip(report["models"], np.load(stage / "predicted.npy") == np.load(stage / "labels.npy"), strict=True))
    for model, correct in right.items():
        figures = report.get(model) or report["controls"][model]
        assert figures["accuracy_at_prior"] == pytest.approx(np.average(correct, weights=weights)), model
        assert (figures["accuracy_at_prior"] == pytest.approx(figures["balanced_accuracy"])) is (prior == "equal")
        assert f"{figures['accuracy_at_prior']:.2%}" in format_table(report)
        assert f"<td>{figures['accuracy_at_prior']:.2%}</td>" in report["page"]
    for pair, test in report["significance"].items():
        first, second = (np.average(right[model], weights=weights) for model in pair.split("_vs_"))
        assert test["difference"] == pytest.approx(first - second, abs=1e-7), pair


@pytest.mark.parametrize(
    ("name", "measure"), [("equal", "balanced accuracy"), ("sqrt", "weighted accuracy"), ("plain", None)]
)
def test_table_verdict_and_page_say_by_what_models_are_judged(reports, name, measure):
    report = reports[name]
    text, page = format_table(report), report["page"]
    assert ("Models are judged by" in text) is (measure is not None)
    assert ("McNemar" in page) is (measure is None)
    assert ("weighted test examples right" in text) is (measure is not None)
    card = "test accuracy" if measure is None else measure
    assert page.count(f'<dd class="note meta">{card}</dd>') == 1
    if measure is not None:
        assert f"Models are judged by {measure}: test examples are weighted to" in report["verdict"]["sentences"][0]
        assert f", by {measure}</h2>" in page
        assert f"{report['student']['accuracy_at_prior']:.2%}" in " ".join(report["verdict"]["sentences"])
        assert text.splitlines()[0].split()[1] == measure.split()[0]
    head = f" accuracy | {measure} | top-5 " if measure else " accuracy | top-5 "
    assert f"| |{head}| loss, nats |" in describe_results(report)
    assert (f'right">{measure}</th>' in Report(report["run"])._repr_html_()) is (measure is not None)


@pytest.mark.parametrize("name", ["plain", "sampling"])
def test_with_natural_shares_nothing_is_weighted(reports, name):
    assert "accuracy_at_prior" not in json.dumps({key: reports[name][key] for key in ("student", "controls")})
    assert "weighted" not in format_table(reports[name])
    for pair, test in reports[name]["significance"].items():
        gained, lost = test["first_only_right"], test["second_only_right"]
        assert test["p_value"] == pytest.approx(binomtest(gained, gained + lost).pvalue if gained + lost else 1.0), pair


def test_a_repair_and_8_bit_integers_are_told_at_the_shares_wanted(reports):
    report = reports["sqrt"]
    sentences = " ".join(report["verdict"]["sentences"])
    before, after, int8 = (
        f"{figures['accuracy_at_prior']:.2%}"
        for figures in (report["student"]["repair"]["unrepaired"], report["student"], report["int8"])
    )
    assert f"took the student from {before} of the weighted test examples right to {after}." in sentences
    assert f"In 8-bit integers the student is right in {int8} instead of {after}" in sentences


def test_distances_are_total_variations():
    fit, test = np.array([600, 600, 600, 600, 30, 30]), np.array([400, 400, 400, 400, 20, 20])
    for prior, exponent in EXPONENT.items():
        wanted = fit ** (1 - exponent) / (fit ** (1 - exponent)).sum()
        found = measure_distances(torch.from_numpy(fit), torch.from_numpy(test), prior)
        assert found["to_training"] == pytest.approx(0.0, abs=1e-12)
        assert found["to_prior"] == pytest.approx(np.clip(test / test.sum() - wanted, 0, None).sum())


def test_a_test_split_of_the_shares_wanted_has_nothing_to_explain():
    """As the benchmarks of long tails have it: uneven training examples, an even test split."""
    fit, even = torch.tensor([500, 50, 5]), torch.tensor([100, 100, 100])
    student = {"accuracy_at_prior": 0.5, "test_accuracy": 0.9}
    for prior, test, told in (
        ("equal", even, False),
        ("equal", fit, True),
        ("sqrt", fit, True),
        ("natural", even, False),
    ):
        balance = {"prior": prior, "test_distance": measure_distances(fit, test, prior)}
        assert (describe_shares({"balance": balance, "student": student}) is not None) is told


def test_a_class_of_two_examples_gets_through_a_run(tmp_path):
    generator = np.random.default_rng(0)
    y = np.repeat(np.arange(5), [200, 150, 150, 2, 1])
    x = (3 * generator.normal(size=(5, 8))[y] + generator.normal(size=(len(y), 8))).astype(np.float32)
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y)
    changes = {"data": f"npz:{tmp_path / 'data.npz'}", "specialists": {"groups": 2}, "search": {"trials": 1}}
    with pytest.raises(DataError, match=r"class '3' has no example there \(2 in all\).*give --splits\.rare allow"):
        run_quick(quick_config(tmp_path / "refused", **changes))
    run = run_quick(quick_config(tmp_path / "run", splits={"rare": "allow"}, balance={"prior": "equal"}, **changes))
    assert read_report(run)["student"]["balanced_accuracy"] > 0.6
