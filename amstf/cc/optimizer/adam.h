// One Adam step of one row: first and second moment and weights together.
#ifndef AMSTF_CC_OPTIMIZER_ADAM_H_
#define AMSTF_CC_OPTIMIZER_ADAM_H_

#include <cmath>
#include <cstdint>

namespace amstf {

struct AdamStep {
  // learning_rate * sqrt(1 - beta2^t) / (1 - beta1^t), with t the number of the step from 1.
  float step_size;
  float one_minus_beta1;
  float one_minus_beta2;
  float epsilon;

  static AdamStep Make(float learning_rate, float beta1, float beta2, float epsilon, int64_t t) {
    // In double: 1 - 0.999^t loses most of its digits in float while t is small.
    const double correction = std::sqrt(1.0 - std::pow(static_cast<double>(beta2), t)) /
                              (1.0 - std::pow(static_cast<double>(beta1), t));
    return {static_cast<float>(learning_rate * correction), 1.0f - beta1, 1.0f - beta2, epsilon};
  }

  // Updates `width` weights of a row and their moments in place.
  void Apply(const float* gradient, int64_t width, float* weights, float* first,
             float* second) const {
    for (int64_t i = 0; i < width; ++i) {
      first[i] += (gradient[i] - first[i]) * one_minus_beta1;
      second[i] += (gradient[i] * gradient[i] - second[i]) * one_minus_beta2;
      weights[i] -= first[i] * step_size / (std::sqrt(second[i]) + epsilon);
    }
  }
};

}  // namespace amstf

#endif  // AMSTF_CC_OPTIMIZER_ADAM_H_
