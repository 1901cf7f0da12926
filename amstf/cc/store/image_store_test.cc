// Tests of the mapped image store. Exit code 0 when all expectations hold.
#include "amstf/cc/store/image_store.h"

#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <limits>
#include <memory>
#include <string>
#include <thread>  // NOLINT: the lookups of real servers come from many threads
#include <vector>

#include "amstf/cc/testing/expect.h"

namespace amstf {
namespace {

// A file that begins as HDF5 does, with ids and features at stated offsets.
struct TestFile {
  StoreFile file;
  explicit TestFile(const std::vector<int64_t>& ids, const std::string& features,
                    const std::string& signature = "\x89HDF\r\n\x1a\n") {
    static int count = 0;
    file.path = "/tmp/amstf_image_store_test_" + std::to_string(getpid()) + "_" +
                std::to_string(count++) + ".h5";
    std::ofstream out(file.path, std::ios::binary);
    out << signature;
    file.ids_offset = out.tellp();
    out.write(reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(int64_t));
    file.features_offset = out.tellp();
    out << features;
    file.bytes = out.tellp();
    file.rows = ids.size();
  }
  ~TestFile() { std::remove(file.path.c_str()); }
};

std::string Floats(const std::vector<float>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
}

ImageStoreOptions Options(const TestFile& file, int64_t width) {
  ImageStoreOptions options;
  options.files = {file.file};
  options.width = width;
  return options;
}

void GatherCopiesRowsInTheOrderAsked() {
  TestFile file({5, 1024, 9}, Floats({1, 2, 3, 4, 5, 6}));
  auto store = ImageStore::Open(Options(file, 2));
  Expect(store.ok(), store.status().ToString());
  std::vector<float> out(10, 7.0f);
  bool found[5];
  const std::vector<int64_t> ids = {9, 5, -1, 9, 4};
  Expect((*store)->Gather(ids, out.data(), found).ok(), "gather");
  Expect(out == std::vector<float>({5, 6, 1, 2, 0, 0, 5, 6, 0, 0}), "rows and zeros");
  Expect(found[0] && found[1] && !found[2] && found[3] && !found[4], "found");
  Expect((*store)->Gather({}, out.data(), found).ok(), "no ids");
}

void EachServerHoldsItsBuckets() {
  std::vector<int64_t> ids;
  std::vector<float> features;
  for (int64_t id = 0; id < 3000; id += 7) {
    ids.push_back(id);
    features.push_back(id);
  }
  TestFile file(ids, Floats(features));
  int64_t images = 0;
  for (int64_t servers : {1, 2, 3, 1024}) {
    images = 0;
    for (int64_t server = 0; server < servers; ++server) {
      ImageStoreOptions options = Options(file, 1);
      options.num_servers = servers;
      options.server = server;
      auto store = ImageStore::Open(options);
      Expect(store.ok(), store.status().ToString());
      images += (*store)->num_images();
    }
    Expect(images == static_cast<int64_t>(ids.size()), "each image on exactly one server");
  }
  ImageStoreOptions options = Options(file, 1);
  options.num_servers = 2;
  options.server = 1;
  float out;
  bool found;
  ExpectError((*ImageStore::Open(options))->Gather({14}, &out, &found),
              absl::StatusCode::kInvalidArgument, "image id 14 belongs to server 0 of 2");
}

void HalvesBecomeFloats() {
  const std::vector<uint16_t> halves = {0x3c00, 0xc000, 0x0000, 0x8000, 0x0001, 0x7bff, 0x3555};
  std::vector<uint16_t> row;
  for (int i = 0; i < 19; ++i) row.push_back(halves[i % halves.size()]);
  TestFile file({3}, std::string(reinterpret_cast<const char*>(row.data()), row.size() * 2));
  ImageStoreOptions options = Options(file, 19);
  options.type = FeatureType::kFloat16;
  std::vector<float> out(19);
  bool found;
  Expect((*ImageStore::Open(options))->Gather({3}, out.data(), &found).ok(), "gather halves");
  const std::vector<float> wanted = {1.0f, -2.0f, 0.0f, -0.0f, 0x1p-24f, 65504.0f, 0.333251953125f};
  for (int i = 0; i < 19; ++i) {
    Expect(out[i] == wanted[i % 7] && std::signbit(out[i]) == std::signbit(wanted[i % 7]),
           "half " + std::to_string(i));
  }
}

void BytesAreScaledRowByRow() {
  // Wide enough for whole vectors and a rest; two files, so that a scale is found by its row.
  constexpr int64_t kWidth = 19;
  std::vector<std::unique_ptr<TestFile>> files;
  ImageStoreOptions options;
  options.width = kWidth;
  options.type = FeatureType::kUint8;
  for (int64_t first : {0, 3}) {
    std::string bytes;
    for (int64_t i = 0; i < 3 * kWidth; ++i) bytes.push_back(static_cast<char>(i * 5 + first));
    const int64_t features_bytes = bytes.size();
    for (int64_t row = 0; row < 3; ++row) bytes += Floats({0.5f * (first + row), -1.0f * row});
    files.push_back(
        std::make_unique<TestFile>(std::vector<int64_t>{first, first + 1, first + 2}, bytes));
    files.back()->file.scales_offset = files.back()->file.features_offset + features_bytes;
    options.files.push_back(files.back()->file);
  }
  auto store = *ImageStore::Open(options);
  const std::vector<int64_t> ids = {4, 0, 2, 5, 9};
  std::vector<float> out(5 * kWidth);
  bool found[5];
  Expect(store->Gather(ids, out.data(), found).ok(), "gather bytes");
  for (int i = 0; i < 4; ++i) {
    const int64_t first = ids[i] / 3 * 3, row = ids[i] % 3;
    for (int64_t j = 0; j < kWidth; ++j) {
      const int64_t byte = ((row * kWidth + j) * 5 + first) & 255;
      Expect(out[i * kWidth + j] == 0.5f * ids[i] * byte - row, "byte " + std::to_string(j));
    }
  }
  Expect(found[3] && !found[4] && out[4 * kWidth] == 0, "a missing image");
  options.files[0].scales_offset = options.files[0].bytes - 8;
  ExpectError(ImageStore::Open(options).status(), absl::StatusCode::kDataLoss, "the file was cut");
}

void ScalesThatAreNotFiniteAreNamed() {
  for (const std::vector<float>& scale :
       {std::vector<float>{NAN, 0}, {0, INFINITY}, {3e38f, 3e38f}}) {
    TestFile file({7}, std::string(8, '\x05') + Floats(scale));
    file.file.scales_offset = file.file.features_offset + 8;
    ImageStoreOptions options = Options(file, 8);
    options.type = FeatureType::kUint8;
    std::vector<float> out(8);
    bool found;
    ExpectError((*ImageStore::Open(options))->Gather({7}, out.data(), &found),
                absl::StatusCode::kDataLoss, "the features of image id 7");
  }
}

void WritingPastTheCachesGivesTheSameBits() {
  for (int64_t width : {8, 24, 27, 1504}) {
    for (FeatureType type : {FeatureType::kFloat32, FeatureType::kFloat16, FeatureType::kUint8}) {
      std::string features;
      for (int64_t i = 0; i < 4 * width; ++i) {
        const float value = i * 0.37f - 100;
        const uint16_t half = i * 7 % 0x7c00;
        const bool is_float = type == FeatureType::kFloat32;
        features.append(
            is_float ? reinterpret_cast<const char*>(&value) : reinterpret_cast<const char*>(&half),
            FeatureBytes(type));
      }
      const uint8_t infinity[] = {0, 0, 0x80, 0x7f};
      features.replace(features.size() - FeatureBytes(type), FeatureBytes(type),
                       reinterpret_cast<const char*>(infinity), FeatureBytes(type));
      if (type == FeatureType::kFloat16) features.replace(features.size() - 2, 2, "\0\x7c", 2);
      const int64_t features_bytes = features.size();
      if (type == FeatureType::kUint8) features += Floats({1, 0, 0.1f, 2, 3, -4, 1, NAN});
      TestFile file({5, 9, 12, 13}, features);
      file.file.scales_offset = file.file.features_offset + features_bytes;
      ImageStoreOptions options = Options(file, width);
      options.type = type;
      auto store = *ImageStore::Open(options);
      const std::vector<int64_t> ids = {12, -1, 5, 9, 9};
      std::vector<float> wanted(ids.size() * width);
      std::vector<float> memory(ids.size() * width + 16);
      float* aligned = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) / 4;
      bool found[5];
      Expect(store->Gather(ids, wanted.data(), found).ok(), "through the caches");
      for (float* out : {aligned, memory.data() + 1}) {
        Expect(store->Gather(ids, out, found, true).ok(), "past the caches");
        Expect(std::memcmp(out, wanted.data(), wanted.size() * 4) == 0, "the same bits");
        ExpectError(store->Gather({13}, out, found, true), absl::StatusCode::kDataLoss,
                    "the features of image id 13");
      }
    }
  }
}

void BadFilesAreRefused() {
  const std::string two = Floats({1, 2});
  TestFile good({5, 9}, two);
  ImageStoreOptions options = Options(good, 1);
  options.files[0].path = "/nowhere/images.h5";
  ExpectError(ImageStore::Open(options).status(), absl::StatusCode::kNotFound, "cannot open");
  options = Options(good, 1);
  options.files[0].bytes += 1;
  ExpectError(ImageStore::Open(options).status(), absl::StatusCode::kDataLoss, "cut or replaced");
  options = Options(good, 3);
  ExpectError(ImageStore::Open(options).status(), absl::StatusCode::kDataLoss, "the file was cut");
  options = Options(good, 1);
  options.files[0].rows = std::numeric_limits<int64_t>::max();
  ExpectError(ImageStore::Open(options).status(), absl::StatusCode::kDataLoss, "the file was cut");
  options = Options(good, 0);
  ExpectError(ImageStore::Open(options).status(), absl::StatusCode::kInvalidArgument, "width");
  TestFile foreign({5, 9}, two, "not hdf5");
  ExpectError(ImageStore::Open(Options(foreign, 1)).status(), absl::StatusCode::kDataLoss,
              "is not an HDF5 file");
  TestFile twice({5, 5}, two);
  ExpectError(ImageStore::Open(Options(twice, 1)).status(), absl::StatusCode::kDataLoss,
              "row 1 has image id 5, which stands twice");
  TestFile negative({5, -9}, two);
  ExpectError(ImageStore::Open(Options(negative, 1)).status(), absl::StatusCode::kDataLoss,
              "row 1 has the negative image id -9");
}

void FeaturesThatAreNotFiniteAreNamed() {
  for (float bad : {NAN, INFINITY, -INFINITY}) {
    std::vector<float> features(3000, 1.0f);
    features[2999] = bad;
    TestFile file({5, 9}, Floats(features));
    std::vector<float> out(1500);
    bool found;
    auto store = ImageStore::Open(Options(file, 1500));
    Expect((*store)->Gather({5}, out.data(), &found).ok(), "the good row");
    ExpectError((*store)->Gather({9}, out.data(), &found), absl::StatusCode::kDataLoss,
                "the features of image id 9");
  }
}

void ManyThreadsReadAtOnce() {
  std::vector<int64_t> ids;
  std::vector<float> features;
  for (int64_t id = 0; id < 500; ++id) {
    ids.push_back(id * 3);
    for (int j = 0; j < 16; ++j) features.push_back(id * 16 + j);
  }
  TestFile file(ids, Floats(features));
  auto store = ImageStore::Open(Options(file, 16));
  std::vector<std::vector<float>> out(8, std::vector<float>(features.size()));
  std::vector<std::thread> threads;
  for (auto& mine : out) {
    threads.emplace_back([&] {
      std::vector<uint8_t> found(ids.size());
      for (int repeat = 0; repeat < 20; ++repeat) {
        (void)(*store)->Gather(ids, mine.data(), reinterpret_cast<bool*>(found.data()));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& mine : out) Expect(mine == features, "what a thread read");
}

}  // namespace
}  // namespace amstf

int main() {
  amstf::GatherCopiesRowsInTheOrderAsked();
  amstf::EachServerHoldsItsBuckets();
  amstf::HalvesBecomeFloats();
  amstf::BytesAreScaledRowByRow();
  amstf::ScalesThatAreNotFiniteAreNamed();
  amstf::WritingPastTheCachesGivesTheSameBits();
  amstf::BadFilesAreRefused();
  amstf::FeaturesThatAreNotFiniteAreNamed();
  amstf::ManyThreadsReadAtOnce();
  return amstf::Finish();
}
