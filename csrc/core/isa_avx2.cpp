#include <immintrin.h>

#include <cstdint>

#include "kernels.h"
#include "layout/half.h"
#include "layout/i8.h"
#include "layout/lut.h"
#include "layout/q6_k.h"
#include "layout/q8_0.h"
#include "layout/t1.h"
#include "layout/t2.h"

namespace wf {
namespace {
#include "lanes_avx2.h"
//
#include "widest_eight.h"
//
#include "prefetch.h"
//
#include "lut_avx2.h"
#include "pairs_avx2.h"
#include "panel_avx2.h"
#include "tile_avx2.h"
//
#include "table.inl"
}  // namespace

extern const KernelTable kAvx2Table;
const KernelTable kAvx2Table = make_table("avx2");
}  // namespace wf
