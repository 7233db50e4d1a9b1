// `sparrow_kernels._C`: how this build was made. The ops live in libsparrow_ops, free of Python.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <sstream>
#include <string>
#include <vector>

#include "cpu/levels.h"

#if defined(__clang__)
#define SPARROW_COMPILER "clang " __clang_version__
#elif defined(__GNUC__)
#define SPARROW_COMPILER "g++ " __VERSION__
#else
#define SPARROW_COMPILER "unknown"
#endif

namespace {

std::vector<std::string> split(const std::string& list) {
  std::vector<std::string> parts;
  std::istringstream stream(list);
  for (std::string part; std::getline(stream, part, ',');) parts.push_back(part);
  return parts;
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "Facts about the native build of sparrow_kernels.";
  module.attr("version") = SPARROW_VERSION;
  module.attr("compiler") = SPARROW_COMPILER;
  module.attr("cxx_standard") = SPARROW_CXX_STANDARD;
  module.attr("cuda_architectures") = split(SPARROW_CUDA_ARCHITECTURES);
  module.attr("cuda_compiler") = SPARROW_CUDA_COMPILER;
  module.attr("built_with_cuda") = static_cast<bool>(SPARROW_WITH_CUDA);
  module.attr("torch_version") = SPARROW_TORCH_VERSION;
  module.attr("cpu_level") = sparrow::cpu::level_in_words();
}
