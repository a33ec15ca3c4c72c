// The eight lanes as a policy, for the kernels that take the widest vectors there are.
struct EightLanes {
  using Vector = F8;
  static constexpr int kCount = 8;

  static F8 splat_all(float x) { return splat(x); }
  static F8 load_f32(const float* p) { return load(p); }
  static F8 load_half(const std::uint8_t* p) { return load_f16(p); }
  static F8 load_bfloat(const std::uint8_t* p) { return load_bf16(p); }
  static F8 load_int8(const std::uint8_t* p) { return load_s8(p); }
};
