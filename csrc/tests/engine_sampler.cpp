// What the Python tests of sampling cannot reach: logits of a damaged model.
#include <gtest/gtest.h>

#include <limits>

#include "dispatch.h"
#include "sampler.h"

namespace wf::engine {
namespace {

TEST(Sampler, NothingIsDrawnFromLogitsThatAreNotFinite) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  for (const std::vector<float>& bad :
       {std::vector<float>(40, kNan), std::vector<float>(40, kInfinity),
        std::vector<float>(40, -kInfinity), std::vector<float>{1, 2, kNan, 3}}) {
    SamplerOptions options;
    options.top_k = 3;
    options.top_p = 0.5f;
    options.top_logprobs = 2;
    Sampler sampler(options);
    std::vector<float> logits = bad;
    const auto vocab = static_cast<int64_t>(logits.size());
    sampler.prepare(vocab);
    const Sampled sampled = sampler.sample(logits.data(), vocab, active());
    EXPECT_FALSE(sampled.is_finite);
    EXPECT_TRUE(sampled.top.empty());
  }
}

}  // namespace
}  // namespace wf::engine
