// Runs a fuzz target without libFuzzer:
//
//   fuzz_X_replay COUNT          the seeds, then COUNT inputs made from them, the same every time
//   fuzz_X_replay --seeds DIR    writes the seeds as files, where libFuzzer starts
//   fuzz_X_replay FILE ...       inputs that libFuzzer kept
#include <sys/resource.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "target.h"

namespace wf::fuzz {
namespace {

// A target that asks for more has believed a number in its input. Sanitizers need terabytes of
// address space; there libFuzzer's own limits hold.
void limit_memory() {
#ifndef WF_SANITIZED
  const rlimit limit{std::size_t{1} << 30, std::size_t{1} << 30};
  setrlimit(RLIMIT_AS, &limit);
#endif
}

void run(const std::string& bytes, const std::string& name) {
  // A copy of exact size on the heap: the address sanitizer sees a read behind its end.
  const std::vector<std::uint8_t> exact(bytes.begin(), bytes.end());
  try {
    LLVMFuzzerTestOneInput(exact.data(), exact.size());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "input %s: unexpected exception: %s\n", name.c_str(), error.what());
    std::exit(1);
  }
}

// Numbers at which sizes, counts and offsets go wrong.
std::uint64_t odd_number(std::mt19937& rng) {
  const int shift = static_cast<int>(rng() % 64);
  return (std::uint64_t{1} << shift) - rng() % 2 + rng() % 2;
}

std::string mutated(std::string bytes, std::mt19937& rng) {
  for (unsigned edits = 1 + rng() % 4; edits > 0; --edits) {
    const std::size_t at = rng() % (bytes.size() + 1), left = bytes.size() - at;
    const std::size_t count = std::min<std::size_t>(left, std::size_t{1} << rng() % 7);
    switch (rng() % 6) {
      case 0:
        if (left > 0) bytes[at] = static_cast<char>(bytes[at] ^ (1 << rng() % 8));
        break;
      case 1:
        if (left > 0) bytes[at] = static_cast<char>(rng());
        break;
      case 2: {
        const std::uint64_t number = odd_number(rng);
        std::memcpy(bytes.data() + at, &number, std::min(count, sizeof number));
        break;
      }
      case 3:
        bytes.erase(at, count);
        break;
      case 4:
        bytes.insert(at, bytes.substr(at, count));
        break;
      default:
        if (rng() % 8 == 0) bytes.resize(at);
    }
  }
  return bytes;
}

void run_count(int count) {
  const std::vector<std::string> starts = seeds();
  for (std::size_t i = 0; i < starts.size(); ++i) run(starts[i], "seed " + std::to_string(i));
  std::mt19937 rng(1);
  for (int i = 0; i < count; ++i) {
    run(mutated(starts[rng() % starts.size()], rng), std::to_string(i));
  }
  std::printf("%zu seeds and %d inputs made from them\n", starts.size(), count);
}

void write_seeds(const std::filesystem::path& directory) {
  std::filesystem::create_directories(directory);
  int number = 0;
  for (const std::string& seed : seeds()) {
    std::ofstream(directory / ("seed" + std::to_string(number++)), std::ios::binary) << seed;
  }
}

}  // namespace
}  // namespace wf::fuzz

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  if (arguments.size() == 2 && arguments[0] == "--seeds") {
    wf::fuzz::write_seeds(arguments[1]);
    return 0;
  }
  wf::fuzz::limit_memory();
  for (const std::string& argument : arguments) {
    int count = 0;
    const char* end = argument.data() + argument.size();
    if (std::from_chars(argument.data(), end, count).ptr == end) {
      wf::fuzz::run_count(count);
    } else {
      std::ifstream file(argument, std::ios::binary);
      wf::fuzz::run({std::istreambuf_iterator<char>(file), {}}, argument);
    }
  }
  return 0;
}
