"""Become another program that ends with its parent: `python -I -S exec_child.py PARENT SIGNAL PROGRAM [ARGUMENT ...]`.

Settings inside a child are made here, in a fresh interpreter, because Python code between fork and exec can hang
on a lock that another thread of the parent held. It imports nothing of ours, because every start waits for it.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_CANNOT_EXECUTE = 127  # as in shells


def main() -> None:
    parent, death_signal, argv = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    # An interpreter ignores SIGPIPE and SIGXFSZ and catches SIGINT; the program would inherit ignored signals.
    for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
    if os.getppid() != parent:  # the parent died before the line above, so the signal will not come
        os._exit(1)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the supervisor blocks the signals that it waits for
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        print(f"{argv[0]} cannot be executed: {error.strerror}", file=sys.stderr, flush=True)
        os._exit(_CANNOT_EXECUTE)


if __name__ == "__main__":
    main()
