"""Facts about the native build; there is no such module in a pure Python install."""

version: str
compiler: str
cxx_standard: int
built_with_cuda: bool
cuda_compiler: str
"""Empty where no CUDA kernels were built."""
cuda_architectures: list[str]
"""CMake's words, such as "80-real"; one without "-real" is there as PTX too."""
torch_version: str
