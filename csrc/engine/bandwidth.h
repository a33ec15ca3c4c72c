// How fast this machine reads memory: what a decode step cannot beat.
#pragma once

#include <cstddef>

namespace wf::engine {

// Best of a few passes over `bytes` fresh bytes in huge pages, GB/s. Every thread walks four
// streams at once, which keeps more prefetchers busy than one.
double read_gbps(int threads, size_t bytes);

}  // namespace wf::engine
