"""For library authors: the ops in a small decoder of one's own, plain torch, no transformers.

The model is random; its own first layers serve as the draft. Each step drafts a chain and verifies
it in one pass, and the text is, token for token, what greedy decoding gives.
"""

import torch
from torch import nn

import sparrow_kernels as sk

LAYERS, HEADS, KV_HEADS, HEAD_DIM, VOCABULARY, SLOTS = 4, 4, 2, 16, 50, 64


class Block(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(size, (HEADS + 2 * KV_HEADS) * HEAD_DIM)
        self.out = nn.Linear(HEADS * HEAD_DIM, size)
        self.mlp = nn.Sequential(nn.Linear(size, 2 * size), nn.SiLU(), nn.Linear(2 * size, size))

    def forward(self, x, angles, layout, keys, values, prefix_lens):
        rows = self.qkv(x).unflatten(-1, (-1, HEAD_DIM)).transpose(1, 2)
        query, key, value = rows.split((HEADS, KV_HEADS, KV_HEADS), dim=1)
        # Rotary embedding and the append behind the prefix, in one call.
        query = sk.rotate_append_(query, key, value, *angles, keys, values, prefix_lens)
        out = sk.tree_attention(query, keys, values, layout.ancestors, prefix_lens)
        x = x + self.out(out.transpose(1, 2).flatten(2))
        return x + self.mlp(x)


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        size = HEADS * HEAD_DIM
        self.embedding = nn.Embedding(VOCABULARY, size)
        self.blocks = nn.ModuleList(Block(size) for _ in range(LAYERS))

    def forward(self, tokens, layout, caches, prefix_lens, layers=LAYERS):
        """Logits of each node; node i of the tree lies at position prefix_len + its depth."""
        positions = prefix_lens[:, None] + layout.depth
        frequency = 100.0 ** (-torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
        angle = (positions[..., None] * frequency).repeat(1, 1, 2)
        angles = (angle.cos(), angle.sin())
        x = self.embedding(tokens)
        for block, keys, values in zip(self.blocks[:layers], *caches, strict=False):
            x = block(x, angles, layout, keys, values, prefix_lens)
        return x @ self.embedding.weight.T


def chain(length: int) -> sk.TreeLayout:
    return sk.build_tree(torch.arange(-1, length - 1, dtype=torch.int32)[None])


def new_caches() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    shape = (LAYERS, 1, KV_HEADS, SLOTS, HEAD_DIM)
    return list(torch.zeros(shape)), list(torch.zeros(shape))


@torch.no_grad()
def generate(model: Decoder, prompt: list[int], num_tokens: int, drafted: int):
    """`num_tokens` greedy tokens, and the target calls they took; 0 drafted is plain decoding."""
    caches, prefix_lens = new_caches(), torch.tensor([len(prompt)], dtype=torch.int32)
    tokens = torch.tensor([prompt])
    # A prompt is a chain whose every row is kept.
    logits = model(tokens, chain(len(prompt)), caches, torch.zeros_like(prefix_lens))
    emitted, calls = [int(logits[0, -1].argmax())], 0
    layout = chain(drafted + 1)
    while len(emitted) < num_tokens:
        tokens = torch.tensor([[emitted[-1]]])
        for length in range(1, drafted + 1):  # the draft: the first layers of the same model
            logits = model(tokens, chain(length), caches, prefix_lens, layers=LAYERS // 2)
            tokens = torch.cat((tokens, logits[:, -1:].argmax(-1)), dim=1)
        logits = model(tokens, layout, caches, prefix_lens)
        # Accept, move the accepted rows behind the prefix, advance it. Nobody needs hidden states.
        accepted, _ = sk.commit_tree_(
            tokens, layout, logits.argmax(-1), *caches, [], prefix_lens, max_path=drafted + 1
        )
        emitted += accepted.tokens[accepted.tokens >= 0].tolist()
        calls += 1
    return emitted[:num_tokens], calls


torch.manual_seed(0)
model = Decoder().eval()
plain, plain_calls = generate(model, [1, 2, 3], num_tokens=24, drafted=0)
text, calls = generate(model, [1, 2, 3], num_tokens=24, drafted=4)
print("the same text:", text == plain)
print(f"target calls: {calls} instead of {plain_calls}")
