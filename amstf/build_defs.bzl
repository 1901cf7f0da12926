"""The kinds of targets that amstf is made of."""

load("@local_tensorflow//:flags.bzl", "TF_COPTS")
load("@rules_cc//cc:defs.bzl", "cc_binary", "cc_library", "cc_test")

_TENSORFLOW = ["@local_tensorflow//:tensorflow"]

def amstf_cc_library(name, deps = [], **kwargs):
    """C++ logic: no op, no kernel."""
    cc_library(name = name, copts = TF_COPTS, linkstatic = True, deps = deps + _TENSORFLOW, **kwargs)

def amstf_op_library(name, deps = [], **kwargs):
    """Op declarations or kernels: they register themselves, so the linker must keep them all."""
    cc_library(
        name = name,
        alwayslink = True,
        copts = TF_COPTS,
        linkstatic = True,
        deps = deps + _TENSORFLOW,
        **kwargs
    )

def amstf_cc_test(name, deps = [], **kwargs):
    """A C++ test: a program that exits with 0 when all is well."""
    cc_test(name = name, copts = TF_COPTS, deps = deps + _TENSORFLOW, **kwargs)

def amstf_shared_library(name, deps = [], **kwargs):
    """The library that `tf.load_op_library` loads."""
    cc_binary(name = name, copts = TF_COPTS, linkshared = True, deps = deps + _TENSORFLOW, **kwargs)
