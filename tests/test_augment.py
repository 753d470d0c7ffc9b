"""Augmentation: each example's change is a function of seed, key and turn, and is what it says it is."""

import numpy as np
import pytest
import torch
from builders import list_results, quick_config, run_quick
from pydantic import ValidationError
from scipy.ndimage import map_coordinates
from scipy.special import log_softmax

import raydistill
from raydistill.data import augment as module
from raydistill.data.arrays import Examples, Normalisation, open_examples, read_transfer_rows
from raydistill.data.augment import Augment, Draw, check_augment
from raydistill.data.views import Views, count_views
from raydistill.errors import ConfigError
from raydistill.settings.networks import AUGMENTATIONS, StudentConfig, TrainingConfig
from raydistill.stages.feeding import build_change
from raydistill.stages.teacher import build_views, open_targets
from raydistill.training.batches import Batch, Batches, shuffle_rows
from raydistill.training.loop import copy_weights, train_model
from raydistill.training.losses import batch_label_loss, label_loss
from raydistill.training.mixup import mix_batch, mixed_loss
from raydistill.training.scoring import score_labels

NAMES = tuple(name for name in AUGMENTATIONS if name != "mixup")
NORMALISATION = Normalisation(100.0, 50.0)
GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randint(1, 255, (40, 8, 12), generator=GENERATOR, dtype=torch.uint8)
COLOURED = torch.randint(1, 255, (40, 8, 12, 3), generator=GENERATOR, dtype=torch.uint8)
KEYS = torch.randperm(1000, generator=GENERATOR)[:40]


def make(*names, seed=5):
    return Augment(names, NORMALISATION, seed)


def roll(inputs, generator):
    """A user's own: rolled by a random number of pixels."""
    return inputs.roll(int(torch.randint(1, 8, (), generator=generator)), -1)


def flatten(inputs, generator):
    return inputs.flatten(1)


class Scale(torch.nn.Module):
    """Digits from 0 to 1."""

    def forward(self, inputs):
        return inputs.float() / 16


def test_numbers_are_even_and_of_their_key_alone():
    draw = Draw(torch.arange(4000), seed=7, turn=3)
    numbers = draw("noise", 50)
    assert 0 <= float(numbers.min()) < 1e-4 < 0.9999 < float(numbers.max()) < 1
    counts = torch.histc(numbers, 100, 0, 1)
    assert float(((counts - 2000) ** 2 / 2000).sum()) < 150  # chi-square of 99 degrees: 1e-3 lie above 149
    assert np.abs(np.corrcoef(numbers.T) - np.eye(50)).max() < 0.08  # of 4000 numbers: 5 standard errors
    assert torch.equal(Draw(torch.tensor([17]), 7, 3)("noise", 50)[0], numbers[17])
    for other in (Draw(torch.arange(4000), 8, 3), Draw(torch.arange(4000), 7, 4)):
        assert float(np.corrcoef(other("noise", 1)[:, 0], numbers[:, 0])[0, 1]) < 0.08


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("images", [IMAGES, COLOURED, COLOURED.movedim(-1, 1).contiguous()])
def test_a_change_depends_on_seed_key_and_turn_alone(name, images):
    together = make(name)(images, KEYS, 3)
    some = torch.tensor([7, 3, 39])
    torch.testing.assert_close(make(name)(images[some], KEYS[some], 3), together[some], rtol=1e-6, atol=1e-4)
    assert torch.equal(make(name)(images, KEYS, 3), together)
    assert together.shape == images.shape
    for other in (make(name)(images, KEYS, 4), make(name, seed=6)(images, KEYS, 3), make(name)(images, KEYS + 1, 3)):
        assert not torch.equal(other, together)


@pytest.mark.parametrize("name", NAMES[:4])
def test_where_the_channels_are_makes_no_difference(name):
    last, first = make(name)(COLOURED, KEYS, 1), make(name)(COLOURED.movedim(-1, 1).contiguous(), KEYS, 1)
    torch.testing.assert_close(last.movedim(-1, 1), first)


def test_flip_mirrors_half_of_the_images():
    flipped = make("flip")(IMAGES.repeat(10, 1, 1), torch.arange(400), 0)
    mirrored = (flipped == IMAGES.repeat(10, 1, 1).flip(2)).all(2).all(1)
    kept = (flipped == IMAGES.repeat(10, 1, 1)).all(2).all(1)
    assert flipped.dtype == torch.uint8
    assert bool((mirrored | kept).all())
    assert int(mirrored.sum()) == pytest.approx(200, abs=40)


def test_erase_puts_the_mean_into_a_rectangle():
    ones = torch.ones(300, 20, 30)
    erased = make("erase")(ones, torch.arange(300), 0) == 100
    hit = erased.any(2).any(1)
    assert int(hit.sum()) == pytest.approx(150, abs=35)
    for covered in erased[hit]:
        rows, columns = covered.any(1), covered.any(0)
        assert torch.equal(covered, rows[:, None] & columns[None])
        assert 4 <= int(rows.sum()) <= 11
        assert 6 <= int(columns.sum()) <= 16
    assert make("erase")(IMAGES, KEYS, 0).dtype == torch.uint8


@pytest.mark.parametrize(("crop", "rotate"), [(True, False), (False, True), (True, True)])
def test_a_part_is_turned_as_by_scipy(crop, rotate):
    """Where pixels of the result come from, by an own formula in pixels; interpolated by scipy."""
    image, size, middle = IMAGES[0].numpy().astype(float), 0.875, np.array([0.0625, -0.03125])
    numbers = {
        "crop": torch.tensor([[0.5, 0.75, 0.375]]),
        "rotate": torch.tensor([[0.9]]),
    }  # of 0.75 to 1, +-15 degrees
    got = module.turn_and_crop(IMAGES[:1, None], lambda name, count: numbers[name], crop=crop, rotate=rotate)
    size, middle = (size, middle) if crop else (1.0, np.zeros(2))
    angle = np.radians(15 * 0.8) if rotate else 0.0
    down, right = np.mgrid[:8, :12].astype(float)
    down, right = down - 3.5, right - 5.5
    came_down = size * (np.cos(angle) * down + np.sin(angle) * right) + middle[1] * 4 + 3.5
    came_right = size * (np.cos(angle) * right - np.sin(angle) * down) + middle[0] * 6 + 5.5
    expected = map_coordinates(image, [came_down, came_right], order=1, mode="grid-constant")
    np.testing.assert_allclose(got[0, 0], expected, atol=1e-3)


def test_colours_change_by_formula():
    numbers = torch.rand(40, 3, generator=torch.Generator().manual_seed(1))
    images = COLOURED.movedim(-1, 1)
    got = module.change_colours(images, lambda name, count: numbers, NORMALISATION)
    x = images.numpy().astype(float)
    brightness, contrast, saturation = (0.3 * (2 * numbers.numpy() - 1)).T.reshape(3, 40, 1, 1, 1)
    x = x + saturation * (x - x.mean(1, keepdims=True))
    np.testing.assert_allclose(got, (x - 100) * (1 + contrast) + 100 + 50 * brightness, rtol=1e-4, atol=1e-3)


def test_noise_is_a_tenth_of_the_datas_spread():
    noise = make("noise")(torch.zeros(4000, 30), torch.arange(4000), 0)
    assert float(noise.std()) == pytest.approx(5.0, rel=0.02)
    assert float(noise.mean()) == pytest.approx(0.0, abs=0.1)
    assert np.abs(np.corrcoef(noise.T) - np.eye(30)).max() < 0.1


def test_a_users_function_follows_from_its_batch():
    augment = make("test_augment:roll")
    first = augment(IMAGES, KEYS, 1)
    assert torch.equal(first, augment(IMAGES, KEYS, 1))
    assert first.float().sum() == IMAGES.float().sum()
    assert len({augment(IMAGES, KEYS, turn).numpy().tobytes() for turn in range(12)}) > 3
    with pytest.raises(ConfigError, match="your function gives \\(40, 96\\) for \\(40, 8, 12\\)"):
        make("test_augment:flatten")(IMAGES, KEYS, 1)


def test_mixup_mixes_inputs_and_losses():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (200,), generator=generator)
    inputs = torch.randn(200, 4, generator=generator)
    batch = mix_batch(Batch(labels, inputs, labels), torch.rand(200, generator=generator))
    shares = batch.own_shares[:, None]
    torch.testing.assert_close(batch.inputs, shares * inputs + (1 - shares) * inputs[torch.arange(-1, 199)])
    assert float((batch.own_shares < 0.25).double().mean()) == pytest.approx(1 / 3, abs=0.1)  # of Beta(1/2, 1/2)
    assert torch.equal(batch.partners, labels[torch.arange(-1, 199)])
    logits = torch.randn(200, 4, generator=generator, dtype=torch.float64)
    value, gradient = mixed_loss(lambda z, b: label_loss(z, b.labels))(logits, batch)
    targets = batch.own_shares.numpy()[:, None] * np.eye(4)[labels] + (1 - shares.numpy()) * np.eye(4)[batch.partners]
    log_probs = log_softmax(logits.numpy(), 1)
    np.testing.assert_allclose(value, -(targets * log_probs).sum(1), rtol=1e-5)
    np.testing.assert_allclose(gradient, (np.exp(log_probs) - targets) / 200, atol=1e-8)


def test_a_batch_that_is_not_mixed_has_its_own_loss():
    logits, labels = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), torch.arange(5) % 4
    got = mixed_loss(lambda z, b: label_loss(z, b.labels))(logits, Batch(labels, logits, labels))
    torch.testing.assert_close(got, label_loss(logits, labels))


def test_views_are_changed_alike_for_whoever_shows_them():
    views = Views(40, 1, 30, 3, make(*NAMES))  # more than there are shifts
    examples = Examples(IMAGES, torch.zeros(40, dtype=torch.int64), ("a",))
    assert torch.equal(views.show(IMAGES, torch.arange(40), 0), IMAGES)
    batches = Batches(examples, shuffle_rows(torch.arange(40)), 10, 0, 7, torch.device("cpu"), views)
    for epoch in (0, 1, 29, 30):
        for batch in batches.iterate(epoch):
            shown = views.show(IMAGES[batch.rows], batch.rows, epoch % 30)
            torch.testing.assert_close(batch.inputs, shown, rtol=0, atol=0)
    rows = torch.tensor([4])
    assert len({views.show(IMAGES[rows], rows, view).numpy().tobytes() for view in range(30)}) == 30
    unshifted = Views(40, 0, 3, 3, make("flip"))
    assert unshifted.show(IMAGES, torch.arange(40), 2).shape == IMAGES.shape


def test_number_of_augmented_views():
    assert count_views(None, 0, (64,), augmented=True) == 8
    assert count_views(50, 1, (8, 8), augmented=True) == 50


@pytest.mark.parametrize("names", [("rotation",), ("flip", "Flip")])
def test_unknown_names_are_told(names):
    with pytest.raises(ValidationError, match=f"'{names[-1]}' is unknown; give some of flip, crop"):
        TrainingConfig(augment=names)


@pytest.mark.parametrize("name", ["mixup", "mine:function"])
def test_what_is_no_function_of_a_row_is_refused_for_the_student(name):
    with pytest.raises(ValidationError, match=f"'{name}' is no function of one row.*give it to generalist.augment"):
        StudentConfig(augment=("flip", name))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("crop", "generalist.augment: 'crop' is for images"),
        ("nowhere:function", "'nowhere:function' is not allowed"),
        ("os:remove", "Python's own modules have none"),
    ],
)
def test_what_cannot_be_done_is_told_before_training(name, told):
    with pytest.raises(ConfigError, match=told):
        check_augment("generalist.augment", (name,), (64,))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Every kind of augmentation in one run."""
    return run_quick(augmented_config(tmp_path_factory.mktemp("augmented") / "run"))


def augmented_config(folder):
    return quick_config(
        folder,
        generalist={"augment": [*AUGMENTATIONS, "test_augment:roll"], "shift": 1},
        specialists={"augment": ["rotate", "mixup"], "dustbin": "soft"},
        student={"augment": NAMES, "shift": 1},
        targets={"views": 4},
        search={"trials": 1, "epochs": 1},
    )


def test_teacher_and_student_see_the_same_views(run):
    config, examples, rows = run.read_config(), open_examples(run), read_transfer_rows(run)
    views, teacher = build_views(run, config, examples), raydistill.load_ensemble(run.path)
    for view in (0, 3):
        shown = views.show(examples.x[rows[:20]], rows[:20], view)
        cached = open_targets(run, "ensemble").read(view * len(rows) + torch.arange(20))
        torch.testing.assert_close(cached.exp(), teacher(shown).exp(), atol=2e-3, rtol=1e-2)


def test_a_run_is_repeated_bit_for_bit(run, tmp_path):
    assert list_results(run_quick(augmented_config(tmp_path / "run"))) == list_results(run)


def test_labels_stay_and_an_epoch_is_the_same_whenever_it_is_made(run):
    examples, config = open_examples(run), run.read_config()
    settings = config.generalist.model_copy(update={"augment": NAMES})

    def batches():
        change = build_change(run, settings, 3)
        return Batches(examples, shuffle_rows(torch.arange(500)), 32, 1, 3, torch.device("cpu"), change=change)

    early, late = batches(), batches()
    for _ in early.iterate(0):
        pass
    for one, other in zip(early.iterate(1), late.iterate(1), strict=True):
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.labels, examples.y[one.rows])
        assert not torch.equal(one.inputs, examples.x[one.rows].float())


def test_a_training_that_is_interrupted_ends_with_the_same_weights(run, tmp_path):
    examples, config = open_examples(run), run.read_config()
    settings = config.generalist.model_copy(update={"augment": NAMES})

    def train(checkpoint, stop_after):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        model.insert(0, Scale())
        change = build_change(run, settings, 3)
        batches = Batches(examples, shuffle_rows(torch.arange(300)), 32, 1, 3, torch.device("cpu"), change=change)

        def beat(progress):
            if progress.get("epoch") == stop_after and "valid_loss" in progress:
                raise KeyboardInterrupt

        validate = score_labels(examples, torch.arange(300, 400))
        train_model(
            model, batches, batch_label_loss, settings, epochs=4, validate=validate, checkpoint=checkpoint, beat=beat
        )
        return copy_weights(model)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "checkpoint", 2)
    resumed, whole = train(tmp_path / "checkpoint", None), train(tmp_path / "other", None)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
