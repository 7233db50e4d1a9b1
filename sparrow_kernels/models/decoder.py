"""The decoder object: a target, a draft, and `generate`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from types import NoneType
from typing import Any

from torch import Tensor
from transformers import Cache, GenerationConfig, StoppingCriteriaList
from transformers.generation import StopStringCriteria

from sparrow_kernels.decoding import TreeConfig
from sparrow_kernels.decoding.auto import AutoTree
from sparrow_kernels.drafting import SparrowDraft
from sparrow_kernels.models.bridge.cache import PreallocatedCache
from sparrow_kernels.models.bridge.names import leave_the_tower_to_us
from sparrow_kernels.models.draft_of_call import check_draft, tree_for
from sparrow_kernels.models.families import Parts, VidLLM
from sparrow_kernels.models.generate import plain_generate, sparrow_generate
from sparrow_kernels.models.outputs import SparrowOutput
from sparrow_kernels.models.parallel import is_split
from sparrow_kernels.models.unsupported import check_count, check_prompt
from sparrow_kernels.models.workspace import Workspaces


class SparrowDecoder:
    """Decodes a Hugging Face Vid-LLM speculatively.

        decoder = SparrowDecoder(target, SparrowDraft.from_pretrained(path))
        result = decoder.generate(**processor(...), max_new_tokens=256)
        result.sequences, result.stats.mean_emitted

    Calls may overlap in threads: each works on a view of the target of its own.

    Args:
        target: a Vid-LLM of transformers; nothing of it is changed, during a call or after it.
        draft: a draft made for it; it runs in the target's dtype and on its device.
        tree: how much to draft, also as in `"30-4-8"`; None for the draft's own default;
            `TreeConfig.auto()` to have it chosen from call to call, in `stats.tree`.
        cuda_graph: replay the parts of a step as CUDA graphs, captured in the second step and kept
            from call to call. None: on a GPU, where the target lies on one.
        recorded: on a CPU, note the calls that a step makes, in the second step, and from then on
            make them without the Python between them. Steps run as they are where they would be
            missed: under hooks, autocast or `compile`, and of a target split over processes.
        compile: fuse the elementwise work of the target's layers with `torch.compile`, in the
            first call; steps then take less time, and that call more.

    Raises:
        TypeError: `target`, `draft`, `tree` or a switch is something else.
        ValueError: the draft was made for another target, or the target cannot be served; says why.
        NotImplementedError: the target's layers lie on several devices, or its adapter is a learned
            prompt.
    """

    def __init__(
        self,
        target: VidLLM,
        draft: SparrowDraft,
        tree: TreeConfig | AutoTree | str | None = None,
        *,
        cuda_graph: bool | None = None,
        recorded: bool = False,
        compile: bool = False,
    ) -> None:
        parts = Parts(target)
        _check_switches(recorded=recorded, compile=compile)
        if cuda_graph is not None:
            _check_switches(cuda_graph=cuda_graph)
        self._graphs = _can_be_captured(parts) if cuda_graph is None else cuda_graph
        self._recorded, self._compiled = recorded, compile
        self._workspaces = {"speculative": Workspaces(), "plain": Workspaces()}
        check_draft(draft, target)
        self.target = target
        self.draft = draft
        self.tree = tree_for(draft, tree)

    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        **kwargs: Any,
    ) -> SparrowOutput:
        """`target.generate(**kwargs)` with speculation: same arguments, same text, sooner.

        The target's `generation_config` is honoured, and so are logits processors, stopping
        criteria, `stop_strings` with a `tokenizer`, and a `streamer`. A `generator` samples in
        place of torch's own, as `sparrow_generate` says. A `cache` of an earlier result is gone on
        behind what the prompts share with it, such as the clip of a second question. An `observer`
        is called with each step, a `sparrow_kernels.decoding.StepTrace`. Returns a `SparrowOutput`
        with `sequences` `[B, prompt + new]` int64, `stats` and `cache`.

        Raises what `sparrow_generate` raises, and `ValueError` for `stop_strings` without a
        `tokenizer`.
        """
        custom = partial(sparrow_generate, draft=self.draft, tree=self.tree)
        return self._run(custom, "speculative", inputs, generation_config, kwargs)

    def generate_plainly(
        self,
        inputs: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        **kwargs: Any,
    ) -> SparrowOutput:
        """The same without speculation, over the same cache and attention: the baseline."""
        return self._run(plain_generate, "plain", inputs, generation_config, kwargs)

    def release_memory(self) -> None:
        """Let go of the caches and graphs that are kept for the next call."""
        for workspaces in self._workspaces.values():
            workspaces.clear()

    def _run(
        self,
        custom: Callable[..., Any],
        way: str,
        inputs: Tensor | None,
        generation_config: GenerationConfig | None,
        kwargs: dict[str, Any],
    ) -> SparrowOutput:
        """`generate` of a private view, whose generation config is ours to change."""
        if "custom_generate" in kwargs:
            raise ValueError(
                "custom_generate must be left out, got one for a decoder, which has its own"
                " (target.generate takes it)"
            )
        for name in ("max_new_tokens", "num_return_sequences"):
            check_count(name, kwargs.get(name))
        prompt = kwargs.get("input_ids") if inputs is None else inputs
        if prompt is not None:  # `generate` would ask lists for their shape
            check_prompt(prompt, kwargs.get("attention_mask"))
        view = Parts(self.target).private().model
        configs = [view.generation_config]
        if not isinstance(generation_config, (GenerationConfig, NoneType)):
            kind = type(generation_config).__name__
            raise TypeError(f"generation_config must be a GenerationConfig, got {kind}")
        if generation_config is not None:
            generation_config = copy.deepcopy(generation_config)
            configs.insert(0, generation_config)
        copies = [kwargs.get("num_return_sequences"), *(c.num_return_sequences for c in configs)]
        if next((number for number in copies if number is not None), 1) == 1:
            leave_the_tower_to_us(view)
        _serve_stop_strings(configs, kwargs)
        kwargs.pop("return_dict_in_generate", None)
        configs[0].return_dict_in_generate = True
        # transformers hands no streamer on to a custom decoding function, nor what it cannot know.
        ours = {name: kwargs.pop(name, None) for name in ("streamer", "generator", "observer")}
        ours |= {"workspaces": self._workspaces[way]}
        ours |= {"cuda_graph": self._graphs, "recorded": self._recorded}
        ours |= {"compiled": self._compiled}
        for name in ("cache", "past_key_values"):  # releases of transformers take one of them
            if isinstance(kwargs.get(name), PreallocatedCache):
                ours["earlier"] = kwargs.pop(name)
            elif not isinstance(kwargs.get(name), (Cache, NoneType)):
                kind = type(kwargs[name]).__name__
                raise TypeError(f"{name} must be the cache of an earlier result, got {kind}")
        custom = partial(custom, **ours)
        return view.generate(inputs, generation_config, custom_generate=custom, **kwargs)


def _can_be_captured(parts: Parts) -> bool:
    """Whether a step can be a CUDA graph: all of the target on one GPU, and in one process."""
    devices = {parameter.device for parameter in parts.model.parameters()}
    on_one = len(devices) == 1 and not is_split(parts.model)
    return on_one and devices.pop().type == "cuda"


def _check_switches(**switches: Any) -> None:
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, got {value!r}")


def _serve_stop_strings(configs: list[GenerationConfig], kwargs: dict[str, Any]) -> None:
    """Turn `stop_strings` and the `tokenizer` they need into a criterion, in `kwargs`.

    transformers would look for the tokenizer where a custom decoding function has none.
    """
    tokenizer = kwargs.pop("tokenizer", None)
    asked = [kwargs.pop("stop_strings", None), *(config.stop_strings for config in configs)]
    stop_strings = next((strings for strings in asked if strings is not None), None)
    for config in configs:
        config.stop_strings = None
    if stop_strings is None:
        return
    if tokenizer is None:
        raise ValueError(
            f"tokenizer must be the target's where stop_strings are given, got None with"
            f" {stop_strings!r} (pass tokenizer=processor.tokenizer)"
        )
    criterion = StopStringCriteria(tokenizer, stop_strings)
    others = kwargs.get("stopping_criteria") or []
    kwargs["stopping_criteria"] = StoppingCriteriaList([criterion, *others])
