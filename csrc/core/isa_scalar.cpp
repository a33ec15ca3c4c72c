#include <cstdint>

#include "kernels.h"
#include "layout/half.h"
#include "layout/t2.h"

namespace wf {
namespace {
#include "lanes_scalar.h"
#include "tile_scalar.h"
//
#include "act_quant.inl"
#include "norm.inl"
//
#include "attention.inl"
#include "dense.inl"
#include "ternary_gemm.inl"
#include "weight_quant.inl"
//
#include "table.inl"
}  // namespace

extern const KernelTable kScalarTable;
const KernelTable kScalarTable = make_table("scalar");
}  // namespace wf
