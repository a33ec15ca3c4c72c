// One weight matrix in its one resident layout: ternary codes in t2 or t1, or dense rows as stored.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "buffer.h"
#include "kernels.h"

namespace wf::engine {

class Matrix {
 public:
  Matrix() = default;
  // Both start as zeros. Rows are filled in any order and by any thread: none shares a byte with
  // another.
  static Matrix ternary(int64_t rows, int64_t columns, TernaryLayout layout);
  static Matrix dense(int64_t rows, int64_t columns, DenseType type);

  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }
  bool is_ternary() const { return is_ternary_; }
  // Whether it multiplies int8 codes of activations: any ternary matrix that is not told otherwise.
  bool reads_codes() const { return is_ternary_ && !reads_floats_; }
  TernaryLayout layout() const { return layout_; }
  DenseType type() const { return type_; }
  float scale() const { return scale_; }
  size_t bytes() const { return data_.size(); }
  const uint8_t* data() const { return data_.as<uint8_t>(); }

  std::vector<float> input_norm;  // gain of an RMS norm on what the matrix reads, or empty
  std::vector<float> bias;        // empty, or one per row
  std::string stored_type;        // what the file calls it ("TQ2_0", "BF16"), of a projection

  // Ternary only: the weight of code 1, and one row of codes.
  void set_scale(float scale) { scale_ = scale; }
  void set_codes(int64_t row, const int8_t* codes);
  // Runs without activation quantization multiply float32 activations.
  void read_floats() { reads_floats_ = true; }
  // Dense only.
  uint8_t* row(int64_t row) { return data_.as<uint8_t>() + row * row_bytes(); }
  const uint8_t* row(int64_t row) const { return data_.as<uint8_t>() + row * row_bytes(); }
  int64_t row_bytes() const { return dense_row_bytes(type_, columns_); }
  // One row as float32.
  void read_row(int64_t row, float* out) const;

  static int64_t dense_row_bytes(DenseType type, int64_t columns);

 private:
  int64_t rows_ = 0;
  int64_t columns_ = 0;
  bool is_ternary_ = false;
  bool reads_floats_ = false;
  TernaryLayout layout_ = TernaryLayout::t2;
  DenseType type_ = DenseType::f32;
  float scale_ = 0;
  Buffer data_;
};

}  // namespace wf::engine
