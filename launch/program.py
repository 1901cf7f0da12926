"""Runs the main function of a program: flags, help, one-line errors, exit codes.

    from launch import program

    FLAGS = flags.FLAGS
    flags.DEFINE_string("dataset", None, "Directory of the data set.", required=True)

    def main(arguments):          # the positional arguments, without the program's name
        ...
        return 0                  # the exit code; None is 0

    if __name__ == "__main__":
        program.run(main)

Exit codes (docs/design/launch.md says why):
    0    finished
    1    an unexpected exception, with its traceback
    2    bad configuration, flags or input: one line
    130  interrupted (ctrl-C)
    138  restart me: a server or the cluster was lost, the same command goes on from the checkpoint
    141  the reader of the output has gone
    143  terminated (SIGTERM)
As in Kubeflow's restart policy `ExitCode`, what ends with 128 or more may be started again, what
ends with 1 to 127 would end so again. SIGTERM arrives in `main` as a KeyboardInterrupt too, so one
clean-up serves both.
"""

import atexit
import os
import re
import select
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import app, flags
from absl import logging as absl_logging

from amstf.errors import AmstfError
from launch import interrupts

EXIT_UNEXPECTED = 1
EXIT_WRONG_INPUT = 2
EXIT_INTERRUPTED = 130
EXIT_RESTART = 138  # 128 + SIGUSR1: nothing else ends these programs with it.
EXIT_PIPE_CLOSED = 141
EXIT_TERMINATED = 143

_final_code: int | None = None
_before_leaving: list[Callable[[], None]] = []


class ClusterLostError(AmstfError):
    """A part of the cluster is missing; another start may find it whole. Ends with EXIT_RESTART."""


def run(
    main: Callable[[list[str]], int | None],
    *,
    argument_names: Sequence[str] = (),
    argv: Sequence[str] | None = None,
) -> NoReturn:
    """Parses the flags, calls `main` and ends the process.

    Args:
      main: takes the positional arguments and returns the exit code (None: 0).
      argument_names: names of the positional arguments the program takes, for the help page and
        for the check; a program with flags only takes none. After a last name that ends in "..."
        there may be any number.
      argv: the command line with the program's name first; default `sys.argv`.

    Example: `program.run(main, argument_names=["KIND"])` for `python -m launch.prepare synthetic`.
    """
    quiet_wanted = os.environ.get("AMSTF_VERBOSE", "0") in ("", "0")

    def guarded(arguments: list[str]) -> int:
        if quiet_wanted:
            # Here and not earlier: app.run itself raises the verbosity to INFO.
            absl_logging.set_verbosity(absl_logging.ERROR)
        return main(arguments) or 0

    interrupts.listen()
    try:
        with interrupts.recognised():
            app.run(
                guarded,
                argv=list(sys.argv if argv is None else argv),
                flags_parser=lambda args: _parse(args, argument_names),
            )
    except SystemExit as leaving:
        _leave_in_order(_code_of(leaving))
    except interrupts.TerminatedError:
        _say("terminated")
        _leave_now(EXIT_TERMINATED)
    except KeyboardInterrupt:
        _say("interrupted")
        _leave_now(EXIT_INTERRUPTED)
    except ClusterLostError as error:
        _say(f"error: {error}")
        _leave_now(EXIT_RESTART)
    except (AmstfError, app.UsageError) as error:
        _say(f"error: {error}")
        _leave_now(EXIT_WRONG_INPUT)
    except BrokenPipeError:
        if _stdout_is_closed():  # As by `| head`: whoever read has had enough.
            os._exit(EXIT_PIPE_CLOSED)
        traceback.print_exc()
        _leave_now(EXIT_UNEXPECTED)
    except Exception as error:
        if quiet_wanted and _is_lost_server(error):
            _say(
                "error: the connection to a parameter server is lost, and with it the variables it "
                "held; run the same command again to continue from the last checkpoint"
            )
            _leave_now(EXIT_RESTART)
        traceback.print_exc()
        _leave_now(EXIT_UNEXPECTED)
    _leave_in_order(0)


def before_leaving(action: Callable[[], None]) -> None:
    """Has something done when this process ends, after all that is said, whatever the end."""
    _before_leaving.append(action)


def is_permanent(code: int) -> bool:
    """Whether a program that ended with this code would end so again (1 to 127)."""
    return 0 < code < 128


def command_name() -> str:
    """Returns what a person types to start this program, e.g. `python -m launch.train`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is not None:
        return f"python -m {spec.name.removesuffix('.__main__')}"
    return os.path.basename(sys.argv[0])


def help_page(argument_names: Sequence[str] = ()) -> str:
    """Returns the program's own documentation and its flags, without the flags of absl."""
    usage = " ".join(["usage:", command_name(), *argument_names, "[--flag=value ...]"])
    page = [(sys.modules["__main__"].__doc__ or "").strip(), "", usage, "", "Flags:"]
    page += [_describe(flag) for flag in _own_flags()]
    page += ["", "AMSTF_VERBOSE=1 in the environment keeps TensorFlow's logs."]
    return "\n".join(page)


def _parse(args: list[str], argument_names: Sequence[str]) -> list[str]:
    """Flags parser for absl: help goes to stdout with code 0, wrong flags are one line."""
    before_end = args[1 : args.index("--")] if "--" in args else args[1:]
    if any(arg in ("--help", "-help", "-h", "--h") for arg in before_end):
        print(help_page(argument_names))
        sys.exit(0)
    # Lets `launch.prepare movielens --out=...` have flags after a positional argument.
    flags.FLAGS.set_gnu_getopt(True)
    try:
        arguments = flags.FLAGS(args)[1:]
        has_end = not (argument_names and argument_names[-1].endswith("..."))
        if has_end and len(arguments) > len(argument_names):
            extra = arguments[len(argument_names)]
            raise flags.Error(f"unexpected argument {extra!r} (a flag is written --name=value)")
    except flags.Error as error:
        message = " ".join(str(error).split())
        missing = re.match(r"flag (--\w+)=None: Flag .* must have a value", message)
        _say(f"error: flag {missing[1]} is missing" if missing else f"error: {message}")
        _say(f"see: {command_name()} --help")
        sys.exit(EXIT_WRONG_INPUT)
    return arguments


def _own_flags() -> list[flags.Flag]:
    """The flags of the program that runs first, then those of other modules of this project."""
    own = flags.FLAGS.get_key_flags_for_module(sys.argv[0])
    for module, shared in sorted(flags.FLAGS.flags_by_module_dict().items()):
        if module.startswith(("launch.", "benchmarks.")):
            own += [flag for flag in shared if flag not in own]
    return own


def _describe(flag: flags.Flag) -> str:
    head = f"  --{'[no]' if flag.boolean else ''}{flag.name}"
    choices = getattr(flag.parser, "enum_values", None)
    if choices:
        head += f"=<{'|'.join(choices)}>"
    text = re.sub(r"^<[^>]*>: ", "", " ".join((flag.help or "").split()))
    if flag.default_as_str and not flag.boolean:
        text += f" (default: {flag.default_as_str.strip(chr(39))})"
    elif flag.boolean and flag.default:
        text += " (default: on)"
    return f"{head}\n{textwrap.fill(text, 96, initial_indent=' ' * 6, subsequent_indent=' ' * 6)}"


def _stdout_is_closed() -> bool:
    poller = select.poll()
    poller.register(1, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poller.poll(0))


def _say(line: str) -> None:
    sys.stdout.flush()
    print(line, file=sys.stderr, flush=True)


def _is_lost_server(error: Exception) -> bool:
    """By name, not by class: this module does not import TensorFlow."""
    return type(error).__name__ == "UnavailableError" and "/job:ps/" in str(error)


def _code_of(leaving: SystemExit) -> int:
    if leaving.code is None or isinstance(leaving.code, int):
        return leaving.code or 0
    _say(str(leaving.code))
    return EXIT_UNEXPECTED


def _leave_in_order(code: int) -> NoReturn:
    """Ends through Python's own exit, whose last step is `_finish`."""
    global _final_code
    _final_code = code
    sys.exit(code)


def _leave_now(code: int) -> NoReturn:
    """Ends without waiting for threads: those of a cluster in trouble may never end."""
    sys.stdout.flush()
    sys.stderr.flush()
    for action in _before_leaving:
        action()
    os._exit(code)


def _finish() -> None:
    """Leaves before Python is torn down under TensorFlow's daemon threads (hang, abort)."""
    if _final_code is not None:
        _leave_now(_final_code)


# Registered at import: exit handlers run last in, first out, so this one comes after the others.
atexit.register(_finish)
