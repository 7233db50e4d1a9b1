"""For library authors: trees in transformers' own forward, on its own `DynamicCache`.

The model, its attention and its cache stay as they are: a tree goes through it with a mask of four
dims, `commit_tree_` accepts and moves the accepted rows in the cache's own tensors, and the cache
is cropped behind them. The text is, token for token, what greedy decoding gives.
"""

import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

import sparrow_kernels as sk
from sparrow_kernels.integrations import transformers_cache

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=16, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
)  # fmt: skip
model = LlamaForCausalLM(config).eval()
prompt, num_tokens = torch.tensor([[5, 9, 2, 7]]), 32

# A root and two chains of three below it: what followed the last token, the last two times.
PARENT = torch.tensor([[-1, 0, 1, 2, 0, 4, 5]], dtype=torch.int32)
layout, nodes = sk.build_tree(PARENT), PARENT.shape[1]


def look_up(text: list[int]) -> list[int]:
    """Two guesses of three tokens; 0 where the text has none."""
    places = [n for n in range(len(text) - 2, -1, -1) if text[n] == text[-1]][:2]
    guesses = [(text[n + 1 : n + 4] + [0, 0, 0])[:3] for n in places]
    return sum((guesses + [[0, 0, 0], [0, 0, 0]])[:2], [])


with torch.no_grad():
    cache = DynamicCache()
    text = prompt[0].tolist()
    text.append(int(model(prompt, past_key_values=cache).logits[0, -1].argmax()))
    calls = 0
    while len(text) < prompt.shape[1] + num_tokens:
        tokens = torch.tensor([[text[-1], *look_up(text)]])
        prefix_lens = transformers_cache.prefix_lens(cache, batch=1)
        capacity = cache.get_seq_length() + nodes
        sees = sk.dense_tree_mask(layout, prefix_lens, capacity)
        targets = model(
            tokens,
            past_key_values=cache,
            position_ids=prefix_lens[:, None] + layout.depth,
            attention_mask=torch.where(sees, 0.0, torch.finfo(torch.float32).min),
        ).logits.argmax(-1)
        calls += 1
        # The forward has appended the tree's rows; those of the path move up, the rest goes.
        keys, values = transformers_cache.caches(cache)
        accepted, _ = sk.commit_tree_(
            tokens, layout, targets, keys, values, [], prefix_lens, max_path=4
        )
        transformers_cache.set_length_(cache, prefix_lens)
        text += accepted.tokens[accepted.tokens >= 0].tolist()

    plain, whole = prompt, DynamicCache()
    step = prompt
    for _ in range(num_tokens):
        step = model(step, past_key_values=whole).logits[:, -1:].argmax(-1)
        plain = torch.cat((plain, step), 1)

print("the same text:", text[: plain.shape[1]] == plain[0].tolist())
print(f"target calls: {calls} instead of {num_tokens - 1}")
