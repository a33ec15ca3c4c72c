// Digits of t1 for AVX-512 without VBMI: one after the other, the last two by a byte shuffle.

struct T1Decoder {
  // Sums that are 1, 9, 29 and 85 times too large.
  static constexpr int kParts = 4;

  static Acc total(const SplitSums<kParts>& sums) {
    const __m512i first = _mm512_add_epi32(sums.part[0], divide_exactly<9>(sums.part[1]));
    const __m512i second =
        _mm512_add_epi32(divide_exactly<29>(sums.part[2]), divide_exactly<85>(sums.part[3]));
    return {_mm512_add_epi32(first, second)};
  }

  // The products of one block and the activations of 20 columns.
  static void dot(SplitSums<kParts>& sums, __m512i bytes, const std::int8_t* q) {
    for (int part = 3; part > 0; --part) {
      const __m512i multiple = part == 3   ? take_multiple<85>(bytes)
                               : part == 2 ? take_multiple<29>(bytes)
                                           : take_multiple<9>(bytes);
      sums.part[part] =
          _mm512_dpbusd_epi32(sums.part[part], multiple, broadcast4(q + 4 * (part + 1)));
    }
    const __m512i high = _mm512_shuffle_epi8(thirds(), bytes);
    const __m512i low = _mm512_shuffle_epi8(rest_of_thirds(), bytes);
    sums.part[0] = _mm512_dpbusd_epi32(sums.part[0], high, broadcast4(q + 4));
    sums.part[0] = _mm512_dpbusd_epi32(sums.part[0], low, broadcast4(q));
  }

  static Digits digits(__m512i bytes) {
    Digits digits;
    digits.of[4] = _mm512_and_si512(take_multiple<85>(bytes), splat8(3));
    digits.of[3] = _mm512_and_si512(take_multiple<29>(bytes), splat8(3));
    digits.of[2] = _mm512_and_si512(take_multiple<9>(bytes), splat8(3));
    digits.of[1] = _mm512_shuffle_epi8(thirds(), bytes);
    digits.of[0] = _mm512_shuffle_epi8(rest_of_thirds(), bytes);
    return digits;
  }

 private:
  // The digits of 0..8 in base 3.
  static __m512i thirds() {
    return _mm512_broadcast_i32x4(_mm_setr_epi8(0, 0, 0, 1, 1, 1, 2, 2, 2, 0, 0, 0, 0, 0, 0, 0));
  }
  static __m512i rest_of_thirds() {
    return _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0));
  }
};
