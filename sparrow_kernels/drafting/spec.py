"""What a draft is, setting by setting, and where each was read from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparrow_kernels.drafting.config import SparrowDraftConfig

SETTINGS = (
    *("target_model_type", "target_layers", "target_hidden_size", "vocab_size"),
    *("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"),
    *("head_dim", "rms_norm_eps", "rope_theta", "attention_bias", "query_key_norm"),
    *("layer_ids", "paired", "fc_bias", "embedding_norm", "attention_norm", "state_norms"),
    *("norm_before_residual", "final_norm", "feeds_normed", "step_shifts", "clip_queries"),
    *("draft_vocab_size", "own_embedding", "state_first"),
    *("trained_to_see", "sees_clip", "positions", "slice_clip", "mrope_section"),
    *("mrope_interleaved",),
)
"""Names of `SparrowDraftConfig`, in the order that a table shows them."""


@dataclass(frozen=True)
class Setting:
    """One thing a draft is."""

    name: str
    value: Any
    source: str
    """"keys" for names and shapes of weights, "config", "target", "caller" or "default", with what
    led there."""


@dataclass(frozen=True)
class DraftSpec:
    """A draft's settings. Iterate over them, or ask for one by name: `draft.spec["layer_ids"]`."""

    format: str
    settings: tuple[Setting, ...]

    @classmethod
    def of(cls, config: SparrowDraftConfig) -> DraftSpec:
        """What a configuration says; of one that nothing was derived for, all is "config"."""
        sources = config.derived
        unsaid = "config" if config.source_format == "sparrow_kernels" else "default"
        settings = (
            Setting(name, getattr(config, name), sources.get(name, unsaid)) for name in SETTINGS
        )
        return cls(config.source_format, tuple(settings))

    def __iter__(self) -> Iterator[Setting]:
        return iter(self.settings)

    def __getitem__(self, name: str) -> Setting:
        for setting in self.settings:
            if setting.name == name:
                return setting
        raise KeyError(name)

    def __str__(self) -> str:
        """A table: setting, value, where it was read from."""
        rows = [("setting", "value", "from"), ("format", self.format, "keys")]
        rows += [(one.name, _shown(one.value), one.source) for one in self.settings]
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        lines = (f"{a:{widths[0]}}  {b:{widths[1]}}  {c}".rstrip() for a, b, c in rows)
        return "\n".join(lines)


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(str(each) for each in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
