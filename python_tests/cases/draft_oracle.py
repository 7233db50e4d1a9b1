"""The forward of each producer's draft by its definition: no cache, every row again at every step.

A draft reads rows. The row of token x_k (k >= 1) pairs the embedding of x_k with what the target's
layers held at slot k - 1, and the draft's logits at that row are for x_(k+1).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from draft_files import EAGLE2_FAMILY, SPECULATORS, DraftFiles
from draft_prompt import PositionRule, Prompt, flat, runs
from torch import Tensor
from torch.nn.functional import linear, silu


class Row(NamedTuple):
    attended: Tensor  # [H] or [2H], what q, k and v are projections of
    residual: Tensor  # [H], what the attention's output is added to
    position: Tensor  # [3]


def draft_logits(
    files: DraftFiles,
    embedding: Tensor,
    lm_head: Tensor,
    prompt: Prompt,
    *,
    sees_clip: bool,
    positions: PositionRule,
    slice_clip: bool = False,
    layer_ids: tuple[int, ...] | None,
    emitted: list[tuple[list[int], list[Tensor]]],
    chain: list[int],
) -> list[Tensor]:
    """Logits [V] over the target's vocabulary, -inf for what the draft cannot say.

    Args:
        embedding, lm_head: [V, H], the target's; everything is computed in lm_head's dtype.
        sees_clip: visual slots have rows, of the kind that this producer trained with.
        slice_clip: the clip is cut out before the shift: the text token after it pairs with the
            state of the text token before it.
        layer_ids: indices into `states` of what feeds the draft; None follows the producer.
        emitted: refreshes in order. Each holds tokens and, for each index of `states`, the rows
            [len(tokens), H] they pair with; the first is one token with the states of slot n - 1.
        chain: tokens grown after each refresh on the draft's own output, then dropped.

    Returns:
        for each refresh, the logits at its last row and then after each token of `chain`.
    """
    draft = Draft(files, embedding, lm_head, layer_ids, num_layers=len(prompt.states) - 1)
    rows, clip = draft.prompt_rows(prompt, sees_clip, slice_clip, positions)
    at = {
        "compact": len(rows),
        "sequence": len(prompt.tokens),
        "mrope": int(prompt.positions[0, -1]) + 1,
    }[positions]

    logits = []
    for tokens, states in emitted:
        for token, state in zip(tokens, draft.target_state(states), strict=True):
            rows.append(draft.row(draft.embedding[token], state, clip, flat(at)))
            at += 1
        grown = list(rows)
        output = draft.last_output(grown)
        logits.append(draft.logits(output))
        for level, token in enumerate(chain, start=1):
            state = draft.fed_back(output)
            position = flat(at + level - 1)
            grown.append(draft.row(draft.embedding[token], state, clip, position, level))
            output = draft.last_output(grown)
            logits.append(draft.logits(output))
    return logits


def state_indices(files: DraftFiles, num_layers: int) -> tuple[int, ...]:
    """Which of `states` feed this draft: the top one, or the three that the writer's ids mean."""
    if files.format in EAGLE2_FAMILY:
        return (num_layers,)
    config = files.config
    ids = config.get("aux_hidden_states_layer_ids") or config.get(
        "eagle_aux_hidden_state_layer_ids",
        config.get("eagle_config", {}).get("eagle_aux_hidden_state_layer_ids"),
    )
    if ids is None:
        return (2, num_layers // 2, num_layers - 3)
    # SpecForge and AngelSlim count the outputs of layers, the others their inputs.
    offset = 1 if files.format in ("specforge", "angelslim") else 0
    return tuple(i + offset for i in ids)


class Draft:
    def __init__(
        self,
        files: DraftFiles,
        embedding: Tensor,
        lm_head: Tensor,
        layer_ids: tuple[int, ...] | None,
        num_layers: int,
    ) -> None:
        self.format = files.format
        self.dtype = lm_head.dtype
        self.tensors = {
            key: value.to(self.dtype) if value.is_floating_point() else value
            for key, value in files.tensors.items()
        }
        self.config = files.config
        self.layer_config = files.config.get("transformer_layer_config", files.config)
        self.prefix = "midlayer" if "midlayer.mlp.up_proj.weight" in self.tensors else "layers.0"
        self.embedding = self.tensors.get("embed_tokens.weight", embedding.to(self.dtype))
        self.head = self.tensors.get("lm_head.weight", lm_head)
        self.vocab = lm_head.shape[0]
        self.state_indices = layer_ids or state_indices(files, num_layers)
        self.middle = num_layers // 2
        self.heads = self.layer_config["num_attention_heads"]
        self.kv_heads = self.layer_config["num_key_value_heads"]
        self.hidden = self.layer_config["hidden_size"]
        self.head_dim = self.layer_config.get("head_dim", self.hidden // self.heads)
        rope = self.layer_config.get("rope_parameters", {})
        self.theta = self.layer_config.get("rope_theta", rope.get("rope_theta", 10000.0))

    def linear(self, name: str, x: Tensor) -> Tensor:
        return linear(x, self.tensors[f"{name}.weight"], self.tensors.get(f"{name}.bias"))

    def norm(self, name: str, x: Tensor) -> Tensor:
        variance = x.square().mean(-1, keepdim=True)
        scale = torch.rsqrt(variance + self.layer_config["rms_norm_eps"])
        return x * scale * self.tensors[f"{name}.weight"]

    def target_state(self, states: list[Tensor]) -> Tensor:
        """[m, H] for rows of the target's: its top state, or fc over its three."""
        chosen = [states[i].to(self.dtype) for i in self.state_indices]
        if self.format in EAGLE2_FAMILY:
            return chosen[0]
        if self.config.get("fc_norm"):
            chosen = [self.norm(f"fc_norm.{i}", state) for i, state in enumerate(chosen)]
        joined = torch.cat(chosen, -1)
        if self.config.get("norm_before_fc"):
            joined = self.norm("input_norm", joined)
        return self.linear("fc", joined)

    def fed_back(self, output: Tensor) -> Tensor:
        """What the next level takes for the target's state."""
        # SpecForge writes norm_output too, and means by it that the head sees a norm at all.
        if self.format in SPECULATORS and self.config.get("norm_output"):
            return self.norm("norm", output)
        return output

    def row(
        self, embedding: Tensor, state: Tensor, clip: Tensor, position: Tensor, level: int = 0
    ) -> Row:
        """A token's row; `clip` [H] is ViSpec's summary of the last clip, `level` 0 a refresh."""
        if self.format not in EAGLE2_FAMILY:
            normed = self.norm(f"{self.prefix}.hidden_norm", state)
            emb = self.norm(f"{self.prefix}.input_layernorm", embedding)
            residual = normed if self.config.get("norm_before_residual") else state
            return Row(torch.cat([emb, normed]), residual, position)
        if self.format == "sparrow":
            embedding = self.norm("input_layernorm", embedding)
        if self.format == "vispec":
            state = self.linear("img_fc", torch.cat([state, clip]))
        joined = [embedding, state]
        if self.format == "hivis":
            residuals = self.tensors["residual"]
            joined.append(residuals[min(level, len(residuals) - 1)])
        return self.unfused_row(self.linear("fc", torch.cat(joined)), position)

    def unfused_row(self, x: Tensor, position: Tensor) -> Row:
        """A row that enters the layer of an EAGLE-2 draft as it is."""
        name = f"{self.prefix}.input_layernorm"
        return Row(self.norm(name, x) if f"{name}.weight" in self.tensors else x, x, position)

    def prompt_rows(
        self, prompt: Prompt, sees_clip: bool, slice_clip: bool, rule: PositionRule
    ) -> tuple[list[Row], Tensor]:
        """The prompt's rows in slot order, and ViSpec's summary of its last clip."""
        features = prompt.embeddings.to(self.dtype)
        visual = prompt.visual.tolist()
        states = self.target_state(prompt.states)
        clip = torch.zeros(self.hidden, dtype=self.dtype)
        adapted: dict[int, Tensor] = {}
        summaries: dict[int, Tensor] = {}
        if self.format == "vispec" and sees_clip:
            for run in runs(visual):
                *vectors, summary = self.adaptor(features[run])
                adapted |= zip(reversed(run), reversed(vectors), strict=False)
                summaries[run[-1]] = summary

        rows: list[Row] = []
        for slot in range(len(visual)):
            clip = summaries.get(slot, clip)
            if slot == 0:
                continue
            position = {
                "compact": flat(len(rows)),
                "sequence": flat(slot),
                "mrope": prompt.positions[:, slot],
            }[rule]
            token = self.embedding[prompt.tokens[slot]]
            if not visual[slot]:
                before = slot - 1
                while slice_clip and not sees_clip and before >= 0 and visual[before]:
                    before -= 1
                if before >= 0:
                    rows.append(self.row(token, states[before], clip, position))
            elif not sees_clip or self.format == "hivis":
                continue
            elif self.format == "vispec":
                if slot in adapted:
                    rows.append(self.unfused_row(adapted[slot], position))
            elif self.format == "sparrow":
                state = prompt.states[self.middle][slot].to(self.dtype)
                rows.append(self.unfused_row(self.norm("input_layernorm", state), position))
            elif self.format in ("msd_qwen", "msd_llava"):
                rows.append(self.unfused_row(features[slot], position))
            elif self.format == "eagle2":
                rows.append(self.row(features[slot], states[slot - 1], clip, position))
            else:
                rows.append(self.row(token, states[slot - 1], clip, position))
        return rows, clip

    def adaptor(self, features: Tensor) -> Tensor:
        """[num_queries, H] of a clip's [m, H]: learned queries attend to it, without positions."""
        queries = self.tensors["imadpt.q"]  # [num_queries, nH, d]
        num_queries, heads, dim = queries.shape
        k = self.linear("imadpt.k_proj", features).view(-1, heads, dim)
        v = self.linear("imadpt.v_proj", features).view(-1, heads, dim)
        scores = torch.einsum("qhd,khd->hqk", queries, k) / math.sqrt(dim)
        mixed = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v)
        return self.linear("imadpt.o_proj", mixed.reshape(num_queries, heads * dim))

    def last_output(self, rows: list[Row]) -> Tensor:
        """[H], the decoder layer's output at the last row, before any final norm."""
        attended = torch.stack([row.attended for row in rows])
        residual = torch.stack([row.residual for row in rows])
        positions = torch.stack([row.position for row in rows], dim=1)
        y = residual + self.attention(attended, positions)
        x = self.norm(f"{self.prefix}.post_attention_layernorm", y)
        mlp = f"{self.prefix}.mlp"
        gated = silu(self.linear(f"{mlp}.gate_proj", x)) * self.linear(f"{mlp}.up_proj", x)
        return (y + self.linear(f"{mlp}.down_proj", gated))[-1]

    def attention(self, x: Tensor, positions: Tensor) -> Tensor:
        name = f"{self.prefix}.self_attn"
        q = self.linear(f"{name}.q_proj", x).view(len(x), self.heads, self.head_dim)
        k = self.linear(f"{name}.k_proj", x).view(len(x), self.kv_heads, self.head_dim)
        v = self.linear(f"{name}.v_proj", x).view(len(x), self.kv_heads, self.head_dim)
        if f"{name}.q_norm.weight" in self.tensors:
            q, k = self.norm(f"{name}.q_norm", q), self.norm(f"{name}.k_norm", k)
        q, k = self.rotate(q, positions), self.rotate(k, positions)
        group = self.heads // self.kv_heads
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        scores = torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(self.head_dim)
        later = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
        weights = scores.masked_fill(later, -math.inf).softmax(-1)
        mixed = torch.einsum("hqk,khd->qhd", weights, v)
        return self.linear(f"{name}.o_proj", mixed.reshape(len(x), -1))

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """x [m, heads, d] turned by positions [3, m]: channel c goes with channel c + d / 2."""
        half = self.head_dim // 2
        rates = self.theta ** (-torch.arange(half, dtype=torch.float64) / half)
        angles = positions[self.axes()].T.double() * rates  # [m, d / 2]
        cos, sin = angles.cos().to(self.dtype)[:, None], angles.sin().to(self.dtype)[:, None]
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    def axes(self) -> Tensor:
        """[d / 2]: whether a channel turns with t (0), h (1) or w (2)."""
        half = self.head_dim // 2
        axes = torch.zeros(half, dtype=torch.int64)
        if self.format not in ("specforge", "angelslim"):
            return axes
        sections = self.layer_config["rope_scaling"]["mrope_section"]
        if self.format == "specforge":
            return torch.arange(3).repeat_interleave(torch.tensor(sections))
        # AngelSlim interleaves the axes, t h w t h w, whatever the config says of it.
        for axis in (1, 2):
            axes[axis : 3 * sections[axis] : 3] = axis
        return axes

    def logits(self, output: Tensor) -> Tensor:
        if self.format not in EAGLE2_FAMILY:
            output = self.norm("norm", output)
        drafted = linear(output, self.head)
        if "d2t" not in self.tensors:
            return drafted
        targets = torch.arange(len(drafted)) + self.tensors["d2t"]
        return torch.full((self.vocab,), -math.inf, dtype=self.dtype).scatter(0, targets, drafted)
