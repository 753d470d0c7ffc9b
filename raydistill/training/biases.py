"""Bias repair: new biases for classes that are absent or rare in the transfer set, fitted on labelled examples.

Comes in: how many examples of each class the transfer set and a reference have; a student's logits on a labelled split
that it has not learned from. Goes out: the scarce classes, what to add to their biases, and the student with these
biases.

Source: Hinton, Vinyals, Dean 2015, section 3: a student that has never seen a 3 knows most of them once the bias of
that class is raised. N examples of the transfer set, R of the reference, K classes, S scarce ones.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from raydistill.errors import ModelError
from raydistill.networks.models import find_output_layer

SCARCE = 0.1  # a class is scarce if its share in the transfer set is less than this times that in the reference
RIDGE = 1e-5  # measured on MNIST: no matter from 200 examples on, helps with 60; 1e-3 makes up to a tenth more errors
LEAST_SCALE = 0.01  # of logits with a spread of 1; below it they say nothing of the labels
TOLERANCE = 1e-10  # nats that a step promises; it is Newton's last, and squares what is left
MOST_STEPS = 100  # measured: 10 are enough, with 10 or 523 classes
CHUNK = 4096  # examples whose probabilities are in memory at once


def find_scarce_classes(transfer: Tensor, reference: Tensor) -> Tensor:
    """Classes whose share in the transfer set is below a tenth of their share in the reference, (S,), ascending.

    transfer, reference: (K,), how many examples of each class they have. A class that the reference lacks is not among
    them: there is nothing to repair it by.
    """
    scarce = transfer * reference.sum() < SCARCE * (reference * transfer.sum()).double()
    return scarce.nonzero().squeeze(1)


def fit_biases(logits: Tensor, labels: Tensor, scarce: Tensor) -> Tensor:
    """Offsets of the scarce classes' logits that make the reference's labels most probable, (S,) float64 nats.

    Minimises over c (S,) and b the mean of H(label, softmax(b · z / r + c)) + RIDGE / 2 · (|c|² + b²), where c is added
    to scarce classes only and r is the logits' spread, and returns r · c / b: the offsets o in softmax(β · (z + o)).
    The scale β = b / r takes up over- and underconfidence, and is dropped: no answer depends on it. The problem is
    convex; the ridge keeps it finite where the labels can be separated.

    Measured on MNIST: transfer sets without 3, with a fiftieth of the 3s, of 7 and 8, of 5 to 9; students trained at
    temperatures from 1 to 20; 6000 reference examples. Test errors are at most 6 % above the fewest that offsets found
    on the test labels give. Compared with this fit: β = 1 does as well on the students' own logits, but makes up to
    18 % more errors where these are multiplied by 0.3, and 2 % (8 % with 200 examples) by 3; the paper's one offset for
    all scarce classes, up to 22 % more; offsets that maximise accuracy, -2 to 6 % more (1 to 13 % with 200 examples).

    logits: (R, K), finite; labels: (R,); scarce: (S,) class numbers. Raises FloatingPointError for logits that are not
    finite.
    """
    spread = float(logits.double().std(dim=1, correction=0).square().mean().sqrt()) or 1.0
    scaled, start = logits / spread, torch.zeros(len(scarce) + 1, dtype=torch.float64)
    values = _minimise(scaled, labels, scarce, start, free=len(start))
    if values[-1] < LEAST_SCALE:
        start[-1] = LEAST_SCALE
        values = _minimise(scaled, labels, scarce, start, free=len(scarce))
    return spread * values[:-1] / values[-1]


def apply_biases(model: nn.Module, scarce: Tensor, offsets: Tensor, classes: int) -> None:
    """Add the offsets to the biases of the output layer, in place. scarce, offsets: (S,).

    Raises ModelError if the model has no linear output layer of that many classes, or one without biases.
    """
    biases = find_biases(model, classes)
    with torch.no_grad():
        biases[scarce.to(biases.device)] += offsets.to(biases)


def find_biases(model: nn.Module, classes: int) -> nn.Parameter:
    """The biases of the output layer, (K,). Raises ModelError if it is not linear, or has none."""
    layer = find_output_layer(model, classes)
    if layer is None or layer.bias is None:
        found = "there is none" if layer is None else "it has no biases"
        raise ModelError(
            f"model: the biases of a last nn.Linear of {classes} outputs are to be repaired, but {found};"
            " end the network with nn.Linear(..., bias=True), or give --transfer.repair never"
        )
    return layer.bias


def _minimise(logits: Tensor, labels: Tensor, scarce: Tensor, start: Tensor, free: int) -> Tensor:
    """Newton's method with halved steps over the first `free` of the values (c, b), (S + 1,)."""
    values, step = start, torch.zeros_like(start)
    loss, gradient, hessian = _differentiate(logits, labels, scarce, values)
    for _ in range(MOST_STEPS):
        step[:free] = torch.linalg.solve(hessian[:free, :free], gradient[:free])
        promised, size = float(gradient @ step), 1.0
        if promised < TOLERANCE:
            return values - step
        while (new := _differentiate(logits, labels, scarce, values - size * step))[0] > loss - size * promised / 4:
            size /= 2
        values, (loss, gradient, hessian) = values - size * step, new
    raise FloatingPointError("biases: no optimum found; check that the logits are finite")


def _differentiate(logits: Tensor, labels: Tensor, scarce: Tensor, values: Tensor) -> tuple[float, Tensor, Tensor]:
    """Loss, gradient (S + 1,) and Hessian (S + 1, S + 1) at the values (c, b).

    With p = softmax(b · z + c) and m = Σ p_j z_j: ∂c = p - [label], ∂b = m - z_label; the Hessian is the covariance,
    under p, of the scarce classes' indicators and z.
    """
    loss = torch.zeros((), dtype=torch.float64)
    gradient, hessian = torch.zeros_like(values), torch.zeros(len(values), len(values), dtype=torch.float64)
    for part, part_labels in zip(logits.split(CHUNK), labels.split(CHUNK), strict=True):
        z, y = part.double(), part_labels.unsqueeze(1)
        log_probs = (values[-1] * z).index_add_(1, scarce, values[:-1].expand(len(z), -1)).log_softmax(dim=1)
        probs = log_probs.exp()
        own, mean = probs[:, scarce], (probs * z).sum(dim=1, keepdim=True)
        loss -= log_probs.gather(1, y).sum()
        gradient[:-1] += own.sum(dim=0) - (y == scarce).sum(dim=0)
        gradient[-1] += (mean - z.gather(1, y)).sum()
        hessian[:-1, :-1] += own.sum(dim=0).diag() - own.T @ own
        hessian[:-1, -1] += (own * (z[:, scarce] - mean)).sum(dim=0)
        hessian[-1, -1] += (probs * (z - mean).square()).sum()
    hessian[-1, :-1] = hessian[:-1, -1]
    loss, gradient, hessian = loss / len(labels), gradient / len(labels), hessian / len(labels)
    hessian.diagonal().add_(RIDGE)
    return float(loss + RIDGE / 2 * values @ values), gradient + RIDGE * values, hessian
