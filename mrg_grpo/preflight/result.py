"""What a check of the preflight returns."""

from __future__ import annotations

from dataclasses import dataclass

from mrg_grpo.terminal import columns, wrap


@dataclass(frozen=True)
class CheckResult:
    """What one check found. status: pass, warn, fail or skip; remedy says what to do unless it passed."""

    name: str
    status: str
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        room, indent = columns(), " " * 26
        line = wrap(self.found, room, f"{self.status:<4}  {self.name:<18}  ", indent)
        return line + "\n" + wrap(self.remedy, room, f"{indent}-> ", f"{indent}   ") if self.remedy else line


def result_of(name: str, found: str, fails: bool, warns: bool, remedy: str) -> CheckResult:
    """A CheckResult whose remedy is only told where there is something to mend."""
    status = "fail" if fails else "warn" if warns else "pass"
    return CheckResult(name, status, found, remedy if status != "pass" else "")
