"""States of a target on disk, so that an epoch does not run it again.

A shard a dialogue, in safetensors. What does not fit is left out: every epoch reads all dialogues
alike, so keeping the first ones is as good as any other choice.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sparrow_kernels.drafting.text_rows import TextRows

_FOLDER_SIZE = 1000
_SAMPLE = 32


class StateCache:
    """Rows of dialogues by their number.

    Args:
        folder: made where it is not there.
        most_bytes: of all shards together.
        about: what the rows depend on beside the dialogue: shards of another are not read.
        warn: told of damaged shards and of a full disk; training goes on without them.
    """

    def __init__(
        self, folder: Path, most_bytes: float, about: str, warn: Callable[[str], None]
    ) -> None:
        self._folder, self._most, self._about, self._warn = folder, most_bytes, about, warn
        self._bytes = sum(path.stat().st_size for path in folder.glob("*/*.safetensors"))

    def get(self, number: int, dialogue: str) -> TextRows | None:
        """The rows of a dialogue as it was written, None where they are not kept."""
        path = self._path(number)
        if not path.exists():
            return None
        try:
            with safe_open(path, "pt") as shard:
                known = shard.metadata() or {}
                if known.get("key") != self._key(dialogue):
                    return None
                parts: dict[str, Any] = {name: shard.get_tensor(name) for name in shard.keys()}  # noqa: SIM118
            runs = tuple(tuple(each) for each in json.loads(known["clip_runs"]))
            return TextRows(**parts, clip_runs=runs)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            self._warn(f"{path} is damaged, and made again ({error})")
            return None

    def put(self, number: int, dialogue: str, rows: TextRows) -> None:
        """Keep the rows of a dialogue, where there is room."""
        parts = {
            name: part.contiguous()
            for name, part in rows._asdict().items()
            if isinstance(part, Tensor)
        }
        size = sum(part.nbytes for part in parts.values())
        path = self._path(number)
        before = path.stat().st_size if path.exists() else 0
        if self._bytes + size - before > self._most:
            return
        known = {"key": self._key(dialogue), "clip_runs": json.dumps(rows.clip_runs)}
        fresh = path.with_suffix(f".{os.getpid()}.new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(parts, fresh, known)
            os.replace(fresh, path)
        except (OSError, SafetensorError) as error:
            fresh.unlink(missing_ok=True)
            self._most = 0.0
            self._warn(f"{path} cannot be written, and no more states are kept ({error})")
            return
        self._bytes += path.stat().st_size - before

    def _path(self, number: int) -> Path:
        return self._folder / f"{number // _FOLDER_SIZE:04d}" / f"{number:07d}.safetensors"

    def _key(self, dialogue: str) -> str:
        return hashlib.sha256(f"{self._about}\n{dialogue}".encode()).hexdigest()


def weights_mark(model: nn.Module) -> str:
    """Says which weights a model has, from a sample of each: another checkpoint has another."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        flat = parameter.detach().flatten()
        step = max(1, flat.numel() // _SAMPLE)
        sample = flat[::step][:_SAMPLE].float().cpu()
        digest.update(f"{name} {list(parameter.shape)} {parameter.dtype}".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()
