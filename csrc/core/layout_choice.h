// Which layout a ternary matrix gets when it is loaded: one resident layout, for prefill and
// decode.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels.h"

namespace wf {

struct LayoutChoice {
  const char* isa;         // nullptr: any
  int min_threads;         // that share the memory bandwidth
  std::int64_t min_bytes;  // of all ternary matrices in t2: what the caches cannot hold
  TernaryLayout layout;
  const char* reason;
};

// The first row that fits is taken.
constexpr LayoutChoice kLayoutChoices[] = {
    {"avx512vbmi", 2, 64 << 20, TernaryLayout::t1,
     "several threads wait for memory: on a Zen 5 two decode 2B-4T's body 1.24 times as fast from "
     "1.6 bits as from 2, for 5 % of prefill; one gains 8 % for 9 %"},
    {nullptr, 1, 0, TernaryLayout::t2,
     "the multiplier or the unpacking is the limit, not memory; docs/kernels.md has the figures"},
};

inline const LayoutChoice& choose_layout(const char* isa, int threads, std::int64_t bytes) {
  const LayoutChoice* choice = kLayoutChoices;
  while ((choice->isa != nullptr && std::strcmp(choice->isa, isa) != 0) ||
         threads < choice->min_threads || bytes < choice->min_bytes) {
    ++choice;
  }
  return *choice;
}

}  // namespace wf
