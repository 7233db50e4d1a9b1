"""Ops that read rows of a vocabulary: top-k, sampling, recursive rejection sampling."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

import sparrow_kernels
from bench.case import Arguments, Case, Way
from bench.peers import vocabularies
from bench.selection import Selection
from bench.shapes import MODELS

_QWEN = MODELS["qwen2.5-vl-7b"].vocab


@dataclass(frozen=True)
class TopkLogprobs(Case):
    op = "topk_logprobs"
    dtype: torch.dtype = torch.float32
    rows: int = 8
    vocab: int = _QWEN
    k: int = 8

    def bytes(self) -> int:
        return self.rows * (self.vocab * self.dtype.itemsize + 12 * self.k)

    def exps(self) -> int:
        return self.rows * self.vocab

    def arguments(self, device: torch.device, seed: int) -> Arguments:
        generator = torch.Generator(device=device).manual_seed(seed)
        logits = 3 * torch.randn(self.rows, self.vocab, generator=generator, device=device)
        return {"logits": logits.to(self.dtype), "k": self.k}

    def exact(self, arguments: Arguments) -> object:
        logprobs = arguments["logits"].double().log_softmax(-1)
        order = logprobs.sort(dim=-1, descending=True, stable=True)  # ties to the lower id
        return order.values[:, : self.k], order.indices[:, : self.k]

    def peers(self, device: torch.device) -> list[Way]:
        return vocabularies.topk_logprobs()


@dataclass(frozen=True)
class SampleTokens(Case):
    op = "sample_tokens"
    dtype: torch.dtype = torch.float32
    rows: int = 30
    vocab: int = _QWEN

    def bytes(self) -> int:
        return self.rows * (self.vocab * 4 + 12)

    def arguments(self, device: torch.device, seed: int) -> Arguments:
        generator = torch.Generator(device=device).manual_seed(seed)
        logits = 3 * torch.randn(self.rows, self.vocab, generator=generator, device=device)
        uniform = torch.rand(self.rows, generator=generator, device=device)
        return {"probs": logits.softmax(-1), "uniform": uniform}

    def exact(self, arguments: Arguments) -> object:
        cdf = arguments["probs"].double().cumsum(-1)
        return (cdf > arguments["uniform"].double()[:, None] * cdf[:, -1:]).int().argmax(-1)

    def peers(self, device: torch.device) -> list[Way]:
        return vocabularies.sample_tokens()


@dataclass(frozen=True)
class SampleLogits(SampleTokens):
    op = "sample_logits"

    def bytes(self) -> int:
        return self.rows * (self.vocab * self.dtype.itemsize + 12)

    def exps(self) -> int:
        return self.rows * self.vocab

    def arguments(self, device: torch.device, seed: int) -> Arguments:
        generator = torch.Generator(device=device).manual_seed(seed)
        logits = 3 * torch.randn(self.rows, self.vocab, generator=generator, device=device)
        uniform = torch.rand(self.rows, generator=generator, device=device)
        return {"logits": logits.to(self.dtype), "uniform": uniform}

    def exact(self, arguments: Arguments) -> object:
        probs = arguments["logits"].double().softmax(-1)
        return super().exact({"probs": probs, "uniform": arguments["uniform"]})

    def peers(self, device: torch.device) -> list[Way]:
        return vocabularies.sample_logits()


@dataclass(frozen=True)
class AcceptTreeResidual(Case):
    """A tree of `levels` nodes below the root, each with `refused` siblings before it.

    The coins are such that the first siblings are refused and the last one is accepted.
    """

    op = "accept_tree_residual"
    dtype: torch.dtype = torch.float32
    vocab: int = _QWEN
    levels: int = 4
    refused: int = 3
    batch: int = 1

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
        tokens = torch.rand(shape[:2] + (64,), generator=generator, device=device)
        tokens = tokens.argsort(-1)[..., 0]  # few tokens, so that siblings may repeat
        tokens = tokens * (self.vocab // 64)
        return {
            "tokens": tokens,
            "layout": sparrow_kernels.build_tree(parents),
            "target_logits": target.to(self.dtype),
            "draft_logits": draft.to(self.dtype),
            "uniform": self._coins(nodes, device),
            "bonus_uniform": torch.rand(self.batch, generator=generator, device=device),
            "max_path": self.levels + 1,
        }

    def _coins(self, nodes: int, device: torch.device) -> torch.Tensor:
        coins = torch.full((self.batch, nodes), 1.0, device=device)
        coins[:, self.refused + 1 :: self.refused + 1] = 0.0
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
        yield TopkLogprobs(torch.float32)
        yield SampleLogits(dtype, rows=240)
        yield AcceptTreeResidual(batch=8)
        yield AcceptTreeResidualLogits(dtype, batch=8)
