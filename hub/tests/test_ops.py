"""The kernel as it is used: a tree is laid out, attended from, verified and committed."""

import kernels
import pytest
import torch

REPO_ID, VERSION = "sparrow-kernels/sparrow-kernels", 0
sparrow = kernels.get_kernel(REPO_ID, version=VERSION)


@pytest.fixture
def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.kernels_ci
def test_a_tree_is_laid_out_and_verified(device: str) -> None:
    parent = torch.tensor([[-1, 0, 0, 1]], dtype=torch.int32, device=device)
    layout = sparrow.build_tree(parent)
    assert layout.depth.tolist() == [[0, 1, 1, 2]]
    tokens = torch.tensor([[5, 7, 8, 9]], device=device)
    target_tokens = torch.tensor([[7, 9, 0, 4]], device=device)
    accepted = sparrow.accept_tree(tokens, layout, target_tokens, max_path=4)
    assert accepted.path.tolist() == [[0, 1, 3, -1]]
    assert accepted.tokens.tolist() == [[7, 9, 4, -1]]


@pytest.mark.kernels_ci
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tree_attends_to_its_prefix_and_ancestors(device: str, dtype: torch.dtype) -> None:
    parent = torch.tensor([[-1, 0, 0, 1]], dtype=torch.int32, device=device)
    layout = sparrow.build_tree(parent)
    generator = torch.Generator().manual_seed(0)
    shapes = ((1, 4, 4, 64), (1, 2, 32, 64), (1, 2, 32, 64))
    query, key, value = (torch.randn(s, generator=generator).to(device, dtype) for s in shapes)
    prefix_lens = torch.tensor([20], dtype=torch.int32, device=device)
    out = sparrow.tree_attention(query, key, value, layout.ancestors, prefix_lens)
    mask = sparrow.dense_tree_mask(layout, prefix_lens, 32)
    expected = torch.nn.functional.scaled_dot_product_attention(
        query.double(), key.double(), value.double(), mask, enable_gqa=True
    )
    bound = 2e-6 if dtype is torch.float32 else 2e-2
    torch.testing.assert_close(out.double(), expected, rtol=bound, atol=bound)


@pytest.mark.kernels_ci
def test_an_accepted_path_moves_behind_the_prefix(device: str) -> None:
    cache = torch.arange(8.0, device=device).reshape(1, 1, 8, 1).repeat(1, 1, 1, 16)
    path = torch.tensor([[0, 1, 3, -1]], dtype=torch.int32, device=device)
    accept_length = torch.tensor([2], dtype=torch.int32, device=device)
    prefix_lens = torch.tensor([3], dtype=torch.int32, device=device)
    sparrow.compact_cache_([cache], [cache.clone()], path, accept_length, prefix_lens)
    assert cache[0, 0, :6, 0].tolist() == [0, 1, 2, 3, 4, 6]
