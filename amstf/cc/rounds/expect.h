// What the tests of this folder expect. Each test is one program that ends with Finish().
#ifndef AMSTF_CC_ROUNDS_EXPECT_H_
#define AMSTF_CC_ROUNDS_EXPECT_H_

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <future>
#include <iostream>
#include <memory>
#include <string>
#include <utility>

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

// What a callback is to get, which may be on another thread. A second call ends the program.
template <typename Result>
class Answer {
 public:
  // The callback.
  auto Setter() {
    return [promise = promise_](Result result) { promise->set_value(std::move(result)); };
  }
  bool Ready() const {
    return future_.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
  }
  Result Get() { return future_.get(); }

 private:
  std::shared_ptr<std::promise<Result>> promise_ = std::make_shared<std::promise<Result>>();
  std::future<Result> future_ = promise_->get_future();
};

inline int Finish() {
  if (failures == 0) std::cout << "all passed\n";
  return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

}  // namespace amstf

#endif  // AMSTF_CC_ROUNDS_EXPECT_H_
