"""States of a target on disk, so that an epoch does not run it again.

A shard a dialogue, in safetensors, named by what its rows depend on. What does not fit is left out:
every epoch reads all dialogues alike, so keeping the first ones is as good as any other choice.
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
from sparrow_kernels.training.data.dialogues import Dialogue

_SAMPLE = 32


class StateCache:
    """Rows of dialogues.

    Args:
        folder: made where it is not there.
        most_bytes: of all shards together, those of earlier runs included.
        about: what the rows depend on beside the dialogue.
        warn: told of damaged shards and of a full disk; training goes on without them.
        writers: processes that write there, each of which takes its part of what is left.
    """

    def __init__(
        self,
        folder: Path,
        most_bytes: float,
        about: str,
        warn: Callable[[str], None],
        writers: int = 1,
    ) -> None:
        self._folder, self._about, self._warn = folder, about, warn
        held = sum(path.stat().st_size for path in folder.glob("*/*.safetensors"))
        self._room = (most_bytes - held) / writers

    def get(self, dialogue: Dialogue) -> TextRows | None:
        """The rows of a dialogue, None where they are not kept."""
        path = self._path(dialogue)
        if not path.exists():
            return None
        try:
            with safe_open(path, "pt") as shard:
                names = set(shard.keys())
                parts: dict[str, Any] = {name: shard.get_tensor(name) for name in names}
                known = shard.metadata() or {}
            runs = tuple(tuple(each) for each in json.loads(known["clip_runs"]))
            return TextRows(**parts, clip_runs=runs)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            self._warn(f"{path} is damaged, and made again ({error})")
            self._room += path.stat().st_size
            path.unlink()
            return None

    def put(self, dialogue: Dialogue, rows: TextRows) -> None:
        """Keep the rows of a dialogue, where there is room."""
        parts = {
            name: part.contiguous()
            for name, part in rows._asdict().items()
            if isinstance(part, Tensor)
        }
        if sum(part.nbytes for part in parts.values()) > self._room:
            return
        path = self._path(dialogue)
        fresh = path.with_suffix(f".{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(parts, fresh, {"clip_runs": json.dumps(rows.clip_runs)})
            os.replace(fresh, path)
        except (OSError, SafetensorError) as error:
            self._room = 0.0
            self._warn(f"{path} cannot be written, and no more states are kept ({error})")
            return
        finally:
            fresh.unlink(missing_ok=True)
        self._room -= path.stat().st_size

    def _path(self, dialogue: Dialogue) -> Path:
        key = hashlib.sha256(f"{self._about}\n{dialogue.mark}".encode()).hexdigest()
        return self._folder / key[:2] / f"{key[2:34]}.safetensors"


def weights_mark(model: nn.Module) -> str:
    """Says which weights a model has, from a sample of each: another checkpoint has another."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        flat = parameter.detach().flatten()
        step = max(1, flat.numel() // _SAMPLE)
        sample = flat[::step][:_SAMPLE].float().cpu()
        digest.update(f"{name} {list(parameter.shape)} {parameter.dtype}".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()[:16]
