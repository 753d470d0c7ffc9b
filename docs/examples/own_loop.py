"""The method in a loop of your own: plain arrays and torch modules, no run folder, no Ray."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

import raydistill

data = load_digits()
order = np.random.default_rng(0).permutation(len(data.target))
x, y = (data.data / 16).astype("float32")[order], data.target[order]
train, valid, test = slice(0, 1100), slice(1100, 1450), slice(1450, None)
held_out = x[valid], y[valid]


def build(width: int) -> nn.Module:
    """Any network that gives raw logits; the same weights each time."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


@torch.no_grad()
def ask(network: nn.Module, part: slice) -> torch.Tensor:
    """Logits (N, 10)."""
    return network(torch.from_numpy(x[part]))


# 1. A generalist: with your own loop, or with this one.
generalist = build(24)
raydistill.train_classifier(generalist, x[train], y[train], valid=held_out, epochs=8)

# 2. What it confuses, and groups of such classes: boolean (specialists, classes).
affinity = raydistill.confusion_affinity(ask(generalist, valid), y[valid])
groups = raydistill.group_classes(affinity, 3)

# 3. A specialist for each: a fine-tuned copy. These are independent: run them wherever you like.
specialists = [raydistill.train_specialist(generalist, x[train], y[train], row, valid=held_out) for row in groups]

# 4. The ensemble, by equation 5: log-probabilities (N, 10), each with a certified gap.
teacher = raydistill.combine_teachers(ask(generalist, train), [ask(each, train) for each in specialists], groups)
targets = raydistill.SoftTargets.from_arrays(teacher.log_probs)

# 5. Temperature and label weight on short trainings, then the student.
best, _ = raydistill.choose_temperature(lambda: build(24), x[train], y[train], targets, valid=held_out, epochs=4)
student = build(24)
raydistill.distil_student(
    student,
    x[train],
    y[train],
    targets,
    temperature=best.temperature,
    label_weight=best.label_weight,
    valid=held_out,
    epochs=24,
)

# Or the loss in a training step of your own:
batch = torch.arange(32)
loss = raydistill.distillation_loss(
    student(torch.from_numpy(x[train][:32])),
    targets.read(batch),
    torch.from_numpy(y[train][:32]),
    temperature=best.temperature,
    label_weight=best.label_weight,
).mean()
loss.backward()

on_test = raydistill.combine_teachers(ask(generalist, test), [ask(each, test) for each in specialists], groups)
accuracies = {
    "generalist": float((ask(generalist, test).argmax(1).numpy() == y[test]).mean()),
    "ensemble": float((on_test.log_probs.argmax(1).numpy() == y[test]).mean()),
    "student": float((ask(student, test).argmax(1).numpy() == y[test]).mean()),
}
for name, accuracy in accuracies.items():
    print(f"{name:10} {accuracy:.2%}")
