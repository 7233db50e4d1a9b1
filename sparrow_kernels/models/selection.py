"""Turning the target's logits into its own tokens, under the logits processors in force."""

from __future__ import annotations

from typing import Any, NoReturn, cast

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
        generator: torch.Generator | None = None,
    ) -> None:
        self._processors = processors
        self._do_sample = do_sample
        self._sequence = sequence
        self._max_path = max_path
        self._generator = generator
        self._sampled: Tensor | None = None  # the scores last drawn from, for a refusal to explain
        self.reads_history = not all(type(one) in _IGNORES_HISTORY for one in processors)

    def after_sequence(self, logits: Tensor) -> Tensor:
        """The token `[1]` after the sequence so far, from `[1, V]` logits."""
        return self._choose(self._process(self._sequence.ids, logits))

    def probs(self, logits: Tensor) -> Tensor:
        """Processed distributions `[1, T, V]` float32 of all nodes; not where history is read."""
        flat = logits[0]
        self._sampled = self._process(flat[:, :1], flat).float()
        return torch.softmax(self._sampled, dim=-1)[None]

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
        self._sampled = scores.float()
        probs = torch.softmax(self._sampled, dim=-1)
        uniform = torch.rand(
            probs.shape[:-1], dtype=torch.float32, device=probs.device, generator=self._generator
        )
        return sample_tokens(probs, uniform)

    def explain_no_token(self) -> NoReturn:
        """Raise `ValueError` with the reason why no token could be drawn."""
        cause = "its distribution has no mass"
        if self._sampled is not None:
            banned = (self._sampled == float("-inf")).all(dim=-1)
            if bool(self._sampled.isnan().any()):
                cause = "its scores hold NaN"
            elif bool((self._sampled == float("inf")).any()):
                cause = "its scores are infinite: the temperature is too low for them"
            elif bool(banned.any()):
                cause = "every token is banned"
        raise ValueError(
            f"sampling: row 0 must have a token to draw after {self._sequence.length} tokens, got"
            f" none: {cause} (look at the target's logits, temperature and logits processors)"
        )

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
