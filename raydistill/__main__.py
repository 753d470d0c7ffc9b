"""`python -m raydistill`: the command line."""

from raydistill.commands.cli import main

raise SystemExit(main())
