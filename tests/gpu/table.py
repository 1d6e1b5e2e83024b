"""The table of a section: each row is printed as soon as it is measured."""

from importlib.metadata import PackageNotFoundError, version


class Table:
    """Prints rows, and notes those that exceed their bound."""

    def __init__(self, title: str) -> None:
        self.exceeded: list[str] = []
        self._title = title

    def begin(self, device: str) -> None:
        print(
            f"\n## {self._title} on {device}, {_versions()}\n\n| check | measured | bound |\n|---|---|---|", flush=True
        )

    def row(self, check: str, value: float, unit: str = "", at_most: float | None = None) -> None:
        bound = "" if at_most is None else f"at most {at_most:g} {unit}".strip()
        print(f"| {check} | {value:,.4g} {unit} | {bound} |", flush=True)
        if at_most is not None and value > at_most:
            self.exceeded.append(check)

    def require(self, check: str, fulfilled: bool) -> None:
        print(f"| {check} | {'yes' if fulfilled else 'NO'} | yes |", flush=True)
        if not fulfilled:
            self.exceeded.append(check)


def _versions() -> str:
    found = []
    for name in ("torch", "diffusers", "torchao"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    return ", ".join(found)
