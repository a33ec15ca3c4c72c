// y = scale * (int8 activations x ternary weights), for one row and for many, from the layouts t2
// and t1.
//
// Lanes are weight rows: a 64-byte block holds 16 rows x 16 columns (t1: 20), so one accumulator is
// 16 int32 lanes = 16 outputs, and neither a horizontal sum nor a permutation is ever needed; the
// activation operand is 4 bytes broadcast to all lanes. Codes are stored as code + 1, unsigned as
// the dot-product instructions want one side; the offset leaves once per output:
//   sum q * code = sum q * (code + 1) - sum q.
//
// t2 is multiplied as it lies, whatever the number of rows. So is t1 for a few rows; for more, each
// panel is rewritten as t2, a stretch of columns at a time, and serves all rows from there.
//
// The tile_*.h of an instruction set supplies
//   Acc                    16 int32 lanes: one panel of outputs of one activation row
//   add(Acc&, Acc) · load_lanes(int32[16]) · store_lanes(Acc, int32[16])
//   kGemmPanels, kGemmRows tile for many rows
//   T2Tile, T1Tile, each with
//     kRunBlocks           blocks whose products a Partial can hold
//     Partial<Rows>        what they are summed in before they join an Acc; how codes are unpacked
//                          may depend on how many rows share the work
//     dot_block(partial, w, panel_bytes, q, q_stride)   one block of every panel times every row
//     separate_rows(partial)  optional, once per run: sorts sums that dot_block keeps for several
//                          rows together
//     total(Partial)       its sums as an Acc, exact
//     kGemvPanels          panels per pass for one row
//   unpack_t1(from, to)    four t1 blocks, 256 bytes, to five t2 blocks
//
// Roofline: 0.25 byte (t1: 0.2) and one multiply-add per weight and row. Figures: docs/kernels.md.

// Activation bytes of a row block: they stay in the second-level cache while all panels pass by.
constexpr std::int64_t kRowBlockBytes = 128 << 10;

// Rows that multiply t1 as it lies: more of them, and unpacking once is cheaper.
constexpr std::int64_t kDirectRows = 4;

// Columns of t1 that are rewritten at a time: 20 KiB of t2 for four panels.
constexpr std::int64_t kStretchColumns = 1280;

struct T2 {
  static constexpr std::int64_t kColumns = t2::kColumns;
  static std::int64_t blocks(std::int64_t k) { return t2::blocks(k); }
};

struct T1 {
  static constexpr std::int64_t kColumns = t1::kColumns;
  static std::int64_t blocks(std::int64_t k) { return t1::blocks(k); }
};

constexpr std::int64_t kPanelRows = 16;
constexpr std::int64_t kBlockBytes = 64;
static_assert(t2::kRows == kPanelRows && t1::kRows == kPanelRows);
static_assert(t2::kBlockBytes == kBlockBytes && t1::kBlockBytes == kBlockBytes);

struct Operands {
  const std::int8_t* q;
  std::int64_t q_stride;
  const std::int32_t* q_sum;
  const std::uint8_t* w;
  std::int64_t k;
  std::int64_t n_end;
};

// One stretch of the columns of some panels, and what to prefetch for each of its blocks: with one
// row the bytes some way ahead, with more a part of the panels that come next.
struct Weights {
  const std::uint8_t* bytes;
  std::int64_t panel_bytes;
  std::int64_t blocks;
  const std::uint8_t* ahead = nullptr;
  std::int64_t ahead_step = 0;
};

template <class Tile, class Layout, int Panels, int Rows>
inline void sum_tile(const Weights& w, const std::int8_t* q, std::int64_t q_stride,
                     Acc (&acc)[Panels][Rows]) {
  for (std::int64_t first = 0; first < w.blocks; first += Tile::kRunBlocks) {
    const std::int64_t left = w.blocks - first;
    const std::int64_t end = first + (left < Tile::kRunBlocks ? left : Tile::kRunBlocks);
    typename Tile::template Partial<Rows> partial[Panels][Rows] = {};
    for (std::int64_t b = first; b < end; ++b) {
      for (std::int64_t i = 0; i < w.ahead_step; i += kBlockBytes) {
        __builtin_prefetch(w.ahead + b * w.ahead_step + i);
      }
      Tile::dot_block(partial, w.bytes + b * kBlockBytes, w.panel_bytes, q + b * Layout::kColumns,
                      q_stride);
    }
    if constexpr (requires { Tile::separate_rows(partial); }) Tile::separate_rows(partial);
    for (int i = 0; i < Panels; ++i) {
      for (int j = 0; j < Rows; ++j) add(acc[i][j], Tile::total(partial[i][j]));
    }
  }
}

// Where the results go. The four bytes of an element can also keep the int32 sum of some columns
// until the others have come.
template <class Element>
struct Elements {
  Element* first;
  std::int64_t stride;

  Element* at(std::int64_t row, std::int64_t column) const { return first + row * stride + column; }
  void keep(const std::int32_t* lanes, std::int64_t row, std::int64_t column,
            std::int64_t count) const {
    __builtin_memcpy(at(row, column), lanes, static_cast<std::size_t>(count) * sizeof *lanes);
  }
  void kept(std::int32_t* lanes, std::int64_t row, std::int64_t column, std::int64_t count) const {
    __builtin_memcpy(lanes, at(row, column), static_cast<std::size_t>(count) * sizeof *lanes);
  }
};

struct Int32Output : Elements<std::int32_t> {
  void finish(const std::int32_t* lanes, std::int32_t sum, std::int64_t row, std::int64_t column,
              std::int64_t count) const {
    for (std::int64_t i = 0; i < count; ++i) at(row, column)[i] = lanes[i] - sum;
  }
};

struct FloatOutput : Elements<float> {
  const float* q_scale;
  float w_scale;

  void finish(const std::int32_t* lanes, std::int32_t sum, std::int64_t row, std::int64_t column,
              std::int64_t count) const {
    const float scale = q_scale[row] * w_scale;
    float* to = at(row, column);
    for (std::int64_t i = 0; i < count; ++i) to[i] = static_cast<float>(lanes[i] - sum) * scale;
  }
};

// Which columns of the matrix a tile sees: sums of earlier ones wait in the output.
struct Stretch {
  std::int64_t first_column = 0;
  bool is_last = true;
};

template <class Tile, class Layout, int Panels, int Rows, class Output>
inline void compute_tile(const Operands& op, const Weights& w, Stretch stretch, std::int64_t row,
                         std::int64_t panel, const Output& output) {
  Acc acc[Panels][Rows] = {};
  sum_tile<Tile, Layout>(w, op.q + row * op.q_stride + stretch.first_column, op.q_stride, acc);
  for (int i = 0; i < Panels; ++i) {
    const std::int64_t column = (panel + i) * kPanelRows;
    const std::int64_t left = op.n_end - column;
    const std::int64_t count = left < kPanelRows ? left : kPanelRows;
    for (int j = 0; j < Rows; ++j) {
      std::int32_t lanes[kPanelRows] = {};
      if (stretch.first_column > 0) {
        output.kept(lanes, row + j, column, count);
        add(acc[i][j], load_lanes(lanes));
      }
      store_lanes(acc[i][j], lanes);
      if (stretch.is_last) {
        output.finish(lanes, op.q_sum[row + j], row + j, column, count);
      } else {
        output.keep(lanes, row + j, column, count);
      }
    }
  }
}

// The rows [row, row + rows) of a tile, rows <= Rows: picks the instantiation of that height.
template <class Tile, class Layout, int Panels, int Rows, class Output>
inline void compute_rows(const Operands& op, const Weights& w, Stretch stretch, std::int64_t row,
                         std::int64_t rows, std::int64_t panel, const Output& output) {
  if constexpr (Rows > 1) {
    if (rows < Rows) {
      return compute_rows<Tile, Layout, Panels, Rows - 1>(op, w, stretch, row, rows, panel, output);
    }
  }
  compute_tile<Tile, Layout, Panels, Rows>(op, w, stretch, row, panel, output);
}

// A matrix multiplied as it lies.
template <class Tile, class Layout, int Panels, int Rows, class Output>
inline void compute_row_block(const Operands& op, std::int64_t row_begin, std::int64_t row_end,
                              std::int64_t panel_begin, std::int64_t panel_end,
                              const Output& output) {
  const std::int64_t blocks = Layout::blocks(op.k), panel_bytes = blocks * kBlockBytes;
  std::int64_t panel = panel_begin;
  const std::int64_t tiles = (row_end - row_begin + Rows - 1) / Rows;
  for (; panel + Panels <= panel_end; panel += Panels) {
    Weights w{op.w + panel * panel_bytes, panel_bytes, blocks};
    if (Rows > 1 || Panels == 1) {
      w.ahead = w.bytes + (Rows > 1 ? Panels * panel_bytes : kPrefetchBytes);
      w.ahead_step = Panels * kBlockBytes / tiles;
    }
    for (std::int64_t row = row_begin; row < row_end;
         row += Rows, w.ahead += blocks * w.ahead_step) {
      compute_rows<Tile, Layout, Panels, Rows>(op, w, {}, row, row_end - row, panel, output);
    }
  }
  for (; panel < panel_end; ++panel) {
    const Weights w{op.w + panel * panel_bytes, panel_bytes, blocks};
    for (std::int64_t row = row_begin; row < row_end; row += Rows) {
      compute_rows<Tile, Layout, 1, Rows>(op, w, {}, row, row_end - row, panel, output);
    }
  }
}

// Some panels of t1 times a block of rows, by way of t2.
template <int Panels, class Output>
inline void compute_unpacked(const Operands& op, std::int64_t row_begin, std::int64_t row_end,
                             std::int64_t panel, const Output& output) {
  constexpr std::int64_t kGroup = 4;  // blocks of t1 = five blocks of t2
  constexpr std::int64_t kStretchBlocks = kStretchColumns / t1::kColumns;
  constexpr std::int64_t kStretchBytes = kStretchColumns / t2::kColumns * kBlockBytes;
  static_assert(kStretchColumns % (kGroup * t1::kColumns) == 0);
  alignas(kBlockBytes) std::uint8_t unpacked[Panels * kStretchBytes];
  const std::int64_t blocks = t1::blocks(op.k), panel_bytes = blocks * kBlockBytes;
  for (std::int64_t first = 0; first < blocks; first += kStretchBlocks) {
    const std::int64_t left = blocks - first;
    const std::int64_t count = left < kStretchBlocks ? left : kStretchBlocks;
    for (int i = 0; i < Panels; ++i) {
      const std::uint8_t* from = op.w + (panel + i) * panel_bytes + first * kBlockBytes;
      std::uint8_t* to = unpacked + i * kStretchBytes;
      std::int64_t b = 0;
      for (; b + kGroup <= count; b += kGroup, to += 5 * kBlockBytes) {
        for (std::int64_t j = 0; j < kGroup; ++j) {
          __builtin_prefetch(from + (b + j + kStretchBlocks) * kBlockBytes);  // the next stretch
        }
        unpack_t1(from + b * kBlockBytes, to);
      }
      if (b < count) {
        // Behind the last block: bytes whose products with zero activations are zero anyway.
        std::uint8_t rest[kGroup * kBlockBytes] = {};
        __builtin_memcpy(rest, from + b * kBlockBytes,
                         static_cast<std::size_t>((count - b) * kBlockBytes));
        unpack_t1(rest, to);
      }
    }
    const Stretch stretch{first * t1::kColumns, left <= kStretchBlocks};
    const std::int64_t columns = op.k - stretch.first_column;
    const std::int64_t t2_blocks =
        t2::blocks(columns < kStretchColumns ? columns : kStretchColumns);
    const Weights w{unpacked, kStretchBytes, t2_blocks};
    for (std::int64_t row = row_begin; row < row_end; row += kGemmRows) {
      compute_rows<T2Tile, T2, Panels, kGemmRows>(op, w, stretch, row, row_end - row, panel,
                                                  output);
    }
  }
}

// Calls body(row_begin, row_end) for blocks of rows of which `columns` activations each fit the
// cache together.
template <class Body>
inline void over_row_blocks(std::int64_t rows, std::int64_t columns, const Body& body) {
  const std::int64_t fitting = kRowBlockBytes / columns / kGemmRows * kGemmRows;
  const std::int64_t block = fitting > kGemmRows ? fitting : kGemmRows;
  for (std::int64_t row = 0; row < rows; row += block) {
    body(row, row + block < rows ? row + block : rows);
  }
}

template <class Output>
inline void product_t2(const Operands& op, std::int64_t rows, std::int64_t n_begin,
                       const Output& output) {
  const std::int64_t begin = n_begin / kPanelRows, end = t2::panels(op.n_end);
  if (rows == 1) {
    return compute_row_block<T2Tile, T2, T2Tile::kGemvPanels, 1>(op, 0, 1, begin, end, output);
  }
  over_row_blocks(rows, op.q_stride, [&](std::int64_t row_begin, std::int64_t row_end) {
    compute_row_block<T2Tile, T2, kGemmPanels, kGemmRows>(op, row_begin, row_end, begin, end,
                                                          output);
  });
}

template <class Output>
inline void product_t1(const Operands& op, std::int64_t rows, std::int64_t n_begin,
                       const Output& output) {
  if (rows == 0) return;
  const std::int64_t begin = n_begin / kPanelRows, end = t1::panels(op.n_end);
  if (rows == 1) {
    return compute_row_block<T1Tile, T1, T1Tile::kGemvPanels, 1>(op, 0, 1, begin, end, output);
  }
  if (rows <= kDirectRows) {
    return compute_row_block<T1Tile, T1, 1, kDirectRows>(op, 0, rows, begin, end, output);
  }
  const std::int64_t columns = op.q_stride < kStretchColumns ? op.q_stride : kStretchColumns;
  over_row_blocks(rows, columns, [&](std::int64_t row_begin, std::int64_t row_end) {
    std::int64_t panel = begin;
    for (; panel + kGemmPanels <= end; panel += kGemmPanels) {
      compute_unpacked<kGemmPanels>(op, row_begin, row_end, panel, output);
    }
    for (; panel < end; ++panel) compute_unpacked<1>(op, row_begin, row_end, panel, output);
  });
}

void gemm_s8_t2(const std::int8_t* q, std::int64_t q_stride, const float* q_scale,
                const std::int32_t* q_sum, std::int64_t rows, const std::uint8_t* w, float w_scale,
                std::int64_t k, std::int64_t n_begin, std::int64_t n_end, float* y,
                std::int64_t y_stride) noexcept {
  product_t2({q, q_stride, q_sum, w, k, n_end}, rows, n_begin,
             FloatOutput{{y, y_stride}, q_scale, w_scale});
}

void gemm_s8_t2_i32(const std::int8_t* q, std::int64_t q_stride, const std::int32_t* q_sum,
                    std::int64_t rows, const std::uint8_t* w, std::int64_t k, std::int64_t n_begin,
                    std::int64_t n_end, std::int32_t* acc, std::int64_t acc_stride) noexcept {
  product_t2({q, q_stride, q_sum, w, k, n_end}, rows, n_begin, Int32Output{{acc, acc_stride}});
}

void gemm_s8_t1(const std::int8_t* q, std::int64_t q_stride, const float* q_scale,
                const std::int32_t* q_sum, std::int64_t rows, const std::uint8_t* w, float w_scale,
                std::int64_t k, std::int64_t n_begin, std::int64_t n_end, float* y,
                std::int64_t y_stride) noexcept {
  product_t1({q, q_stride, q_sum, w, k, n_end}, rows, n_begin,
             FloatOutput{{y, y_stride}, q_scale, w_scale});
}

void gemm_s8_t1_i32(const std::int8_t* q, std::int64_t q_stride, const std::int32_t* q_sum,
                    std::int64_t rows, const std::uint8_t* w, std::int64_t k, std::int64_t n_begin,
                    std::int64_t n_end, std::int32_t* acc, std::int64_t acc_stride) noexcept {
  product_t1({q, q_stride, q_sum, w, k, n_end}, rows, n_begin, Int32Output{{acc, acc_stride}});
}
