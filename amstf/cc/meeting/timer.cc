#include "amstf/cc/meeting/timer.h"

#include <utility>

namespace amstf {

Timer::Timer() : thread_([this] { Run(); }) {}

Timer::~Timer() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

Timer& Timer::Shared() {
  static Timer* const timer = new Timer();
  return *timer;
}

void Timer::CallAt(Clock::time_point when, std::function<void()> call) {
  bool is_next;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto added = calls_.emplace(when, std::move(call));
    is_next = added == calls_.begin();
  }
  if (is_next) changed_.notify_one();
}

void Timer::Run() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (!stopping_) {
    if (calls_.empty()) {
      changed_.wait(lock);
      continue;
    }
    const Clock::time_point when = calls_.begin()->first;
    if (Clock::now() < when) {
      changed_.wait_until(lock, when);
      continue;
    }
    std::function<void()> call = std::move(calls_.begin()->second);
    calls_.erase(calls_.begin());
    lock.unlock();
    call();
    call = nullptr;
    lock.lock();
  }
}

}  // namespace amstf
