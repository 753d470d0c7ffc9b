"""Figures by class against scikit-learn."""

import pytest
import torch
from sklearn.metrics import recall_score

from raydistill.report.answers import reduce_answers
from raydistill.report.metrics import measure_by_class


def test_balanced_accuracy_and_the_worst_classes():
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 200 + [1] * 40 + [2] * 9 + [4] * 3 + [5] * 2 + [6] * 30 + [7] * 30)
    logits = torch.randn(len(labels), 8, generator=generator)
    logits[:, 0] += 1
    logits[torch.arange(len(labels)), labels] += 1
    logits[labels == 5, 5] = -9
    answers = reduce_answers(logits.log_softmax(1), labels)
    figures = measure_by_class(answers, tuple("abcdefgh"))
    recalls = recall_score(labels, answers.predicted, labels=labels.unique(), average="macro")
    assert figures["balanced_accuracy"] == pytest.approx(recalls)
    worst = figures["worst_classes"]
    assert worst[0] == {"class": "f", "examples": 2, "accuracy": 0.0}
    accuracies = [record["accuracy"] for record in worst]
    assert len(worst) == 5
    assert accuracies == sorted(accuracies)
    assert "d" not in {record["class"] for record in worst}  # has no examples
    for record in worst:
        own = labels == "abcdefgh".index(record["class"])
        assert record["accuracy"] == pytest.approx(float(answers.correct[own].double().mean()))
