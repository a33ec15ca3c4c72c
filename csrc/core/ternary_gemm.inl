// y = scale * (int8 activations x ternary weights in the t2 layout), for one row and for many.
//
// Lanes are weight rows: a 64-byte block holds 16 rows x 16 columns, so one accumulator is 16 int32
// lanes = 16 outputs, and neither a horizontal sum nor a permutation is ever needed; the activation
// operand is 4 bytes broadcast to all lanes. Codes are stored as code + 1, unsigned as the
// dot-product instructions want one side; the offset leaves once per output:
//   sum q * code = sum q * (code + 1) - sum q.
//
// The tile_*.h of an instruction set supplies
//   Acc                    16 int32 lanes: one panel of outputs of one activation row
//   Partial<Rows>          what at most kRunBlocks blocks are summed in before they join an Acc;
//   how
//                          codes are unpacked may depend on how many rows share the work
//   dot_block(partial, w, panel_bytes, q, q_stride)   one block of every panel times every row
//   flush(Acc&, Partial)   acc += partial, exact · store_lanes(Acc, int32[16])
//   kGemvPanels            panels per pass for one row
//   kGemmPanels, kGemmRows tile for many rows
//
// Roofline: 0.25 byte and one multiply-add per weight and row. Figures: docs/kernels.md.

// Activation bytes of a row block: they stay in the second-level cache while all panels pass by.
constexpr std::int64_t kRowBlockBytes = 128 << 10;

struct Operands {
  const std::int8_t* q;
  std::int64_t q_stride;
  const std::int32_t* q_sum;
  const std::uint8_t* w;
  std::int64_t k;
  std::int64_t n_end;
};

template <int Panels, int Rows>
inline void sum_tile(const Operands& op, std::int64_t row, std::int64_t panel,
                     Acc (&acc)[Panels][Rows]) {
  const std::int64_t panel_bytes = t2::panel_bytes(op.k);
  const std::int64_t blocks = t2::blocks(op.k);
  const std::uint8_t* w = op.w + panel * panel_bytes;
  const std::int8_t* q = op.q + row * op.q_stride;
  for (std::int64_t first = 0; first < blocks; first += kRunBlocks) {
    const std::int64_t end = first + kRunBlocks < blocks ? first + kRunBlocks : blocks;
    Partial<Rows> partial[Panels][Rows] = {};
    for (std::int64_t b = first; b < end; ++b) {
      dot_block(partial, w + b * t2::kBlockBytes, panel_bytes, q + b * t2::kColumns, op.q_stride);
    }
    for (int i = 0; i < Panels; ++i) {
      for (int j = 0; j < Rows; ++j) flush(acc[i][j], partial[i][j]);
    }
  }
}

template <int Panels, int Rows, class Output>
inline void compute_tile(const Operands& op, std::int64_t row, std::int64_t panel,
                         const Output& output) {
  Acc acc[Panels][Rows] = {};
  sum_tile(op, row, panel, acc);
  for (int i = 0; i < Panels; ++i) {
    const std::int64_t column = (panel + i) * t2::kRows;
    const std::int64_t left = op.n_end - column;
    const std::int64_t count = left < t2::kRows ? left : t2::kRows;
    for (int j = 0; j < Rows; ++j) {
      std::int32_t lanes[t2::kRows];
      store_lanes(acc[i][j], lanes);
      output(lanes, op.q_sum[row + j], row + j, column, count);
    }
  }
}

// The rows [row, row + rows) of a tile, rows <= Rows: picks the instantiation of that height.
template <int Panels, int Rows, class Output>
inline void compute_rows(const Operands& op, std::int64_t row, std::int64_t rows,
                         std::int64_t panel, const Output& output) {
  if constexpr (Rows > 1) {
    if (rows < Rows) return compute_rows<Panels, Rows - 1>(op, row, rows, panel, output);
  }
  compute_tile<Panels, Rows>(op, row, panel, output);
}

template <int Panels, int Rows, class Output>
inline void compute_row_block(const Operands& op, std::int64_t row_begin, std::int64_t row_end,
                              std::int64_t panel_begin, std::int64_t panel_end,
                              const Output& output) {
  std::int64_t panel = panel_begin;
  for (; panel + Panels <= panel_end; panel += Panels) {
    for (std::int64_t row = row_begin; row < row_end; row += Rows) {
      compute_rows<Panels, Rows>(op, row, row_end - row, panel, output);
    }
  }
  for (; panel < panel_end; ++panel) {
    for (std::int64_t row = row_begin; row < row_end; row += Rows) {
      compute_rows<1, Rows>(op, row, row_end - row, panel, output);
    }
  }
}

template <class Output>
inline void ternary_product(const Operands& op, std::int64_t rows, std::int64_t n_begin,
                            const Output& output) {
  const std::int64_t panel_begin = n_begin / t2::kRows;
  const std::int64_t panel_end = t2::panels(op.n_end);
  if (rows == 1) {
    return compute_row_block<kGemvPanels, 1>(op, 0, 1, panel_begin, panel_end, output);
  }
  const std::int64_t fitting = kRowBlockBytes / op.q_stride / kGemmRows * kGemmRows;
  const std::int64_t block = fitting > kGemmRows ? fitting : kGemmRows;
  for (std::int64_t row = 0; row < rows; row += block) {
    const std::int64_t end = row + block < rows ? row + block : rows;
    compute_row_block<kGemmPanels, kGemmRows>(op, row, end, panel_begin, panel_end, output);
  }
}

void gemm_s8_t2(const std::int8_t* q, std::int64_t q_stride, const float* q_scale,
                const std::int32_t* q_sum, std::int64_t rows, const std::uint8_t* w, float w_scale,
                std::int64_t n, std::int64_t k, std::int64_t n_begin, std::int64_t n_end, float* y,
                std::int64_t y_stride) noexcept {
  (void)n;
  const auto output = [=](const std::int32_t (&lanes)[t2::kRows], std::int32_t sum,
                          std::int64_t row, std::int64_t column, std::int64_t count) {
    const float scale = q_scale[row] * w_scale;
    float* to = y + row * y_stride + column;
    for (std::int64_t i = 0; i < count; ++i) to[i] = static_cast<float>(lanes[i] - sum) * scale;
  };
  ternary_product({q, q_stride, q_sum, w, k, n_end}, rows, n_begin, output);
}

void gemm_s8_t2_i32(const std::int8_t* q, std::int64_t q_stride, const std::int32_t* q_sum,
                    std::int64_t rows, const std::uint8_t* w, std::int64_t n, std::int64_t k,
                    std::int64_t n_begin, std::int64_t n_end, std::int32_t* acc,
                    std::int64_t acc_stride) noexcept {
  (void)n;
  const auto output = [=](const std::int32_t (&lanes)[t2::kRows], std::int32_t sum,
                          std::int64_t row, std::int64_t column, std::int64_t count) {
    std::int32_t* to = acc + row * acc_stride + column;
    for (std::int64_t i = 0; i < count; ++i) to[i] = lanes[i] - sum;
  };
  ternary_product({q, q_stride, q_sum, w, k, n_end}, rows, n_begin, output);
}
