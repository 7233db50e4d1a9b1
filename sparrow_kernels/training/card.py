"""The model card beside a trained draft: what it is for, how it was made, how to use it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sparrow_kernels._version import __version__
from sparrow_kernels.decoding import TreeConfig
from sparrow_kernels.drafting import SparrowDraft
from sparrow_kernels.training.checkpoint import whole
from sparrow_kernels.training.run import Progress

_CARD = """\
---
library_name: sparrow_kernels
base_model: {name}
tags: [speculative-decoding, draft]
---

# A draft for {name}

A {mode} draft of {parameters:.1f} million parameters for speculative decoding of `{name}`
({family}, {layers} layers, hidden size {hidden}, {vocabulary} ids), trained with sparrow_kernels
{version}. It shares the target's embedding{head}, which are not in this folder. The text stays the
target's own: a draft changes the time it takes.

```python
from sparrow_kernels import SparrowDecoder, load_draft

decoder = SparrowDecoder(target, load_draft("{folder}", target))
result = decoder.generate(**inputs, max_new_tokens=256)
```

## Training

{steps} steps in {minutes:.0f} minutes. Loss at the end {loss:.3f}; {measured}.
`training.csv` has the course of both{picture}.

```json
{facts}
```
"""


def write_card(
    folder: Path,
    target: Any,
    draft: SparrowDraft,
    progress: Progress,
    facts: dict[str, Any],
) -> None:
    """Write `README.md`."""
    config = draft.config
    held_out = [
        entry["mean_emitted_held_out"]
        for entry in progress.history
        if entry["mean_emitted_held_out"] is not None
    ]
    measured = "nothing was held out to measure it on"
    if held_out:
        tree = TreeConfig(**config.tree)
        measured = f"{held_out[-1]:.2f} tokens a target call on held-out prompts, tree {tree}"
    picture = ", `training.png` shows it" if (folder / "training.png").exists() else ""
    text = _CARD.format(
        name=Path(getattr(target, "name_or_path", "") or config.target_model_type).name,
        mode=facts["mode"],
        parameters=sum(p.numel() for p in draft.parameters()) / 1e6,
        family=config.target_model_type,
        layers=config.target_layers,
        hidden=config.hidden_size,
        vocabulary=config.vocab_size,
        version=__version__,
        head="" if config.draft_vocab_size else " and LM head",
        folder=folder.name,
        steps=progress.step,
        minutes=progress.minutes,
        loss=progress.loss,
        measured=measured,
        picture=picture,
        facts=json.dumps(facts, indent=2),
    )
    with whole(folder / "README.md") as fresh:
        fresh.write_text(text, encoding="utf-8")
