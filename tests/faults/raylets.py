"""A cluster of several raylets on this machine, in a process of its own: `python -m faults.raylets`.

It reads a command a line, JSON, and answers each with a line of JSON:
    {"add": {"num_cpus": 1, "num_gpus": 1}} -> {"node": id}     {"kill": id} -> {"killed": id}
The first node added is the head. The cluster ends with the process's standard input.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from ray.cluster_utils import Cluster

OBJECT_STORE = 80 * 2**20


def main() -> None:
    cluster, nodes = Cluster(), {}
    for line in sys.stdin:
        command: dict[str, Any] = json.loads(line)
        if "add" in command:
            node = cluster.add_node(object_store_memory=OBJECT_STORE, include_dashboard=False, **command["add"])
            nodes[node.node_id] = node
            answer = {"node": node.node_id, "address": cluster.address}
        else:
            cluster.remove_node(nodes.pop(command["kill"]), allow_graceful=False)
            answer = {"killed": command["kill"]}
        print(json.dumps(answer), flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
