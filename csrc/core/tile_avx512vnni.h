// AVX-512 VNNI tiles of the ternary products: vpdpbusd on unsigned codes and signed activations,
// one 512-bit register for a whole panel.
//
// One row: no shifts. The fields of t2 are masked where they are and feed sums that are 1, 4, 16
// and 64 times too large; exact arithmetic shifts remove the factors once per run. ANDs are free
// beside vpdpbusd, shifts are not. The same goes for the digits of t1: 85, 29 and 9 times a digit
// feed sums of their own, and an exact division, a multiplication by the inverse modulo 2^32,
// removes the factor. The largest, 85 * 2 * 128 * 4 per block and lane, stays below 2^31 for 4096
// blocks. Panels pass one by one, so that the matrix is read as it lies: with the prefetch that is
// as fast as memory, and on a Zen 5 twice as fast as four panels side by side. Many rows: fields
// are shifted down once and serve every row of the tile. Four panels x four rows are enough sums to
// keep both multipliers busy; for six rows, 24 sums, gcc stores them in every round (.74 instead of
// .95 of the peak).

constexpr std::int64_t kSplitRunBlocks = 4096;
constexpr int kGemmPanels = 4;
constexpr int kGemmRows = 4;

struct Acc {
  __m512i row;  // int32
};

inline void add(Acc& acc, const Acc& other) { acc.row = _mm512_add_epi32(acc.row, other.row); }

inline Acc load_lanes(const std::int32_t* lanes) { return {_mm512_loadu_si512(lanes)}; }

inline void store_lanes(const Acc& acc, std::int32_t* lanes) {
  _mm512_storeu_si512(lanes, acc.row);
}

inline __m512i broadcast4(const std::int8_t* q) {
  std::int32_t four;
  __builtin_memcpy(&four, q, sizeof four);
  return _mm512_set1_epi32(four);
}

inline __m512i splat8(int byte) { return _mm512_set1_epi8(static_cast<char>(byte)); }

// Sums of one row, a register for each factor that they are too large by.
template <int Count>
struct SplitSums {
  __m512i part[Count];
};

// One row is summed in parts, several rows plainly.
template <int Count, int Rows>
struct PartialOf {
  using Type = Acc;
};
template <int Count>
struct PartialOf<Count, 1> {
  using Type = SplitSums<Count>;
};

struct T2Tile {
  static constexpr std::int64_t kRunBlocks = kSplitRunBlocks;
  static constexpr int kGemvPanels = 1;
  template <int Rows>
  using Partial = typename PartialOf<4, Rows>::Type;

  static Acc total(const Acc& sums) { return sums; }
  static Acc total(const SplitSums<4>& sums) {
    const __m512i first = _mm512_add_epi32(sums.part[0], _mm512_srai_epi32(sums.part[1], 2));
    const __m512i second =
        _mm512_add_epi32(_mm512_srai_epi32(sums.part[2], 4), _mm512_srai_epi32(sums.part[3], 6));
    return {_mm512_add_epi32(first, second)};
  }

  template <int Panels>
  static void dot_block(SplitSums<4> (&partial)[Panels][1], const std::uint8_t* w,
                        std::int64_t panel_bytes, const std::int8_t* q, std::int64_t) {
    for (int i = 0; i < Panels; ++i) {
      const __m512i packed = _mm512_loadu_si512(w + i * panel_bytes);
      for (int field = 0; field < 4; ++field) {
        __m512i& sum = partial[i][0].part[field];
        const __m512i codes = _mm512_and_si512(packed, splat8(3 << (2 * field)));
        sum = _mm512_dpbusd_epi32(sum, codes, broadcast4(q + 4 * field));
      }
    }
  }

  template <int Panels, int Rows>
  static void dot_block(Acc (&partial)[Panels][Rows], const std::uint8_t* w,
                        std::int64_t panel_bytes, const std::int8_t* q, std::int64_t q_stride) {
    for (int field = 0; field < 4; ++field) {
      __m512i codes[Panels];
      for (int i = 0; i < Panels; ++i) {
        const __m512i packed = _mm512_loadu_si512(w + i * panel_bytes);
        const __m512i shifted = _mm512_srli_epi16(packed, static_cast<unsigned>(2 * field));
        codes[i] = _mm512_and_si512(shifted, splat8(3));
      }
      for (int j = 0; j < Rows; ++j) {
        const __m512i a = broadcast4(q + j * q_stride + 4 * field);
        for (int i = 0; i < Panels; ++i) {
          partial[i][j].row = _mm512_dpbusd_epi32(partial[i][j].row, codes[i], a);
        }
      }
    }
  }
};

// Takes place * digit off 64 bytes that hold no higher digit: two steps of "minus the place if that
// is not negative", as an unsigned minimum.
template <int Place>
inline __m512i take_multiple(__m512i& rest) {
  const __m512i whole = rest;
  rest = _mm512_min_epu8(rest, _mm512_sub_epi8(rest, splat8(2 * Place)));
  rest = _mm512_min_epu8(rest, _mm512_sub_epi8(rest, splat8(Place)));
  return _mm512_sub_epi8(whole, rest);
}

// sums / Factor for sums that are multiples of it: times the inverse modulo 2^32.
template <std::uint32_t Factor>
inline __m512i divide_exactly(__m512i sums) {
  static_assert(Factor % 2 == 1);
  std::uint32_t inverse = Factor;  // right modulo 8; each step doubles the number of right bits
  for (int step = 0; step < 4; ++step) inverse *= 2 - Factor * inverse;
  return _mm512_mullo_epi32(sums, _mm512_set1_epi32(static_cast<int>(inverse)));
}

struct Digits {
  __m512i of[t1::kDigits];
};
