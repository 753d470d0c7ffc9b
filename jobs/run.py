"""`raydistill run` of this checkout, for a cluster on which raydistill is not installed, but what it needs is.

    ray job submit --working-dir . -- python jobs/run.py --config configs/glyphs.yaml

Where it is installed, jobs need no checkout: `ray job submit -- raydistill run …` (docs/cluster.md).
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the package of this checkout, if none is installed

from raydistill.commands.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["run", *sys.argv[1:]]))
