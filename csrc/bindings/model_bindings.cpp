// Model, Sequence, Sampler and the items of a step.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <utility>

#include "bindings.h"
#include "error.h"
#include "model.h"

namespace py = pybind11;

namespace wf::engine {

namespace {

// A model and its metadata, which Python may ask for long after the file is gone.
struct PyModel {
  PyModel(const std::string& path, const ModelOptions& options) : model(path, options) {}
  Model model;
  std::mutex mutex;  // a step at a time
};

struct PyStepItem {
  std::shared_ptr<Sequence> sequence;
  std::vector<int32_t> tokens;
  std::shared_ptr<Sampler> sampler;
  LogitsWanted logits;
  int64_t drafts;
};

struct PySample {
  int32_t token = -1;
  float logprob = 0;
  std::vector<std::pair<int32_t, float>> top;
};

struct PyStepOutput {
  std::vector<PySample> samples;
  py::object logits;
};

struct Interrupted {};

LogitsWanted logits_wanted(const std::string& name) {
  if (name == "none") return LogitsWanted::none;
  if (name == "last") return LogitsWanted::last;
  if (name == "all") return LogitsWanted::all;
  throw ModelError("logits must be 'none', 'last' or 'all', not '" + name + "'");
}

// An array that owns the vector's memory.
template <typename T>
py::array_t<T> to_array(std::vector<T>&& values, std::vector<py::ssize_t> shape) {
  auto owner = std::make_unique<std::vector<T>>(std::move(values));
  T* data = owner->data();
  py::capsule capsule(owner.release(), [](void* p) { delete static_cast<std::vector<T>*>(p); });
  return py::array_t<T>(std::move(shape), data, capsule);
}

PyStepOutput to_python(StepOutput&& output, const PyStepItem& item, int64_t vocab) {
  PyStepOutput result{{}, py::none()};
  for (const Sampled& sampled : output.sampled) {
    PySample& sample = result.samples.emplace_back(PySample{sampled.token, sampled.logprob, {}});
    for (const TokenLogprob& entry : sampled.top) {
      sample.top.emplace_back(entry.token, entry.logprob);
    }
  }
  if (item.logits == LogitsWanted::last) {
    result.logits = to_array(std::move(output.logits), {vocab});
  } else if (item.logits == LogitsWanted::all) {
    result.logits =
        to_array(std::move(output.logits), {static_cast<py::ssize_t>(item.tokens.size()), vocab});
  }
  return result;
}

// Runs without the GIL; between chunks it asks Python for a pending signal such as Ctrl-C.
std::vector<PyStepOutput> step(PyModel& self, const std::vector<PyStepItem>& python_items) {
  std::vector<StepItem> items;
  for (const PyStepItem& item : python_items) {
    items.push_back(
        {item.sequence.get(), item.tokens, item.sampler.get(), item.logits, item.drafts});
  }
  const auto check_signals = [] {
    py::gil_scoped_acquire acquire;
    if (PyErr_CheckSignals() != 0) throw Interrupted();
  };
  std::vector<StepOutput> outputs;
  try {
    py::gil_scoped_release release;
    const std::lock_guard lock(self.mutex);
    outputs = self.model.step(items, check_signals);
  } catch (const Interrupted&) {
    throw py::error_already_set();
  } catch (const std::bad_alloc&) {
    throw ModelError("memory does not suffice for the keys and values of the step");
  }
  std::vector<PyStepOutput> results;
  const int64_t vocab = self.model.config().vocab;
  for (size_t i = 0; i < outputs.size(); ++i) {
    results.push_back(to_python(std::move(outputs[i]), python_items[i], vocab));
  }
  return results;
}

// A load runs without the GIL too: a pending signal ends it, and so does an exception of
// `progress`.
OnProgress python_progress(const py::object& progress) {
  return [&progress](uint64_t done_bytes, uint64_t total_bytes) {
    py::gil_scoped_acquire acquire;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    if (!progress.is_none()) progress(done_bytes, total_bytes);
  };
}

const char* layout_name(TernaryLayout layout) { return layout == TernaryLayout::t1 ? "t1" : "t2"; }

// "gguf TQ2_0": where the weights come from and the types of the projections, joined by + with the
// most frequent first. Those of a file are as stored; an artifact stores ternary ones as floats, so
// what they became says more: "artifact t2".
std::string format(const Model& model) {
  std::map<std::string, int64_t> counts;
  for (const Matrix* matrix : model.weights().matrices()) {
    if (matrix->stored_type.empty()) continue;  // the embedding or the head
    const bool is_named_by_layout = !model.is_gguf() && matrix->is_ternary();
    const std::string type =
        is_named_by_layout ? layout_name(matrix->layout()) : matrix->stored_type;
    counts[type] += matrix->rows() * matrix->columns();
  }
  std::vector<std::pair<int64_t, std::string>> types;
  for (const auto& [type, count] : counts) types.emplace_back(-count, type);
  std::sort(types.begin(), types.end());
  std::string text = model.is_gguf() ? "gguf" : "artifact";
  for (size_t i = 0; i < types.size(); ++i) text += (i == 0 ? " " : "+") + types[i].second;
  return text;
}

py::dict info(const PyModel& self) {
  const ModelConfig& config = self.model.config();
  const Weights& weights = self.model.weights();
  int64_t ternary = 0;
  int64_t total = 0;
  int64_t bytes = 0;
  int64_t ternary_bytes = 0;
  for (const Matrix* matrix : weights.matrices()) {
    const int64_t count = matrix->rows() * matrix->columns();
    total += count;
    if (matrix->is_ternary()) {
      ternary += count;
      ternary_bytes += static_cast<int64_t>(matrix->bytes());
    }
    bytes += static_cast<int64_t>(matrix->bytes());
  }
  auto layer_bytes = bytes - static_cast<int64_t>(weights.embedding.bytes());
  if (weights.untied_head) layer_bytes -= static_cast<int64_t>(weights.untied_head->bytes());
  py::dict info;
  info["format"] = format(self.model);
  info["architecture"] = config.architecture;
  info["hidden_size"] = config.hidden;
  info["intermediate_size"] = config.intermediate;
  info["num_layers"] = config.layers;
  info["num_heads"] = config.heads;
  info["num_kv_heads"] = config.kv_heads;
  info["head_dim"] = config.head_dim;
  info["vocab_size"] = config.vocab;
  info["context_length"] = config.context;
  info["rope_theta"] = config.rope_theta;
  info["rms_eps"] = config.rms_eps;
  info["act"] = config.activation == Activation::relu2 ? "relu2" : "silu";
  info["subln"] = config.subln == Subln::all     ? "all"
                  : config.subln == Subln::subln ? "subln"
                                                 : "none";
  info["tied"] = config.is_tied;
  info["ternary_parameters"] = ternary;
  info["total_parameters"] = total;
  info["weight_bytes"] = bytes;
  info["ternary_weight_bytes"] = ternary_bytes;
  info["layer_weight_bytes"] = layer_bytes;
  info["head_weight_bytes"] = weights.head().bytes();
  info["bits_per_weight"] = 8.0 * static_cast<double>(bytes) / static_cast<double>(total);
  info["kv_bytes_per_token"] = Sequence::bytes_per_token(config, self.model.kv_type());
  info["isa"] = self.model.kernels().isa;
  info["layout"] = layout_name(self.model.layout());
  info["layout_reason"] = self.model.layout_reason();
  info["head"] = self.model.head().is_screened() ? "screened" : "stored";
  info["head_screen_bytes"] = self.model.head().screen_bytes();
  info["threads"] = self.model.threads();
  info["rows_per_pass"] = Forward::kMaxRows;
  info["head_rows_per_pass"] = Head::kRows;
  info["notes"] = weights.notes;
  return info;
}

// Seconds, {phase: ...}, "total" and "steps".
py::dict take_profile(PyModel& self) {
  StepTimes times;
  {
    py::gil_scoped_release release;
    const std::lock_guard lock(self.mutex);
    times = self.model.profile().take();
  }
  py::dict result;
  result["matmul"] = times.of(Phase::matmul);
  result["attention"] = times.of(Phase::attention);
  result["head"] = times.of(Phase::head);
  result["norm_quantize"] = times.of(Phase::norm_quantize);
  result["barrier"] = times.of(Phase::barrier);
  result["other"] = times.of(Phase::other);
  result["total"] = times.total;
  result["steps"] = times.steps;
  return result;
}

py::dict metadata(const PyModel& self) {
  const GgufFile* file = self.model.gguf();
  return file == nullptr ? py::dict() : metadata_dict(*file);
}

using FloatRows = py::array_t<float, py::array::c_style | py::array::forcecast>;

// {name: float32 [rows, width]}, with "NAME_codes" (int8) and "NAME_scales" for ternary inputs.
py::dict layer_io(PyModel& self, int64_t layer, const FloatRows& hidden) {
  if (hidden.ndim() != 2 || hidden.shape(1) != self.model.config().hidden) {
    throw ModelError("hidden states must be [rows, hidden_size]");
  }
  const py::ssize_t rows = hidden.shape(0);
  LayerTrace trace = self.model.trace_layer(layer, hidden.data(), rows);
  py::dict result;
  for (auto& [name, values] : trace.floats) {
    const auto width = static_cast<py::ssize_t>(values.size()) / rows;
    result[name.c_str()] = to_array(std::move(values), {rows, width});
  }
  for (auto& [name, codes] : trace.codes) {
    const auto width = static_cast<py::ssize_t>(codes.size()) / rows;
    result[(name + "_codes").c_str()] = to_array(std::move(codes), {rows, width});
    result[(name + "_scales").c_str()] = to_array(std::move(trace.scales[name]), {rows});
  }
  return result;
}

using AllowedWords = py::array_t<uint32_t, py::array::c_style | py::array::forcecast>;

void bind_sampler(py::module_& module) {
  using Bias = std::vector<std::pair<int32_t, float>>;
  py::class_<Sampler, std::shared_ptr<Sampler>>(
      module, "Sampler", "Draws tokens; holds its random state and what it drew so far.")
      .def(py::init([](float temperature, int64_t top_k, float top_p, float min_p,
                       std::optional<uint64_t> seed, std::optional<int> top_logprobs,
                       float repetition_penalty, float presence_penalty, float frequency_penalty,
                       Bias logit_bias) {
             return std::make_shared<Sampler>(SamplerOptions{
                 temperature, top_k, top_p, min_p, seed, top_logprobs, repetition_penalty,
                 presence_penalty, frequency_penalty, std::move(logit_bias)});
           }),
           py::kw_only(), py::arg("temperature") = 1.0f, py::arg("top_k") = 0,
           py::arg("top_p") = 1.0f, py::arg("min_p") = 0.0f, py::arg("seed") = py::none(),
           py::arg("top_logprobs") = py::none(), py::arg("repetition_penalty") = 1.0f,
           py::arg("presence_penalty") = 0.0f, py::arg("frequency_penalty") = 0.0f,
           py::arg("logit_bias") = Bias(),
           "temperature 0 takes the most likely token. Raises ModelError for a value out of range.")
      .def(
          "observe",
          [](Sampler& self, const std::vector<int32_t>& tokens) { self.observe(tokens); },
          py::arg("tokens"), "Tells the repetition penalty of prompt tokens.")
      .def(
          "allow",
          [](Sampler& self, const AllowedWords& words) {
            self.allow(std::vector<uint32_t>(words.data(), words.data() + words.size()));
          },
          py::arg("words"),
          "From now on only tokens whose bit is set are drawn: token i is bit i % 32 of uint32 "
          "word "
          "i / 32. No words: every token.");
}

void bind_step(py::module_& module) {
  py::class_<Sequence, std::shared_ptr<Sequence>>(
      module, "Sequence", "Keys and values of one token sequence; freed with this object.")
      .def_property_readonly("length", &Sequence::length)
      .def_property_readonly("max_tokens", &Sequence::max_tokens)
      .def_property_readonly("nbytes", &Sequence::bytes)
      .def("truncate", &Sequence::truncate, py::arg("length"),
           "Forgets the tokens from `length` on. Not during a step that uses the sequence.");
  py::class_<PyStepItem>(module, "StepItem", "Tokens to append to a sequence in one step.")
      .def(
          py::init([](std::shared_ptr<Sequence> sequence, std::vector<int32_t> tokens,
                      std::shared_ptr<Sampler> sampler, const std::string& logits, int64_t drafts) {
            return PyStepItem{std::move(sequence), std::move(tokens), std::move(sampler),
                              logits_wanted(logits), drafts};
          }),
          py::arg("sequence").none(false), py::arg("tokens"), py::arg("sampler") = py::none(),
          py::arg("logits") = "none", py::arg("drafts") = 0,
          "The last `drafts` tokens are guesses of what the sampler draws; see "
          "csrc/engine/model.h.")
      .def_readonly("sequence", &PyStepItem::sequence)
      .def_readonly("tokens", &PyStepItem::tokens);
  py::class_<PySample>(module, "Sample", "A token that was drawn.")
      .def_readonly("token", &PySample::token)
      .def_readonly("logprob", &PySample::logprob,
                    "Its log probability under the model, where the sampler reports them.")
      .def_readonly("top", &PySample::top, "(token, logprob) of the most likely, best first.");
  const auto first = [](const PyStepOutput& self) {
    return self.samples.empty() ? PySample() : self.samples.front();
  };
  py::class_<PyStepOutput>(module, "StepOutput", "What a step gave for one item.")
      .def_readonly("samples", &PyStepOutput::samples,
                    "One sample, and one for each draft that was right; [] without a sampler.")
      .def_property_readonly(
          "token", [=](const PyStepOutput& self) { return first(self).token; },
          "Of the first sample, as are logprob and top; -1 without a sampler.")
      .def_property_readonly("logprob",
                             [=](const PyStepOutput& self) { return first(self).logprob; })
      .def_property_readonly("top", [=](const PyStepOutput& self) { return first(self).top; })
      .def_readonly("logits", &PyStepOutput::logits,
                    "float32 [vocab] or [tokens, vocab], or None.");
}

}  // namespace

void bind_model(py::module_& module) {
  bind_sampler(module);
  bind_step(module);
  py::class_<PyModel>(module, "Model", "A loaded model. One step runs at a time.")
      .def(py::init([](const std::string& path, int threads, int64_t context, bool act_quant,
                       const std::string& layout, const std::string& head,
                       const std::string& kv_cache, const py::object& progress) {
             const ModelOptions options{
                 threads, context, act_quant, layout, head, kv_cache, python_progress(progress)};
             py::gil_scoped_release release;
             try {
               return std::make_unique<PyModel>(path, options);
             } catch (const std::bad_alloc&) {
               throw ModelError(path + ": memory does not suffice for its weights");
             }
           }),
           py::arg("path"), py::kw_only(), py::arg("threads") = 0, py::arg("context") = 0,
           py::arg("act_quant") = true, py::arg("layout") = "auto", py::arg("head") = "auto",
           py::arg("kv_cache") = "f32", py::arg("progress") = py::none(),
           "Raises FormatError or ModelError, and what progress(done_bytes, total_bytes) raises.")
      .def_property_readonly("info", &info)
      .def_property_readonly(
          "head_counts",
          [](const PyModel& self) {
            const Head::Counts counts = self.model.head().counts();
            return std::pair(counts.rows, counts.rescored);
          },
          "Rows screened so far, and logits computed from stored rows for them.")
      .def_property_readonly("metadata", &metadata, "GGUF metadata; {} for a directory.")
      .def(
          "sequence",
          [](const PyModel& self, int64_t max_tokens) {
            return std::shared_ptr<Sequence>(self.model.sequence(max_tokens));
          },
          py::arg("max_tokens"))
      .def(
          "fork",
          [](const PyModel& self, const Sequence& sequence, int64_t length, int64_t max_tokens) {
            return std::shared_ptr<Sequence>(self.model.fork(sequence, length, max_tokens));
          },
          py::arg("sequence"), py::arg("length"), py::arg("max_tokens"),
          "A sequence that begins with the first `length` tokens of another and shares their "
          "memory. Not during a step that uses the other.")
      .def("step", &step, py::arg("items"),
           "Appends the tokens of all items to their sequences; see csrc/engine/model.h.")
      .def(
          "profile",
          [](PyModel& self, bool is_on) {
            py::gil_scoped_release release;
            const std::lock_guard lock(self.mutex);
            self.model.profile().set_on(is_on);
          },
          py::arg("is_on"), "Measures the phases of steps from now on, or no more.")
      .def("take_profile", &take_profile,
           "Seconds of the steps measured since the last call by phase, the mean of the threads: "
           "csrc/engine/step_profile.h.")
      .def("layer_io", &layer_io, py::arg("layer"), py::arg("hidden"),
           "One layer on hidden states [rows <= 128, hidden_size] at positions 0, 1, ...");
}

}  // namespace wf::engine
