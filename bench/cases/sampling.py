"""Ops that read rows of a vocabulary: top-k, sampling, recursive rejection sampling."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

import sparrow_kernels
from bench.case import Arguments, Case, Way
from bench.peers import vocabularies
from bench.selection import Selection
from bench.shapes import MODELS

_QWEN = MODELS["qwen2.5-vl-7b"].vocab


def _clear_coins(probs: Tensor, generator: torch.Generator) -> Tensor:
    """`[...]` float32 coins in the middle of their steps of the distribution.

    A coin on an edge has two right answers, one for each order of summation.
    """
    cdf = probs.double().cumsum(-1)
    mass = cdf[..., -1:]
    coin = torch.rand(mass.shape, generator=generator, device=probs.device) * mass
    chosen = torch.searchsorted(cdf, coin, right=True).clamp(max=probs.shape[-1] - 1)
    # A step too narrow to have a middle in float32 gives way to the widest.
    is_wide = probs.gather(-1, chosen) > 1e-5 * mass
    chosen = torch.where(is_wide, chosen, probs.argmax(-1, keepdim=True))
    middle = cdf.gather(-1, chosen) - probs.double().gather(-1, chosen) / 2
    return (middle / mass).squeeze(-1).float()


@dataclass(frozen=True)
class TopkLogprobs(Case):
    op = "topk_logprobs"
    dtype: torch.dtype = torch.float32
    rows: int = 8
    vocab: int = _QWEN
    k: int = 8

    def contradiction(self) -> str | None:
        return f"k must be at most vocab = {self.vocab}" if self.k > self.vocab else None

    def bytes(self) -> int:
        return self.rows * (self.vocab * self.dtype.itemsize + 12 * self.k)

    def exps(self) -> int:
        return self.rows * self.vocab

    def arguments(self, device: torch.device, seed: int) -> Arguments:
        generator = torch.Generator(device=device).manual_seed(seed)
        shape = (self.rows, self.vocab)
        logits = 2 * torch.randn(shape, generator=generator, device=device)
        # The best stand out and differ: of equal ones a peer may return any.
        order = torch.rand(shape, generator=generator, device=device).argsort(-1)[:, : self.k]
        best = 12 + torch.arange(self.k, device=device) / 8
        logits = logits.clamp(max=11.5).scatter(1, order, best.expand_as(order))
        return {"logits": logits.to(self.dtype), "k": self.k}

    def exact(self, arguments: Arguments) -> object:
        logprobs = arguments["logits"].double().log_softmax(-1)
        order = logprobs.sort(dim=-1, descending=True, stable=True)  # ties to the lower id
        return order.values[:, : self.k], order.indices[:, : self.k]

    def rounded(self, arguments: Arguments) -> object:
        return tuple(arguments["logits"].float().log_softmax(-1).topk(self.k))

    def peers(self, device: torch.device) -> list[Way]:
        return vocabularies.topk_logprobs()


@dataclass(frozen=True)
class SampleTokens(Case):
    op = "sample_tokens"
    HAS_ONE_DTYPE = True
    dtype: torch.dtype = torch.float32
    rows: int = 30
    vocab: int = _QWEN

    def bytes(self) -> int:
        return self.rows * (self.vocab * 4 + 12)

    def arguments(self, device: torch.device, seed: int) -> Arguments:
        generator = torch.Generator(device=device).manual_seed(seed)
        logits = 3 * torch.randn(self.rows, self.vocab, generator=generator, device=device)
        probs = logits.softmax(-1)
        return {"probs": probs, "uniform": _clear_coins(probs, generator)}

    def exact(self, arguments: Arguments) -> object:
        cdf = arguments["probs"].double().cumsum(-1)
        return (cdf > arguments["uniform"].double()[:, None] * cdf[:, -1:]).int().argmax(-1)

    def peers(self, device: torch.device) -> list[Way]:
        return vocabularies.sample_tokens()


@dataclass(frozen=True)
class SampleLogits(SampleTokens):
    op = "sample_logits"
    HAS_ONE_DTYPE = False

    def bytes(self) -> int:
        return self.rows * (self.vocab * self.dtype.itemsize + 12)

    def exps(self) -> int:
        return self.rows * self.vocab

    def arguments(self, device: torch.device, seed: int) -> Arguments:
        generator = torch.Generator(device=device).manual_seed(seed)
        logits = 3 * torch.randn(self.rows, self.vocab, generator=generator, device=device)
        logits = logits.to(self.dtype)
        return {"logits": logits, "uniform": _clear_coins(logits.double().softmax(-1), generator)}

    def exact(self, arguments: Arguments) -> object:
        probs = arguments["logits"].double().softmax(-1)
        return super().exact({"probs": probs, "uniform": arguments["uniform"]})

    def peers(self, device: torch.device) -> list[Way]:
        return vocabularies.sample_logits()


@dataclass(frozen=True)
class AcceptTreeResidual(Case):
    """A tree of `levels` nodes below the root, each with `refused` siblings before it.

    The draft overrates the first siblings, which are refused, and the last one is accepted.
    """

    op = "accept_tree_residual"
    HAS_ONE_DTYPE = True
    dtype: torch.dtype = torch.float32
    vocab: int = _QWEN
    levels: int = 4
    refused: int = 3
    batch: int = 1

    def contradiction(self) -> str | None:
        return f"refused must be below vocab = {self.vocab}" if self.refused >= self.vocab else None

    def bytes(self) -> int:
        # One row of both distributions for every node on the path.
        rows = 2 * (self.levels + 1)
        nodes = 1 + self.levels * (self.refused + 1)
        return self.batch * (rows * self.vocab * self.dtype.itemsize + nodes * (8 + 4 + 12))

    def parents(self) -> list[int]:
        children = self.refused + 1
        return [-1] + [children * level for level in range(self.levels) for _ in range(children)]

    def _drawn(self, device: torch.device, seed: int) -> Arguments:
        generator = torch.Generator(device=device).manual_seed(seed)
        parents = torch.tensor([self.parents()], dtype=torch.int32, device=device)
        parents = parents.expand(self.batch, -1).contiguous()
        nodes = parents.shape[1]
        shape = (self.batch, nodes, self.vocab)
        target, draft = (
            2 * torch.randn(shape, generator=generator, device=device) for _ in range(2)
        )
        # Siblings differ: each draws from a stretch of the vocabulary of its own.
        share = self.vocab // (self.refused + 1)
        sibling = torch.arange(nodes - 1, device=device) % (self.refused + 1)
        tokens = torch.randint(share, shape[:2], generator=generator, device=device)
        tokens[:, 1:] += share * sibling
        request = torch.arange(self.batch, device=device).unsqueeze(1)
        row, drafted = parents[:, 1:].long(), tokens[:, 1:]
        is_accepted = sibling == self.refused
        target[request, row, drafted] = torch.where(is_accepted, 8.0, -8.0)
        draft[request, row, drafted] = torch.where(is_accepted, -8.0, 8.0)
        target, draft = target.to(self.dtype), draft.to(self.dtype)
        return {
            "tokens": tokens,
            "layout": sparrow_kernels.build_tree(parents),
            "target_logits": target,
            "draft_logits": draft,
            "uniform": self._coins(nodes, device),
            # The walk ends at the last node, whose own distribution the bonus is drawn from.
            "bonus_uniform": _clear_coins(target[:, -1].double().softmax(-1), generator),
            "max_path": self.levels + 1,
        }

    def _coins(self, nodes: int, device: torch.device) -> torch.Tensor:
        coins = torch.full((self.batch, nodes), 1.0, device=device)
        coins[:, self.refused + 1 :: self.refused + 1] = 0.0  # the last sibling of each level
        return coins

    def arguments(self, device: torch.device, seed: int) -> Arguments:
        drawn = self._drawn(device, seed)
        target, draft = drawn.pop("target_logits"), drawn.pop("draft_logits")
        probs = {"target_probs": target.softmax(-1), "draft_probs": draft.softmax(-1)}
        return drawn | probs

    def exact(self, arguments: Arguments) -> object:
        return self.rounded(arguments)  # integers come out


@dataclass(frozen=True)
class AcceptTreeResidualLogits(AcceptTreeResidual):
    op = "accept_tree_residual_logits"
    HAS_ONE_DTYPE = False

    def exps(self) -> int:
        return self.batch * 2 * (self.levels + 1) * self.vocab

    def arguments(self, device: torch.device, seed: int) -> Arguments:
        return self._drawn(device, seed)


KINDS = (TopkLogprobs, SampleTokens, SampleLogits, AcceptTreeResidual, AcceptTreeResidualLogits)


def cases(selection: Selection) -> Iterator[Case]:
    dtype = selection.dtype
    if selection.size == "smoke":
        yield TopkLogprobs(dtype, vocab=1_000)
        yield SampleTokens(vocab=1_000)
        yield SampleLogits(dtype, vocab=1_000)
        yield AcceptTreeResidual(vocab=1_000)
        yield AcceptTreeResidualLogits(dtype, vocab=1_000)
        return
    yield TopkLogprobs(dtype)
    yield SampleTokens()
    yield SampleLogits(dtype)
    yield AcceptTreeResidual()
    yield AcceptTreeResidualLogits(dtype)
    if selection.size == "full":
        for rows in (1, 32, 64):
            yield TopkLogprobs(dtype, rows=rows)
        yield TopkLogprobs(dtype, vocab=262_144, k=64)
        if dtype != torch.float32:
            yield TopkLogprobs(torch.float32)
        yield SampleLogits(dtype, rows=240)
        yield AcceptTreeResidual(batch=8)
        yield AcceptTreeResidualLogits(dtype, batch=8)
