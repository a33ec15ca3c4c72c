// GGUF files: parsed, loaded, run.
#include <sys/mman.h>
#include <unistd.h>

#include "bytes.h"
#include "engine_load.h"
#include "layout/half.h"
#include "layout/i2s.h"
#include "layout/q4_0.h"
#include "layout/tq1_0.h"
#include "layout/tq2_0.h"

namespace wf::fuzz {
namespace {

using engine::Bytes;
using engine::GgufType;

// A file that lies in memory.
class MemoryFile {
 public:
  MemoryFile() : descriptor_(memfd_create("fuzz", 0)) {
    require(descriptor_ >= 0, "no memfd");
    path_ = "/proc/self/fd/" + std::to_string(descriptor_);
  }
  void write(const std::uint8_t* data, std::size_t size) const {
    const bool is_written = ftruncate(descriptor_, 0) == 0 &&
                            pwrite(descriptor_, data, size, 0) == static_cast<ssize_t>(size);
    require(is_written, "cannot write the memfd");
  }
  const std::string& path() const { return path_; }

 private:
  int descriptor_;
  std::string path_;
};

constexpr std::uint32_t kU32 = 4, kF32 = 6, kString = 8, kArray = 9;

// A model of one layer: rows of the first products are long enough for every block type, the rest
// is as small as can be.
class ModelFile {
 public:
  ModelFile(const std::string& architecture, GgufType type, std::int64_t hidden) {
    text("general.architecture", architecture);
    const std::string prefix = architecture + ".";
    number("general.alignment", 32);
    number(prefix + "embedding_length", static_cast<std::uint32_t>(hidden));
    number(prefix + "feed_forward_length", 2);
    number(prefix + "block_count", 1);
    number(prefix + "attention.head_count", 2);
    number(prefix + "attention.head_count_kv", 1);
    number(prefix + "attention.key_length", 2);
    number(prefix + "context_length", 8);
    real(prefix + "attention.layer_norm_rms_epsilon", 1e-5f);
    real(prefix + "rope.freq_base", 1e4f);
    text(prefix + "rope.scaling.type", "linear");
    real(prefix + "rope.scaling.factor", 2.0f);
    entry("tokenizer.ggml.tokens", kArray);
    entries_.put(kString).put<std::uint64_t>(2).string("a").string("b");
    matrix("token_embd.weight", 3, hidden, type == GgufType::q8_0 ? type : GgufType::f16);
    const std::string layer = "blk.0.";
    vector(layer + "attn_norm.weight", hidden);
    matrix(layer + "attn_q.weight", 4, hidden, type);
    matrix(layer + "attn_k.weight", 2, hidden, type);
    vector(layer + "attn_k.bias", 2);
    matrix(layer + "attn_v.weight", 2, hidden, type);
    matrix(layer + "attn_output.weight", hidden, 4, GgufType::f16);
    if (architecture == "qwen3") {
      vector(layer + "attn_q_norm.weight", 2);
      vector(layer + "attn_k_norm.weight", 2);
    }
    if (architecture == "bitnet-b1.58") {
      vector(layer + "attn_sub_norm.weight", 4);
      vector(layer + "ffn_sub_norm.weight", 2);
    }
    vector(layer + "ffn_norm.weight", hidden);
    matrix(layer + "ffn_gate.weight", 2, hidden, type);
    matrix(layer + "ffn_up.weight", 2, hidden, type);
    matrix(layer + "ffn_down.weight", hidden, 2, GgufType::bf16);
    vector("output_norm.weight", hidden);
  }

  std::string bytes() const {
    return Bytes()
        .raw("GGUF")
        .put<std::uint32_t>(3)
        .put(tensor_count_)
        .put(entry_count_)
        .raw(entries_.data())
        .raw(tensors_.data())
        .pad(32)
        .raw(data_.data())
        .data();
  }

 private:
  void entry(const std::string& key, std::uint32_t type) {
    entries_.string(key).put(type);
    ++entry_count_;
  }
  void number(const std::string& key, std::uint32_t value) {
    entry(key, kU32);
    entries_.put(value);
  }
  void real(const std::string& key, float value) {
    entry(key, kF32);
    entries_.put(value);
  }
  void text(const std::string& key, const std::string& value) {
    entry(key, kString);
    entries_.string(value);
  }

  void tensor(const std::string& name, const std::vector<std::int64_t>& sizes, GgufType type,
              const std::string& data) {
    tensors_.string(name).put(static_cast<std::uint32_t>(sizes.size()));
    for (const std::int64_t size : sizes) tensors_.put<std::uint64_t>(size);
    tensors_.put(static_cast<std::uint32_t>(type)).put<std::uint64_t>(data_.data().size());
    data_.raw(data).pad(32);
    ++tensor_count_;
  }
  void vector(const std::string& name, std::int64_t size) {
    Bytes ones;
    for (std::int64_t i = 0; i < size; ++i) ones.put(1.0f);
    tensor(name, {size}, GgufType::f32, ones.data());
  }

  // Ternary codes in any type; the types that hold no one scale get the bytes of Q4_0 nibbles.
  void matrix(const std::string& name, std::int64_t n, std::int64_t k, GgufType type) {
    std::vector<std::int8_t> codes;
    for (std::int64_t i = 0; i < n * k; ++i) codes.push_back(static_cast<std::int8_t>(i % 3 - 1));
    const engine::GgufTypeInfo& info = *engine::find_gguf_type(static_cast<std::uint32_t>(type));
    std::string data(engine::gguf_tensor_bytes(info, k, n), '\x01');
    auto* to = reinterpret_cast<std::uint8_t*>(data.data());
    switch (type) {
      case GgufType::tq1_0:
        tq1_0::pack(codes.data(), n, k, 0.5f, to);
        break;
      case GgufType::tq2_0:
        tq2_0::pack(codes.data(), n, k, 0.5f, to);
        break;
      case GgufType::q4_0:
        q4_0::pack(codes.data(), n, k, 0.5f, to);
        break;
      case GgufType::i2_s:
        i2s::pack(codes.data(), n, k, 0.5f, to);
        break;
      case GgufType::f16:
        for (std::size_t i = 0; i < codes.size(); ++i) {
          half::store_u16(to + 2 * i, half::f32_to_f16(0.5f * static_cast<float>(codes[i])));
        }
        break;
      default:
        break;
    }
    tensor(name, {k, n}, type, data);
  }

  std::uint64_t entry_count_ = 0, tensor_count_ = 0;
  Bytes entries_, tensors_, data_;
};

}  // namespace

std::vector<std::string> seeds() {
  std::vector<std::string> all;
  for (const char* architecture : {"llama", "qwen3", "bitnet-b1.58"}) {
    all.push_back(ModelFile(architecture, GgufType::f16, 8).bytes());
  }
  for (const auto& [type, hidden] : {std::pair{GgufType::q8_0, 32},
                                     {GgufType::q4_0, 32},
                                     {GgufType::q4_1, 32},
                                     {GgufType::q5_0, 32},
                                     {GgufType::q5_1, 32},
                                     {GgufType::i2_s, 128},
                                     {GgufType::iq2_bn, 64},
                                     {GgufType::q6_k, 256},
                                     {GgufType::tq1_0, 256},
                                     {GgufType::tq2_0, 256},
                                     {GgufType::f32, 8}}) {
    all.push_back(ModelFile("qwen2", type, hidden).bytes());
  }
  return all;
}

}  // namespace wf::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const wf::fuzz::MemoryFile file;
  file.write(data, size);
  wf::fuzz::load_and_step(file.path(), size);
  return 0;
}
