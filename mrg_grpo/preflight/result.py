"""What a check of the preflight returns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """What one check found. status: pass, warn, fail or skip; remedy says what to do unless it passed."""

    name: str
    status: str
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        line = f"{self.status:<4}  {self.name:<18}  {self.found}"
        return f"{line}\n{'':<26}-> {self.remedy}" if self.remedy else line


def judged(name: str, found: str, fails: bool, warns: bool, remedy: str) -> Finding:
    """A Finding whose remedy is only told where there is something to mend."""
    status = "fail" if fails else "warn" if warns else "pass"
    return Finding(name, status, found, remedy if status != "pass" else "")


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
