"""For library authors: n-gram speculation over caches in blocks, with vLLM's tensors.

A small random model keeps its cache as vLLM does, `[blocks, Hkv, block_size, 2 * D]`, writes it by
`slot_mapping`, drafts chains by looking the last token up in the text, and hands its caller
`sampled_token_ids` padded with -1. Attention, acceptance and lengths are our ops'.
"""

import torch
from torch import nn

import sparrow_kernels as sk
from sparrow_kernels.integrations import vllm

LAYERS, HEADS, KV_HEADS, HEAD_DIM, VOCABULARY = 2, 4, 2, 16, 12
BLOCKS, BLOCK_SIZE, MAX_SPEC_LEN = 16, 8, 4


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        size = HEADS * HEAD_DIM
        self.embedding = nn.Embedding(VOCABULARY, size)
        self.qkv = nn.ModuleList(
            nn.Linear(size, (HEADS + 2 * KV_HEADS) * HEAD_DIM) for _ in range(LAYERS)
        )
        self.out = nn.ModuleList(nn.Linear(size, size) for _ in range(LAYERS))

    def forward(self, tokens, layout, caches, slot_mapping, block_table, prefix_lens):
        """The target's token after each of `tokens` `[B, T]`."""
        x = self.embedding(tokens.clamp(min=0))
        for qkv, out, cache in zip(self.qkv, self.out, caches, strict=True):
            rows = qkv(x).unflatten(-1, (-1, HEAD_DIM))
            query, key, value = rows.split((HEADS, KV_HEADS, KV_HEADS), dim=2)
            # As vLLM's cache writer: row by row, to the slot it was given, -1 to none.
            written = slot_mapping >= 0
            block, offset = slot_mapping[written] // BLOCK_SIZE, slot_mapping[written] % BLOCK_SIZE
            both = torch.cat((key, value), -1).flatten(0, 1)  # [tokens, Hkv, 2 * D]
            cache[block, :, offset] = both[written]
            attended = sk.tree_attention(
                query.transpose(1, 2), *vllm.caches(cache, "packed"), layout.ancestors,
                prefix_lens, block_table=block_table,
            )  # fmt: skip
            x = x + out(attended.transpose(1, 2).flatten(2)).tanh()
        return (x @ self.embedding.weight.T).argmax(-1)


def look_up(text: list[int], limit: int) -> list[int]:
    """What followed the last token where it was seen before."""
    for place in range(len(text) - 2, -1, -1):
        if text[place] == text[-1]:
            return text[place + 1 : place + 1 + limit]
    return []


@torch.no_grad()
def generate(model: Model, prompts: list[list[int]], num_tokens: int, max_spec_len: int):
    """`num_tokens` greedy tokens of each prompt, and the steps they took."""
    batch, width = len(prompts), max_spec_len + 1
    caches = [torch.zeros(BLOCKS, BLOCK_SIZE, KV_HEADS, 2 * HEAD_DIM) for _ in range(LAYERS)]
    caches = [cache.transpose(1, 2) for cache in caches]
    block_table = torch.randperm(BLOCKS).int().view(batch, -1)
    prefix_lens = torch.zeros(batch, dtype=torch.int32)
    texts, steps = [list(prompt) for prompt in prompts], 0
    # A prompt is a draft that is taken whole, whatever the target says.
    drafts, roots, prefill = [p[1:] for p in prompts], [p[0] for p in prompts], True
    while min(len(t) - len(p) for t, p in zip(texts, prompts, strict=True)) < num_tokens:
        longest = max(map(len, drafts)) if prefill else max_spec_len
        ends = torch.tensor([len(each) for each in drafts]).cumsum(0).int()
        draft_token_ids = torch.tensor(sum(drafts, []), dtype=torch.int32)
        tokens, layout = vllm.chains(draft_token_ids, ends, torch.tensor(roots), longest)
        # Every request has `longest + 1` rows; what lies behind its own chain is never committed.
        starts = torch.arange(batch + 1, dtype=torch.int32) * (longest + 1)
        slots = vllm.slot_mapping(
            block_table, starts, prefix_lens, BLOCK_SIZE, batch * (longest + 1)
        )
        targets = model(tokens, layout, caches, slots, block_table, prefix_lens)
        if prefill:
            follows = torch.arange(longest + 1) < layout.depth.amax(1, keepdim=True)
            targets = torch.where(follows, tokens.roll(-1, 1), targets)
        accepted = sk.accept_tree(tokens, layout, targets, longest + 1)
        # A chain needs no compaction: the accepted rows lie where they belong.
        prefix_lens += accepted.accept_length + 1
        if prefill:  # of which only the token behind it is new
            last = accepted.accept_length[:, None].long()
            bonus = accepted.tokens.gather(1, last)
            sampled_token_ids = torch.nn.functional.pad(bonus, (0, max_spec_len), value=-1).int()
        else:
            sampled_token_ids, steps = vllm.sampled_token_ids(accepted, max_spec_len), steps + 1
        # From here on the engine's own code: it reads `sampled_token_ids` alone.
        assert sampled_token_ids.shape == (batch, width)
        for text, row in zip(texts, sampled_token_ids.tolist(), strict=True):
            text += [token for token in row if token >= 0]
        roots, prefill = [text[-1] for text in texts], False
        drafts = [look_up(text, max_spec_len) for text in texts]
    return [text[: len(p) + num_tokens] for text, p in zip(texts, prompts, strict=True)], steps


torch.manual_seed(2)
model = Model().eval()
prompts = [[1, 2, 3, 4], [5, 6]]
plain, plain_steps = generate(model, prompts, num_tokens=40, max_spec_len=0)
text, steps = generate(model, prompts, num_tokens=40, max_spec_len=MAX_SPEC_LEN)
print("the same text:", text == plain)
print(f"steps: {steps} instead of {plain_steps}")
