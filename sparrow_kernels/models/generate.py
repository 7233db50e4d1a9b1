"""`custom_generate` functions for transformers: speculative decoding, and its plain counterpart.

    model.generate(**inputs, custom_generate=sparrow_generate, draft=draft)

`plain_generate` is the same loop without a draft, over the same cache and attention. It is what a
speedup has to be measured against.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import (
    Cache,
    GenerationConfig,
    LogitsProcessorList,
    StoppingCriteriaList,
)

from sparrow_kernels.decoding import (
    Committed,
    Observer,
    Step,
    TreeConfig,
    decode,
    first_committed,
)
from sparrow_kernels.decoding.auto import AutoTree
from sparrow_kernels.decoding.coins import Generators
from sparrow_kernels.decoding.graphs import GraphedStep
from sparrow_kernels.decoding.loop import StepParts
from sparrow_kernels.decoding.recorded_step import RecordedStep
from sparrow_kernels.drafting import SparrowDraft
from sparrow_kernels.drafting.rows import TEXT_ALONE
from sparrow_kernels.drafting.state import DraftState
from sparrow_kernels.models.bridge.names import cache_of
from sparrow_kernels.models.draft_of_call import check_draft, draft_state, tree_for
from sparrow_kernels.models.emission import NoToken, Streamer
from sparrow_kernels.models.families import VidLLM
from sparrow_kernels.models.observed import ObservedSteps
from sparrow_kernels.models.outputs import SparrowOutput
from sparrow_kernels.models.parallel import Agreement
from sparrow_kernels.models.request import Request
from sparrow_kernels.models.unsupported import check_kinds
from sparrow_kernels.models.workspace import Workspaces, lent
from sparrow_kernels.ops.env import checks, current_backend

ROOT_ALONE = TreeConfig(total=1, depth=1, width=1)
"""Plain decoding's tree. It has a depth because a `TreeConfig` must."""


class StepWays(NamedTuple):
    """How steps are run, where it is not as they are, and who looks on."""

    cuda_graph: bool
    recorded: bool
    observer: Observer | None


@torch.no_grad()
def sparrow_generate(
    model: VidLLM,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    synced_gpus: bool = False,
    streamer: Streamer | None = None,
    draft: SparrowDraft | None = None,
    tree: TreeConfig | AutoTree | str | None = None,
    generator: Generators = None,
    workspaces: Workspaces | None = None,
    cuda_graph: bool = False,
    recorded: bool = False,
    compiled: bool = False,
    earlier: Cache | None = None,
    observer: Observer | None = None,
    **model_kwargs: Any,
) -> Tensor | SparrowOutput:
    """Decode with `draft`; the text is the target's own.

    Greedy output equals plain greedy decoding token for token (in float32; lower precisions round
    a verify of several rows and a decode of one differently). Sampled output has the target's
    distribution. transformers calls this with everything prepared; pass it as `custom_generate`.

    Args:
        input_ids: `[B, n]` int64, padded on the left where requests differ in length; each accepts
            its own number of tokens a step, and idles once it is finished.
        draft: the trained draft; it must have been made for this target.
        tree: how much to draft, also as in `"30-4-8"`; None for the draft's own default;
            `TreeConfig.auto()` to have it chosen from call to call.
        streamer: transformers does not forward one to a callable; bind it with
            `functools.partial`, or use `SparrowDecoder`.
        generator: what samples, on the target's device; None for torch's own. Calls that overlap
            in several threads share torch's own, and so do not repeat: give each its own. A list
            has one for each request, whose text then does not depend on its neighbours.
        workspaces: where buffers and graphs of earlier calls are kept; `SparrowDecoder` has some.
        compiled: fuse the elementwise work of the target's layers, by `torch.compile`.
        cuda_graph: replay each step's parts as CUDA graphs; worth it where workspaces keep them.
        recorded: on a CPU, make a step's calls again without the Python that led to them, where
            nobody watches: no hook, no forward in a module's place, no autocast, one process.
        earlier: an earlier call's cache, which may also come as the model's own keyword.
        observer: called with a `StepTrace` of each step and request: the tree, what the draft and
            the target gave its nodes, what was accepted and emitted, and the seconds it took. Its
            own time is in no phase, and without one nothing is kept and nothing waits.

    Returns:
        `[B, prompt + new]` int64, or a `SparrowOutput` with `return_dict_in_generate=True`.

    Raises:
        TypeError: an argument is something else altogether.
        ValueError: no draft, a draft of another target, a target of an unknown family, a prompt
            longer than the context, padding on the right, or logits from which no token can be
            drawn.
        NotImplementedError: a mode other than greedy and sampling, embeddings, a filled cache,
            attentions asked for, or a streamer that is not bound.
        RuntimeError: the installed transformers does not use the cache that it is given.
    """
    if draft is None:
        raise ValueError(
            "sparrow_generate: draft must be a SparrowDraft, got None (pass draft=..., or use"
            " plain_generate)"
        )
    check_kinds(input_ids, model_kwargs, streamer, generator, observer)
    check_draft(draft, model)
    asked = tree_for(draft, tree)
    chosen = _agreed(model, asked, input_ids) if isinstance(asked, AutoTree) else asked
    shape = ROOT_ALONE if chosen is None else chosen
    sizes = (1, 1) if chosen is None else (shape.total, shape.max_path)
    handed = (logits_processor, stopping_criteria, generation_config, streamer, model_kwargs)
    earlier = earlier or cache_of(model_kwargs)
    with lent(workspaces or Workspaces(), len(input_ids), earlier) as buffers:
        request = Request(model, input_ids, *handed, *sizes, generator, *buffers, compiled)
        request.stats.tree = None if chosen is None else str(chosen)
        ways = StepWays(cuda_graph, recorded, observer)
        output = _decode(request, draft if chosen is not None else None, shape, ways)
    if isinstance(asked, AutoTree):
        asked.learn(chosen, input_ids.shape[1], request.stats)
    return output


@torch.no_grad()
def plain_generate(
    model: VidLLM,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    synced_gpus: bool = False,
    streamer: Streamer | None = None,
    generator: Generators = None,
    workspaces: Workspaces | None = None,
    cuda_graph: bool = False,
    recorded: bool = False,
    compiled: bool = False,
    earlier: Cache | None = None,
    observer: Observer | None = None,
    **model_kwargs: Any,
) -> Tensor | SparrowOutput:
    """Decode one token a target call, over our cache and attention. See `sparrow_generate`."""
    check_kinds(input_ids, model_kwargs, streamer, generator, observer)
    handed = (logits_processor, stopping_criteria, generation_config, streamer, model_kwargs)
    earlier = earlier or cache_of(model_kwargs)
    with lent(workspaces or Workspaces(), len(input_ids), earlier) as buffers:
        request = Request(model, input_ids, *handed, 1, 1, generator, *buffers, compiled)
        return _decode(request, None, ROOT_ALONE, StepWays(cuda_graph, recorded, observer))


def _agreed(model: VidLLM, tree: AutoTree, input_ids: Tensor) -> TreeConfig | None:
    """What `tree` chooses for a call; in the first of several processes, since clocks differ."""
    choices = (*tree.candidates, None)
    number = input_ids.new_tensor(choices.index(tree.choose(*input_ids.shape)))
    Agreement(model)(number)
    return choices[int(number)]


def _decode(
    request: Request, draft: SparrowDraft | None, tree: TreeConfig, ways: StepWays
) -> Tensor | SparrowOutput:
    # The loop makes its own trees and lengths: checking them again would only cost time.
    with torch.inference_mode(), checks(False):
        try:
            _decode_on(request, draft, tree, ways)
        except NoToken as error:
            request.chooser.explain(error)
    return request.result()


def _decode_on(
    request: Request,
    draft: SparrowDraft | None,
    tree: TreeConfig,
    ways: StepWays,
) -> None:
    """Run the prompts, and decode from their first tokens on."""
    rules = TEXT_ALONE if draft is None else draft.config.row_rules()
    prefill, first, finished = request.prefill(rules)
    if request.emission.finished:
        return
    state = None
    if draft is not None:
        with request.timer.phase("draft_prefill"):
            state = draft_state(request, draft, tree, prefill.rows, rules)
    begun = first_committed(first, prefill.states, request.max_path)
    del prefill  # its states have served
    step, parts = _step(request, state, tree, begun, ways)
    step.begin(begun, finished)
    decode(
        step,
        request.target,
        state,
        request.emission,
        request.timer,
        parts,
        observe=_observe(request, state, ways.observer),
    )


def _observe(
    request: Request, state: DraftState | None, observer: Observer | None
) -> Callable[[Step], None] | None:
    """What is to be called after each step: who keeps its rows, and who looks on."""
    wanted: list[Callable[[Step], None]] = []
    if request.recorder.asked:
        wanted.append(request.recorder.observe)
    if observer is not None:
        parts = (request.emission, request.target, state, request.timer)
        wanted.append(ObservedSteps(observer, *parts))

    def all_of_them(step: Step) -> None:
        for each in wanted:
            each(step)

    return all_of_them if wanted else None


def _step(
    request: Request,
    state: DraftState | None,
    tree: TreeConfig,
    begun: Committed,
    ways: StepWays,
) -> tuple[Step, StepParts]:
    """The step of a call: an earlier call's, where nothing it depends on has changed."""
    workspace, chooser, coins = request.workspace, request.chooser, request.coins
    temperature = _draw_temperature(request, tree)
    drafts = state is not None
    is_recorded = ways.recorded and not ways.cuda_graph and request.can_be_recorded
    is_observed = ways.observer is not None
    asked = (ways.cuda_graph, is_recorded, is_observed, current_backend())
    made_for = (drafts, tree, chooser.settings, temperature, coins.are_torchs_own, asked)
    if workspace.made_for != made_for or chooser.settings is None:
        samples = bool(request.config.do_sample)
        workspace.step = Step(
            request.target,
            state,
            tree,
            chooser,
            coins,
            begun,
            samples,
            temperature,
            request.agree,
            scored=is_observed,
        )
        workspace.chooser, workspace.graphs = chooser, None
        if ways.cuda_graph or is_recorded:
            looks_at_host = ("commit",) if chooser.reads_history else ()
            draws = tree.branching is not None and not coins.are_torchs_own
            eager = (*looks_at_host, *(("draft",) if draws else ()))
            replayed = RecordedStep if is_recorded else GraphedStep
            workspace.graphs = replayed(workspace.step, eager)
        workspace.made_for = made_for
    assert workspace.step is not None and workspace.chooser is not None
    workspace.chooser.begin(request.emission.sequences)
    request.use(workspace.chooser)
    return workspace.step, workspace.graphs or workspace.step


def _draw_temperature(request: Request, tree: TreeConfig) -> float | None:
    """The temperature of drawn trees that are accepted by rejection; None for all others."""
    drawn = tree.branching is not None and bool(request.config.do_sample)
    if not drawn or request.chooser.reads_history:
        return None
    return float(request.config.temperature or 1.0)
