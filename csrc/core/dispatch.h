// Choice of the kernel table: the best one this CPU and operating system can run, or the one the
// environment variable WF_ISA names.
#pragma once

#include "kernels.h"
#include "pairs.h"

#define WF_EXPORT __attribute__((visibility("default")))

namespace wf {

// The table every caller uses. Decided once, at the first call; thread-safe. If WF_ISA names a
// table that is unknown or cannot run here this is the scalar table and isa_error() says so: a
// caller with exceptions must ask isa_error() first.
WF_EXPORT const KernelTable& active() noexcept;

// Pair products that suit this CPU and the active table; null where there are none, and where it
// has matrix units (AMX), which libraries multiply bfloat16 with much faster.
WF_EXPORT const PairKernels* pair_kernels() noexcept;

// The named table, or null if it was not built or this machine cannot run it.
WF_EXPORT const KernelTable* find(const char* isa) noexcept;

// Writes up to `max` names of the tables that can run here, best first; returns how many there are.
WF_EXPORT int available(const char** names, int max) noexcept;

// Null, or a sentence that says which WF_ISA was given and which are available.
WF_EXPORT const char* isa_error() noexcept;

}  // namespace wf
