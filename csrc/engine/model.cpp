#include "model.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <unordered_set>

#include "cpus.h"
#include "dispatch.h"
#include "error.h"
#include "json.h"
#include "layout_choice.h"

namespace wf::engine {

namespace {

constexpr int kMaxThreads = 512;
constexpr int64_t kManifestSchema = 1;

Json read_json(const std::string& path) {
  const std::vector<uint8_t> bytes = File(path).read_all();
  return Json::parse({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path);
}

// A plain Hugging Face directory has no manifest. Refused are a manifest of a newer version and the
// checkpoint of a run that is not finished.
void check_manifest(const std::string& directory) {
  const std::string path = directory + "/wrinklefree.json";
  if (!std::filesystem::exists(path)) return;
  const Json manifest = read_json(path);
  const Json* schema = manifest.find("schema");
  if (schema == nullptr || !schema->is_integer()) throw FormatError(path, "no integer 'schema'");
  if (schema->integer() > kManifestSchema) {
    throw ModelError(path + ": needs a version of wrinklefree that reads schema " +
                     std::to_string(schema->integer()) + " (this one reads " +
                     std::to_string(kManifestSchema) + ")");
  }
  if (std::filesystem::is_directory(directory + "/state")) {
    throw ModelError(directory + " holds an unfinished training run (state/ is there): give the " +
                     "wf-train command that made it again, it continues");
  }
}

const KernelTable& checked_kernels() {
  if (const char* problem = isa_error()) throw ModelError(problem);
  return active();
}

// Below about 1 MiB of weights each, threads wait for each other longer than they work.
constexpr size_t kMinThreadBytes = 1 << 20;

int choose_threads(int wanted, size_t weight_bytes) {
  if (wanted != 0) return wanted;
  return static_cast<int>(std::min<size_t>(usable_cpus(), 1 + weight_bytes / kMinThreadBytes));
}

size_t weight_bytes(const Weights& weights) {
  size_t bytes = 0;
  for (const Matrix* matrix : weights.matrices()) bytes += matrix->bytes();
  return bytes;
}

// Below this a head is read in less time than the barriers of screening take.
constexpr size_t kMinScreenedBytes = 4 << 20;

bool is_head_screened(const std::string& choice, const Matrix& head) {
  if (choice == "auto") return head.bytes() >= kMinScreenedBytes;
  if (choice != "screened" && choice != "stored") {
    throw ModelError("head must be auto, screened or stored, not '" + choice + "'");
  }
  return choice == "screened";
}

KvType kv_type_named(const std::string& name) {
  if (name == "f32") return KvType::f32;
  if (name == "f16") return KvType::f16;
  if (name == "bf16") return KvType::bf16;
  if (name == "int8") return KvType::int8;
  throw ModelError("kv_cache must be f32, f16, bf16 or int8, not '" + name + "'");
}

// As stored: what there is to read.
uint64_t stored_bytes(const TensorSource& source) {
  uint64_t bytes = 0;
  for (const std::string& name : source.names()) bytes += source.stored(name).bytes;
  return bytes;
}

// Of all linear layers in t2, without padding.
int64_t ternary_bytes(const ModelConfig& config) {
  const int64_t attention = config.hidden * 2 * (config.q_width() + config.kv_width());
  return config.layers * (attention + 3 * config.hidden * config.intermediate) / 4;
}

// Samples or keeps logits; runs on the pool's threads, so what goes wrong is remembered.
class StepSink : public LogitsSink {
 public:
  StepSink(std::span<const StepItem> items, std::vector<StepOutput>& outputs, int64_t vocab,
           const KernelTable& kernels)
      : items_(items), outputs_(outputs), vocab_(vocab), kernels_(kernels) {}

  struct Target {
    size_t item;
    int64_t logits_row;  // -1: not kept
    int64_t sample;      // which of the item's samples, -1: none
  };
  int32_t add(const Target& target) {
    targets_.push_back(target);
    return static_cast<int32_t>(targets_.size() - 1);
  }

  HeadNeed need(int32_t output) const noexcept override {
    const Target& target = targets_[static_cast<size_t>(output)];
    return target.logits_row >= 0 ? HeadNeed() : items_[target.item].sampler->need();
  }

  // Samples of one item depend on each other, other rows on nothing.
  int64_t group(int32_t output) const noexcept override {
    const Target& target = targets_[static_cast<size_t>(output)];
    return target.sample >= 0 ? static_cast<int64_t>(target.item) : output;
  }

  void take(int32_t output, float* logits) noexcept override {
    const Target& target = targets_[static_cast<size_t>(output)];
    if (target.logits_row >= 0) {
      std::copy_n(logits, vocab_,
                  outputs_[target.item].logits.begin() + target.logits_row * vocab_);
    }
    if (is_drawn(target)) {
      keep(target, items_[target.item].sampler->sample(logits, vocab_, kernels_));
    }
  }

  void take_likely(int32_t output, std::vector<TokenLogit> likely) noexcept override {
    const Target& target = targets_[static_cast<size_t>(output)];
    if (is_drawn(target)) keep(target, items_[target.item].sampler->sample(std::move(likely)));
  }

 private:
  // Whether the samples before this one were what their drafts said.
  bool is_drawn(const Target& target) const {
    if (target.sample <= 0) return target.sample == 0;
    const StepItem& item = items_[target.item];
    const std::vector<Sampled>& sampled = outputs_[target.item].sampled;
    const auto first_draft = static_cast<int64_t>(item.tokens.size()) - item.drafts;
    return static_cast<int64_t>(sampled.size()) == target.sample &&
           sampled.back().token ==
               item.tokens[static_cast<size_t>(first_draft + target.sample - 1)];
  }
  void keep(const Target& target, Sampled sampled) {
    outputs_[target.item].sampled.push_back(std::move(sampled));
  }

  std::span<const StepItem> items_;
  std::vector<StepOutput>& outputs_;
  int64_t vocab_;
  const KernelTable& kernels_;
  std::vector<Target> targets_;
};

}  // namespace

Model::Model(const std::string& path, const ModelOptions& options) : kernels_(checked_kernels()) {
  if (options.threads < 0 || options.threads > kMaxThreads) {
    throw ModelError("threads must be 0 (automatic) to " + std::to_string(kMaxThreads));
  }
  kv_type_ = kv_type_named(options.kv_cache);
  std::unique_ptr<TensorSource> source;
  if (std::filesystem::is_directory(path)) {
    check_manifest(path);
    const std::string config_path = path + "/config.json";
    config_ = read_hf_config(read_json(config_path), config_path);
    source = open_safetensors(path, config_.is_ternary_artifact, config_.packed);
  } else {
    gguf_.emplace(path);
    config_ = read_gguf_config(*gguf_);
    // llama.cpp stores q and k of this family for rotating neighbours; its other families rotate
    // halves, as Hugging Face does.
    source = open_gguf(*gguf_, config_.interleaves_qk);
  }
  if (options.context != 0) {
    if (options.context < 1 || options.context > config_.context) {
      throw ModelError("context must be 1 to " + std::to_string(config_.context) +
                       ", the model's own");
    }
    config_.context = options.context;
  }
  choose_layout(options);
  const uint64_t stored = stored_bytes(*source);
  LoadWorkers workers(choose_threads(options.threads, stored), stored, options.on_progress);
  weights_ = load_weights(config_, *source, {options.act_quant, layout_}, path, workers);
  pool_ = std::make_unique<ThreadPool>(choose_threads(options.threads, weight_bytes(*weights_)));
  forward_ = std::make_unique<Forward>(config_, *weights_, kernels_, *pool_,
                                       is_head_screened(options.head, weights_->head()));
}

void Model::choose_layout(const ModelOptions& options) {
  if (options.layout == "auto") {
    const int64_t bytes = ternary_bytes(config_);
    const int threads = choose_threads(options.threads, static_cast<size_t>(bytes));
    const LayoutChoice& choice = wf::choose_layout(kernels_.isa, threads, bytes);
    layout_ = choice.layout;
    layout_reason_ = choice.reason;
  } else if (options.layout == "t2" || options.layout == "t1") {
    layout_ = options.layout == "t1" ? TernaryLayout::t1 : TernaryLayout::t2;
    layout_reason_ = "asked for";
  } else {
    throw ModelError("layout must be auto, t2 or t1, not '" + options.layout + "'");
  }
}

void Model::check_room(int64_t max_tokens) const {
  if (max_tokens > config_.context) {
    throw ModelError("a sequence of " + std::to_string(max_tokens) +
                     " tokens is longer than the context of " + std::to_string(config_.context));
  }
}

std::unique_ptr<Sequence> Model::sequence(int64_t max_tokens) const {
  check_room(max_tokens);
  return std::make_unique<Sequence>(config_, kv_type_, max_tokens);
}

std::unique_ptr<Sequence> Model::fork(const Sequence& sequence, int64_t length,
                                      int64_t max_tokens) const {
  check_room(max_tokens);
  return sequence.fork(length, max_tokens);
}

void Model::check(std::span<const StepItem> items) const {
  std::unordered_set<const void*> seen;
  for (const StepItem& item : items) {
    const Sequence& sequence = *item.sequence;
    if (!seen.insert(&sequence).second) throw ModelError("a sequence is in the step twice");
    if (item.sampler != nullptr && !seen.insert(item.sampler).second) {
      throw ModelError("a sampler is in the step twice");
    }
    if (!sequence.fits(config_) || sequence.type() != kv_type_)
      throw ModelError("a sequence of another model is in the step");
    if (item.tokens.empty()) throw ModelError("an item of the step has no tokens");
    const auto count = static_cast<int64_t>(item.tokens.size());
    if (count > sequence.max_tokens() - sequence.length()) {
      throw ModelError(std::to_string(count) + " tokens do not fit: the sequence has " +
                       std::to_string(sequence.length()) + " of at most " +
                       std::to_string(sequence.max_tokens()));
    }
    for (const int32_t token : item.tokens) {
      if (token < 0 || token >= config_.vocab) {
        throw ModelError("token " + std::to_string(token) + " is not in the vocabulary of " +
                         std::to_string(config_.vocab));
      }
    }
    if (item.drafts < 0 || item.drafts >= count || (item.drafts > 0 && item.sampler == nullptr)) {
      throw ModelError("drafts need a sampler and a token before them");
    }
    if (item.sampler != nullptr) {
      item.sampler->prepare(config_.vocab,
                            std::span(item.tokens).last(static_cast<size_t>(item.drafts)));
    }
  }
}

std::vector<StepOutput> Model::step(std::span<const StepItem> items,
                                    const std::function<void()>& between_chunks) {
  const StepProfile::Step measured(forward_->profile());
  check(items);
  std::vector<StepOutput> outputs(items.size());
  StepSink sink(items, outputs, config_.vocab, kernels_);
  std::vector<TokenRow> rows;
  for (size_t i = 0; i < items.size(); ++i) {
    const StepItem& item = items[i];
    const auto count = static_cast<int64_t>(item.tokens.size());
    const bool wants_all = item.logits == LogitsWanted::all;
    const bool wants_last = item.logits == LogitsWanted::last;
    outputs[i].logits.resize(static_cast<size_t>((wants_all    ? count
                                                  : wants_last ? 1
                                                               : 0) *
                                                 config_.vocab));
    item.sequence->reserve(count);
    for (int64_t t = 0; t < count; ++t) {
      const bool is_last = t + 1 == count;
      TokenRow row{item.sequence, item.sequence->length() + t, item.tokens[static_cast<size_t>(t)],
                   -1};
      const int64_t sample = item.sampler == nullptr ? -1 : t - (count - 1 - item.drafts);
      const int64_t logits_row = wants_all ? t : (is_last && wants_last ? 0 : -1);
      if (sample >= 0 || logits_row >= 0) {
        row.output = sink.add({i, logits_row, std::max<int64_t>(sample, -1)});
      }
      rows.push_back(row);
    }
  }
  for (size_t first = 0; first < rows.size(); first += Forward::kMaxRows) {
    between_chunks();
    const size_t count = std::min<size_t>(Forward::kMaxRows, rows.size() - first);
    forward_->run({rows.data() + first, count}, sink);
  }
  for (const StepOutput& output : outputs) {
    for (const Sampled& sampled : output.sampled) {
      if (!sampled.is_finite) throw ModelError("the model computed logits that are not finite");
    }
  }
  for (size_t i = 0; i < items.size(); ++i) {
    const auto count = static_cast<int64_t>(items[i].tokens.size());
    const auto wrong = items[i].drafts - static_cast<int64_t>(outputs[i].sampled.size()) + 1;
    items[i].sequence->advance(items[i].sampler == nullptr ? count : count - wrong);
  }
  return outputs;
}

LayerTrace Model::trace_layer(int64_t layer, const float* input, int64_t rows) {
  if (layer < 0 || layer >= config_.layers) throw ModelError("no such layer");
  if (rows < 1 || rows > Forward::kMaxRows) {
    throw ModelError("a layer can be traced on 1 to " + std::to_string(Forward::kMaxRows) +
                     " rows");
  }
  Sequence sequence(config_, kv_type_, rows);
  sequence.reserve(rows);
  std::vector<TokenRow> batch;
  for (int64_t i = 0; i < rows; ++i) batch.push_back({&sequence, i, 0, -1});
  return forward_->trace_layer(layer, batch, input);
}

}  // namespace wf::engine
