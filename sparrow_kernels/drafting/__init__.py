"""The draft model, its losses and its training step.

The names below are imported when first used: the model is a transformers one, while network,
losses and training step need torch only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparrow_kernels.drafting.config import SparrowDraftConfig
    from sparrow_kernels.drafting.pretrained import SparrowDraft

__all__ = ["SparrowDraft", "SparrowDraftConfig"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sparrow_kernels.drafting import pretrained

    return getattr(pretrained, name)
