// Schemas of the torch ops. They live in the library that is always there, so that C++ users see
// them without Python. Shapes: x [..., K] activations, w [N, K] weights, M rows of x.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(wrinklefree, m) {
  // int8 codes [..., K] and float32 scales [...]: x is about q * scale.
  m.def("quantize_act_int8(Tensor x) -> (Tensor q, Tensor scale)");
  // Absmean ternary codes int8 [N, K] and the scale, float32 [].
  m.def("ternary_quantize(Tensor w) -> (Tensor codes, Tensor scale)");
  // Bytes of a layout: t2, t1, lut, i2s, tq1_0, tq2_0, q4_0, hf.
  m.def("pack_ternary(Tensor codes, Tensor scale, str layout) -> Tensor");
  // Codes int8 [n, k] and the stored scale, float32 []; t2, t1, lut and hf store none and give 1.
  m.def("unpack_ternary(Tensor packed, str layout, int n, int k) -> (Tensor codes, Tensor scale)");
  // y [..., n] = Q(x) @ W.T + bias from the bytes of t2, t1 or lut; integer sums are exact.
  m.def(
      "ternary_linear(Tensor x, Tensor packed, Tensor scale, int n, Tensor? bias=None,"
      " str layout='t2') -> Tensor");
  // The integer sums of ternary_linear, int32 [M, n], from q [M, K].
  m.def("ternary_matmul_int32(Tensor q, Tensor packed, int n, str layout='t2') -> Tensor");
  // w + lam * (Q(w) - w), one read for the scale, one read and one write for the result.
  m.def("fake_quant_ternary(Tensor w, float lam) -> Tensor");
  // x + lam * (Q(x) - x), token by token.
  m.def("fake_quant_act(Tensor x, float lam) -> Tensor");
  // Training at lambda 1. The t2 bytes of Q(w), in one pass behind the one for the scale.
  m.def("ternary_pack(Tensor w) -> (Tensor packed, Tensor scale)");
  // y [..., n] = Q(x) @ W.T + bias in `dtype`, and Q(x): codes int8 [M, padded K], scales [M]. With
  // a gain, Q is taken of rms_norm(x, gain, eps).
  m.def(
      "ternary_linear_codes(Tensor x, Tensor packed, Tensor scale, int n, Tensor? bias,"
      " ScalarType dtype, Tensor? gain=None, float eps=0.0)"
      " -> (Tensor y, Tensor q, Tensor q_scale)");
  // grad [..., n] @ W for the t2 bytes of W [n, k]: int8 codes of grad, rounded at random.
  m.def(
      "ternary_input_grad(Tensor grad, Tensor packed, Tensor scale, int k, int seed,"
      " ScalarType dtype) -> Tensor");
  // grad^T @ (q_scale q) for grad [..., n] and the first k columns of q: float32 [n, k].
  m.def("ternary_weight_grad(Tensor grad, Tensor q, Tensor q_scale, int k) -> Tensor");
  // The numbers behind the codes of w.
  m.def("round_ternary(Tensor w, Tensor scale, ScalarType dtype) -> Tensor");
  // gain * x / sqrt(mean(x^2) + eps) over the last dimension, in the type of x; and its gradients
  // for x and gain, from that of the result.
  m.def("rms_norm(Tensor x, Tensor gain, float eps) -> Tensor");
  m.def(
      "rms_norm_backward(Tensor grad, Tensor x, Tensor gain, float eps)"
      " -> (Tensor x_grad, Tensor gain_grad)");
  // GPTQ: weights [N, K] as they were when rounded, and codes int8 [N, K]; spread [K, K] is upper.
  m.def(
      "gptq_round(Tensor w, Tensor spread, float threshold, float level)"
      " -> (Tensor unrounded, Tensor codes)");
}
