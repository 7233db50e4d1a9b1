"""What a draft is, as `config.json` says it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparrow_kernels.drafting.network import LayerShape
from sparrow_kernels.drafting.rows import POSITIONS, SIGHTS, RowRules
from sparrow_kernels.video_shim import install_video_shim

install_video_shim()

from transformers import PreTrainedConfig  # noqa: E402  (the shim must come first)


class SparrowDraftConfig(PreTrainedConfig):
    """Shape of a draft, what it reads of a prompt, and which target it was made for.

    The defaults are those of a draft of our own training; drafts of others, read by `load_draft`,
    set what differs.

    Args:
        target_model_type, target_layers, hidden_size, vocab_size: the target's family, depth,
            hidden size and vocabulary: a draft fits no other.
        target_hidden_size: the target's, where the draft's own differs.
        intermediate_size, num_attention_heads, num_key_value_heads, head_dim: its layer's sizes;
            `head_dim` times heads need not be the hidden size.
        rope_theta, rms_norm_eps, attention_bias, query_key_norm: its layer's too.
        initializer_range: standard deviation of fresh weights.
        tree: keywords of the `TreeConfig` to use when the caller names none.
        slice_clip: pair the first text row after a clip with the state *before* the clip, as the
            weights released by the paper's authors expect; the default pairs it with the state of
            the clip's last token.
        layer_ids: indices in transformers' tuple of hidden states, 0 the embedding, of the states
            that a row reads side by side; None for the top state.
        positions, sees_clip: how it reads a prompt, see `RowRules`. Both are switches: they may be
            set on a trained draft.
        trained_to_see: what of a clip it saw in training.
        mrope_section, mrope_interleaved: positions of three axes, where rows of a clip have them.
        draft_vocab_size: ids that an LM head of its own can say; None for the target's head.
        own_embedding: whether it holds an embedding of its own.
        paired … clip_heads: which parts it has, see `LayerShape`.
        state_first: whether the file joined the state before the embedding; here it is behind it.
        source_format: the format that its weights were read from.
        derived: for each setting where it was read from; see `DraftSpec`.

    Raises:
        ValueError: `sees_clip`, `trained_to_see` or `positions` is no such word, or the draft has
            not what it takes to see that.
    """

    model_type = "sparrow_draft"

    def __init__(
        self,
        target_model_type: str = "qwen2_5_vl",
        target_layers: int = 28,
        hidden_size: int = 3584,
        vocab_size: int = 152064,
        intermediate_size: int = 18944,
        num_attention_heads: int = 28,
        num_key_value_heads: int = 4,
        head_dim: int = 128,
        rope_theta: float = 1e6,
        rms_norm_eps: float = 1e-6,
        attention_bias: bool = True,
        initializer_range: float = 0.02,
        tree: dict[str, Any] | None = None,
        slice_clip: bool = False,
        query_key_norm: bool = False,
        target_hidden_size: int | None = None,
        layer_ids: Sequence[int] | None = None,
        positions: str = "compact",
        sees_clip: str = "nothing",
        trained_to_see: str = "nothing",
        mrope_section: Sequence[int] | None = None,
        mrope_interleaved: bool = False,
        draft_vocab_size: int | None = None,
        own_embedding: bool = False,
        paired: bool = False,
        fc_bias: bool = True,
        embedding_norm: bool = True,
        attention_norm: bool = True,
        state_norms: int = 0,
        norm_before_residual: bool = False,
        final_norm: bool = False,
        feeds_normed: bool = False,
        step_shifts: int = 0,
        clip_queries: int = 0,
        clip_heads: int = 0,
        state_first: bool = False,
        source_format: str = "sparrow_kernels",
        derived: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        self.target_model_type = target_model_type
        self.target_layers = target_layers
        self.hidden_size = hidden_size
        self.vocab_size = vocab_size
        self.intermediate_size = intermediate_size
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads
        self.head_dim = head_dim
        self.rope_theta = rope_theta
        self.rms_norm_eps = rms_norm_eps
        self.attention_bias = attention_bias
        self.initializer_range = initializer_range
        self.tree = tree if tree is not None else {"total": 30, "depth": 4, "width": 8}
        self.slice_clip = slice_clip
        self.query_key_norm = query_key_norm
        self.target_hidden_size = target_hidden_size
        self.layer_ids = None if layer_ids is None else [int(each) for each in layer_ids]
        self.positions = positions
        self.sees_clip = sees_clip
        self.trained_to_see = trained_to_see
        self.mrope_section = None if mrope_section is None else list(mrope_section)
        self.mrope_interleaved = mrope_interleaved
        self.draft_vocab_size = draft_vocab_size
        self.own_embedding = own_embedding
        self.paired = paired
        self.fc_bias = fc_bias
        self.embedding_norm = embedding_norm
        self.attention_norm = attention_norm
        self.state_norms = state_norms
        self.norm_before_residual = norm_before_residual
        self.final_norm = final_norm
        self.feeds_normed = feeds_normed
        self.step_shifts = step_shifts
        self.clip_queries = clip_queries
        self.clip_heads = clip_heads
        self.state_first = state_first
        self.source_format = source_format
        self.derived = derived or {}
        super().__init__(**kwargs)
        self.row_rules()

    @property
    def state_width(self) -> int:
        """What a row reads of the target: the width of all states side by side."""
        return len(self.layer_ids or [0]) * (self.target_hidden_size or self.hidden_size)

    def layer_shape(self) -> LayerShape:
        """The sizes the network is built from."""
        return LayerShape(
            hidden=self.hidden_size,
            intermediate=self.intermediate_size,
            heads=self.num_attention_heads,
            kv_heads=self.num_key_value_heads,
            head_dim=self.head_dim,
            norm_eps=self.rms_norm_eps,
            attention_bias=self.attention_bias,
            query_key_norm=self.query_key_norm,
            state_width=self.state_width,
            paired=self.paired,
            fc_bias=self.fc_bias,
            embedding_norm=self.embedding_norm,
            attention_norm=self.attention_norm,
            state_norms=self.state_norms,
            norm_before_residual=self.norm_before_residual,
            final_norm=self.final_norm,
            feeds_normed=self.feeds_normed,
            step_shifts=self.step_shifts,
            clip_queries=self.clip_queries,
            clip_heads=self.clip_heads,
            head_size=self.draft_vocab_size or 0,
            embedding_size=self.vocab_size if self.own_embedding else 0,
        )

    def row_rules(self) -> RowRules:
        """How prompts are read; see the class for what it raises."""
        for name, known in (
            ("positions", POSITIONS),
            ("sees_clip", SIGHTS),
            ("trained_to_see", SIGHTS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"draft: {name} must be one of {', '.join(known)}, got {getattr(self, name)!r}"
                )
        if self.sees_clip == "adaptor" and not self.clip_queries:
            raise ValueError(
                "draft: sees_clip must be something the draft has, got 'adaptor' for a draft"
                " without one"
            )
        if self.paired and self.sees_clip not in ("nothing", "states", "placeholders"):
            raise ValueError(
                "draft: sees_clip must be nothing, states or placeholders where the layer reads"
                f" embedding and state side by side, got {self.sees_clip!r}"
            )
        return RowRules(
            layer_ids=None if self.layer_ids is None else tuple(self.layer_ids),
            sees_clip=self.sees_clip,
            positions=self.positions,
            slice_clip=self.slice_clip,
            middle_layer=self.target_layers // 2,
            adaptor_rows=max(0, self.clip_queries - 1),
            mrope_section=None if self.mrope_section is None else tuple(self.mrope_section),
            mrope_interleaved=self.mrope_interleaved,
        )

    def check_fits(self, target: Any) -> None:
        """Raise `ValueError` naming what differs if the draft was made for another target, of which
        this is the configuration."""
        text = target.get_text_config()
        pairs = [
            ("family", self.target_model_type, target.model_type),
            ("layers", self.target_layers, text.num_hidden_layers),
            ("hidden size", self.target_hidden_size or self.hidden_size, text.hidden_size),
            ("vocabulary", self.vocab_size, text.vocab_size),
        ]
        wrong = [f"{what} {have}, target has {want}" for what, have, want in pairs if have != want]
        if wrong:
            raise ValueError(
                f"draft: must be made for this target, got {'; '.join(wrong)} (train one with"
                " `sparrow train draft`, load another's with load_draft, or make one with"
                " SparrowDraft.for_target)"
            )
