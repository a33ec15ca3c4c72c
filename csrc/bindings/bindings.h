// The parts of the module, one function a file.
#pragma once

#include <pybind11/pybind11.h>

#include "gguf.h"

namespace wf::engine {

void bind_gguf(pybind11::module_& module);
void bind_model(pybind11::module_& module);

// Metadata as a dict of int, float, bool, str and lists of them. Bytes that are not UTF-8 become
// lone surrogates, as Python's surrogateescape does.
pybind11::dict metadata_dict(const GgufFile& file);

}  // namespace wf::engine
