// One token of a batch.
#pragma once

#include <cstdint>

#include "sequence.h"

namespace wf::engine {

struct TokenRow {
  Sequence* sequence = nullptr;
  int64_t position = 0;
  int32_t token = 0;
  int32_t output = -1;  // handed to LogitsSink; -1 when nobody wants this row's logits
};

}  // namespace wf::engine
