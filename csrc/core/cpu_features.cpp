#include "cpu_features.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace wf {

#if defined(__x86_64__)

namespace {

// A hypervisor or kernel may leave the wide registers disabled although CPUID lists the
// instructions; XCR0 is what the operating system really saves on a context switch.
std::uint64_t enabled_state() noexcept {
  std::uint32_t low = 0;
  std::uint32_t high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (std::uint64_t{high} << 32) | low;
}

constexpr bool has(std::uint64_t word, std::uint64_t bits) { return (word & bits) == bits; }

}  // namespace

std::uint32_t detect_cpu_features() noexcept {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
  constexpr std::uint32_t kFma = 1u << 12, kOsxsave = 1u << 27, kAvx = 1u << 28, kF16c = 1u << 29;
  if (!has(c, kFma | kOsxsave | kAvx | kF16c)) return 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;

  constexpr std::uint64_t kYmmState = 0x06, kZmmState = 0xe6;
  constexpr std::uint32_t kAvx2Bit = 1u << 5, kBmi2 = 1u << 8;
  constexpr std::uint32_t kAvx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;  // F, DQ, BW, VL
  constexpr std::uint32_t kVbmi = 1u << 1, kVnni = 1u << 11;

  const std::uint64_t state = enabled_state();
  std::uint32_t features = 0;
  if (has(state, kYmmState) && has(b, kAvx2Bit | kBmi2)) features |= kAvx2;
  if ((features & kAvx2) && has(state, kZmmState) && has(b, kAvx512) && has(c, kVnni)) {
    features |= kAvx512Vnni;
    if (has(c, kVbmi)) features |= kAvx512Vbmi;
  }
  constexpr std::uint32_t kAmx = 1u << 22, kVexVnni = 1u << 4, kBf16 = 1u << 5;
  if (has(d, kAmx)) features |= kAmxBf16;
  const std::uint32_t last_leaf = a;
  if ((features & kAvx2) && last_leaf >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) {
    if (has(a, kVexVnni)) features |= kAvxVnni;
    if ((features & kAvx512Vnni) && has(a, kBf16)) features |= kAvx512Bf16;
  }
  return features;
}

#elif defined(__aarch64__) && defined(__linux__)

std::uint32_t detect_cpu_features() noexcept {
  constexpr unsigned long kHwcapAsimdDp = 1ul << 20, kHwcap2I8mm = 1ul << 13;
  std::uint32_t features = 0;
  if (getauxval(AT_HWCAP) & kHwcapAsimdDp) features |= kDotprod;
  if (getauxval(AT_HWCAP2) & kHwcap2I8mm) features |= kI8mm;
  return features;
}

#else

std::uint32_t detect_cpu_features() noexcept { return 0; }

#endif

}  // namespace wf
