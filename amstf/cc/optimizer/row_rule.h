// Which optimizer updates the rows of a table, and one step of it with its settings.
#ifndef AMSTF_CC_OPTIMIZER_ROW_RULE_H_
#define AMSTF_CC_OPTIMIZER_ROW_RULE_H_

#include <array>
#include <cstdint>
#include <string>
#include <variant>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "amstf/cc/optimizer/adagrad.h"
#include "amstf/cc/optimizer/adam.h"
#include "amstf/cc/optimizer/ftrl.h"
#include "amstf/cc/optimizer/sgd.h"

namespace amstf {

constexpr int kMaxSlots = 2;

// What the rows of a table have beside their weights: `num_slots` values for each weight.
struct RowRule {
  std::string name;  // Empty: no update yet.
  int num_slots = 0;
  std::array<float, kMaxSlots> initial = {0, 0};  // Of each slot, of a row that is born.
};

// The rule of a name ("sgd", "adagrad", "adam", "ftrl", or "" for none). `initial_accumulator` is
// for those that have one. InvalidArgument if there is no such rule.
absl::StatusOr<RowRule> FindRowRule(absl::string_view name, float initial_accumulator);

// One step of a rule with all settings.
using RowStep = std::variant<SgdStep, AdagradStep, AdamStep, FtrlStep>;

// The step of the rule of a name. The settings, in this order:
//   sgd: learning rate;
//   adagrad: learning rate, epsilon, initial accumulator;
//   adam: learning rate, beta1, beta2, epsilon;
//   ftrl: learning rate, learning rate power, l1, l2, l2 shrinkage, beta, initial accumulator.
// `step_number` counts from 1. InvalidArgument if the settings are not as many or make no sense.
absl::StatusOr<RowStep> MakeRowStep(absl::string_view name, absl::Span<const float> settings,
                                    int64_t step_number);

// The rule that a step belongs to.
RowRule RuleOf(const RowStep& step);

// Updates a row in place: `width` weights, and behind them as many values of each slot.
inline void ApplyTo(const SgdStep& step, const float* gradient, int64_t width, float* row) {
  step.Apply(gradient, width, row);
}
inline void ApplyTo(const AdagradStep& step, const float* gradient, int64_t width, float* row) {
  step.Apply(gradient, width, row, row + width);
}
inline void ApplyTo(const AdamStep& step, const float* gradient, int64_t width, float* row) {
  step.Apply(gradient, width, row, row + width, row + 2 * width);
}
inline void ApplyTo(const FtrlStep& step, const float* gradient, int64_t width, float* row) {
  step.Apply(gradient, width, row, row + width, row + 2 * width);
}

}  // namespace amstf

#endif  // AMSTF_CC_OPTIMIZER_ROW_RULE_H_
