"""A source that has to be decoded, within the data stage: the machinery of `raydistill ingest`, in the run's folder.

Comes in: settings that name such a source. Goes out: a `Source` whose x is the file that was decoded. An interrupted
stage finds its finished blocks in the run's ingest folder; the splits stage removes it.
"""

from __future__ import annotations

from raydistill.data.examples import Source, check_examples
from raydistill.data.images import FormWish, ImageForm
from raydistill.data.ingest_errors import Word, Words
from raydistill.data.ingestion import Ingestion, RunBlocks, run_here
from raydistill.data.sources import open_source_arrays
from raydistill.data.wanted import Wanted
from raydistill.settings.config import Config
from raydistill.stages.context import Context
from raydistill.storage.job import is_uri

WORDS: Words = {
    "source": Word("data:"),
    "output": Word("run_dir:"),
    "x_column": Word("data: x", "?x=NAME behind the source"),
    "label_column": Word("data: y", "?y=NAME behind the source"),
    "splits.column": Word("splits.column:"),
    "splits.keep_apart": Word("splits.keep_apart:"),
    "max_corrupt": Word("images.max_corrupt:", "--images.max_corrupt"),
    "size": Word("images.size:", "--images.size"),
}
"""What the settings of an ingest are called in a run."""


def load_ingested(context: Context) -> Source:
    """Decode what the settings name, or go on with it. Raises DataError."""
    config, output = context.config, context.run.ingest_folder
    limit, run_blocks = config.images.max_corrupt, choose_blocks(context)
    result = Ingestion(make_wanted(config), output, limit, run_blocks, context.display, WORDS, replace=True).run()
    source = open_source_arrays(output, config, whole=False)
    check_examples(source)
    for line in describe(config, source, result.record["corrupt"]):
        context.display.note(line)
    return source


def make_wanted(config: Config) -> Wanted:
    """What the data stage decodes."""
    images, splits = config.images, config.splits
    form = FormWish(images.size, images.channels, images.resize)
    return Wanted(config.data, form, split_column=splits.column, keep_apart=splits.keep_apart)


def choose_blocks(context: Context) -> RunBlocks:
    """Where blocks are done: by the executor, but on this node alone where nodes share no run folder but a store."""
    if is_uri(context.run.location):
        return run_here
    return lambda work, blocks, on_mark: context.executor.run_blocks(work, blocks, on_mark)


def describe(config: Config, source: Source, corrupt: int) -> list[str]:
    """What the user should know of what was decoded."""
    lines = []
    if source.form is not None:
        chosen = [f"--images.{name}" for name in ("size", "channels") if getattr(config.images, name) is None]
        why = f" ({' and '.join(chosen)} choose otherwise)" if chosen else ""
        lines.append(f"images become {describe_form(source.form)}{why}")
    if corrupt:
        first = source.corrupt[0]["name"]
        lines.append(f"corrupt records left out: {corrupt:,}, such as {first}; see 01_data/corrupt.json")
    return lines


def describe_form(form: ImageForm) -> str:
    """Such as '32x32 grey'."""
    return f"{form.size}x{form.size} {'grey' if form.channels == 1 else 'RGB'}"
