// GgufFile and TensorInfo.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>

#include "bindings.h"
#include "error.h"

namespace py = pybind11;

namespace wf::engine {

namespace {

py::str text(const std::string& bytes) {
  PyObject* decoded =
      PyUnicode_DecodeUTF8(bytes.data(), static_cast<Py_ssize_t>(bytes.size()), "surrogateescape");
  if (decoded == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::str>(decoded);
}

py::object scalar(const GgufScalar& value) {
  return std::visit(
      [](const auto& item) -> py::object {
        if constexpr (std::is_same_v<std::decay_t<decltype(item)>, std::string>) {
          return text(item);
        } else {
          return py::cast(item);
        }
      },
      value);
}

py::tuple shape(const GgufTensor& tensor) {
  py::tuple sizes(tensor.shape.size());
  for (size_t i = 0; i < tensor.shape.size(); ++i) sizes[i] = tensor.shape[i];
  return sizes;
}

py::array_t<uint8_t> read(const GgufFile& file, const std::string& name) {
  const GgufTensor* tensor = file.find_tensor(name);
  if (tensor == nullptr) throw FormatError(file.file().path(), "no tensor '" + name + "'");
  py::array_t<uint8_t> bytes(static_cast<py::ssize_t>(tensor->bytes));
  uint8_t* data = bytes.mutable_data();
  py::gil_scoped_release release;
  file.file().read(tensor->offset, data, tensor->bytes, "tensor '" + name + "'");
  return bytes;
}

}  // namespace

py::dict metadata_dict(const GgufFile& file) {
  py::dict metadata;
  for (const auto& [key, value] : file.metadata()) {
    if (value.is_array) {
      py::list items(value.size());
      for (size_t i = 0; i < value.size(); ++i) items[i] = scalar(value.item(i));
      metadata[text(key)] = items;
    } else {
      metadata[text(key)] = scalar(value.item(0));
    }
  }
  return metadata;
}

void bind_gguf(py::module_& module) {
  py::class_<GgufTensor>(module, "TensorInfo", "One entry of a GGUF file's table of tensors.")
      .def_readonly("name", &GgufTensor::name)
      .def_property_readonly("type", [](const GgufTensor& t) { return t.type->name; })
      .def_property_readonly("type_id", [](const GgufTensor& t) { return t.type->id; })
      .def_property_readonly("shape", &shape, "Rows first, as in numpy.")
      .def_readonly("offset", &GgufTensor::offset, "In the file.")
      .def_readonly("nbytes", &GgufTensor::bytes)
      .def("__repr__", [](const GgufTensor& t) {
        return "TensorInfo(" + t.name + ", " + t.type->name + ", " +
               py::repr(shape(t)).cast<std::string>() + ")";
      });
  py::class_<GgufFile>(module, "GgufFile", "Checked reader of GGUF files, versions 2 and 3.")
      .def(py::init([](const std::string& path) {
             py::gil_scoped_release release;
             return std::make_unique<GgufFile>(path);
           }),
           py::arg("path"), "Raises FormatError.")
      .def_property_readonly("version", &GgufFile::version)
      .def_property_readonly("alignment", &GgufFile::alignment)
      .def_property_readonly("metadata", &metadata_dict, "A new dict at each call.")
      .def_property_readonly("tensors", &GgufFile::tensors)
      .def("read", &read, py::arg("name"), "The tensor's bytes as a new uint8 array.");
}

}  // namespace wf::engine
