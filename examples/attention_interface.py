"""For library authors: the ops inside an `AttentionInterface` function of transformers.

The function attends with `tree_attention` wherever the model is called with `ancestors`, and as
transformers does elsewhere. Any keyword of a model call arrives in it, so the model stays as it is.
"""

import torch
from transformers import AttentionInterface, AttentionMaskInterface, LlamaConfig, LlamaForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

import sparrow_kernels as sk


def attend(module, query, key, value, attention_mask, *, ancestors=None, scaling=None, **keywords):
    """query `[B, Hq, T, D]`, key and value as the cache returns them -> `[B, T, Hq, D]`, None."""
    if ancestors is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **keywords
        )
    # A `DynamicCache` ends with the rows of this call: what comes before is committed.
    length = key.shape[2] - query.shape[2]
    prefix_lens = torch.full(key.shape[:1], length, dtype=torch.int32, device=key.device)
    out = sk.tree_attention(query, key, value, ancestors, prefix_lens, scale=scaling)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register("trees", attend)
AttentionMaskInterface.register("trees", sdpa_mask)

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
)  # fmt: skip
model = LlamaForCausalLM(config).eval()
model.set_attn_implementation("trees")

prompt = torch.tensor([[5, 9, 2, 7]])
layout = sk.build_tree(torch.tensor([[-1, 0, 0, 1, 1]], dtype=torch.int32))
tokens = torch.tensor([[3, 11, 12, 13, 14]])

with torch.no_grad():
    cache = model(prompt).past_key_values
    positions = prompt.shape[1] + layout.depth.long()
    in_one_call = model(
        tokens, past_key_values=cache, position_ids=positions, ancestors=layout.ancestors
    ).logits

    # Each node alone, behind its path from the root.
    sees = sk.unpack_ancestors(layout.ancestors, 5)[0]
    one_by_one = [
        model(torch.cat((prompt, tokens[:, sees[node]]), dim=1)).logits[0, -1] for node in range(5)
    ]

print("a tree in one call:", tuple(in_one_call.shape))
print(
    "as its paths one by one:", torch.allclose(in_one_call[0], torch.stack(one_by_one), atol=1e-5)
)
