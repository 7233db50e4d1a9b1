"""What the loop needs of a target and of a draft. Any model that offers this can be decoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from sparrow_kernels.ops.types import Acceptance, TreeLayout


class Tree(NamedTuple):
    """A drafted tree, ready to verify. An idle request's nodes are all padding."""

    tokens: Tensor
    """`[B, T]` int64, node 0 the root: the last emitted token, whose KV is not cached yet."""
    layout: TreeLayout
    draft_probs: Tensor | None
    """`[B, T, V]` float32: row `node` is the distribution that node's children were drawn from.
    None where the children are the draft's best rather than draws."""
    log_probs: Tensor | None = None
    """`[B, T]` float32: what the draft gives the path to each node, 0 at the root. None unless it
    was asked for."""


class Verification(NamedTuple):
    """The target's answer to a tree."""

    states: Sequence[Tensor]
    """What the draft reads: of each layer it reads `[B, T, H]`; the top one is after the final
    norm."""
    logits: Tensor
    """`[B, T, V]`."""


class Committed(NamedTuple):
    """What a step decided, and what the next refresh needs."""

    acceptance: Acceptance
    path_hidden: Tensor
    """`[B, S, L*H]` the states that the draft reads along the accepted path, zeros behind it."""


class Target(Protocol):
    """The model whose output distribution is preserved, with its cache."""

    @property
    def keys(self) -> Sequence[Tensor]:
        """A `[B, Hkv, N, D]` cache a layer, or what `bind_caches` made of them."""

    @property
    def values(self) -> Sequence[Tensor]:
        """As `keys`."""

    prefix_lens: Tensor
    """`[B]` int32 committed slots; advanced in place by the commit. The one truth about lengths."""

    def verify(self, tokens: Tensor, layout: TreeLayout) -> Verification:
        """Run every node in one forward, each seeing the committed slots and its ancestors.

        Node i's position is the next text position + its depth; its KV goes to slot
        `prefix_lens + i`.

        Args:
            tokens: `[B, T]` int64.
            layout: of the same B trees of T nodes.
        """

    def enlarge(self, slots: int) -> bool:
        """Make room for `slots` cache slots a request; whether buffers have moved."""


class Draft(Protocol):
    """The cheap proposer, with its own text-only cache."""

    def refresh(self, acceptance: Acceptance, path_hidden: Tensor) -> Tensor:
        """Commit emitted tokens with their true states, `Committed`'s fields; the new root's
        output `[B, H]`."""

    def grow(
        self, tokens: Tensor, hidden: Tensor, depth: int, first_slot: int, ancestors: Tensor
    ) -> Tensor:
        """Run one level of grown nodes; their outputs `[B, width, H]`.

        Args:
            tokens: `[B, width]` int64 tokens of the level's nodes.
            hidden: `[B, width, H]` their parents' draft outputs.
            depth: the level's depth in the tree, root 0.
            first_slot: tree slot of the level's first node.
            ancestors: `[B, width, W]` int64 words over tree slots, own bit included.
        """

    def best(self, hidden: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """The best children of outputs `[..., H]`, best first: log-probabilities and ids
        `[..., width]`."""

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits `[..., V]` of draft outputs `[..., H]`; what must not be drafted is -inf."""

    def enlarge(self, new_tokens: int) -> bool:
        """Make room for `new_tokens` after each prompt; whether buffers have moved."""


class Choose(Protocol):
    """How the target's own tokens are taken from its logits."""

    scores: Tensor | None
    """What they were last taken from, after the logits processors, if that is kept."""

    def __call__(self, tree: Tree, logits: Tensor) -> Tensor:
        """`[B, T]` int64 the target's token after each node: its argmax or one exact sample.

        -1 at nodes that the walk cannot reach.
        """

    def probs(self, logits: Tensor) -> Tensor:
        """`[B, T, V]` float32 the distributions those samples have."""
