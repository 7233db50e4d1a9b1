"""Speculative decoding of Hugging Face Vid-LLMs; transformers' private ground is `bridge`."""

from sparrow_kernels.video_shim import install_video_shim

install_video_shim()

from sparrow_kernels.models.decoder import SparrowDecoder  # noqa: E402  (the shim must come first)
from sparrow_kernels.models.drafts.load import load_draft  # noqa: E402
from sparrow_kernels.models.generate import plain_generate, sparrow_generate  # noqa: E402
from sparrow_kernels.models.outputs import SparrowOutput  # noqa: E402

__all__ = ["SparrowDecoder", "SparrowOutput", "load_draft", "plain_generate", "sparrow_generate"]
