"""`python -m raydistill`: the command line."""

from raydistill.cli import main

raise SystemExit(main())
