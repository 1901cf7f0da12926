// Tells the Python loader which TensorFlow this library was built for. The loader finds the marker
// by searching the file, because a library built for another TensorFlow may fail to load before any
// function of it could be called.
#include "tensorflow/core/public/version.h"

extern "C" __attribute__((used, visibility("default"))) const char amstf_built_for_tensorflow[] =
    "AMSTF_BUILT_FOR_TENSORFLOW=" TF_STR(TF_MAJOR_VERSION) "." TF_STR(TF_MINOR_VERSION) "." TF_STR(
        TF_PATCH_VERSION) TF_VERSION_SUFFIX;
