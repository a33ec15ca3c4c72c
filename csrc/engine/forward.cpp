#include "forward.h"

#include <algorithm>
#include <cmath>

#include "layout/t2.h"

namespace wf::engine {

Forward::Forward(const ModelConfig& config, const Weights& weights, const KernelTable& kernels,
                 ThreadPool& pool, bool is_head_screened)
    : config_(config),
      weights_(weights),
      kernels_(kernels),
      pool_(pool),
      head_(weights.head(), kernels, pool, is_head_screened),
      attention_(config, kernels, pool),
      profile_(pool.size()) {
  const auto floats = [](int64_t width) {
    return std::vector<float>(static_cast<size_t>(kMaxRows * width));
  };
  const int64_t widest = std::max({config.hidden, config.intermediate, config.q_width()});
  hidden_ = floats(config.hidden);
  q_ = floats(config.q_width());
  k_ = floats(config.kv_width());
  v_ = floats(config.kv_width());
  attended_ = floats(config.q_width());
  gate_ = floats(config.intermediate);
  up_ = floats(config.intermediate);
  added_ = floats(config.hidden);
  cosines_ = floats(config.head_dim / 2);
  sines_ = floats(config.head_dim / 2);
  for (int thread = 0; thread < pool.size(); ++thread) {
    for (size_t reader = 0; reader < readers_apart(); ++reader) {
      // Only the first matrix may read more than the residual stream.
      inputs_.emplace_back(thread == 0 ? kMaxRows : 1, reader == 0 ? widest : config.hidden);
    }
  }
}

Forward::Inputs::Inputs(int64_t rows, int64_t width)
    : floats(static_cast<size_t>(rows * width)),
      codes(static_cast<size_t>(rows * act_stride(width))),
      scales(static_cast<size_t>(rows)),
      sums(static_cast<size_t>(rows)) {}

void Forward::run(std::span<const TokenRow> rows, LogitsSink& sink) {
  rows_ = rows;
  attention_.plan(rows);
  pool_.run([&](int thread) {
    const StepProfile::Part measured(profile_, thread);
    embed(thread);
    for (int64_t i = 0; i < config_.layers; ++i) layer(i, thread);
    predict(sink, thread);
  });
}

LayerTrace Forward::trace_layer(int64_t index, std::span<const TokenRow> rows, const float* input) {
  LayerTrace trace;
  rows_ = rows;
  trace_ = &trace;
  attention_.plan(rows);
  pool_.run([&](int thread) {
    embed(thread);
    if (thread == 0) std::copy_n(input, num_rows() * config_.hidden, hidden_.begin());
    pool_.barrier();
    layer(index, thread);
    keep_floats("output", thread, hidden_.data(), config_.hidden);
  });
  trace_ = nullptr;
  return trace;
}

void Forward::embed(int thread) {
  const int64_t half = config_.head_dim / 2;
  const auto amplitude = static_cast<float>(config_.rope_scaling.amplitude);
  const Range range = share(num_rows(), 1, thread);
  for (int64_t r = range.begin; r < range.end; ++r) {
    const TokenRow& row = rows_[static_cast<size_t>(r)];
    weights_.embedding.read_row(row.token, hidden_.data() + r * config_.hidden);
    for (int64_t i = 0; i < half; ++i) {
      // The angle in float32, as transformers computes it.
      const float angle =
          static_cast<float>(row.position) * weights_.rope_frequencies[static_cast<size_t>(i)];
      cosines_[static_cast<size_t>(r * half + i)] = std::cos(angle) * amplitude;
      sines_[static_cast<size_t>(r * half + i)] = std::sin(angle) * amplitude;
    }
  }
  pool_.barrier();
}

void Forward::layer(int64_t index, int thread) {
  const LayerWeights& layer = weights_.layers[static_cast<size_t>(index)];
  const float* attended = attended_.data();
  norm_rows(layer.attn_norm, hidden_.data(), config_.hidden, {&layer.q, &layer.k, &layer.v},
            thread);
  keep_codes("q", thread, layer.q, 0);
  keep_codes("k", thread, layer.k, 1);
  keep_codes("v", thread, layer.v, 2);
  project_heads(layer, thread);
  keep_floats("q", thread, q_.data(), config_.q_width());
  keep_floats("k", thread, k_.data(), config_.kv_width());
  keep_floats("v", thread, v_.data(), config_.kv_width());
  pool_.barrier();
  place_heads(layer, index, thread);
  attention_.run(index, q_.data(), attended_.data(), thread);
  keep_floats("attended", thread, attended, config_.q_width());
  norm_rows({}, attended, config_.q_width(), {&layer.o}, thread);
  keep_codes("o", thread, layer.o);
  add_product(layer.o, thread);
  norm_rows(layer.ffn_norm, hidden_.data(), config_.hidden, {&layer.gate, &layer.up}, thread);
  keep_codes("gate", thread, layer.gate, 0);
  keep_codes("up", thread, layer.up, 1);
  gate_up(layer, thread);
  keep_floats("gated", thread, gate_.data(), config_.intermediate);
  norm_rows({}, gate_.data(), config_.intermediate, {&layer.down}, thread);
  keep_codes("down", thread, layer.down);
  add_product(layer.down, thread);
}

// inputs() = the rows behind the norm of the layer (no gain: the rows themselves), then behind the
// readers' own norms where they have one.
void Forward::norm_rows(const std::vector<float>& gain, const float* in, int64_t width,
                        std::initializer_list<const Matrix*> readers, int thread) {
  enter_phase(Phase::norm_quantize);
  const bool needs_codes = std::any_of(readers.begin(), readers.end(),
                                       [](const Matrix* matrix) { return matrix->reads_codes(); });
  const Range range = has_own_inputs() ? Range{0, 1} : share(num_rows(), 1, thread);
  for (size_t reader = 0; reader < std::min(readers.size(), readers_apart()); ++reader) {
    const std::vector<float>& own_gain = readers.begin()[reader]->input_norm;
    Inputs& to = inputs(thread, reader);
    for (int64_t r = range.begin; r < range.end; ++r) {
      const float* row = in + r * width;
      if (own_gain.empty()) {
        to.fill(kernels_, r, row, gain, config_.rms_eps, width, needs_codes);
        continue;
      }
      if (!gain.empty()) {
        float* normed = to.floats.data() + r * width;
        kernels_.rms_norm(row, gain.data(), width, config_.rms_eps, normed);
        row = normed;
      }
      to.fill(kernels_, r, row, own_gain, config_.subln_eps, width, needs_codes);
    }
  }
  if (!has_own_inputs()) pool_.barrier();
}

// `in` may be this row's floats.
void Forward::Inputs::fill(const KernelTable& kernels, int64_t row, const float* in,
                           const std::vector<float>& gain, float eps, int64_t width,
                           bool needs_codes) {
  const int64_t code_stride = act_stride(width);
  float* to = floats.data() + row * width;
  int8_t* to_codes = codes.data() + row * code_stride;
  float* scale = &scales[static_cast<size_t>(row)];
  int32_t* sum = &sums[static_cast<size_t>(row)];
  if (gain.empty()) {
    std::copy_n(in, width, to);
    if (needs_codes) {
      kernels.quantize_act_int8(to, width, 1, width, to_codes, code_stride, scale, sum);
    }
  } else if (needs_codes) {
    kernels.rms_norm_quantize(in, gain.data(), width, eps, to, to_codes, code_stride, scale, sum);
  } else {
    kernels.rms_norm(in, gain.data(), width, eps, to);
  }
}

// out[r, j] for this range of weight rows j; out has matrix.rows() columns.
void Forward::product(const Matrix& matrix, size_t reader, Range range, int thread,
                      float* out) const {
  if (range.begin == range.end) return;
  const int64_t n = matrix.rows();
  const int64_t k = matrix.columns();
  const Inputs& from = inputs(thread, reader);
  if (matrix.reads_codes()) {
    const auto gemm =
        matrix.layout() == TernaryLayout::t1 ? kernels_.gemm_s8_t1 : kernels_.gemm_s8_t2;
    gemm(from.codes.data(), act_stride(k), from.scales.data(), from.sums.data(), num_rows(),
         matrix.data(), matrix.scale(), k, range.begin, range.end, out, n);
  } else if (matrix.is_ternary()) {
    // Never all of the matrix in float32: that would be 16 times its size.
    std::vector<float> panel(static_cast<size_t>(t2::kRows * k));
    for (int64_t j = range.begin; j < range.end; j += t2::kRows) {
      const int64_t end = std::min(j + t2::kRows, range.end);
      for (int64_t row = j; row < end; ++row) matrix.read_row(row, &panel[(row - j) * k]);
      kernels_.gemm_f32_dense(from.floats.data(), k, num_rows(), panel.data(), DenseType::f32, k, 0,
                              end - j, out + j, n);
    }
  } else {
    kernels_.gemm_f32_dense(from.floats.data(), k, num_rows(), matrix.data(), matrix.type(), k,
                            range.begin, range.end, out, n);
  }
  if (matrix.bias.empty()) return;
  for (int64_t r = 0; r < num_rows(); ++r) {
    for (int64_t j = range.begin; j < range.end; ++j) {
      out[r * n + j] += matrix.bias[static_cast<size_t>(j)];
    }
  }
}

// q, k and v as one stack of weight rows, so that three small matrices still divide evenly.
void Forward::project_heads(const LayerWeights& layer, int thread) {
  enter_phase(Phase::matmul);
  const std::pair<const Matrix*, float*> parts[] = {
      {&layer.q, q_.data()}, {&layer.k, k_.data()}, {&layer.v, v_.data()}};
  int64_t panels = 0;
  for (const auto& [matrix, out] : parts) panels += t2::panels(matrix->rows());
  const Range range = share(panels, 1, thread);
  int64_t first = 0;
  size_t reader = 0;
  for (const auto& [matrix, out] : parts) {
    const int64_t count = t2::panels(matrix->rows());
    const int64_t begin = std::clamp<int64_t>(range.begin - first, 0, count);
    const int64_t end = std::clamp<int64_t>(range.end - first, 0, count);
    product(*matrix, reader++, {begin * t2::kRows, std::min(end * t2::kRows, matrix->rows())},
            thread, out);
    first += count;
  }
  pool_.barrier();
}

void Forward::rotate(float* head, int64_t row) const {
  const int64_t half = config_.head_dim / 2;
  const float* cosine = cosines_.data() + row * half;
  const float* sine = sines_.data() + row * half;
  for (int64_t i = 0; i < half; ++i) {
    const float a = head[i];
    const float b = head[half + i];
    head[i] = a * cosine[i] - b * sine[i];
    head[half + i] = b * cosine[i] + a * sine[i];
  }
}

// Norms and rotates each head of q and k, and stores k and v in the caches.
void Forward::place_heads(const LayerWeights& layer, int64_t index, int thread) {
  enter_phase(Phase::attention);
  const int64_t d = config_.head_dim;
  const int64_t heads = config_.heads + config_.kv_heads;
  const Range range = share(num_rows() * heads, 1, thread);
  for (int64_t i = range.begin; i < range.end; ++i) {
    const int64_t r = i / heads;
    const int64_t h = i % heads;
    const bool is_query = h < config_.heads;
    const int64_t kv_head = h - config_.heads;
    float* head = is_query ? q_.data() + r * config_.q_width() + h * d
                           : k_.data() + r * config_.kv_width() + kv_head * d;
    const std::vector<float>& gain = is_query ? layer.q_norm : layer.k_norm;
    if (!gain.empty()) kernels_.rms_norm(head, gain.data(), d, config_.rms_eps, head);
    rotate(head, r);
    if (is_query) continue;
    const TokenRow& row = rows_[static_cast<size_t>(r)];
    Sequence& sequence = *row.sequence;
    uint8_t* page = sequence.page(row.position);
    kernels_.store_kv(head, v_.data() + r * config_.kv_width() + kv_head * d, sequence.type(), d,
                      row.position % kKvPage, page + sequence.key_offset(index, kv_head),
                      page + sequence.value_offset(index, kv_head));
  }
  pool_.barrier();
}

// gate_ = act(gate) * up, each thread on its own columns of both.
void Forward::gate_up(const LayerWeights& layer, int thread) {
  enter_phase(Phase::matmul);
  const Range range = share(config_.intermediate, t2::kRows, thread);
  product(layer.gate, 0, range, thread, gate_.data());
  product(layer.up, 1, range, thread, up_.data());
  const Gate kind = config_.activation == Activation::relu2 ? Gate::relu2 : Gate::silu;
  for (int64_t r = 0; r < num_rows(); ++r) {
    float* gate = gate_.data() + r * config_.intermediate + range.begin;
    const float* up = up_.data() + r * config_.intermediate + range.begin;
    kernels_.gated_act(gate, up, range.end - range.begin, kind, gate);
  }
  pool_.barrier();
}

// hidden_ += the product, each thread on its own columns.
void Forward::add_product(const Matrix& matrix, int thread) {
  enter_phase(Phase::matmul);
  const Range range = share(matrix.rows(), t2::kRows, thread);
  product(matrix, 0, range, thread, added_.data());
  for (int64_t r = 0; r < num_rows(); ++r) {
    for (int64_t j = range.begin; j < range.end; ++j) {
      hidden_[static_cast<size_t>(r * config_.hidden + j)] +=
          added_[static_cast<size_t>(r * config_.hidden + j)];
    }
  }
  pool_.barrier();
}

// Norm and head of the wanted rows, Head::kRows at a time; then the sink takes them, one group of
// rows a thread.
void Forward::predict(LogitsSink& sink, int thread) {
  enter_phase(Phase::head);
  for (int64_t next = 0; next < num_rows();) {
    int64_t wanted[Head::kRows];
    int64_t count = 0;
    for (; next < num_rows() && count < Head::kRows; ++next) {
      if (rows_[static_cast<size_t>(next)].output >= 0) wanted[count++] = next;
    }
    if (count == 0) return;
    const Range mine = share(count, 1, thread);
    for (int64_t i = mine.begin; i < mine.end; ++i) {
      kernels_.rms_norm(hidden_.data() + wanted[i] * config_.hidden, weights_.final_norm.data(),
                        config_.hidden, config_.rms_eps, head_.input(i));
      head_.prepare(i, sink.need(rows_[static_cast<size_t>(wanted[i])].output));
    }
    pool_.barrier();
    head_.compute(count, thread);
    for (int64_t i = 0; i < count; ++i) {
      const int32_t output = rows_[static_cast<size_t>(wanted[i])].output;
      if (sink.group(output) % pool_.size() != thread) continue;
      if (head_.has_all(i)) {
        sink.take(output, head_.logits(i));
      } else {
        sink.take_likely(output, head_.likely(i));
      }
    }
    pool_.barrier();
  }
}

void Forward::keep_floats(const char* name, int thread, const float* values, int64_t width) const {
  if (trace_ == nullptr || thread != 0) return;
  trace_->floats[name].assign(values, values + num_rows() * width);
}

void Forward::keep_codes(const char* name, int thread, const Matrix& matrix, size_t reader) const {
  if (trace_ == nullptr || thread != 0 || !matrix.reads_codes()) return;
  const int64_t k = matrix.columns();
  const Inputs& from = inputs(thread, reader);
  std::vector<int8_t>& kept = trace_->codes[name];
  for (int64_t r = 0; r < num_rows(); ++r) {
    const int8_t* row = from.codes.data() + r * act_stride(k);
    kept.insert(kept.end(), row, row + k);
  }
  trace_->scales[name].assign(from.scales.begin(), from.scales.begin() + num_rows());
}

}  // namespace wf::engine
