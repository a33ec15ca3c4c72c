// Malformed GGUF files: one error that names field and offset, never a crash. Under the sanitizers
// this is also the test that no read leaves its buffer.
#include <gtest/gtest.h>

#include "config.h"
#include "engine_files.h"
#include "error.h"
#include "gguf.h"

namespace wf::engine {
namespace {

constexpr uint32_t kU16 = 2, kU32 = 4, kI32 = 5, kF32 = 6, kBool = 7, kString = 8, kArray = 9,
                   kU64 = 10;

// One metadata entry; `value` is what follows the type.
std::string entry(const std::string& key, uint32_t type, const Bytes& value) {
  return Bytes().string(key).put(type).raw(value.data()).data();
}

std::string tensor(const std::string& name, const std::vector<uint64_t>& sizes, uint32_t type,
                   uint64_t offset) {
  Bytes bytes;
  bytes.string(name).put(static_cast<uint32_t>(sizes.size()));
  for (const uint64_t size : sizes) bytes.put(size);
  return bytes.put(type).put(offset).data();
}

struct Parts {
  std::string magic = "GGUF";
  uint32_t version = 3;
  uint64_t tensor_count = 2;
  uint64_t entry_count = 2;
  std::string entries = entry("general.architecture", kString, Bytes().string("llama")) +
                        entry("general.alignment", kU32, Bytes().put<uint32_t>(32));
  std::string tensors = tensor("a.weight", {32, 3}, 8, 0) + tensor("b.weight", {5}, 0, 128);
  size_t alignment = 32;
  size_t data_bytes = 128 + 20;  // 3 Q8_0 blocks of 34 bytes, padded to 128; 5 floats

  std::string bytes() const {
    return Bytes()
               .raw(magic)
               .put(version)
               .put(tensor_count)
               .put(entry_count)
               .raw(entries)
               .raw(tensors)
               .pad(alignment)
               .data() +
           std::string(data_bytes, '\x02');
  }
};

class Gguf : public testing::Test {
 protected:
  GgufFile open(const std::string& bytes) { return GgufFile(directory_.write("m.gguf", bytes)); }

  // Opens the parts and expects an error that holds `expected`.
  void refuse(const Parts& parts, const std::string& expected) {
    const std::string message = error_of<FormatError>([&] { open(parts.bytes()); });
    EXPECT_NE(message.find(expected), std::string::npos) << message;
  }
  void refuse_entry(const std::string& bytes, const std::string& expected) {
    Parts parts;
    parts.entries = bytes;
    parts.entry_count = 1;
    refuse(parts, expected);
  }
  void refuse_tensor(const std::string& bytes, const std::string& expected) {
    Parts parts;
    parts.tensors = bytes;
    parts.tensor_count = 1;
    refuse(parts, expected);
  }

  TemporaryDirectory directory_;
};

TEST_F(Gguf, ReadsMetadataAndTensors) {
  for (const uint32_t version : {2u, 3u}) {
    Parts parts;
    parts.version = version;
    const GgufFile file(directory_.write("m.gguf", parts.bytes()));
    EXPECT_EQ(std::get<std::string>(file.find("general.architecture")->item(0)), "llama");
    ASSERT_EQ(file.tensors().size(), 2u);
    const GgufTensor& a = file.tensors()[0];
    EXPECT_EQ(a.shape, (std::vector<int64_t>{3, 32}));
    EXPECT_EQ(a.bytes, 3u * 34);
    EXPECT_EQ(a.rows(), 3);
    EXPECT_EQ(file.tensors()[1].offset, a.offset + 128);
    EXPECT_EQ(file.find_tensor("c"), nullptr);
  }
}

TEST_F(Gguf, EveryTruncationIsAnError) {
  const std::string whole = Parts().bytes();
  for (size_t length = 0; length < whole.size(); ++length) {
    error_of<FormatError>([&] { open(whole.substr(0, length)); });
  }
}

TEST_F(Gguf, EveryBitFlipIsAnErrorOrAFile) {
  const std::string whole = Parts().bytes();
  int refused = 0;
  for (size_t bit = 0; bit < 8 * whole.size(); ++bit) {
    std::string bytes = whole;
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << bit % 8));
    try {
      open(bytes);
    } catch (const FormatError&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 500);
}

TEST_F(Gguf, ErrorsQuoteAFileInOnePrintableLine) {
  for (const auto& [name, quoted] :
       {std::pair<const char*, const char*>{"a\n\x1b[1mb", "'a??[1mb'"},
        {"\xff\xc3\xa9", "architecture '\?\?\?'"},
        {"\xc3\xa9", "'\xc3\xa9'"}}) {
    Parts parts;
    parts.entries = entry("general.architecture", kString, Bytes().string(name));
    parts.entry_count = 1;
    const GgufFile file(directory_.write("m.gguf", parts.bytes()));
    const std::string message = error_of<ModelError>([&] { read_gguf_config(file); });
    EXPECT_NE(message.find(quoted), std::string::npos) << message;
  }
}

TEST_F(Gguf, TrailingBytesAreIgnored) {
  Parts parts;
  parts.data_bytes += 1000;
  EXPECT_NO_THROW(open(parts.bytes()));
}

TEST_F(Gguf, MagicAndVersion) {
  Parts parts;
  parts.magic = "GGUG";
  refuse(parts, "not a GGUF file");
  for (const uint32_t version : {0u, 1u, 4u, 0x03000000u}) {
    parts = Parts();
    parts.version = version;
    refuse(parts, "version at byte 4: " + std::to_string(version));
  }
}

TEST_F(Gguf, CountsThatCannotFit) {
  for (const uint64_t count :
       {uint64_t{1} << 31, uint64_t{1} << 32, uint64_t{1} << 63, ~uint64_t{0}}) {
    Parts parts;
    parts.tensor_count = count;
    refuse(parts, "tensor count at byte 8");
    parts = Parts();
    parts.entry_count = count;
    refuse(parts, "metadata count at byte 16");
  }
}

TEST_F(Gguf, CountsThatAreOffByOne) {
  for (const int change : {-1, 1}) {
    Parts parts;
    parts.entry_count = static_cast<uint64_t>(2 + change);
    error_of<FormatError>([&] { open(parts.bytes()); });
  }
  Parts parts;
  parts.tensor_count = 3;
  error_of<FormatError>([&] { open(parts.bytes()); });
}

TEST_F(Gguf, Keys) {
  const Bytes one = Bytes().put<uint32_t>(1);
  refuse_entry(entry("", kU32, one), "key at byte 24");
  refuse_entry(entry(std::string(65536, 'k'), kU32, one), "key length");
  refuse_entry(entry("\xff", kU32, one), "not UTF-8");
  refuse_entry(entry(std::string("a\0b", 3), kU32, one), "NUL");
  Parts parts;
  parts.entries = entry("k", kU32, one) + entry("k", kString, Bytes().string("v"));
  refuse(parts, "'k' is there twice");
  parts.entries = entry("k", kU32, one) + entry("k", kU32, one);
  refuse(parts, "'k' is there twice");
}

TEST_F(Gguf, Strings) {
  for (const uint64_t length : {~uint64_t{0}, uint64_t{1} << 63, uint64_t{1} << 20}) {
    refuse_entry(entry("k", kString, Bytes().put(length).raw("short")), "k length");
  }
}

TEST_F(Gguf, ValueTypes) {
  for (const uint32_t type : {13u, 255u, 1u << 31}) {
    refuse_entry(entry("k", type, Bytes().put<uint64_t>(0)), "no metadata type");
  }
  refuse_entry(entry("k", kBool, Bytes().put<uint8_t>(2)), "not 0 or 1");
}

TEST_F(Gguf, Arrays) {
  const auto array = [](uint32_t type, uint64_t length) {
    return entry("k", kArray, Bytes().put(type).put(length).put<uint64_t>(0));
  };
  refuse_entry(array(kU64, uint64_t{1} << 63), "array length");
  refuse_entry(array(kU64, uint64_t{1} << 61), "array length");
  refuse_entry(array(kString, uint64_t{1} << 40), "array length");
  refuse_entry(array(kArray, 1), "arrays of arrays");
  Parts parts;
  parts.entry_count = 1;
  parts.entries = entry("k", kArray, Bytes().put(kF32).put<uint64_t>(0));
  EXPECT_TRUE(open(parts.bytes()).find("k")->size() == 0);
}

TEST_F(Gguf, ItemsOfEveryType) {
  const auto read = [&](uint32_t type, const Bytes& items, size_t index) {
    Parts parts;
    parts.entry_count = 1;
    parts.entries = entry("k", kArray, Bytes().put(type).put<uint64_t>(2).raw(items.data()));
    const GgufFile file = open(parts.bytes());
    EXPECT_EQ(file.find("k")->size(), 2u);
    return file.find("k")->item(index);
  };
  const auto pair = []<typename T>(T first, T second) { return Bytes().put(first).put(second); };
  const uint64_t big = ~uint64_t{0};
  EXPECT_EQ(read(0, pair(uint8_t{1}, uint8_t{255}), 1), GgufScalar(uint64_t{255}));
  EXPECT_EQ(read(1, pair(int8_t{1}, int8_t{-128}), 1), GgufScalar(int64_t{-128}));
  EXPECT_EQ(read(kU16, pair(uint16_t{1}, uint16_t{65535}), 1), GgufScalar(uint64_t{65535}));
  EXPECT_EQ(read(3, pair(int16_t{1}, int16_t{-2}), 1), GgufScalar(int64_t{-2}));
  EXPECT_EQ(read(kU32, pair(7u, ~0u), 1), GgufScalar(uint64_t{0xffffffff}));
  EXPECT_EQ(read(kI32, pair(7, -7), 1), GgufScalar(int64_t{-7}));
  EXPECT_EQ(read(kU64, pair(uint64_t{1}, big), 1), GgufScalar(big));
  EXPECT_EQ(read(11, pair(int64_t{1}, INT64_MIN), 1), GgufScalar(int64_t{INT64_MIN}));
  EXPECT_EQ(read(kF32, pair(1.0f, 0.5f), 1), GgufScalar(0.5));
  EXPECT_EQ(read(12, pair(1.0, 0.1), 1), GgufScalar(0.1));
  EXPECT_EQ(read(kBool, pair(uint8_t{1}, uint8_t{0}), 0), GgufScalar(true));
  EXPECT_EQ(read(kString, Bytes().string("a").string("bc"), 1), GgufScalar(std::string("bc")));
  refuse_entry(entry("k", kArray, Bytes().put(kBool).put<uint64_t>(2).put<uint16_t>(0x0201)),
               "not 0 or 1");
}

TEST_F(Gguf, Alignment) {
  for (const uint32_t alignment : {0u, 1u, 3u, 4u, 31u, 1u << 20, 1u << 30, ~0u}) {
    refuse_entry(entry("general.alignment", kU32, Bytes().put(alignment)), "power of two");
  }
  refuse_entry(entry("general.alignment", kI32, Bytes().put<int32_t>(32)), "uint32");
  refuse_entry(entry("general.alignment", kU64, Bytes().put<uint64_t>(32)), "uint32");
  refuse_entry(entry("general.alignment", kString, Bytes().string("32")), "uint32");
  Parts parts;
  parts.entry_count = 1;
  parts.entries = entry("general.alignment", kU32, Bytes().put<uint32_t>(64));
  parts.alignment = 64;
  EXPECT_EQ(open(parts.bytes()).alignment(), 64u);
}

TEST_F(Gguf, PartsOfAModel) {
  const auto entry_of = [](uint16_t count) {
    return entry("split.count", kU16, Bytes().put(count));
  };
  refuse_entry(entry_of(2), "llama-gguf-split --merge");
  refuse_entry(entry("split.count", kString, Bytes().string("2")), "one part of a model");
  Parts parts;
  parts.entry_count = 1;
  for (const uint16_t count : {0, 1}) {
    parts.entries = entry_of(count);
    EXPECT_NO_THROW(open(parts.bytes()));
  }
}

TEST_F(Gguf, TensorNames) {
  for (const char* name : {"", "../x", "a b", "%s", "a/b"}) {
    refuse_tensor(tensor(name, {4}, 0, 0), "tensor name");
  }
  refuse_tensor(tensor(std::string(64, 'n'), {4}, 0, 0), "tensor name length");
  refuse_tensor(tensor(std::string("a\0b", 3), {4}, 0, 0), "tensor name");
  Parts parts;
  parts.tensors = tensor("a", {8}, 0, 0) + tensor("a", {8}, 0, 32);
  refuse(parts, "'a' is there twice");
  parts.tensors = tensor(std::string(63, 'n'), {8}, 0, 0);
  parts.tensor_count = 1;
  EXPECT_NO_THROW(open(parts.bytes()));
}

TEST_F(Gguf, Dimensions) {
  refuse_tensor(tensor("a", {}, 0, 0), "dimension count");
  refuse_tensor(tensor("a", {1, 1, 1, 1, 1}, 0, 0), "dimension count");
  refuse_tensor(Bytes().string("a").put<uint32_t>(1'000'000).put<uint64_t>(1).pad(64).data(),
                "dimension count");
  refuse_tensor(tensor("a", {0}, 0, 0), "zero or too large");
  refuse_tensor(tensor("a", {4, 0}, 0, 0), "zero or too large");
  refuse_tensor(tensor("a", {uint64_t{1} << 62}, 0, 0), "zero or too large");
  // Products that wrap around to something small.
  refuse_tensor(tensor("a", {4, uint64_t{1} << 33, uint64_t{1} << 33}, 0, 0), "too large");
  refuse_tensor(tensor("a", {uint64_t{1} << 61, 8}, 0, 0), "overflows");
  refuse_tensor(tensor("a", {uint64_t{1} << 60, 4}, 24, 0), "larger than the file");
}

TEST_F(Gguf, Types) {
  for (const uint32_t type : {4u, 5u, 42u, 142u, ~0u, 0x7fffffffu}) {
    refuse_tensor(tensor("a", {256}, type, 0), "unknown id " + std::to_string(type));
  }
  refuse_tensor(tensor("a", {256}, 38, 0), "id 38 is TL1 of bitnet.cpp");
  refuse_tensor(tensor("a", {256}, 134, 0), "id 134 is IQ1_BN of ik_llama.cpp");
  for (const auto& [type, block] :
       {std::pair{2u, 32}, {3u, 32}, {8u, 32}, {14u, 256}, {34u, 256}, {35u, 256}}) {
    for (const int size : {1, block - 1, block + 1}) {
      refuse_tensor(tensor("a", {static_cast<uint64_t>(size)}, type, 0), "tensor 'a' dimension");
    }
  }
}

TEST_F(Gguf, Offsets) {
  for (const uint64_t offset : {uint64_t{1}, uint64_t{32}, ~uint64_t{31}, uint64_t{1} << 40}) {
    refuse_tensor(tensor("a", {4}, 0, offset), "tensor 'a' offset");
  }
  for (const uint64_t offset : {0u, 96u, 160u}) {  // equal, overlapping, with a gap
    Parts parts;
    parts.tensors = tensor("a", {32, 3}, 8, 0) + tensor("b", {5}, 0, offset);
    refuse(parts, "tensor 'b' offset");
  }
  Parts tl2;  // 5 bits for 3 weights, where MXFP4 has 17 bytes for 32
  tl2.tensors = tensor("a", {96, 32}, 39, 0) + tensor("b", {5}, 0, 640);
  tl2.data_bytes = 2048;
  refuse(tl2, "bitnet.cpp uses it for TL2");
}

TEST_F(Gguf, I2sTakesItsTrailer) {
  Parts parts;
  parts.tensors = tensor("a", {128, 2}, 36, 0);
  parts.tensor_count = 1;
  parts.data_bytes = 64 + 32;
  EXPECT_EQ(open(parts.bytes()).tensors()[0].bytes, 96u);
  parts.data_bytes = 64;
  refuse(parts, "truncated");
}

TEST_F(Gguf, ATerabyteThatIsNotThereTakesNoMemory) {
  refuse_tensor(tensor("a", {4096, uint64_t{1} << 28}, 0, 0), "larger than the file");
}

TEST_F(Gguf, DirectoriesAndMissingFilesAreErrors) {
  error_of<FormatError>([&] { GgufFile file(directory_.path()); });
  error_of<FormatError>([&] { GgufFile file(directory_.path() + "/none"); });
}

}  // namespace
}  // namespace wf::engine
