"""What a decoder is worth: comparisons, near ties, evaluation of drafts."""

import sparrow_kernels.models  # noqa: F401  (first: it lets transformers load torchvision)
