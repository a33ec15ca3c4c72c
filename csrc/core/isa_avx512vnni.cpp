#include <immintrin.h>

#include <cstdint>

#include "kernels.h"
#include "layout/half.h"
#include "layout/t2.h"

namespace wf {
namespace {
#include "lanes_avx2.h"
#include "tile_avx512vnni.h"
//
#include "table.inl"
}  // namespace

extern const KernelTable kAvx512VnniTable;
const KernelTable kAvx512VnniTable = make_table("avx512vnni");
}  // namespace wf
