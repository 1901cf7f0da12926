// One Adagrad step of one row: accumulator and weights together.
#ifndef AMSTF_CC_OPTIMIZER_ADAGRAD_H_
#define AMSTF_CC_OPTIMIZER_ADAGRAD_H_

#include <cmath>
#include <cstdint>

namespace amstf {

struct AdagradStep {
  float learning_rate;
  float epsilon;
  // Of a row that has had no step.
  float initial_accumulator;

  // Updates `width` weights of a row and their accumulators in place, as TensorFlow's
  // ResourceApplyAdagradV2.
  void Apply(const float* gradient, int64_t width, float* weights, float* accumulator) const {
    for (int64_t i = 0; i < width; ++i) {
      accumulator[i] += gradient[i] * gradient[i];
      weights[i] -= learning_rate * gradient[i] / (std::sqrt(accumulator[i]) + epsilon);
    }
  }
};

}  // namespace amstf

#endif  // AMSTF_CC_OPTIMIZER_ADAGRAD_H_
