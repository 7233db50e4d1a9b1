"""Training of the embedded target and of drafts."""

import sparrow_kernels.models  # noqa: F401  (first: it lets transformers load torchvision)
