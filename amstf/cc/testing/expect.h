// What C++ tests expect. Each test is one program that ends with Finish().
#ifndef AMSTF_CC_TESTING_EXPECT_H_
#define AMSTF_CC_TESTING_EXPECT_H_

#include <atomic>
#include <cstdlib>
#include <iostream>
#include <string>

#include "absl/status/status.h"

namespace amstf {

inline std::atomic<int> failures{0};

inline void Expect(bool holds, const std::string& what) {
  if (holds) return;
  ++failures;
  std::cerr << "FAILED: " + what + "\n";
}

inline void ExpectError(const absl::Status& status, absl::StatusCode code,
                        const std::string& text) {
  Expect(status.code() == code && std::string(status.message()).find(text) != std::string::npos,
         "wanted an error with '" + text + "', got: " + status.ToString());
}

// The exit code of the program.
inline int Finish() {
  if (failures == 0) std::cout << "all passed\n";
  return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

}  // namespace amstf

#endif  // AMSTF_CC_TESTING_EXPECT_H_
