// Calls functions at later times.
#ifndef AMSTF_CC_MEETING_TIMER_H_
#define AMSTF_CC_MEETING_TIMER_H_

#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <thread>

namespace amstf {

// One thread that calls functions when their time has come. Thread-safe.
//
// What is called may come too late on a busy machine, never too early, and must return soon: it
// delays the others. It outlives nothing: capture a std::weak_ptr to what may be gone by then.
class Timer {
 public:
  using Clock = std::chrono::steady_clock;

  Timer();
  // Waits for a call that is running; drops those that were to come.
  ~Timer();

  // The timer of this process, which is never destroyed.
  static Timer& Shared();

  void CallAt(Clock::time_point when, std::function<void()> call);

 private:
  void Run();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::multimap<Clock::time_point, std::function<void()>> calls_;  // by mutex_
  bool stopping_ = false;                                          // by mutex_
  std::thread thread_;                                             // Last: it uses the others.
};

}  // namespace amstf

#endif  // AMSTF_CC_MEETING_TIMER_H_
