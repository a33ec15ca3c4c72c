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
#include "lanes_scalar.h"
//
#include "widest_eight.h"
//
#include "prefetch.h"
//
#include "lut_scalar.h"
#include "pairs_scalar.h"
#include "tile_scalar.h"
//
#include "table.inl"
}  // namespace

extern const KernelTable kScalarTable;
const KernelTable kScalarTable = make_table("scalar");
}  // namespace wf
