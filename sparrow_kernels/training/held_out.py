"""What a draft is worth on prompts that it is not trained on, measured as it is trained."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sparrow_kernels.decoding import TreeConfig
from sparrow_kernels.drafting import SparrowDraft
from sparrow_kernels.models.decoder import SparrowDecoder
from sparrow_kernels.models.families import Parts
from sparrow_kernels.models.sequence import SequenceReader, SequenceStates
from sparrow_kernels.training.data.dialogues import DataError, Dialogue
from sparrow_kernels.training.data.encoding import Encoder, stop_ids
from sparrow_kernels.training.data.rows import wanted_layers
from sparrow_kernels.training.replay import known_text, mean_of, replay


class HeldOutTexts:
    """The target's greedy answers to some prompts, written once and replayed for each draft.

    Args:
        on_wrong: called for a dialogue that cannot be used, which is left out; None raises.
    """

    def __init__(
        self,
        target: Any,
        draft: SparrowDraft,
        encoder: Encoder,
        dialogues: Sequence[Dialogue],
        max_new_tokens: int,
        on_wrong: Callable[[DataError], None] | None = None,
    ) -> None:
        parts, draft = Parts(target), blind(draft)
        self._embedding, self._lm_head = parts.embedding, parts.lm_head
        self._banned = [*stop_ids(target).tolist(), *parts.placeholder_ids]
        rules = draft.config.row_rules()
        reader = SequenceReader(target, wanted_layers(rules))
        decoder = SparrowDecoder(target, draft)
        self._texts = []
        for dialogue in dialogues:
            try:
                inputs = encoder.prompts([dialogue])
            except DataError as error:
                if on_wrong is None:
                    raise
                on_wrong(error)
                continue
            length = inputs["input_ids"].shape[1]
            states = answered(decoder, reader, inputs, max_new_tokens)
            if len(states.ids) > length + 1:  # a text of one token takes no call to write
                self._texts.append(known_text(states, length, rules))
        decoder.release_memory()

    def mean_emitted(self, draft: SparrowDraft) -> float | None:
        """Tokens a target call over all texts, with the draft's own tree; None for no text."""
        draft = blind(draft)
        tree = TreeConfig(**draft.config.tree)
        total = [0] * (tree.max_path + 1)
        for text in self._texts:
            found = replay(draft, self._embedding, self._lm_head, text, tree, self._banned)
            total = [a + b for a, b in zip(total, found, strict=True)]
        return mean_of(total) if self._texts else None


def blind(draft: SparrowDraft) -> SparrowDraft:
    """The same draft with the clip out of its sight, as it is saved; weights are shared."""
    copied = copy.copy(draft)
    copied.config = copy.deepcopy(draft.config)
    copied.config.sees_clip = "nothing"
    return copied


def answered(
    decoder: SparrowDecoder, reader: SequenceReader, inputs: dict[str, Any], max_new_tokens: int
) -> SequenceStates:
    """Prompt and greedy answer, run through the target in one pass."""
    device = decoder.target.device
    moved: dict[str, Any] = {
        k: v.to(device) if isinstance(v, Tensor) else v for k, v in inputs.items()
    }
    result = decoder.generate_plainly(**moved, max_new_tokens=max_new_tokens, do_sample=False)
    assert result.sequences is not None
    ids = result.sequences
    # A placeholder that a target writes stands for no clip: its text is taken up to there.
    new = ids[0, inputs["input_ids"].shape[1] :]
    odd = torch.isin(new, new.new_tensor(Parts(decoder.target).placeholder_ids)).nonzero()
    if len(odd):
        ids = ids[:, : int(odd[0]) - len(new)]
    (states,) = reader(lengthened(moved, ids))
    return states


def lengthened(inputs: dict[str, Any], sequence: Tensor) -> dict[str, Any]:
    """Processor outputs of a prompt, for the prompt and what was emitted behind it `[1, n]`."""
    ids = inputs["input_ids"]
    more = sequence.shape[1] - ids.shape[1]
    longer = dict(inputs)
    for name, value in inputs.items():
        if isinstance(value, Tensor) and value.shape == ids.shape:
            fill = 1 if name == "attention_mask" else 0  # what else there is says "text" with 0
            longer[name] = torch.nn.functional.pad(value, (0, more), value=fill)
    longer["input_ids"] = sequence
    return longer
