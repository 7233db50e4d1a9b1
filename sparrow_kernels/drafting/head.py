"""From a draft's outputs to what it would emit: the target's LM head, a slice of it, or its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparrow_kernels.drafting.network import DraftNetwork
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

    Log-probabilities are over what the draft can say, and ids are mapped afterwards.

    Args:
        lm_head: the target's, or the draft's own.
        banned: `[K]` int64 ids never drafted: placeholders of clips and images, and the stop ids
            in force, so that a stop always arrives as the bonus token.
        vocabulary: `[V']` int64 the ids that may be drafted, ascending; None for all. A draft
            without rare ids costs less and changes nothing but how much is accepted. The head is
            sliced to them.
        own_ids: `[V']` int64 the target's id of each row of a head of the draft's own; such a head
            is not sliced.
        full_size: V, where `own_ids` are given.
        norm: what outputs go through before.

    Raises:
        ValueError: every id of the vocabulary is banned.
    """

    def __init__(
        self,
        lm_head: nn.Module,
        banned: Tensor,
        vocabulary: Tensor | None = None,
        *,
        own_ids: Tensor | None = None,
        full_size: int = 0,
        norm: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._lm_head, self._norm = lm_head, norm
        self._banned, self._full = banned, full_size
        self._ids: Tensor | None = own_ids
        self._slice: tuple[Tensor, Tensor | None] | None = None
        said = own_ids if own_ids is not None else vocabulary
        if said is None:
            return
        if bool(torch.isin(said, banned).all()):
            raise ValueError(
                f"draft vocabulary must hold an id that may be drafted, got {len(said)} ids,"
                " all of them stop ids or placeholders"
            )
        fill = 0
        if own_ids is None:
            # Products want rows by the 64; what fills up the last ones is banned like the others.
            fill = -len(said) % _ROWS
            self._ids = torch.cat([said, said[:1].expand(fill)])
            weight: Tensor = lm_head.weight  # type: ignore[assignment]
            bias: Tensor | None = getattr(lm_head, "bias", None)
            self._slice = weight[self._ids], None if bias is None else bias[self._ids]
            self._full = weight.shape[0]
        assert self._ids is not None
        places = torch.arange(len(self._ids), device=said.device)
        self._banned = places[torch.isin(self._ids, banned) | (places >= len(said))]

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
        if self._norm is not None:
            hidden = self._norm(hidden)
        scores = self._lm_head(hidden) if self._slice is None else F.linear(hidden, *self._slice)
        return scores.index_fill_(-1, self._banned, float("-inf"))


def draft_head(
    network: DraftNetwork,
    lm_head: nn.Module,
    banned: Tensor,
    vocabulary: Sequence[int] | None,
    full_size: int,
) -> DraftHead:
    """The head of `network`: its own where it has one, else the target's `lm_head`.

    Args:
        banned, vocabulary: see `DraftHead`; the vocabulary is that of the target's head.
        full_size: V of the target.
    """
    norm = network.headed if network.shape.final_norm else None
    if network.shape.head_size:
        own_ids = network.draft_ids
        return DraftHead(network.head, banned, own_ids=own_ids, full_size=full_size, norm=norm)
    ids = None if vocabulary is None else torch.tensor(vocabulary, device=banned.device)
    return DraftHead(lm_head, banned, ids, norm=norm)
