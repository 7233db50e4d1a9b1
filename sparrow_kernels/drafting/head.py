"""From a draft's outputs to what it would emit: the target's LM head, or a slice of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparrow_kernels.ops.tree import topk_logprobs

_ROWS = 64


def frequent_ids(corpus: Iterable[Sequence[int]], size: int) -> list[int]:
    """The `size` ids that occur most often in texts of ids, ascending: a vocabulary for a draft.

    Raises:
        ValueError: `size` is below 1, or the corpus is empty.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    counts = Counter(chain.from_iterable(corpus))
    if not counts:
        raise ValueError("corpus must hold an id, got none")
    return sorted(token for token, _ in counts.most_common(size))


class DraftHead:
    """The LM head as a draft uses it.

    Args:
        lm_head: the target's.
        banned: `[K]` int64 ids never drafted: placeholders of clips and images, and the stop ids
            in force, so that a stop always arrives as the bonus token.
        vocabulary: `[V']` int64 the ids that may be drafted, ascending; None for all. A draft
            without rare ids costs less and changes nothing but how much is accepted.

    Raises:
        ValueError: every id of the vocabulary is banned.
    """

    def __init__(
        self, lm_head: nn.Module, banned: Tensor, vocabulary: Tensor | None = None
    ) -> None:
        self._lm_head = lm_head
        self._banned = banned
        self._ids: Tensor | None = None
        if vocabulary is None:
            return
        if bool(torch.isin(vocabulary, banned).all()):
            raise ValueError(
                f"draft vocabulary must hold an id that may be drafted, got {len(vocabulary)} ids,"
                " all of them stop ids or placeholders"
            )
        weight: Tensor = lm_head.weight  # type: ignore[assignment]
        bias: Tensor | None = getattr(lm_head, "bias", None)
        # Products want rows by the 64; what fills up the last ones is banned like the others.
        fill = -len(vocabulary) % _ROWS
        self._ids = torch.cat([vocabulary, vocabulary[:1].expand(fill)])
        places = torch.arange(len(self._ids), device=vocabulary.device)
        is_banned = torch.isin(self._ids, banned) | (places >= len(vocabulary))
        self._banned = places[is_banned]
        self._weight = weight[self._ids]
        self._bias = None if bias is None else bias[self._ids]
        self._full = weight.shape[0]

    def best(self, hidden: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """The best children of outputs `[..., H]`: log-probabilities and ids `[..., width]`."""
        values, ids = topk_logprobs(self._scores(hidden).flatten(0, -2), width)
        if self._ids is not None:
            ids = self._ids[ids]
        shape = (*hidden.shape[:-1], width)
        return values.view(shape), ids.view(shape)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of outputs `[..., H]` -> `[..., V]`; what must not be drafted is -inf."""
        scores = self._scores(hidden)
        if self._ids is None:
            return scores
        # -inf where rows fill up: of one id the largest is what counts.
        full = scores.new_full((*scores.shape[:-1], self._full), float("-inf"))
        return full.scatter_reduce_(-1, self._ids.expand(scores.shape), scores, "amax")

    def _scores(self, hidden: Tensor) -> Tensor:
        if self._ids is None:
            scores = self._lm_head(hidden)
        else:
            scores = F.linear(hidden, self._weight, self._bias)
        return scores.index_fill_(-1, self._banned, float("-inf"))
