// Timeouts as users give them: milliseconds.
#ifndef AMSTF_CC_MEETING_TIMEOUT_H_
#define AMSTF_CC_MEETING_TIMEOUT_H_

#include <chrono>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "amstf/cc/meeting/timer.h"

namespace amstf {

// A year is for ever, and fits the clock.
constexpr double kLongestTimeoutMs = 365.0 * 24 * 3600 * 1000;

// InvalidArgument unless `milliseconds` is a time that a clock can be asked for.
inline absl::Status ValidateTimeout(const char* name, double milliseconds) {
  if (milliseconds > 0 && milliseconds <= kLongestTimeoutMs) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      name, " must be more than 0 milliseconds and at most a year, got ", milliseconds));
}

inline Timer::Clock::duration TimeoutDuration(double milliseconds) {
  return std::chrono::duration_cast<Timer::Clock::duration>(
      std::chrono::duration<double, std::milli>(milliseconds));
}

}  // namespace amstf

#endif  // AMSTF_CC_MEETING_TIMEOUT_H_
