"""Steps of a call as `StepTrace`s, for an observer."""

from __future__ import annotations

import torch
from torch import Tensor

from sparrow_kernels.decoding import Observer, PhaseTimer, Step, StepTrace
from sparrow_kernels.drafting.state import DraftState
from sparrow_kernels.models.emission import Emission
from sparrow_kernels.models.target import TargetState

_PHASES = ("draft", "verify", "commit")


class ObservedSteps:
    """Reads each step on the host, and hands it on; waits for the device, outside of all phases.

    Args:
        observer: who looks on.
        emission: what each request has emitted.
        target, draft: whose caches grow.
        timer: of the call's phases.
    """

    def __init__(
        self,
        observer: Observer,
        emission: Emission,
        target: TargetState,
        draft: DraftState | None,
        timer: PhaseTimer,
    ) -> None:
        self._observer, self._emission = observer, emission
        self._target, self._draft, self._timer = target, draft, timer
        self._emitted = [len(sequence.new) for sequence in emission.sequences]
        self._steps = [0] * len(self._emitted)
        self._seconds = self._seconds_so_far()

    def __call__(self, step: Step) -> None:
        """After a step has been emitted."""
        before, self._seconds = self._seconds, self._seconds_so_far()
        seconds = {phase: self._seconds[phase] - before[phase] for phase in _PHASES}
        tree, acceptance = step.drafted, step.committed.acceptance
        trees = {
            "tokens": tree.tokens.tolist(),
            "parent": tree.layout.parent.tolist(),
            "depth": tree.layout.depth.tolist(),
        }
        of_nodes, of_emitted = _target_log_probs(step)
        scores = None if tree.log_probs is None else tree.log_probs.tolist()
        paths, lengths = acceptance.path.tolist(), acceptance.accept_length.tolist()
        committed = self._target.prefix_lens.tolist()
        drafted = None if self._draft is None else self._draft.prefix_lens.tolist()
        for request, sequence in enumerate(self._emission.sequences):
            emitted = sequence.new[self._emitted[request] :]
            if not emitted:  # it had ended before
                continue
            self._emitted[request] += len(emitted)
            self._observer(
                StepTrace(
                    request=request,
                    step=self._steps[request],
                    **{name: rows[request] for name, rows in trees.items()},
                    draft_log_probs=None if scores is None else scores[request],
                    target_log_probs=of_nodes[request],
                    path=paths[request][: lengths[request] + 1],
                    emitted=emitted,
                    emitted_log_probs=of_emitted[request][: len(emitted)],
                    committed=committed[request],
                    draft_committed=None if drafted is None else drafted[request],
                    seconds=seconds,
                )
            )
            self._steps[request] += 1

    def _seconds_so_far(self) -> dict[str, float]:
        self._timer.finish()
        return self._timer.seconds


def _target_log_probs(step: Step) -> tuple[list[list[float]], list[list[float]]]:
    """What the target gives each node after its parent, `[B, T]`, and each emitted token, `[B, S]`;
    lists, on the host."""
    scores = step.verified.logits if step.scores is None else step.scores
    tokens, parent = step.drafted.tokens, step.drafted.layout.parent.long().clamp_min(0)
    scores = scores.float()
    total = scores.logsumexp(dim=2)
    of_nodes = _given(scores, total, parent, tokens)
    of_nodes[:, 0] = 0.0
    acceptance = step.committed.acceptance
    of_emitted = _given(scores, total, acceptance.path.long().clamp_min(0), acceptance.tokens)
    return of_nodes.tolist(), of_emitted.tolist()


def _given(scores: Tensor, total: Tensor, nodes: Tensor, tokens: Tensor) -> Tensor:
    """Log-probability `[B, n]` of `tokens` `[B, n]` after `nodes` `[B, n]`."""
    requests = torch.arange(len(nodes), device=nodes.device)[:, None]
    return scores[requests, nodes, tokens.clamp_min(0)] - total.gather(1, nodes)
