"""The commands in groups, for `wanworks --help`."""

from typing import Any

from typer.core import TyperGroup

# Every command stands in one group, which a test holds.
GROUPS: dict[str, tuple[str, ...]] = {
    "Videos": ("generate", "jobs", "job", "watch", "fetch", "share", "cancel", "retry", "delete"),
    "Several videos": ("batches", "flow", "gallery", "favourite", "collection"),
    "Queue": ("queue", "priority", "dead", "usage"),
    "Models": (
        "models", "download", "pause", "resume", "limit", "cancel-download", "verify", "prepare", "cleanup", "pin",
        "unpin", "loras", "analytics", "fallback", "benchmark", "measure-memory", "demo-models", "hub",
    ),
    "Installation": (
        "workers", "nodes", "drain", "undrain", "release", "remove-node", "alerts", "acknowledge", "audit", "keys",
        "webhook-secret", "settings",
    ),
    "This host": ("up", "demo", "status", "logs", "doctor", "worker", "migrate"),
    "One process, under a process manager": ("web", "io", "dispatcher", "beat", "flower", "redis"),
}  # fmt: skip


class Grouped(TyperGroup):
    """Shows the commands in groups."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        width = max(len(name) for name in self.commands)
        limit = formatter.width - 6 - width
        known = {name for names in GROUPS.values() for name in names}
        others = tuple(name for name in self.list_commands(ctx) if name not in known)
        for title, names in {**GROUPS, "Other commands": others}.items():
            rows = [
                (name.ljust(width), self.commands[name].get_short_help_str(limit))
                for name in names
                if name in self.commands
            ]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)
