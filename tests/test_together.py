"""A specialist by two data-parallel workers, without Ray: the specialist that one process trains."""

import multiprocessing
import os
import shutil

import pytest
import torch
import torch.distributed as dist
from builders import quick_config, run_quick

from raydistill.stages.networks import is_trained, read_training
from raydistill.stages.specialists import train_specialist
from raydistill.storage.files import read_tensors


def train_share(rank, world, store, run_dir, results):
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # asking for the machine's own address may take 10 s
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, world), rank=rank, world_size=world)
    try:
        results.put((rank, train_specialist({"run_dir": run_dir, "index": 1}, lambda progress: None)))
        dist.barrier()
    finally:
        dist.destroy_process_group()


def test_two_workers_train_the_same_specialist(tmp_path):
    run = run_quick(quick_config(tmp_path / "run", specialists={"epochs": 3}), until="specialists")
    folder = run.specialist_folder(1)
    expected, record = read_tensors(folder / "weights.safetensors")[0], read_training(folder)
    shutil.rmtree(folder)
    spawn = multiprocessing.get_context("spawn")
    results = spawn.SimpleQueue()
    arguments = (2, str(tmp_path / "store"), str(run.path), results)
    workers = [spawn.Process(target=train_share, args=(rank, *arguments), daemon=True) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    told = dict(results.get() for _ in workers)
    results.close()
    assert told[0] == told[1] == {"epochs": len(record["history"]), "best_epoch": record["best_epoch"]}
    assert is_trained(folder)
    torch.testing.assert_close(read_tensors(folder / "weights.safetensors")[0], expected, rtol=1e-3, atol=1e-4)
    histories = [record["history"], read_training(folder)["history"]]
    losses = [[epoch["valid_loss"] for epoch in history] for history in histories]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
