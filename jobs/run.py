"""What `ray job submit` starts: raydistill run, with the run folder outside the job's own temporary copy.

    ray job submit --working-dir . -- python jobs/run.py --config configs/glyphs.yaml

Relative run folders (run_dir, --start-from) are taken from RAYDISTILL_HOME, or from ~/raydistill: the working directory
of a job is a copy that goes with the job, and a run must be found again by the next one. On several machines give a
shared folder.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the package of this checkout, if none is installed

from raydistill.cli import end_well, finish_run, read_settings
from raydistill.storage import is_uri


def find_home() -> Path:
    """Where relative run folders of jobs live."""
    return Path(os.environ.get("RAYDISTILL_HOME", "~/raydistill")).expanduser()


def settle(folder: str) -> str:
    """A run folder that outlives the job; one in an object store does."""
    return folder if is_uri(folder) else str(find_home() / Path(folder).expanduser())


def main(argv: list[str]) -> int:
    """Run, and return the exit code, as raydistill run does."""

    def run() -> int:
        config, given = read_settings("run", argv)
        config = config.model_copy(update={"run_dir": settle(config.run_dir)})
        given.start_from = given.start_from and settle(given.start_from)
        print(f"run folder: {config.run_dir}", flush=True)
        return finish_run(config, given)

    return end_well(run)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
