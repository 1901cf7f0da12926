// One FTRL step of one row: accumulator, linear term and weights together.
#ifndef AMSTF_CC_OPTIMIZER_FTRL_H_
#define AMSTF_CC_OPTIMIZER_FTRL_H_

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace amstf {

// McMahan et al., "Ad click prediction: a view from the trenches" (KDD 2013), algorithm 1, with the
// names and additions of Keras' Ftrl.
struct FtrlStep {
  float learning_rate;
  float learning_rate_power;  // Not positive; -0.5 in the paper.
  float l1;
  float l2;  // Keras' beta is in it already: l2 + beta / (2 * learning_rate).
  float l2_shrinkage;
  // Of a row that has had no step.
  float initial_accumulator;

  // Updates `width` weights of a row and their two slots in place.
  void Apply(const float* gradient, int64_t width, float* weights, float* accumulator,
             float* linear) const {
    for (int64_t i = 0; i < width; ++i) {
      const float g = gradient[i];
      const float grown = accumulator[i] + g * g;
      const float power = Power(grown);
      linear[i] += g + 2 * l2_shrinkage * weights[i] -
                   (power - Power(accumulator[i])) / learning_rate * weights[i];
      const float quadratic = power / learning_rate + 2 * l2;
      weights[i] = (std::clamp(linear[i], -l1, l1) - linear[i]) / quadratic;
      accumulator[i] = grown;
    }
  }

 private:
  float Power(float value) const {
    return learning_rate_power == -0.5f ? std::sqrt(value) : std::pow(value, -learning_rate_power);
  }
};

}  // namespace amstf

#endif  // AMSTF_CC_OPTIMIZER_FTRL_H_
