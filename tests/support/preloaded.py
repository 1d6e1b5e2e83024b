"""The web process, forked from a process that has loaded its modules: most of what a start costs is imports.

The same `main` as that of `python -m api`, which the acceptance tests start as a user does.
"""

import multiprocessing
import os

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["__main__", "api.__main__"])


def _run(environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    from api.__main__ import main

    main()


class Preloaded:
    """One web process, with what tests use of `subprocess.Popen`."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._process = _context.Process(target=_run, args=(environment,), daemon=True)
        self._process.start()

    @property
    def pid(self) -> int:
        pid = self._process.pid
        assert pid is not None
        return pid

    def poll(self) -> int | None:
        """Its exit code, -N after signal N; None while it runs."""
        return self._process.exitcode

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()

    def wait(self, seconds: float | None = None) -> int:
        """Its exit code. Raises TimeoutError where it has not ended after so many seconds."""
        self._process.join(seconds)
        code = self._process.exitcode
        if code is None:
            raise TimeoutError(f"the web process {self.pid} has not ended after {seconds} s")
        return code
