"""The public names, by kind."""

from __future__ import annotations

NOT_OPS = {
    "Acceptance", "AnchorIndex", "Attended", "SparrowDecoder", "SparrowDraft", "TreeConfig",
    "TreeLayout", "__version__", "backend", "bind_caches", "checks", "load_draft",
    "sparrow_generate", "values_are_checked",
}  # fmt: skip
