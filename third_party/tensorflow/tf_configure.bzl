"""A repository for the TensorFlow that a Python environment holds.

Nothing about TensorFlow is written down here: directories and flags come from `tf.sysconfig` of the
Python that PYTHON_BIN_PATH names (default: ./.venv/bin/python if it exists, else python3).
"""

_QUERY = """
import os
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import tensorflow as tf
print("@@")
print(tf.sysconfig.get_include())
print(tf.sysconfig.get_lib())
print(" ".join(flag for flag in tf.sysconfig.get_compile_flags() if not flag.startswith("-I")))
print([flag[3:] for flag in tf.sysconfig.get_link_flags() if flag.startswith("-l:")][0])
"""

_BUILD = """
load("@rules_cc//cc:defs.bzl", "cc_import", "cc_library")

package(default_visibility = ["//visibility:public"])

cc_import(
    name = "framework",
    shared_library = "lib/{framework}",
)

cc_library(
    name = "tensorflow",
    # Headers without an ending are Eigen's.
    hdrs = glob(["include/**"]),
    includes = ["include"],
    deps = [":framework"],
)
"""

def _find_python(ctx):
    named = ctx.os.environ.get("PYTHON_BIN_PATH")
    if named:
        return named
    in_repository = ctx.path(Label("@//:WORKSPACE")).dirname
    for part in [".venv", "bin", "python"]:
        in_repository = in_repository.get_child(part)
    if in_repository.exists:
        return str(in_repository)
    return str(ctx.which("python3"))

def _tf_configure_impl(ctx):
    python = _find_python(ctx)
    result = ctx.execute([python, "-c", _QUERY])
    if result.return_code != 0:
        fail("{} has no working TensorFlow (./run_tests.sh makes ./.venv, which has; or set PYTHON_BIN_PATH):\n{}".format(
            python,
            result.stderr,
        ))
    include, lib, flags, framework = result.stdout.split("@@\n")[1].strip().split("\n")
    ctx.symlink(include, "include")
    ctx.symlink(lib + "/" + framework, "lib/" + framework)
    ctx.file("BUILD", _BUILD.format(framework = framework))
    ctx.file("flags.bzl", "TF_COPTS = {}\n".format(repr(flags.split(" "))))

tf_configure = repository_rule(
    implementation = _tf_configure_impl,
    configure = True,
    environ = ["PYTHON_BIN_PATH"],
    local = True,
)
