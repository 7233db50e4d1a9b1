"""Masks that Triton's window kernels are tried with, and what they are held against."""

import torch
from window_cases import added_up, dense, text, with_gradients

from sparrow_kernels.ops import env
from sparrow_kernels.ops.attention import anchored_window_attention
from sparrow_kernels.testing import assert_close


def scattered(length, share, batch=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((batch, length), generator=generator) < share


def ragged():
    return torch.cat((text(45, (9, 40)), text(45, (0, 45)), scattered(45, 0.2)))


CASES = {
    "a clip in the middle": (text(66, (14, 50)), 12, {}),
    "scattered anchors": (scattered(66, 0.1), 12, {}),
    "few anchors, window 0": (scattered(66, 0.1), 0, {}),
    "many anchors, window 0": (scattered(66, 0.8), 0, {}),
    "window 0, rows that see nothing": (text(50, (0, 37)), 0, {}),
    "window 1": (text(50, (3, 40)), 1, {}),
    "window 1, no anchor": (text(50, (0, 50)), 1, {}),
    "window larger than the sequence": (scattered(53, 0.3), 1000, {}),
    "window as long as the sequence": (text(48, (0, 48)), 48, {}),
    # Of 16 slots in a row 15 rows see all: one short of a tile.
    "no anchor": (text(60, (0, 60)), 30, {}),
    "all anchors": (text(50), 23, {}),
    "all anchors, window 0": (text(47), 0, {}),
    "one row": (text(1), 1, {}),
    "one row that sees nothing": (text(1, (0, 1)), 0, {}),
    "ragged": (ragged(), 5, {}),
    "empty batch": (text(9)[:0], 5, {}),
    "empty sequence": (text(0), 5, {}),
    "group 1": (scattered(40, 0.2), 4, {"heads": 2}),
    "group 7": (scattered(40, 0.2), 4, {"heads": 7, "kv_heads": 1}),
    "group 8": (scattered(40, 0.2), 4, {"heads": 8, "kv_heads": 1}),
    "head dim 40": (scattered(40, 0.2), 4, {"head_dim": 40}),
    "head dim 80": (scattered(40, 0.2), 4, {"head_dim": 80}),
    "head dim 128": (scattered(40, 0.2), 4, {"head_dim": 128}),
    "head dim 8": (scattered(40, 0.2), 4, {"head_dim": 8}),
    "the last rows": (text(66, (14, 50)), 12, {"rows": 40}),
    "the last rows, scattered anchors": (scattered(66, 0.2), 12, {"rows": 37}),
    "the last rows, window 0": (scattered(66, 0.4), 0, {"rows": 21}),
    "the last rows, some see nothing": (text(50, (0, 37)), 0, {"rows": 30}),
    "the last rows, no anchor": (text(60, (0, 60)), 5, {"rows": 23}),
    "the last rows, causal": (scattered(53, 0.3), 53, {"rows": 20}),
    "the last rows, ragged": (ragged(), 5, {"rows": 33}),
    "the last rows, group 7": (scattered(40, 0.2), 4, {"heads": 7, "kv_heads": 1, "rows": 18}),
    "the last row": (scattered(60, 0.2), 4, {"rows": 1}),
    "no row": (scattered(20, 0.2), 4, {"rows": 0}),
    "float16": (scattered(50, 0.2), 9, {"dtype": torch.float16}),
    "float16, head dim 80": (text(40, (5, 30)), 4, {"head_dim": 80, "dtype": torch.float16}),
}


def attend(mask, window, scale=None):
    return lambda *leaves: anchored_window_attention(*leaves, mask, window=window, scale=scale)


def largest_summand(query, key, value, grad):
    """d_query and d_key are made of differences that can come out small, so float32's rounding is
    measured by what was subtracted. Half precision rounds the result more coarsely than that."""
    if query.dtype != torch.float32 or not query.numel():
        return 0.0
    widest = [float(tensor.norm(dim=-1).max()) for tensor in (grad, value)]
    largest = max(float(query.abs().max()), float(key.abs().max()))
    return widest[0] * widest[1] * largest * query.shape[-1] ** -0.5


def check(query, key, value, grad, mask, window, device="cpu"):
    """Result and gradients by triton against the dense definition in float64."""
    inputs = [tensor.to(device) for tensor in (query, key, value, grad)]
    mask = mask.to(device)
    with env.backend("triton"):
        actual = with_gradients(attend(mask, window), *inputs)
    references = []
    with torch.device(device):
        for work in (torch.float64, query.dtype):
            references.append(
                with_gradients(
                    lambda *x, work=work: dense(*x, mask, window, work),
                    *(tensor.to(work) for tensor in inputs),
                )
            )
        added = added_up(*inputs, mask, window)
    size = largest_summand(query, key, value, grad)
    summands = {"d_query": size, "d_key": size, "d_value": added}
    for name, got, exact, rounded in zip(
        ("out", "d_query", "d_key", "d_value"), actual, *references, strict=True
    ):
        assert got.dtype == query.dtype and got.is_contiguous()
        assert_close(got, exact, rounded, name=name, summands=summands.get(name, 0.0))
    return actual
