"""The draft as a transformers model: `config.json` and safetensors on disk, nothing pickled."""

from __future__ import annotations

import copy
import difflib
import inspect
from collections.abc import Mapping, Sequence
from operator import index
from typing import Any

import torch
from torch import Tensor, nn

from sparrow_kernels.drafting.adaptor import ClipAdaptor
from sparrow_kernels.drafting.config import SparrowDraftConfig  # installs the shim
from sparrow_kernels.drafting.int8 import in_int8
from sparrow_kernels.drafting.network import DraftNetwork
from sparrow_kernels.drafting.requirements import check_served
from sparrow_kernels.drafting.spec import DraftSpec

from transformers import PreTrainedModel  # isort: skip  (the shim must come first)


class SparrowDraft(PreTrainedModel):
    """A draft: one decoder layer over a prompt's text, which borrows its target's vocabulary.

    `SparrowDraft.from_pretrained(path)` loads a trained one, `load_draft(path, target)` also those
    of others, and `SparrowDraft.for_target(target)` makes a fresh one shaped like a decoder layer
    of `target`, to be trained.
    """

    config: SparrowDraftConfig
    config_class = SparrowDraftConfig
    base_model_prefix = "network"
    _no_split_modules = ["DraftNetwork"]

    def __init__(self, config: SparrowDraftConfig) -> None:
        super().__init__(config)
        self.network = DraftNetwork(config.layer_shape())
        self._converted: tuple[Any, DraftNetwork] | None = None
        self._vocabulary: tuple[int, ...] | None = None
        self._int8 = False
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        elif isinstance(module, ClipAdaptor):
            nn.init.normal_(module.queries, std=self.config.initializer_range)
        elif isinstance(module, DraftNetwork):
            for name, parameter in module.named_parameters(recurse=False):
                (nn.init.ones_ if name.endswith("norm") else nn.init.zeros_)(parameter)

    @property
    def spec(self) -> DraftSpec:
        """What it is, and where each setting was read from."""
        return DraftSpec.of(self.config)

    @classmethod
    def for_target(cls, target: PreTrainedModel, **settings: Any) -> SparrowDraft:
        """A fresh draft for `target`, on its device and in its dtype.

        Args:
            target: a Vid-LLM of transformers.
            settings: keywords of `SparrowDraftConfig` that replace what the target suggests.

        Raises:
            TypeError: `target` is no model of transformers, or a setting has a name of none.
            ValueError: the target's family is not served; says which are.
        """
        check_served(target)
        _check_names(settings)
        text = target.config.get_text_config()
        heads, hidden = text.num_attention_heads, text.hidden_size
        head_dim = getattr(text, "head_dim", None) or hidden // heads
        rope = getattr(text, "rope_parameters", None) or {}
        suggested = {
            "target_model_type": target.config.model_type,
            "target_layers": text.num_hidden_layers,
            "hidden_size": hidden,
            "vocab_size": text.vocab_size,
            "intermediate_size": getattr(text, "intermediate_size", None) or 4 * hidden,
            "num_attention_heads": heads,
            "num_key_value_heads": getattr(text, "num_key_value_heads", None) or heads,
            "head_dim": head_dim,
            "rope_theta": rope.get("rope_theta", 1e4),
            "rms_norm_eps": getattr(text, "rms_norm_eps", 1e-6),
            "initializer_range": getattr(text, "initializer_range", 0.02),
            **_attention_of(target, head_dim),
        }
        draft = cls(SparrowDraftConfig(**{**suggested, **settings}))
        weight: Any = target.get_input_embeddings().weight
        module: nn.Module = draft  # transformers wraps `to` in a way type checkers cannot follow
        module.to(device=weight.device, dtype=weight.dtype)
        return draft

    def lighter(
        self, *, vocabulary: Sequence[int] | Tensor | None = None, int8: bool = False
    ) -> SparrowDraft:
        """This draft with less to read a step, over the same weights; the text stays the same.

        Args:
            vocabulary: ids it may draft, such as `frequent_ids(corpus, 32768)`; None for all.
                Another token is emitted as ever, but never drafted.
            int8: round the weights of its products to 8 bits.

        Raises:
            TypeError: `vocabulary` is something else, such as how many there should be.
            ValueError: an id out of the vocabulary, or none; or the draft has a vocabulary of its
                own.
        """
        if vocabulary is not None and self.config.draft_vocab_size is not None:
            raise ValueError(
                "vocabulary must be left out, got one for a draft that has its own of"
                f" {self.config.draft_vocab_size} ids"
            )
        lighter = copy.copy(self)
        lighter.config = copy.deepcopy(self.config)  # whose switches are its own
        lighter._converted = None
        lighter._int8 = self._int8 or int8
        if vocabulary is not None:
            ids = _ids_of(vocabulary)
            if not ids or ids[0] < 0 or ids[-1] >= self.config.vocab_size:
                raise ValueError(
                    f"vocabulary must hold ids of 0 to {self.config.vocab_size - 1}, got"
                    f" {f'{ids[0]} to {ids[-1]}' if ids else 'none'}"
                )
            lighter._vocabulary = tuple(ids)
        return lighter

    @property
    def draft_vocabulary(self) -> tuple[int, ...] | None:
        """The ids it may draft, None for all."""
        if self.config.draft_vocab_size is not None:
            return tuple(self.network.draft_ids.tolist())
        return self._vocabulary

    @property
    def draft_vocabulary_size(self) -> int:
        """How many ids it may draft."""
        whole = self.config.draft_vocab_size or self.config.vocab_size
        return whole if self._vocabulary is None else len(self._vocabulary)

    def network_for(self, weight: Tensor) -> DraftNetwork:
        """The network in the dtype and on the device of a target's `weight`.

        A draft may be saved in another dtype than its target runs in. It is then converted once,
        and again where its weights have changed since; the draft itself stays as it is.
        """
        parameters = list(self.network.parameters())
        fits = all((p.dtype, p.device) == (weight.dtype, weight.device) for p in parameters)
        if fits and not self._int8:
            return self.network
        versions = ((p.data_ptr(), None if p.is_inference() else p._version) for p in parameters)
        state = (weight.dtype, weight.device, *versions)
        if self._converted is None or self._converted[0] != state:
            network = copy.deepcopy(self.network).to(weight.device, weight.dtype)
            if self._int8:
                in_int8(network)
            # A tuple, so that the copy is no submodule and is not saved.
            self._converted = (state, network.requires_grad_(False).eval())
        return self._converted[1]

    def check_fits(self, target: PreTrainedModel) -> None:
        """Raise `ValueError` naming what differs if this draft was made for another target."""
        self.config.check_fits(target.config)


def _attention_of(target: PreTrainedModel, head_dim: int) -> dict[str, bool]:
    """What no configuration says in the same words: what a layer does to its q, k and v."""
    layers: Any = getattr(target.get_decoder(), "layers", None)
    attention = getattr(layers[-1], "self_attn", None) if layers is not None else None
    project = getattr(attention, "q_proj", None)
    if project is None:  # fused, or named in another way
        return {}
    norm = getattr(attention, "q_norm", None)
    return {
        "attention_bias": project.bias is not None,
        "query_key_norm": norm is not None and norm.weight.shape == (head_dim,),
    }


def _ids_of(vocabulary: Any) -> list[int]:
    """Ascending, each once."""
    try:
        return sorted({index(each) for each in vocabulary})
    except TypeError:
        raise TypeError(
            f"vocabulary must be the ids that may be drafted, got {type(vocabulary).__name__}"
            " (frequent_ids(corpus, size) finds so many)"
        ) from None


def _check_names(settings: Mapping[str, Any]) -> None:
    """transformers takes any keyword for a configuration: a misspelt one would do nothing."""
    known = [*inspect.signature(SparrowDraftConfig).parameters]
    for name in settings:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else "see SparrowDraftConfig"
            raise TypeError(f"for_target: settings must be those of a draft, got {name} ({hint})")
