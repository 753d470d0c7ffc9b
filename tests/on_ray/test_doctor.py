"""Doctor and --dry-run on a cluster that is there."""

import ray
from builders import quick_config

from raydistill.commands.dry_run import forecast_run
from raydistill.display import Silent
from raydistill.doctor.cluster import Question


def test_the_nodes_of_a_cluster(ray_session):
    address = ray.get_runtime_context().gcs_address
    finding = Question(address).answer(60)
    assert finding.status == "ok", finding
    assert finding.text.startswith(f"{address}: 1 node, 2 CPUs, 0 GPUs")


def test_needs_are_held_against_its_nodes(ray_session, tmp_path):
    """Nobody tells whether it grows, so that needs it does not hold are told, and do not end the command."""
    config = quick_config(tmp_path / "run", cluster={"backend": "ray"})
    assert forecast_run(config, display=Silent()).facts["cluster"] == "reached, and holds what jobs need"
    config = quick_config(tmp_path / "run", cluster={"backend": "ray", "needs": {"cpus": 64}})
    told = forecast_run(config, display=Silent()).facts["cluster"]
    assert "cluster.needs.cpus: 64 is more than any node has" in told
    assert list(tmp_path.iterdir()) == []
