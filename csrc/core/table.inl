// The kernel families and the one list of what a table holds: every isa_*.cpp ends with this file,
// inside its own namespace.

#include "act_quant.inl"
#include "norm.inl"
#include "stochastic_quant.inl"
//
#include "fake_quant.inl"
//
#include "convert.inl"
#include "dense.inl"
//
#include "attention.inl"
#include "screen.inl"
#include "ternary_gemm.inl"
//
#include "ternary_lut.inl"
#include "weight_quant.inl"

constexpr KernelTable make_table(const char* isa) {
  return {
      .isa = isa,
      .quantize_act_int8 = quantize_act_int8,
      .quantize_stochastic = quantize_stochastic,
      .gemm_s8_t2 = gemm_s8_t2,
      .gemm_s8_t2_i32 = gemm_s8_t2_i32,
      .gemm_s8_t1 = gemm_s8_t1,
      .gemm_s8_t1_i32 = gemm_s8_t1_i32,
      .lut_tables = lut_tables,
      .gemm_lut = gemm_lut,
      .gemm_lut_i32 = gemm_lut_i32,
      .sum_abs = sum_abs,
      .ternary_codes = ternary_codes,
      .fake_quant_ternary = fake_quant_ternary,
      .fake_quant_act = fake_quant_act,
      .dequantize_s8 = dequantize_s8,
      .round_to_bf16 = round_to_bf16,
      .widen_bf16 = widen_bf16,
      .gemm_f32_dense = gemm_f32_dense,
      .screen_row = screen_row,
      .gemm_s16_i8 = gemm_s16_i8,
      .rms_norm = rms_norm,
      .rms_norm_quantize = rms_norm_quantize,
      .rms_norm_grad = rms_norm_grad,
      .gated_act = gated_act,
      .store_kv = store_kv,
      .attention = attention,
      .log_sum_exp = log_sum_exp,
  };
}
