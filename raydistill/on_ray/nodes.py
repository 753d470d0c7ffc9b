"""What the nodes of a cluster have, as a program: `python -m raydistill.on_ray.nodes ADDRESS` prints it as JSON.

For `raydistill doctor`, which gives up on it when it takes too long.
"""

from __future__ import annotations

import json
import sys

from raydistill.errors import ConfigError
from raydistill.on_ray.resources import list_rooms
from raydistill.on_ray.session import start_ray


def main(address: str) -> int:
    """Join, print, leave. Returns an exit code: 2 where there is no Ray at the address, told in a line."""
    try:
        session = start_ray(address)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        print(json.dumps([dict(room) for room in list_rooms()]), flush=True)
    finally:
        session.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
