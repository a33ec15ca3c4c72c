// Matrices that one row is multiplied by come from memory, once and in order. A prefetch that far
// ahead goes on over the ends of pages, panels and rows, where the hardware prefetcher starts anew.

constexpr std::int64_t kPrefetchBytes = 8192;

inline void prefetch_ahead(const void* weights) {
  __builtin_prefetch(static_cast<const char*>(weights) + kPrefetchBytes);
}
