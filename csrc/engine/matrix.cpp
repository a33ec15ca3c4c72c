#include "matrix.h"

#include <cstring>

#include "layout/half.h"
#include "layout/q6_k.h"
#include "layout/q8_0.h"
#include "layout/t1.h"
#include "layout/t2.h"

namespace wf::engine {

// Both layouts have panels of 16 rows, so that work is divided alike.
static_assert(t1::kRows == t2::kRows);

Matrix Matrix::ternary(int64_t rows, int64_t columns, TernaryLayout layout) {
  Matrix matrix;
  matrix.rows_ = rows;
  matrix.columns_ = columns;
  matrix.is_ternary_ = true;
  matrix.layout_ = layout;
  const bool is_t1 = layout == TernaryLayout::t1;
  const int64_t bytes = is_t1 ? t1::size_bytes(rows, columns) : t2::size_bytes(rows, columns);
  matrix.data_ = Buffer(static_cast<size_t>(bytes));
  (is_t1 ? t1::pack_padding_rows : t2::pack_padding_rows)(rows, columns,
                                                          matrix.data_.as<uint8_t>());
  return matrix;
}

Matrix Matrix::dense(int64_t rows, int64_t columns, DenseType type) {
  Matrix matrix;
  matrix.rows_ = rows;
  matrix.columns_ = columns;
  matrix.type_ = type;
  matrix.data_ = Buffer(static_cast<size_t>(rows * dense_row_bytes(type, columns)));
  return matrix;
}

void Matrix::set_codes(int64_t row, const int8_t* codes) {
  (layout_ == TernaryLayout::t1 ? t1::pack_row : t2::pack_row)(codes, row, columns_,
                                                               data_.as<uint8_t>());
}

int64_t Matrix::dense_row_bytes(DenseType type, int64_t columns) {
  switch (type) {
    case DenseType::f32:
      return columns * 4;
    case DenseType::f16:
    case DenseType::bf16:
      return columns * 2;
    case DenseType::q8_0:
      return q8_0::row_bytes(columns);
    case DenseType::q6_k:
      return q6_k::row_bytes(columns);
  }
  return 0;
}

void Matrix::read_row(int64_t index, float* out) const {
  if (is_ternary_) {
    std::vector<int8_t> codes(static_cast<size_t>(columns_));
    (layout_ == TernaryLayout::t1 ? t1::unpack_row : t2::unpack_row)(data(), index, columns_,
                                                                     codes.data());
    for (int64_t i = 0; i < columns_; ++i) out[i] = scale_ * static_cast<float>(codes[i]);
    return;
  }
  const uint8_t* from = row(index);
  switch (type_) {
    case DenseType::f32:
      std::memcpy(out, from, static_cast<size_t>(columns_) * 4);
      break;
    case DenseType::f16:
      for (int64_t i = 0; i < columns_; ++i)
        out[i] = half::f16_to_f32(half::load_u16(from + 2 * i));
      break;
    case DenseType::bf16:
      for (int64_t i = 0; i < columns_; ++i)
        out[i] = half::bf16_to_f32(half::load_u16(from + 2 * i));
      break;
    case DenseType::q8_0:
      for (int64_t i = 0; i < columns_; ++i) out[i] = q8_0::weight(from, i);
      break;
    case DenseType::q6_k:
      for (int64_t i = 0; i < columns_; i += q6_k::kPart) q6_k::weights(from, i, out + i);
      break;
  }
}

}  // namespace wf::engine
