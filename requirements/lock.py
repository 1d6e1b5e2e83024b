"""Writes the lock files from what is installed: every package that an environment needs, pinned.

    .venv/bin/python requirements/lock.py        after installing or upgrading something, `make lock`

runtime.txt is what the API, the scheduler and the command line need; worker.txt adds what runs models, all but torch,
which is installed first and on its own, since it comes in a build per platform (torch.txt); dev.txt adds the tools.
"""

import re
import tomllib
from importlib.metadata import distribution, version
from pathlib import Path

from packaging.requirements import Requirement

HERE = Path(__file__).parent
HEADER = "# Written by requirements/lock.py; do not edit.\n"
TORCH = "torch"
# What one Python needs and another does not is pinned for all.
PYTHONS = ("3.11.0", "3.11.9", "3.12.0", "3.13.0")


def closure(wanted: list[str]) -> set[str]:
    """Names of everything that `wanted` requires here, themselves included, without torch."""
    found: set[tuple[str, str]] = set()
    ahead = [(Requirement(text), "") for text in wanted]
    while ahead:
        requirement, extra = ahead.pop()
        if not any(applies(requirement, extra, python) for python in PYTHONS):
            continue
        name = canonical(requirement.name)
        for wanted_extra in ("", *requirement.extras):
            if (name, wanted_extra) not in found:
                found.add((name, wanted_extra))
                ahead += [(Requirement(text), wanted_extra) for text in distribution(name).requires or ()]
    return {name for name, _ in found} - {TORCH}


def applies(requirement: Requirement, extra: str, python: str) -> bool:
    environment = {"extra": extra, "python_full_version": python, "python_version": python.rpartition(".")[0]}
    return requirement.marker is None or requirement.marker.evaluate(environment)


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def write(name: str, packages: set[str], base: str | None = None) -> None:
    lines = [f"-r {base}"] if base else []
    lines += [f"{package}=={version(package).partition('+')[0]}" for package in sorted(packages)]
    (HERE / name).write_text(HEADER + "\n".join(lines) + "\n", encoding="ascii")


def main() -> None:
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    build = project["build-system"]["requires"]
    runtime = closure([*project["project"]["dependencies"], *extras["server"], *build])
    worker = closure(extras["worker"]) - runtime
    dev = closure(extras["dev"]) - runtime - worker
    (HERE / "torch.txt").write_text(f"{HEADER}{TORCH}=={version(TORCH).partition('+')[0]}\n", encoding="ascii")
    write("runtime.txt", runtime)
    write("worker.txt", worker, "runtime.txt")
    write("dev.txt", dev, "worker.txt")


if __name__ == "__main__":
    main()
