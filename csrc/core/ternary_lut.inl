// y = scale * (int8 activations x ternary weights in the lut layout), by looking sums up instead of
// multiplying: for processors without a byte dot product.
//
// Two activations a, b and two codes give nine sums, from -a - b to a + b. Each pair of columns has
// a table of them, shared by all rows of the matrix; a nibble of the weights is the index, and a
// byte shuffle looks 16 or more rows up at once. Sums need nine bits and a sign, so 256 is added
// and low and high bytes lie in tables of their own. Exact, unlike lookups of rounded sums.
//
// The tile_*.h (or lut_*.h) of an instruction set supplies LutTile<Panels>, Panels = 1 and 2, with
//   Sums                                   of 32 * Panels rows over at most kLutRunBlocks blocks
//   block(sums, w, panel_bytes, tables)    adds two entries for every row
//   spread(sums, even, odd)                adds the sums of the rows 2i and 2i + 1 to int32[16]
//
// Roofline: 0.25 byte and half a lookup of two bytes per weight and row. Figures: docs/kernels.md.

// High bytes, at most 2, of two entries a block add up in a byte; low bytes in 16 bits.
constexpr std::int64_t kLutRunBlocks = 63;
constexpr std::int32_t kEntryOffset = 256;

void lut_tables(const std::int8_t* q, std::int64_t k, std::uint8_t* tables) noexcept {
  for (std::int64_t column = 0; column < lut::blocks(k) * lut::kColumns; column += 2) {
    const int a = column < k ? q[column] : 0, b = column + 1 < k ? q[column + 1] : 0;
    std::uint8_t* low = tables + column / 2 * lut::kTableBytes;
    std::uint8_t* high = low + lut::kTableBytes / 2;
    for (int entry = 0; entry < lut::kTableBytes / 2; ++entry) {
      const int sum = (entry / 3 - 1) * a + (entry % 3 - 1) * b + kEntryOffset;
      const unsigned value =
          entry < static_cast<int>(lut::kEntries) ? static_cast<unsigned>(sum) : 0;
      low[entry] = static_cast<std::uint8_t>(value & 0xffu);
      high[entry] = static_cast<std::uint8_t>(value >> 8);
    }
  }
}

template <int Panels, class Output>
inline void look_up(const std::uint8_t* tables, const std::uint8_t* w, std::int64_t k,
                    std::int64_t row, std::int64_t panel, std::int64_t n_end,
                    const Output& output) {
  const std::int64_t blocks = lut::blocks(k), panel_bytes = lut::panel_bytes(k);
  const std::uint8_t* from = w + panel * panel_bytes;
  std::int32_t even[Panels][lut::kRows / 2] = {}, odd[Panels][lut::kRows / 2] = {};
  for (std::int64_t first = 0; first < blocks; first += kLutRunBlocks) {
    const std::int64_t end = first + kLutRunBlocks < blocks ? first + kLutRunBlocks : blocks;
    typename LutTile<Panels>::Sums sums = {};
    for (std::int64_t b = first; b < end; ++b) {
      LutTile<Panels>::block(sums, from + b * lut::kBlockBytes, panel_bytes,
                             tables + b * 2 * lut::kTableBytes);
    }
    LutTile<Panels>::spread(sums, even, odd);
  }
  const auto offset = static_cast<std::int32_t>(2 * blocks * kEntryOffset);
  for (int i = 0; i < Panels; ++i) {
    std::int32_t lanes[lut::kRows];
    for (int r = 0; r < lut::kRows / 2; ++r) {
      lanes[2 * r] = even[i][r];
      lanes[2 * r + 1] = odd[i][r];
    }
    const std::int64_t column = (panel + i) * lut::kRows, left = n_end - column;
    output.finish(lanes, offset, row, column, left < lut::kRows ? left : lut::kRows);
  }
}

template <class Output>
inline void product_lut(const std::uint8_t* tables, std::int64_t rows, const std::uint8_t* w,
                        std::int64_t k, std::int64_t n_begin, std::int64_t n_end,
                        const Output& output) {
  const std::int64_t begin = n_begin / lut::kRows, end = lut::panels(n_end);
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::uint8_t* of_row = tables + row * lut::tables_bytes(k);
    std::int64_t panel = begin;
    for (; panel + 2 <= end; panel += 2) look_up<2>(of_row, w, k, row, panel, n_end, output);
    if (panel < end) look_up<1>(of_row, w, k, row, panel, n_end, output);
  }
}

void gemm_lut(const std::uint8_t* tables, const float* q_scale, std::int64_t rows,
              const std::uint8_t* w, float w_scale, std::int64_t k, std::int64_t n_begin,
              std::int64_t n_end, float* y, std::int64_t y_stride) noexcept {
  product_lut(tables, rows, w, k, n_begin, n_end, FloatOutput{{y, y_stride}, q_scale, w_scale});
}

void gemm_lut_i32(const std::uint8_t* tables, std::int64_t rows, const std::uint8_t* w,
                  std::int64_t k, std::int64_t n_begin, std::int64_t n_end, std::int32_t* acc,
                  std::int64_t acc_stride) noexcept {
  product_lut(tables, rows, w, k, n_begin, n_end, Int32Output{{acc, acc_stride}});
}
