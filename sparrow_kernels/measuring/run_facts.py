"""What numbers were measured with."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch

from sparrow_kernels.models.decoder import SparrowDecoder


def run_facts(decoder: SparrowDecoder, question: str) -> dict[str, Any]:
    """Named as the columns of a result file."""
    device = decoder.target.device
    if device.type == "cuda":
        named = torch.cuda.get_device_name(device)
    else:
        threads = torch.get_num_threads()
        named = f"{device.type}, {threads} thread{'s' if threads > 1 else ''}"
    return {
        "question": question,
        "tree": str(decoder.tree),
        "dtype": str(decoder.target.dtype).removeprefix("torch."),
        "device": named,
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
