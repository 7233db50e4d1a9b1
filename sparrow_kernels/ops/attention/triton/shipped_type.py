"""What a kernel is compiled with ahead of time, where no GPU is needed, to read its cubin."""

from __future__ import annotations

from typing import Any, NamedTuple


class Shipped(NamedTuple):
    """One kernel in one configuration, as `triton.compiler.ASTSource` takes it."""

    name: str
    """Such as "tree_attention D128 bf16 M128+64"."""
    kernel: Any
    """A triton JITFunction; compile it in a process that does not interpret."""
    signature: dict[str, Any]
    """Argument name -> type, such as "*bf16", "i32", "constexpr"; a tuple of them for a tuple."""
    constexprs: dict[str, Any]
    """The value of each constexpr argument, and None for tensors left out."""
    attrs: dict[tuple[int, ...], list[list[Any]]]
    """Divisibility by 16 of pointers and strides, as usual tensors have it: without it the
    compiler makes no asynchronous copies."""
    num_warps: int
    num_stages: int
    tensor_cores: bool
    """Whether to expect tensor-core and asynchronous-copy instructions: 16-bit, 32 rows or more."""
    most_registers: int | None = None
    """Of a thread, where the compiler is told."""
