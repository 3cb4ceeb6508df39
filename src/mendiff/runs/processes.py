"""Distributed training: check of the number of processes, and the rank of this process.

Lightning starts further processes of a machine by running the same command again; torchrun and SLURM start
all processes. Only rank 0 reports and writes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch

from mendiff.errors import InputError, check_choice, check_range
from mendiff.types import Processes

STRATEGIES = ("auto", "ddp", "fsdp")


def check_processes(processes: Processes) -> None:
    """Raise InputError for processes that this machine can't start."""
    device, devices, strategy = processes.device, processes.devices, processes.strategy
    check_choice("--strategy", strategy, STRATEGIES)
    check_range("--nodes", processes.nodes, 1)
    kind, _, index = device.partition(":")
    there = {"cuda": torch.cuda.device_count(), "cpu": os.cpu_count() or 1}.get(kind, 1)
    if not 1 <= devices <= there:
        listed = f"1 to {there}" if there > 1 else "1"
        of = "cores of the processor" if kind == "cpu" else f"devices of kind {kind}"
        raise InputError(f"--devices: expected {listed} ({of} here: {there}), got {devices}.")
    if index and processes.count > 1:
        raise InputError(f"--device: expected cuda without a number for several processes, got {device!r}.")
    if strategy == "fsdp" and kind not in ("cuda", "cpu"):
        raise InputError(f"--strategy fsdp: expected --device cuda or cpu, got {kind}; choose ddp.")


def rank_of(processes: Processes, environment: Mapping[str, str] = os.environ) -> int:
    """Rank of this process, from the variables of torchrun, Lightning or SLURM.

    Args:
        processes: all processes.
        environment: variables of this process.
    """
    if processes.count == 1:
        return 0
    if "RANK" in environment:
        return int(environment["RANK"])
    if "LOCAL_RANK" in environment or "NODE_RANK" in environment:
        node, place = (int(environment.get(name, 0)) for name in ("NODE_RANK", "LOCAL_RANK"))
        return node * processes.devices + place
    return int(environment.get("SLURM_PROCID", 0))


def describe_processes(processes: Processes) -> str:
    """Text for messages: "cpu", or "2 processes on cpu"."""
    return processes.device if processes.count == 1 else f"{processes.count} processes on {processes.device}"
