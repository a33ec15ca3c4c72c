// A Hugging Face directory: config.json, an optional shard index, and a safetensors file. An input
// is the two JSON texts, each ended by a zero byte, then the bytes of the safetensors file.
#include "safetensors.h"

#include <algorithm>
#include <string_view>

#include "bytes.h"
#include "engine_load.h"

namespace wf::fuzz {
namespace {

using engine::Bytes;

constexpr char kConfig[] =
    R"({"model_type":"llama","hidden_size":4,"intermediate_size":2,"num_hidden_layers":1,)"
    R"("num_attention_heads":2,"num_key_value_heads":1,"head_dim":2,"vocab_size":3,)"
    R"("max_position_embeddings":8,"rms_norm_eps":1e-5,"hidden_act":"silu",)"
    R"("tie_word_embeddings":true)";
constexpr char kQuantized[] =
    R"("quantization_config":{"quant_method":"wrinklefree","scheme":"ternary","subln":"none",)"
    R"("lambda":1.0,"modules_to_not_convert":["lm_head"]})";
constexpr char kRope[] =
    R"("rope_parameters":{"rope_type":"llama3","rope_theta":1e4,"factor":8.0,)"
    R"("low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":4})";
constexpr char kIndex[] = R"({"weight_map":{"model.norm.weight":"model.safetensors"}})";

std::string weights() {
  std::string header = "{\"__metadata__\":{\"format\":\"pt\"}";
  std::uint64_t end = 0;
  const auto add = [&](const std::string& name, std::uint64_t rows, std::uint64_t columns) {
    const std::uint64_t begin = end;
    end += 2 * columns * std::max<std::uint64_t>(rows, 1);
    const std::string first = rows == 0 ? "" : std::to_string(rows) + ",";
    header += ",\"" + name + ".weight\":{\"dtype\":\"BF16\",\"shape\":[" + first +
              std::to_string(columns) + "],\"data_offsets\":[" + std::to_string(begin) + "," +
              std::to_string(end) + "]}";
  };
  const std::string layer = "model.layers.0.";
  add("model.embed_tokens", 3, 4);
  add(layer + "input_layernorm", 0, 4);
  add(layer + "self_attn.q_proj", 4, 4);
  add(layer + "self_attn.k_proj", 2, 4);
  add(layer + "self_attn.v_proj", 2, 4);
  add(layer + "self_attn.o_proj", 4, 4);
  add(layer + "post_attention_layernorm", 0, 4);
  add(layer + "mlp.gate_proj", 2, 4);
  add(layer + "mlp.up_proj", 2, 4);
  add(layer + "mlp.down_proj", 4, 2);
  add("model.norm", 0, 4);
  header += "}";
  // 0x3f3f as a bfloat16 is 0.75.
  return Bytes().put<std::uint64_t>(header.size()).raw(header).data() + std::string(end, '\x3f');
}

std::string input(const std::string& config, const std::string& index) {
  return config + '\0' + index + '\0' + weights();
}

// In memory where that can be had: on some disks a small file takes milliseconds.
std::filesystem::path fastest_directory() {
  const std::filesystem::path memory = "/dev/shm";
  return std::filesystem::is_directory(memory) ? memory : std::filesystem::temp_directory_path();
}

// Takes the text up to the next zero byte off `rest`.
std::string_view take_text(std::string_view& rest) {
  const std::size_t end = std::min(rest.find('\0'), rest.size());
  const std::string_view text = rest.substr(0, end);
  rest.remove_prefix(std::min(end + 1, rest.size()));
  return text;
}

}  // namespace

std::vector<std::string> seeds() {
  const std::string config = kConfig;
  return {input(config + "}", ""), input(config + "," + kQuantized + "}", ""),
          input(config + "," + kRope + "}", ""), input(config + "}", kIndex),
          input(R"(["\u00e9\ud83d\ude00\n", -1.5e-3, [true, false, null], {"": 0}])", "")};
}

}  // namespace wf::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace wf;
  static const engine::TemporaryDirectory directory(fuzz::fastest_directory());
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  const std::string config(fuzz::take_text(rest)), index(fuzz::take_text(rest));
  fuzz::run_engine([&] { engine::Json::parse(config, "config.json"); });
  directory.write("config.json", config);
  const std::string path = directory.write("model.safetensors", std::string(rest));
  fuzz::run_engine([&] { engine::read_safetensors_file(path); });
  const std::string index_name = "model.safetensors.index.json";
  if (index.empty()) {
    std::filesystem::remove(directory.path() + "/" + index_name);
  } else {
    directory.write(index_name, index);
  }
  fuzz::load_and_step(directory.path(), size);
  return 0;
}
