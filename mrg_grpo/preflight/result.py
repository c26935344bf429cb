"""What a check of the preflight returns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CheckResult:
    """What one check found. status: pass, warn, fail or skip; remedy says what to do unless it passed."""

    name: str
    status: str
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        line = f"{self.status:<4}  {self.name:<18}  {self.found}"
        return f"{line}\n{'':<26}-> {self.remedy}" if self.remedy else line


def result_of(name: str, found: str, fails: bool, warns: bool, remedy: str) -> CheckResult:
    """A CheckResult whose remedy is only told where there is something to mend."""
    status = "fail" if fails else "warn" if warns else "pass"
    return CheckResult(name, status, found, remedy if status != "pass" else "")
