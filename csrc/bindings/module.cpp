// wrinklefree._engine: facts about the build and this machine, and the two exceptions.
#include <pybind11/pybind11.h>

#include <array>

#include "bandwidth.h"
#include "bindings.h"
#include "cpus.h"
#include "dispatch.h"
#include "error.h"
#include "multiply_peak.h"

namespace py = pybind11;
using namespace wf::engine;

namespace {

constexpr int kMaxIsas = 8;

py::list available_isas() {
  std::array<const char*, kMaxIsas> names{};
  const int count = std::min(wf::available(names.data(), kMaxIsas), kMaxIsas);
  py::list list;
  for (int i = 0; i < count; ++i) list.append(names[static_cast<size_t>(i)]);
  return list;
}

py::dict build_info() {
  py::dict types;
  for (uint32_t id = 0; id < 64; ++id) {
    if (const GgufTypeInfo* type = find_gguf_type(id)) types[type->name] = id;
  }
  py::dict info;
  info["version"] = WF_VERSION;
  info["compiler"] = WF_COMPILER;
  info["isas"] = available_isas();
  info["cuda"] = static_cast<bool>(WF_CUDA_BUILT);
  info["types"] = types;
  return info;
}

py::dict cpu_info() {
  if (const char* problem = wf::isa_error()) throw ModelError(problem);
  py::dict info;
  info["isa"] = wf::active().isa;
  info["available"] = available_isas();
  info["threads"] = usable_cpus();
  return info;
}

}  // namespace

PYBIND11_MODULE(_engine, module) {
  module.doc() = "Native engine of wrinklefree: GGUF reader, ternary inference, sampling.";
  py::register_exception<FormatError>(module, "FormatError", PyExc_ValueError);
  py::register_exception<ModelError>(module, "ModelError", PyExc_ValueError);
  module.def("build_info", &build_info, "Version, compiler, instruction sets and type ids.");
  module.def("cpu_info", &cpu_info,
             "The instruction set that runs, those that could, and usable threads.\n\n"
             "Raises ModelError when WF_ISA names one that cannot run here.");
  module.def(
      "read_gbps",
      [](int threads, size_t bytes) {
        if (threads < 1 || threads > 512 || bytes < 1 << 20) {
          throw ModelError("read_gbps wants 1 to 512 threads and at least 1 MiB");
        }
        py::gil_scoped_release release;
        return read_gbps(threads, bytes);
      },
      py::arg("threads"), py::arg("nbytes"),
      "Read bandwidth of memory, GB/s: best of five passes.");
  module.def(
      "multiply_peak",
      [](const std::string& isa, int threads) {
        if (threads < 1 || threads > 512) throw ModelError("multiply_peak wants 1 to 512 threads");
        if (wf::find(isa.c_str()) == nullptr) throw ModelError("'" + isa + "' cannot run here");
        py::gil_scoped_release release;
        const MultiplyPeak peak = multiply_peak(isa, threads);
        return std::pair(peak.instruction, peak.gmacs);
      },
      py::arg("isa"), py::arg("threads"),
      "(instruction, 10^9 int8 multiply-adds a second from registers) of an instruction set that "
      "runs here; (\"\", 0) where no loop is known.");
  bind_gguf(module);
  bind_model(module);
}
