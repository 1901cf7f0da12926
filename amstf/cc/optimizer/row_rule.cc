#include "amstf/cc/optimizer/row_rule.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace amstf {
namespace {

absl::Status WantSettings(absl::string_view name, absl::Span<const float> settings, size_t wanted) {
  if (settings.size() == wanted) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "settings has ", settings.size(), " values, wanted ", wanted, " for the rule ", name));
}

absl::Status WantPositive(absl::string_view what, float value) {
  if (value > 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(what, " is ", value, "; wanted more than 0"));
}

}  // namespace

absl::StatusOr<RowRule> FindRowRule(absl::string_view name, float initial_accumulator) {
  const std::string named(name);
  if (name.empty() || name == "sgd") return RowRule{named, 0, {0, 0}};
  if (name == "adagrad") return RowRule{named, 1, {initial_accumulator, 0}};
  if (name == "adam") return RowRule{named, 2, {0, 0}};
  if (name == "ftrl") return RowRule{named, 2, {initial_accumulator, 0}};
  return absl::InvalidArgumentError(
      absl::StrCat("rule is '", name, "'; use sgd, adagrad, adam or ftrl"));
}

absl::StatusOr<RowStep> MakeRowStep(absl::string_view name, absl::Span<const float> settings,
                                    int64_t step_number) {
  if (name == "sgd") {
    if (absl::Status status = WantSettings(name, settings, 1); !status.ok()) return status;
    return SgdStep{settings[0]};
  }
  if (name == "adagrad") {
    if (absl::Status status = WantSettings(name, settings, 3); !status.ok()) return status;
    return AdagradStep{settings[0], settings[1], settings[2]};
  }
  if (name == "adam") {
    if (absl::Status status = WantSettings(name, settings, 4); !status.ok()) return status;
    if (step_number < 1) {
      return absl::InvalidArgumentError(absl::StrCat("step counts from 1, got ", step_number));
    }
    return AdamStep::Make(settings[0], settings[1], settings[2], settings[3], step_number);
  }
  if (name == "ftrl") {
    if (absl::Status status = WantSettings(name, settings, 7); !status.ok()) return status;
    absl::Status status = WantPositive("the learning rate of ftrl", settings[0]);
    status.Update(WantPositive("the initial accumulator of ftrl", settings[6]));
    if (!status.ok()) return status;
    return FtrlStep{settings[0], settings[1],
                    settings[2], settings[3] + settings[5] / (2 * settings[0]),
                    settings[4], settings[6]};
  }
  return FindRowRule(name, 0).status();
}

RowRule RuleOf(const RowStep& step) {
  if (std::holds_alternative<SgdStep>(step)) return *FindRowRule("sgd", 0);
  if (const auto* adagrad = std::get_if<AdagradStep>(&step)) {
    return *FindRowRule("adagrad", adagrad->initial_accumulator);
  }
  if (std::holds_alternative<AdamStep>(step)) return *FindRowRule("adam", 0);
  return *FindRowRule("ftrl", std::get<FtrlStep>(step).initial_accumulator);
}

}  // namespace amstf
