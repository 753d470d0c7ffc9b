"""Views: seeded, all different for a row, the same for whoever asks."""

import pytest
import torch
from builders import make_examples

from raydistill.data import views as views_module
from raydistill.data.arrays import Examples, shift_images
from raydistill.data.views import Views, count_views
from raydistill.errors import ConfigError
from raydistill.training.batches import Batches, shuffle_rows

IMAGES = torch.randint(1, 255, (30, 6, 5), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
ROWS = torch.tensor([7, 3, 29])


def test_first_view_is_the_image():
    views = Views(30, 2, 4, seed=1)
    assert torch.equal(views.show(IMAGES[ROWS], ROWS, 0), IMAGES[ROWS])


def test_all_views_of_a_row_are_all_its_shifts():
    views = Views(30, 1, 9, seed=1)
    every = torch.tensor([(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)])
    expected = {shift_images(IMAGES[4:5], shift[None]).numpy().tobytes() for shift in every}
    shown = {views.show(IMAGES[4:5], torch.tensor([4]), view).numpy().tobytes() for view in range(9)}
    assert shown == expected
    assert len(shown) == 9


def test_a_view_depends_on_seed_and_row_alone():
    views, again = Views(30, 2, 4, seed=1), Views(30, 2, 4, seed=1)
    for view in range(4):
        together = views.show(IMAGES, torch.arange(30), view)
        assert torch.equal(again.show(IMAGES[ROWS], ROWS, view), together[ROWS])
    other = Views(30, 2, 4, seed=2)
    assert not torch.equal(other.show(IMAGES, torch.arange(30), 1), views.show(IMAGES, torch.arange(30), 1))


def test_shifts_are_drawn_in_blocks_as_at_once(monkeypatch):
    at_once = Views(30, 2, 6, seed=3)._shifts
    monkeypatch.setattr(views_module, "BLOCK_ROWS", 7)
    assert torch.equal(Views(30, 2, 6, seed=3)._shifts, at_once)


def test_an_epoch_shows_one_view_and_epochs_take_turns():
    views = Views(30, 1, 3, seed=5)
    examples = Examples(IMAGES, torch.zeros(30, dtype=torch.int64), ("a",))
    batches = Batches(examples, shuffle_rows(torch.arange(30)), 10, 0, 7, torch.device("cpu"), views)
    for epoch, view in enumerate((0, 1, 2, 0)):
        for batch in batches.iterate(epoch):
            assert batch.view == view
            assert torch.equal(batch.inputs, views.show(IMAGES[batch.rows], batch.rows, view))


def test_without_views_the_first_one_is_meant():
    batches = Batches(make_examples(), shuffle_rows(torch.arange(64)), 32, 0, 7, torch.device("cpu"))
    assert [batch.view for batch in batches.iterate(3)] == [0, 0]


@pytest.mark.parametrize(
    ("asked", "pixels", "shape", "count"),
    [(None, 0, (8, 8), 1), (None, 1, (8, 8), 8), (None, 2, (8, 8), 8), (25, 2, (8, 8), 25), (None, 2, (64,), 1)],
)
def test_number_of_views(asked, pixels, shape, count):
    assert count_views(asked, pixels, shape) == count


@pytest.mark.parametrize(("asked", "pixels", "shape"), [(10, 1, (8, 8)), (2, 0, (8, 8)), (2, 3, (64,))])
def test_more_views_than_there_are(asked, pixels, shape):
    with pytest.raises(ConfigError, match=rf"targets.views: {asked} is not allowed; give 1 to [19],"):
        count_views(asked, pixels, shape)
