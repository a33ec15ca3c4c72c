// A panel in two AVX2 registers: its sums, its codes out of t2 and t1. Shared by the tiles with and
// without VNNI.

// Rows 0..7 and 8..15 of a panel.
struct Acc {
  __m256i half[2];  // int32
};

inline void add(Acc& acc, const Acc& other) {
  for (int h = 0; h < 2; ++h) acc.half[h] = _mm256_add_epi32(acc.half[h], other.half[h]);
}

inline Acc load_lanes(const std::int32_t* lanes) {
  const auto* from = reinterpret_cast<const __m256i*>(lanes);
  return {{_mm256_loadu_si256(from), _mm256_loadu_si256(from + 1)}};
}

inline void store_lanes(const Acc& acc, std::int32_t* lanes) {
  for (int h = 0; h < 2; ++h) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes + 8 * h), acc.half[h]);
  }
}

inline __m256i broadcast4(const std::int8_t* q) {
  std::int32_t four;
  __builtin_memcpy(&four, q, sizeof four);
  return _mm256_set1_epi32(four);
}

inline __m256i load_half(const std::uint8_t* block, int half) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block) + half);
}

template <int Field>
inline __m256i t2_codes(__m256i packed) {
  return _mm256_and_si256(_mm256_srli_epi16(packed, 2 * Field), _mm256_set1_epi8(3));
}

// Takes the digit of a place off 32 bytes that hold no higher one: two steps of "minus the place
// if that is not negative", as an unsigned minimum. Places are 1 modulo 4, so place * digit & 3 is
// the digit.
template <int Place>
inline __m256i take_digit(__m256i& rest) {
  static_assert(Place % 4 == 1);
  const __m256i whole = rest;
  rest =
      _mm256_min_epu8(rest, _mm256_sub_epi8(rest, _mm256_set1_epi8(static_cast<char>(2 * Place))));
  rest = _mm256_min_epu8(rest, _mm256_sub_epi8(rest, _mm256_set1_epi8(Place)));
  return _mm256_and_si256(_mm256_sub_epi8(whole, rest), _mm256_set1_epi8(3));
}

struct Digits {
  __m256i of[t1::kDigits];
};

inline Digits t1_digits(__m256i bytes) {
  const __m256i third =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 0, 0, 1, 1, 1, 2, 2, 2, 0, 0, 0, 0, 0, 0, 0));
  const __m256i rest_of_third =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0));
  Digits digits;
  digits.of[4] = take_digit<t1::kPlaces[4]>(bytes);
  digits.of[3] = take_digit<t1::kPlaces[3]>(bytes);
  digits.of[2] = take_digit<t1::kPlaces[2]>(bytes);
  digits.of[1] = _mm256_shuffle_epi8(third, bytes);
  digits.of[0] = _mm256_shuffle_epi8(rest_of_third, bytes);
  return digits;
}

inline void unpack_t1(const std::uint8_t* from, std::uint8_t* to) {
  for (int h = 0; h < 2; ++h) {
    __m256i digits[4 * t1::kDigits];
    for (int b = 0; b < 4; ++b) {
      const Digits block = t1_digits(load_half(from + b * t1::kBlockBytes, h));
      for (int p = 0; p < t1::kDigits; ++p) digits[b * t1::kDigits + p] = block.of[p];
    }
    for (int b = 0; b < t1::kDigits; ++b) {
      // Digits are below 3: fields never reach into each other's bits.
      const __m256i* d = digits + 4 * b;
      const __m256i low = _mm256_or_si256(d[0], _mm256_slli_epi16(d[1], 2));
      const __m256i high = _mm256_or_si256(d[2], _mm256_slli_epi16(d[3], 2));
      auto* out = reinterpret_cast<__m256i*>(to + b * t2::kBlockBytes) + h;
      _mm256_storeu_si256(out, _mm256_or_si256(low, _mm256_slli_epi16(high, 4)));
    }
  }
}
