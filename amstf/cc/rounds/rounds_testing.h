// For the tests of rounds: what a callback gets.
#ifndef AMSTF_CC_ROUNDS_ROUNDS_TESTING_H_
#define AMSTF_CC_ROUNDS_ROUNDS_TESTING_H_

#include <chrono>
#include <future>
#include <memory>
#include <utility>

#include "amstf/cc/testing/expect.h"

namespace amstf {

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

}  // namespace amstf

#endif  // AMSTF_CC_ROUNDS_ROUNDS_TESTING_H_
