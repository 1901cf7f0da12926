// One step of stochastic gradient descent of one row.
#ifndef AMSTF_CC_OPTIMIZER_SGD_H_
#define AMSTF_CC_OPTIMIZER_SGD_H_

#include <cstdint>

namespace amstf {

struct SgdStep {
  float learning_rate;

  // Updates `width` weights of a row in place.
  void Apply(const float* gradient, int64_t width, float* weights) const {
    for (int64_t i = 0; i < width; ++i) weights[i] -= learning_rate * gradient[i];
  }
};

}  // namespace amstf

#endif  // AMSTF_CC_OPTIMIZER_SGD_H_
