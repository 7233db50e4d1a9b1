"""The decoder object: a target, a draft, and `generate`."""

from __future__ import annotations

from functools import partial
from typing import Any

from sparrow_kernels.decoding import TreeConfig
from sparrow_kernels.drafting import SparrowDraft
from sparrow_kernels.models.families import Parts, VidLLM
from sparrow_kernels.models.generate import plain_generate, sparrow_generate
from sparrow_kernels.models.request import SparrowOutput


class SparrowDecoder:
    """Decodes a Hugging Face Vid-LLM speculatively.

        decoder = SparrowDecoder(target, SparrowDraft.from_pretrained(path))
        result = decoder.generate(**processor(...), max_new_tokens=256)
        result.sequences, result.stats.mean_emitted

    Args:
        target: a Vid-LLM of transformers; left exactly as found after each call.
        draft: a draft made for it.
        tree: how much to draft; None for the draft's own default.

    Raises:
        ValueError: the draft was made for another target, or the target's family is unknown.
    """

    def __init__(self, target: VidLLM, draft: SparrowDraft, tree: TreeConfig | None = None) -> None:
        Parts(target)
        draft.check_fits(target)
        self.target = target
        self.draft = draft
        self.tree = TreeConfig(**draft.config.tree) if tree is None else tree

    def generate(self, **kwargs: Any) -> SparrowOutput:
        """`target.generate(**kwargs)` with speculation: same arguments, same text, sooner.

        The target's `generation_config` is honoured, and so are logits processors, stopping
        criteria and a `streamer`. Returns a `SparrowOutput` with `sequences` and `stats`.
        """
        streamer = kwargs.pop("streamer", None)
        custom = partial(sparrow_generate, streamer=streamer, draft=self.draft, tree=self.tree)
        return self._run(custom, kwargs)

    def generate_plainly(self, **kwargs: Any) -> SparrowOutput:
        """The same without speculation, over the same cache and attention: the baseline."""
        streamer = kwargs.pop("streamer", None)
        return self._run(partial(plain_generate, streamer=streamer), kwargs)

    def _run(self, custom: Any, kwargs: dict[str, Any]) -> SparrowOutput:
        kwargs["return_dict_in_generate"] = True
        return self.target.generate(custom_generate=custom, **kwargs)
