"""Turning the target's logits into its own tokens, under the logits processors in force."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from transformers import LogitsProcessorList
from transformers.generation import logits_process

from sparrow_kernels.decoding import Tree
from sparrow_kernels.models.sequence import EmittedSequence
from sparrow_kernels.ops.accept import sample_tokens

# Their scores follow from the logits alone, so all nodes of a tree can be processed at once. Any
# processor not listed is assumed to read the ids before it.
_IGNORES_HISTORY = tuple(
    getattr(logits_process, name)
    for name in (
        "TemperatureLogitsWarper",
        "TopKLogitsWarper",
        "TopPLogitsWarper",
        "MinPLogitsWarper",
        "TypicalLogitsWarper",
        "EpsilonLogitsWarper",
        "EtaLogitsWarper",
        "SuppressTokensLogitsProcessor",
        "InfNanRemoveLogitsProcessor",
        "LogitNormalization",
    )
    if hasattr(logits_process, name)
)


class TokenChooser:
    """Chooses the target's token after a slot, greedily or by one exact sample.

    Called with a tree it is a `sparrow_kernels.decoding.loop.Choose`.
    """

    def __init__(
        self,
        processors: LogitsProcessorList,
        do_sample: bool,
        sequence: EmittedSequence,
        max_path: int = 1,
    ) -> None:
        self._processors = processors
        self._do_sample = do_sample
        self._sequence = sequence
        self._max_path = max_path
        self.reads_history = not all(type(one) in _IGNORES_HISTORY for one in processors)

    def after_sequence(self, logits: Tensor) -> Tensor:
        """The token `[1]` after the sequence so far, from `[1, V]` logits."""
        return self._choose(self._process(self._sequence.ids, logits))

    def probs(self, logits: Tensor) -> Tensor:
        """Processed distributions `[1, T, V]` float32 of all nodes; not where history is read."""
        flat = logits[0]
        return torch.softmax(self._process(flat[:, :1], flat), dim=-1)[None]

    def __call__(self, tree: Tree, logits: Tensor) -> Tensor:
        if self.reads_history:
            return self._walk(tree, logits)
        flat = logits[0]
        return self._choose(self._process(flat[:, :1], flat))[None]

    def _process(self, ids: Tensor, logits: Tensor) -> Tensor:
        """`[rows, V]` scores, processed in float32 as transformers does it.

        Where no processor reads history `ids` only has to have the right number of rows.
        """
        if not self._processors:
            return logits
        scores: Any = logits.to(torch.float32, copy=True)  # transformers asks for FloatTensor
        return self._processors(cast(Any, ids), scores)

    def _choose(self, scores: Tensor) -> Tensor:
        if not self._do_sample:
            return scores.argmax(dim=-1)
        probs = torch.softmax(scores.float(), dim=-1)
        return sample_tokens(probs, torch.rand(probs.shape[:-1], device=probs.device))

    def _walk(self, tree: Tree, logits: Tensor) -> Tensor:
        """Call the processors node by node along the path being accepted, with the ids up to it.

        These are exactly the calls plain decoding makes. Reads the tree on the host: the one
        exception to decoding without a sync.
        """
        tokens = tree.tokens[0].tolist()
        first_child = tree.layout.first_child[0].tolist()
        next_sibling = tree.layout.next_sibling[0].tolist()
        chosen = torch.full_like(tree.tokens, -1)
        ids, node = self._sequence.ids, 0
        for _ in range(self._max_path):
            token = self._choose(self._process(ids, logits[:, node]))
            chosen[:, node] = token
            ids = torch.cat([ids, token[:, None]], dim=1)
            token_id = int(token)
            if self._sequence.stops_at(ids, token_id):
                break
            child = first_child[node]
            while child >= 0 and tokens[child] != token_id:
                child = next_sibling[child]
            if child < 0:
                break
            node = child
        return chosen
