"""For library authors: the ops over a transformers `StaticCache`, on its own tensors.

A prompt goes through a small random model with the cache; then a tree of drafted tokens is verified
against that cache, layer by layer as `generate` would, and the accepted path is committed in it.
"""

import torch
from transformers import LlamaConfig, LlamaForCausalLM, StaticCache
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

import sparrow_kernels as sk

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
)  # fmt: skip
model = LlamaForCausalLM(config).eval()
cache = StaticCache(config=config, max_cache_len=32)
prompt = torch.tensor([[5, 9, 2, 7]])

with torch.no_grad():
    root = int(model(prompt, past_key_values=cache).logits[0, -1].argmax())

    # The root is the model's own next token; below it two guesses, the first with a child.
    right = int(model(torch.cat((prompt, torch.tensor([[root]])), 1)).logits[0, -1].argmax())
    tokens = torch.tensor([[root, (right + 1) % 64, right, 11]])
    layout = sk.build_tree(torch.tensor([[-1, 0, 0, 2]], dtype=torch.int32))
    prefix_lens = torch.tensor([prompt.shape[1]], dtype=torch.int32)
    positions = prefix_lens[:, None] + layout.depth  # of a node: behind the prefix, by depth

    # One pass of the model over the tree; the ops write to and read from the cache's own tensors.
    hidden = model.model.embed_tokens(tokens)
    cos, sin = model.model.rotary_emb(hidden, positions)
    for layer, slots in zip(model.model.layers, cache.layers, strict=True):
        attention, x = layer.self_attn, layer.input_layernorm(hidden)
        query, key, value = (
            project(x).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        query, key = apply_rotary_pos_emb(query, key, cos, sin)
        sk.append_cache_(key, value, slots.keys, slots.values, prefix_lens)
        out = sk.tree_attention(query, slots.keys, slots.values, layout.ancestors, prefix_lens)
        hidden = hidden + attention.o_proj(out.transpose(1, 2).flatten(2))
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    targets = model.lm_head(model.model.norm(hidden)).argmax(-1)

    keys, values = ([getattr(each, side) for each in cache.layers] for side in ("keys", "values"))
    accepted, _ = sk.commit_tree_(
        tokens, layout, targets, keys, values, [], prefix_lens, max_path=3
    )
    for slots in cache.layers:
        slots.cumulative_length.fill_(int(prefix_lens))  # transformers counts for itself

    # The cache goes on as if the model had decoded token by token.
    emitted = accepted.tokens[accepted.tokens >= 0]
    committed = torch.cat((prompt[0], tokens[0, :1], emitted[:-1]))[None]
    ahead = model(emitted[None, -1:], past_key_values=cache).logits[0, -1]
    anew = model(torch.cat((committed, emitted[None, -1:]), 1)).logits[0, -1]

print("path:", accepted.path.tolist(), "committed slots:", prefix_lens.tolist())
print("goes on as plain decoding does:", torch.allclose(ahead, anew, atol=1e-5))
