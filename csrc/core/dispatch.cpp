#include "dispatch.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "cpu_features.h"

namespace wf {

// One per isa_*.cpp that was built.
extern const KernelTable kScalarTable;
#ifdef WF_HAVE_AVX2
extern const KernelTable kAvx2Table;
#endif
#ifdef WF_HAVE_AVXVNNI
extern const KernelTable kAvxVnniTable;
#endif
#ifdef WF_HAVE_AVX512VNNI
extern const KernelTable kAvx512VnniTable;
extern const KernelTable kAvx512VbmiTable;
extern const PairKernels kAvx512Bf16Pairs;
#endif
#ifdef WF_HAVE_NEON
extern const KernelTable kI8mmTable;
extern const KernelTable kDotprodTable;
#endif

namespace {

struct Candidate {
  const KernelTable* table;
  std::uint32_t required;  // CpuFeature bits
};

// Best first; scalar is last and always runs.
constexpr Candidate kCandidates[] = {
#ifdef WF_HAVE_AVX512VNNI
    {&kAvx512VbmiTable, kAvx512Vnni | kAvx512Vbmi},
    {&kAvx512VnniTable, kAvx512Vnni},
#endif
#ifdef WF_HAVE_AVXVNNI
    {&kAvxVnniTable, kAvx2 | kAvxVnni},
#endif
#ifdef WF_HAVE_AVX2
    {&kAvx2Table, kAvx2},
#endif
#ifdef WF_HAVE_NEON
    {&kI8mmTable, kDotprod | kI8mm},
    {&kDotprodTable, kDotprod},
#endif
    {&kScalarTable, 0},
};

std::uint32_t features() noexcept {
  static const std::uint32_t detected = detect_cpu_features();
  return detected;
}

bool can_run(const Candidate& candidate) noexcept {
  return (candidate.required & features()) == candidate.required;
}

const KernelTable* best() noexcept {
  for (const Candidate& candidate : kCandidates) {
    if (can_run(candidate)) return candidate.table;
  }
  return &kScalarTable;
}

struct Choice {
  const KernelTable* table = &kScalarTable;
  char error[256] = "";

  Choice() noexcept {
    const char* wanted = std::getenv("WF_ISA");
    if (wanted == nullptr || *wanted == '\0') {
      table = best();
    } else if (const KernelTable* named = find(wanted)) {
      table = named;
    } else {
      explain(wanted);
    }
  }

  void explain(const char* wanted) noexcept {
    std::snprintf(error, sizeof error, "WF_ISA=%.64s is not available here; available:", wanted);
    for (const Candidate& candidate : kCandidates) {
      if (!can_run(candidate)) continue;
      const std::size_t used = std::strlen(error);
      std::snprintf(error + used, sizeof error - used, " %s", candidate.table->isa);
    }
  }
};

const Choice& choice() noexcept {
  static const Choice chosen;
  return chosen;
}

}  // namespace

const KernelTable& active() noexcept { return *choice().table; }

const PairKernels* pair_kernels() noexcept {
#ifdef WF_HAVE_AVX512VNNI
  const KernelTable* table = choice().table;
  const bool is_wide = table == &kAvx512VbmiTable || table == &kAvx512VnniTable;
  if (is_wide && (features() & kAvx512Bf16) && !(features() & kAmxBf16)) return &kAvx512Bf16Pairs;
#endif
  return nullptr;
}

const KernelTable* find(const char* isa) noexcept {
  for (const Candidate& candidate : kCandidates) {
    if (std::strcmp(candidate.table->isa, isa) == 0 && can_run(candidate)) return candidate.table;
  }
  return nullptr;
}

int available(const char** names, int max) noexcept {
  int count = 0;
  for (const Candidate& candidate : kCandidates) {
    if (!can_run(candidate)) continue;
    if (count < max) names[count] = candidate.table->isa;
    ++count;
  }
  return count;
}

const char* isa_error() noexcept { return choice().error[0] ? choice().error : nullptr; }

}  // namespace wf
