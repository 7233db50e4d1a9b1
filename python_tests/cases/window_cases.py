"""Anchored window attention by its definition: a dense mask, in any precision."""

import torch


def text(length, *spans, batch=1):
    """Anchors everywhere but in the spans."""
    mask = torch.ones(batch, length, dtype=torch.bool)
    for first, end in spans:
        mask[:, first:end] = False
    return mask


def ragged():
    return torch.cat((text(150, (3, 90)), text(150, (50, 150)), text(150, (0, 150))))


def drawn(mask, heads=4, kv_heads=2, head_dim=16, dtype=torch.float32, rows=None):
    """Query, key, value and the output's gradient; the query and that of the last `rows`."""
    generator = torch.Generator().manual_seed(mask.shape[1])
    batch, length = mask.shape
    shapes = [(batch, number, length, head_dim) for number in (heads, kv_heads, kv_heads, heads)]
    query, key, value, grad = (
        torch.randn(shape, generator=generator).to(dtype) for shape in shapes
    )
    first = 0 if rows is None else length - rows
    return [query[:, :, first:], key, value, grad[:, :, first:]]


def dense(query, key, value, mask, window, work):
    """The definition with the whole `[R, S]` mask, rows that see nothing at 0."""
    scores, value, blind = dense_scores(query, key, value, mask, window, work)
    weights = scores.masked_fill(blind, 0.0).softmax(-1)
    return weights.masked_fill(blind, 0.0) @ value


def dense_with_lse(query, key, value, mask, window, work):
    """The same and its log-sum-exp, -inf where a row sees nothing."""
    scores, _, blind = dense_scores(query, key, value, mask, window, work)
    lse = scores.masked_fill(blind, 0.0).logsumexp(-1)
    out = dense(query, key, value, mask, window, work)
    return out, lse.masked_fill(blind.squeeze(-1), -torch.inf)


def dense_scores(query, key, value, mask, window, work):
    """Masked scores, the values of each query head, and which rows see nothing."""
    query, key, value = query.to(work), key.to(work), value.to(work)
    length, group = mask.shape[1], query.shape[1] // key.shape[1]
    row, slot = torch.arange(length)[length - query.shape[2] :, None], torch.arange(length)
    sees = (slot <= row) & (mask[:, None, None, :] | (row - slot < window))
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    scores = (query @ key.mT * query.shape[-1] ** -0.5).masked_fill(~sees, -torch.inf)
    return scores, value, ~sees.any(-1, keepdim=True)


def with_gradients(function, query, key, value, grad):
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (query, key, value)]
    out = function(*leaves)
    out.backward(grad.to(out.dtype))
    return [out.detach(), *(leaf.grad for leaf in leaves)]


def with_lse_gradients(function, query, key, value, grad, d_lse):
    """`out, lse, d_query, d_key, d_value`; without `grad` the output itself is not used."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (query, key, value)]
    out, lse = function(*leaves)
    # As merging does: what reaches a row that sees nothing is no number.
    d_lse = torch.where(lse.isinf(), torch.nan, d_lse).to(lse.dtype)
    if grad is None:
        torch.autograd.backward([lse], [d_lse])
    else:
        torch.autograd.backward([out, lse], [grad.to(out.dtype), d_lse])
    return [out.detach(), lse.detach(), *(leaf.grad for leaf in leaves)]


def added_up(query, key, value, grad, mask, window):
    """What `d_value` adds up, without signs: float32's rounding is measured by that, not by what
    remains where terms cancel. Half precision rounds the result more coarsely."""
    if query.dtype != torch.float32 or not query.numel():
        return 0.0
    leaves = [tensor.double() for tensor in (query, key, value)]
    terms = with_gradients(
        lambda *x: dense(*x, mask, window, torch.float64), *leaves, grad.double().abs()
    )[3]
    return float(terms.max())


def lse_and_references(function, mask, window, query, key, value, grad):
    """For each of `out, lse, d_query, d_key, d_value`: ours, in float64, in the query's dtype."""
    generator = torch.Generator().manual_seed(1)
    d_lse = torch.randn(query.shape[:3], generator=generator, device="cpu").to(query.device)
    actual = with_lse_gradients(function, query, key, value, grad, d_lse)
    references = [
        with_lse_gradients(
            lambda *x, work=work: dense_with_lse(*x, mask, window, work),
            *(tensor.to(work) for tensor in (query, key, value)),
            grad,
            d_lse,
        )
        for work in (torch.float64, query.dtype)
    ]
    names = ("out", "lse", "d_query", "d_key", "d_value")
    return zip(names, actual, *references, strict=True)
