// Every kernel whose results do not depend on the instruction set, on every table that runs here,
// against plain sums or the scalar table: equal to the last bit. Buffers have their exact sizes.
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "core_problem.h"
#include "target.h"

namespace wf::fuzz {
namespace {

using test::Layout;
using test::Problem;

constexpr std::int64_t kMaxProducts = 300000;  // more would only be slower
constexpr std::int32_t kPoison = 0x7fc0dead;

std::string at(const KernelTable* table, const char* what) {
  return std::string(table->isa) + ": " + what;
}

bool is_same(float a, float b) {
  return (std::isnan(a) && std::isnan(b)) ||
         std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
}

int any_activation(Input& in, int kind) {
  constexpr int kExtremes[] = {-128, -127, 127, 0};
  const std::uint8_t byte = in.byte();
  return kind == 0 ? kExtremes[byte % 4] : static_cast<std::int8_t>(byte);
}

int any_code(Input& in, int kind) {
  if (kind < 3) return kind - 1;
  const int byte = in.byte();
  return kind == 3 && byte > 8 ? 0 : byte % 3 - 1;
}

// Any bits, halves (where rounding has ties), small and large numbers.
float any_float(Input& in, int kind) {
  const std::uint32_t word = in.word();
  if (kind == 0) return std::bit_cast<float>(word);
  const auto signed_word = static_cast<float>(static_cast<std::int32_t>(word));
  if (kind == 1) return static_cast<float>(static_cast<std::int32_t>(word) % 256) * 0.5f;
  return std::ldexp(signed_word, kind == 2 ? -31 : kind == 3 ? -160 : 96);
}

std::vector<float> any_floats(Input& in, std::int64_t count) {
  const int kind = static_cast<int>(in.integer(0, 4));
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = any_float(in, kind);
  return values;
}

void make_finite(std::vector<float>& values) {
  for (float& value : values) {
    if (!std::isfinite(value)) value = 0.25f;
  }
}

void check_product(const KernelTable* table, Layout layout, const Problem& p, std::int64_t begin,
                   std::int64_t end, float w_scale) {
  std::vector<std::int32_t> sums(p.acc.size(), kPoison);
  test::integer_product(*table, layout, p, 0, p.m, begin, end, sums.data());
  for (std::size_t i = 0; i < sums.size(); ++i) {
    const auto column = static_cast<std::int64_t>(i) % p.n;
    const bool is_inside = column >= begin && column < end;
    require(sums[i] == (is_inside ? p.acc[i] : kPoison), at(table, "sums of a product differ"));
  }
  std::vector<float> y(p.acc.size());
  test::float_product(*table, layout, p, w_scale, y.data());
  for (std::size_t i = 0; i < y.size(); ++i) {
    const float scale = p.q_scale[i / static_cast<std::size_t>(p.n)] * w_scale;
    require(is_same(y[i], static_cast<float>(p.acc[i]) * scale),
            at(table, "floats of a product differ"));
  }
}

void check_products(Input& in) {
  std::int64_t m = in.integer(1, 20), n = in.integer(1, 200);
  const std::int64_t k = in.integer(1, in.byte() % 4 == 0 ? 3000 : 300);
  while (m * n * k > kMaxProducts) m = (m + 1) / 2, n = (n + 1) / 2;
  const int activation_kind = in.byte() % 3, code_kind = in.byte() % 8;
  Problem p = test::make_problem(
      m, n, k, [&] { return any_activation(in, activation_kind); },
      [&] { return any_code(in, code_kind); });
  p.q_scale = any_floats(in, m);
  const float w_scale = any_float(in, 1);
  const Layout layout = static_cast<Layout>(in.byte() % 3);
  const std::int64_t height = test::panel_rows(layout), panels = (n + height - 1) / height;
  const std::int64_t first = in.integer(0, panels - 1), last = in.integer(first + 1, panels);
  for (const KernelTable* table : test::tables()) {
    check_product(table, layout, p, first * height, std::min(n, last * height), w_scale);
  }
}

struct Quantized {
  std::vector<std::int8_t> q;
  std::vector<float> scale;
  std::vector<std::int32_t> sum;
};

void check_act_quant(Input& in) {
  const std::int64_t rows = in.integer(0, 5), k = in.integer(1, 700);
  const std::int64_t x_stride = k + in.byte() % 9;
  const std::int64_t q_stride = in.byte() % 2 ? act_stride(k) : k;
  const std::vector<float> x = any_floats(in, rows == 0 ? 0 : (rows - 1) * x_stride + k);
  const auto quantize = [&](const KernelTable* table) {
    Quantized out{std::vector<std::int8_t>(static_cast<std::size_t>(rows * q_stride), 99),
                  std::vector<float>(static_cast<std::size_t>(rows)),
                  std::vector<std::int32_t>(static_cast<std::size_t>(rows))};
    table->quantize_act_int8(x.data(), x_stride, rows, k, out.q.data(), q_stride, out.scale.data(),
                             out.sum.data());
    return out;
  };
  const Quantized expected = quantize(find("scalar"));
  for (const KernelTable* table : test::tables()) {
    const Quantized got = quantize(table);
    require(got.q == expected.q && got.sum == expected.sum, at(table, "quantize_act_int8 differs"));
    require(std::equal(got.scale.begin(), got.scale.end(), expected.scale.begin(), is_same),
            at(table, "scales of quantize_act_int8 differ"));
  }
}

void check_weight_quant(Input& in) {
  const std::int64_t count = in.integer(0, 600);
  std::vector<float> w = any_floats(in, count);
  make_finite(w);
  const float scale = std::fmax(std::fabs(w.empty() ? 1.0f : w[0]), kMinAbsMax);
  const auto codes = [&](const KernelTable* table) {
    std::vector<std::int8_t> out(w.size(), 99);
    table->ternary_codes(w.data(), count, scale, out.data());
    return out;
  };
  const KernelTable* scalar = find("scalar");
  for (const KernelTable* table : test::tables()) {
    require(codes(table) == codes(scalar), at(table, "ternary_codes differs"));
    require(table->sum_abs(w.data(), TrainType::f32, count) ==
                scalar->sum_abs(w.data(), TrainType::f32, count),
            at(table, "sum_abs differs"));
  }
}

// NaNs as one bit pattern: which one comes out is not promised.
template <class T>
std::vector<T> with_plain_nans(std::vector<T> bits, T infinity) {
  const T magnitude = static_cast<T>(~(T{1} << (8 * sizeof(T) - 1)));
  for (T& value : bits) {
    if (static_cast<T>(value & magnitude) > infinity) value = static_cast<T>(infinity + 1);
  }
  return bits;
}

// T: the bits of a float32 or a bfloat16.
template <class T>
void check_fake_quant(Input& in, TrainType type) {
  constexpr int kDropped = 32 - 8 * static_cast<int>(sizeof(T));
  constexpr T kInfinity = static_cast<T>(kInfinityBits >> kDropped);
  const std::int64_t rows = in.integer(1, 4), k = in.integer(1, 300);
  const bool is_of_weights = in.byte() % 2 == 0, around_cache = in.byte() % 2 == 0;
  constexpr float kLambdas[] = {0.0f, 0.3f, 0.999f, 1.0f};
  const float lambda = kLambdas[in.byte() % 4];
  std::vector<float> values = any_floats(in, rows * k);
  if (is_of_weights) make_finite(values);
  const float scale = std::fmax(std::fabs(values[0]), kMinAbsMax);
  std::vector<T> x;
  for (const float value : values) {
    x.push_back(static_cast<T>(std::bit_cast<std::uint32_t>(value) >> kDropped));
  }
  const std::size_t shift = in.byte() % 16;  // outputs are aligned to their elements only
  const auto quantize = [&](const KernelTable* table) {
    std::vector<T> out(x.size() + shift, T{0});
    if (is_of_weights) {
      table->fake_quant_ternary(x.data(), type, rows * k, scale, lambda, around_cache,
                                out.data() + shift);
    } else {
      table->fake_quant_act(x.data(), type, rows, k, lambda, around_cache, out.data() + shift);
    }
    return with_plain_nans(std::move(out), kInfinity);
  };
  const std::vector<T> expected = quantize(find("scalar"));
  for (const KernelTable* table : test::tables()) {
    require(quantize(table) == expected,
            at(table, is_of_weights ? "fake_quant_ternary differs" : "fake_quant_act differs"));
  }
}

}  // namespace

std::vector<std::string> seeds() {
  std::vector<std::string> all;
  std::mt19937 rng(7);
  for (int i = 0; i < 64; ++i) {
    std::string seed(1, static_cast<char>(i));
    for (unsigned left = rng() % 40; left > 0; --left) seed += static_cast<char>(rng());
    all.push_back(seed);
  }
  return all;
}

}  // namespace wf::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  wf::fuzz::Input in(data, size);
  switch (in.byte() % 6) {
    case 0:
      wf::fuzz::check_act_quant(in);
      break;
    case 1:
      wf::fuzz::check_weight_quant(in);
      break;
    case 2:
      wf::fuzz::check_fake_quant<std::uint32_t>(in, wf::TrainType::f32);
      break;
    case 3:
      wf::fuzz::check_fake_quant<std::uint16_t>(in, wf::TrainType::bf16);
      break;
    default:
      wf::fuzz::check_products(in);
  }
  return 0;
}
