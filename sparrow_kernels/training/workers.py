"""The processes of a run: one, or as many as `torchrun` has started.

Each has the whole draft and a share of every batch; gradients are added up. So a run of several
processes takes the steps of one, to rounding.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass
class Workers:
    """This process among those of a run."""

    number: int = 0
    count: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def is_first(self) -> bool:
        """Whether it is the one that writes."""
        return self.number == 0

    @property
    def share(self) -> tuple[int, int]:
        """This process, of how many."""
        return self.number, self.count

    def add_up(self, values: Tensor) -> None:
        """Replace `values` by their sum over all processes."""
        if self.count == 1:
            return
        moved = values.to(self.device)  # NCCL knows tensors of GPUs only
        dist.all_reduce(moved)
        if moved is not values:
            values.copy_(moved)

    def any(self, happened: bool) -> bool:
        """Whether it has happened in any process."""
        seen = torch.tensor([float(happened)])
        self.add_up(seen)
        return bool(seen)

    def leave(self) -> None:
        """Let go of the others."""
        if self.count > 1:
            dist.destroy_process_group()


def join_workers(device: torch.device) -> Workers:
    """The processes that `torchrun` has started, or this one alone.

    Args:
        device: where to train; of several GPUs each process takes its own.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Workers(device=device)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    # The first process measures held-out prompts while the others wait for it.
    patience = timedelta(hours=2)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=patience)
    return Workers(dist.get_rank(), count, device)
