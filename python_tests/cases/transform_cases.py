"""Every op as a function of one tensor: with a derivative, refusing one, or without floats."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import sparrow_kernels as sk

Function = Callable[[Tensor], Tensor]
_GENERATOR = torch.Generator().manual_seed(5)


def int32(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


LAYOUT = sk.build_tree(torch.tensor([[-1, 0, 0, 1, 1]], dtype=torch.int32))
TOKENS, TARGETS = torch.tensor([[1, 2, 3, 4, 5]]), torch.tensor([[2, 4, 0, 0, 1]])
ACCEPTED = sk.accept_tree(TOKENS, LAYOUT, TARGETS, 3)
ANCHORS = torch.tensor([[1, 1, 0, 0, 0, 0, 0, 1, 0]], dtype=torch.bool)
COINS, COIN = torch.rand(1, 5, generator=_GENERATOR), torch.rand(1, generator=_GENERATOR)
KEY, VALUE = torch.randn(2, 1, 2, 9, 8, generator=_GENERATOR).unbind()
ANGLES = torch.randn(2, 1, 5, 8, generator=_GENERATOR).unbind()


def cache() -> Tensor:
    return torch.zeros(1, 2, 16, 8)


def merged(x: Tensor) -> Tensor:
    nothing = x[..., 0] - torch.inf  # follows x, and is not read
    poison = torch.full_like(x, torch.nan).detach()
    out, lse = sk.merge_attention(
        [x, x.sin(), poison], [x[..., 0].float(), x[..., 1].float(), nothing.float()]
    )
    return out + lse.unsqueeze(-1)


def windowed(x: Tensor) -> Tensor:
    """Query, key and value all follow x: 4 heads over 2, the last 7 positions of 9."""
    key = x[:, ::2] * 0.5
    out, lse = sk.anchored_window_attention(
        x[:, :, 2:], key, key.cos(), ANCHORS, window=2, return_lse=True
    )
    return out + lse.unsqueeze(-1)


# Differentiable ops, as functions of one tensor.
DIFFERENTIABLE: dict[str, tuple[Function, Tensor]] = {
    "anchored_window_attention": (windowed, torch.randn(1, 4, 9, 8, generator=_GENERATOR)),
    "gather_hidden": (
        lambda x: sk.gather_hidden([x, x.sin()], torch.tensor([[2, 0, -1, 2]], dtype=torch.int32)),
        torch.randn(1, 4, 6, generator=_GENERATOR),
    ),
    "merge_attention": (merged, torch.randn(1, 2, 3, 8, generator=_GENERATOR)),
    "topk_logprobs": (
        lambda x: sk.topk_logprobs(x, 3)[0],
        torch.linspace(-2, 3, 33)[torch.randperm(33, generator=_GENERATOR)].view(3, 11),
    ),
}


def appended(x: Tensor) -> None:
    sk.append_cache_(x, x, cache(), cache(), int32(3))


def rotated(x: Tensor) -> Tensor:
    return sk.rotate_append_(x, x, x, *ANGLES, cache(), cache(), int32(3))


def compacted(x: Tensor) -> None:
    sk.compact_cache_([x * 1], [cache()], ACCEPTED.path, ACCEPTED.accept_length, int32(3))


def committed(x: Tensor) -> Tensor:
    return sk.commit_path_(ACCEPTED, [cache()], [cache()], [x], int32(3))


def committed_tree(x: Tensor) -> Tensor:
    caches = ([cache()], [cache()])
    return sk.commit_tree_(TOKENS, LAYOUT, TARGETS, *caches, [x], int32(3), 3)[1]


def attended(x: Tensor) -> Tensor:
    return sk.tree_attention(x, KEY, VALUE, LAYOUT.ancestors, int32(4))


def attended_into(x: Tensor) -> Tensor:
    return sk.tree_attention(x, KEY, VALUE, LAYOUT.ancestors, int32(4), out=torch.empty(x.shape))


def mass(x: Tensor) -> Tensor:
    return sk.attention_mass(x, KEY, int32(4))


def gathered_into(x: Tensor) -> Tensor:
    out = torch.empty(1, 1, x.shape[2])
    return sk.gather_hidden([x], torch.tensor([[1]], dtype=torch.int32), out=out)


# The others, with what must be named. Those in place run under no vmap either.
REFUSING: dict[str, tuple[str, Function, Tensor]] = {
    "accept_tree_residual": (
        "target_probs",
        lambda x: sk.accept_tree_residual(TOKENS, LAYOUT, x, x * 0 + 1, COINS, COIN, 3).tokens,
        torch.rand(1, 5, 7, generator=_GENERATOR),
    ),
    "accept_tree_residual_logits": (
        "target_logits",
        lambda x: sk.accept_tree_residual_logits(TOKENS, LAYOUT, x, x, COINS, COIN, 3).tokens,
        torch.rand(1, 5, 7, generator=_GENERATOR),
    ),
    "sample_tokens": (
        "probs",
        lambda x: sk.sample_tokens(x, COINS[0]),
        torch.rand(5, 7, generator=_GENERATOR),
    ),
    "sample_logits": (
        "logits",
        lambda x: sk.sample_logits(x, COINS[0]),
        torch.rand(5, 7, generator=_GENERATOR),
    ),
    "select_tree": (
        "scores",
        lambda x: sk.select_tree(x, torch.tensor([[-1, -1, 0]], dtype=torch.int32), 2)[0],
        torch.rand(1, 3, generator=_GENERATOR),
    ),
    "tree_attention": ("query", attended, torch.randn(1, 4, 5, 8, generator=_GENERATOR)),
    "tree_attention_out": ("query", attended_into, torch.randn(1, 4, 5, 8, generator=_GENERATOR)),
    "attention_mass": ("query", mass, torch.randn(1, 4, 5, 8, generator=_GENERATOR)),
    "gather_hidden_out": ("states", gathered_into, torch.randn(1, 4, 6, generator=_GENERATOR)),
    "append_cache_": ("key", appended, torch.randn(1, 2, 5, 8, generator=_GENERATOR)),
    "rotate_append_": ("query", rotated, torch.randn(1, 2, 5, 8, generator=_GENERATOR)),
    "compact_cache_": ("keys", compacted, torch.randn(1, 2, 16, 8, generator=_GENERATOR)),
    "commit_path_": ("states", committed, torch.randn(1, 5, 6, generator=_GENERATOR)),
    "commit_tree_": ("states", committed_tree, torch.randn(1, 5, 6, generator=_GENERATOR)),
}
# No float input, so nothing to differentiate; or a derivative, which its own tests meet below.
INTEGERS = {"build_tree", "accept_tree", "anchor_index"}
OWN = {"anchored_window_attention_backward", "anchored_window_attention_jvp"}
