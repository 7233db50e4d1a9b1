"""Turning the target's logits into its own tokens, under the logits processors in force."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable
from typing import Any, NoReturn, cast

import torch
from torch import Tensor
from transformers import LogitsProcessorList
from transformers.generation import logits_process

from sparrow_kernels.decoding import Coins, Tree
from sparrow_kernels.decoding.step import alone
from sparrow_kernels.models.emission import NoToken, Sequence
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


def reads_history(processors: LogitsProcessorList) -> bool:
    """Whether one of them looks at the ids before a token."""
    return not all(type(one) in _IGNORES_HISTORY for one in processors)


class TokenChooser:
    """Chooses the target's token after a slot, greedily or by one exact sample.

    Implements `sparrow_kernels.decoding.Choose`.

    Args:
        processors: those in force.
        sequences: each request's ids, for processors that read them.
        coins: what samples; None to take the best.
        max_path: S, the most nodes a walk takes.
        agree: see `Step`.
    """

    def __init__(
        self,
        processors: LogitsProcessorList,
        sequences: list[Sequence],
        coins: Coins | None,
        max_path: int = 1,
        agree: Callable[..., None] = alone,
    ) -> None:
        self._processors = processors
        self._coins, self._max_path, self._agree = coins, max_path, agree
        self.scores: Tensor | None = None
        """`[B, T, V]` what tokens were last chosen from, at the nodes that were reached; of a walk
        None, unless it `keeps_scores`."""
        self.keeps_scores = False
        self._refused: Tensor | None = None
        self.reads_history = reads_history(processors)
        self._of_request = [_for_request(processors, number) for number in range(len(sequences))]
        self.begin(sequences)

    def begin(self, sequences: list[Sequence]) -> None:
        """Serve a call."""
        self._sequences = sequences

    @property
    def settings(self) -> Hashable:
        """What its choices depend on beside logits and coins; None where nothing can say."""
        if self.reads_history:
            return None
        kinds = tuple((type(one), _scalars(one)) for one in self._processors)
        if any(scalars is None for _, scalars in kinds):
            return None
        return (kinds, self._coins is not None)

    def after_prompt(self, logits: Tensor) -> Tensor:
        """The token `[B]` after each prompt, from `[B, V]` logits."""
        if self._coins is not None:
            self._coins.toss()
        if self.reads_history:
            rows = [
                self._process(number, one.ids, logits[number][None])
                for number, one in enumerate(self._sequences)
            ]
            self.scores = torch.cat(rows)[:, None]
        else:
            self.scores = self._process_all(logits[:, None])
        return self._choose(self.scores)[:, 0]

    def probs(self, logits: Tensor) -> Tensor:
        """Processed distributions `[B, T, V]` float32 of all nodes; not where history is read."""
        self.scores = self._process_all(logits).float()
        return torch.softmax(self.scores, dim=-1)

    def __call__(self, tree: Tree, logits: Tensor) -> Tensor:
        if self.reads_history:
            return self._walk(tree, logits)
        self.scores = self._process_all(logits)
        return self._choose(self.scores)

    def _process_all(self, logits: Tensor) -> Tensor:
        """`[B, T, V]` scores of all nodes, by processors that ignore the ids."""
        if not self._processors:
            return logits
        flat = logits.flatten(0, 1).to(torch.float32, copy=True)
        ids: Any = torch.zeros((len(flat), 1), dtype=torch.int64, device=flat.device)
        return self._processors(ids, cast(Any, flat)).view(*logits.shape[:2], -1)

    def _process(self, request: int, ids: Tensor, logits: Tensor) -> Tensor:
        """`[1, V]` scores, processed in float32 as transformers does it."""
        scores: Any = logits.to(torch.float32, copy=True)  # transformers asks for FloatTensor
        return self._of_request[request](cast(Any, ids), scores)

    def _choose(self, scores: Tensor) -> Tensor:
        """`[B, n]` tokens from `[B, n, V]`."""
        if self._coins is None:
            tokens = scores.argmax(dim=-1)
        else:
            probs = torch.softmax(scores.float(), dim=-1)
            coins = self._coins.uniform[:, : probs.shape[1]].contiguous()
            tokens = sample_tokens(probs, coins)
        self._agree(tokens)
        return tokens

    def _walk(self, tree: Tree, logits: Tensor) -> Tensor:
        """Call the processors node by node along the path being accepted, with the ids up to it.

        These are exactly the calls plain decoding makes, request by request. Reads the tree on the
        host: the one exception to decoding without a sync.
        """
        tokens, first_child, next_sibling = (
            field.tolist()
            for field in (tree.tokens, tree.layout.first_child, tree.layout.next_sibling)
        )
        chosen = torch.full_like(tree.tokens, -1)
        scores = torch.zeros_like(logits, dtype=torch.float32) if self.keeps_scores else None
        coins = None if self._coins is None else self._coins.uniform
        for request, sequence in enumerate(self._sequences):
            if sequence.finished:
                continue
            ids, node = sequence.ids, 0
            for _ in range(self._max_path):
                row = self._process(request, ids, logits[request, node][None])
                if scores is not None:
                    scores[request, node] = row[0]
                if coins is None:
                    token = row.argmax(dim=-1)
                else:
                    coin = coins[request, node][None]
                    token = sample_tokens(torch.softmax(row.float(), dim=-1), coin)
                self._agree(token)
                chosen[request, node] = token[0]
                token_id = int(token)
                if token_id < 0:
                    self._refused = row
                    break
                ids = torch.cat([ids, token[:, None]], dim=1)
                if sequence.stops_at(ids, token_id):
                    break
                child = first_child[request][node]
                while child >= 0 and tokens[request][child] != token_id:
                    child = next_sibling[request][child]
                if child < 0:
                    break
                node = child
        self.scores = scores
        return chosen

    def explain(self, error: NoToken) -> NoReturn:
        """Raise `ValueError` with the reason why no token could be drawn."""
        cause = "its distribution has no mass"
        scores = self._refused
        if scores is None and self.scores is not None:
            scores = self.scores[error.request]
        if scores is not None:
            if bool(scores.isnan().any()):
                cause = "its scores hold NaN"
            elif bool((scores == float("inf")).any()):
                cause = "its scores are infinite: the temperature is too low for them"
            elif bool((scores == float("-inf")).all(dim=-1).any()):
                cause = "every token is banned"
        raise ValueError(
            f"sampling: row {error.request} must have a token to draw after {error.length} tokens,"
            f" got none: {cause} (look at the target's logits, temperature and logits processors)"
        ) from None


def _for_request(processors: LogitsProcessorList, request: int) -> LogitsProcessorList:
    """`processors` for one request alone: some know its number in the batch, or its padding."""
    return LogitsProcessorList(_alone(one, request) for one in processors)


def _alone(processor: Any, request: int) -> Any:
    kind = logits_process.PrefixConstrainedLogitsProcessor
    if type(processor) is kind and request > 0:
        allowed = processor._prefix_allowed_tokens_fn
        return kind(lambda _, ids: allowed(request, ids), 1)
    padding = getattr(processor, "prompt_ignore_length", None)
    if isinstance(padding, Tensor) and len(padding) > 1:
        processor = copy.copy(processor)
        processor.prompt_ignore_length = padding[request : request + 1]
    return processor


def _scalars(processor: Any) -> Hashable:
    """A processor's fields, None where one of them cannot be compared."""
    fields = sorted(vars(processor).items())
    if all(isinstance(value, (bool, int, float, str, type(None))) for _, value in fields):
        return tuple(fields)
    return None
