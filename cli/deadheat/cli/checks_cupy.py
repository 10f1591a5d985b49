"""`deadheat doctor` on CuPy, without which a GPU does nothing here: there, fitting, computing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from deadheat.cli.findings import Finding

SUBJECT: Final = "cupy"
#: Importing it from a slow disk, making a context and compiling a kernel takes seconds.
ANSWER_S: Final = 60.0
#: The CUDAs for which there is an extra: major version, and the first driver that speaks it.
EXTRAS: Final = {12: "525", 13: "580"}
#: Older ones have no bfloat16.
OLDEST: Final = 14


@dataclass(frozen=True)
class Survey:
    """What `deadheat.agent.executors.cuda.survey` says. CUDA's numbers are like 12040, for 12.4."""

    distributions: Mapping[str, str]
    driver: str | None = None
    driver_cuda: int | None = None
    version: str | None = None
    runtime_cuda: int | None = None
    library: str | None = None
    problem: str | None = None

    @property
    def installed(self) -> str:
        return ", ".join(f"{name} {version}" for name, version in self.distributions.items())

    @property
    def built_for(self) -> int | None:
        """The CUDA, by major version, that the one distribution is for."""
        (name,) = self.distributions
        digits = name.removeprefix("cupy-cuda").removesuffix("x")
        if digits.isdecimal():
            return int(digits[:2])
        return self.runtime_cuda // 1000 if self.runtime_cuda else None

    @property
    def driver_text(self) -> str:
        if self.driver_cuda is None:
            return "the driver, which does not say its CUDA"
        return f"the driver ({self.driver}), which speaks CUDA {_cuda(self.driver_cuda)}"


def examine(
    cards: Sequence[str], setting: str, environment: Mapping[str, str]
) -> Iterator[Finding]:
    """Looks if there are `cards` (UUIDs of those that are well), of which it tries the first.
    `setting` is what an agent that is started here would be told to use."""
    if not cards:
        return
    if setting == "none":
        yield Finding(SUBJECT, "ok", "not needed: agents are told to use no GPUs (gpus = none)")
        return
    found = _asked(cards[0], environment)
    yield found if isinstance(found, Finding) else judge(found)


def _asked(card: str, environment: Mapping[str, str]) -> Survey | Finding:
    command = [sys.executable, "-m", "deadheat.agent.executors.cuda.survey"]
    try:
        done = subprocess.run(
            command,
            env={**environment, "CUDA_VISIBLE_DEVICES": card},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=ANSWER_S,
            check=False,
        )
        return Survey(**json.loads(done.stdout))
    except subprocess.TimeoutExpired:
        text = f"it did not answer within {ANSWER_S:.0f} s: the driver or a disk hangs"
        return Finding(SUBJECT, "bad", text, "look at the kernel's log (dmesg); reboot if need be")
    except (ValueError, TypeError):
        last: Any = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        return Finding(SUBJECT, "bad", f"looking for it failed: {last[0]}")


def judge(found: Survey) -> Finding:
    """One sentence for what there is, and what to do about it."""
    extra = _extra(found.driver_cuda)
    if extra is None:
        return Finding(SUBJECT, "bad", *_too_old_driver(found))
    install = f'pip install "deadheat[{extra}]"'
    if not found.distributions:
        text = f"not installed, so no GPU computes here; it has to fit {found.driver_text}"
        return Finding(SUBJECT, "bad", text, install)
    remove = f"pip uninstall {' '.join(found.distributions)}; then {install}"
    if len(found.distributions) > 1:
        text = f"installed more than once ({found.installed}): they overwrite each other's files"
        return Finding(SUBJECT, "bad", text, remove)
    built_for, speaks = found.built_for, found.driver_cuda
    if built_for and speaks and built_for > speaks // 1000:
        text = f"{found.installed} is for CUDA {built_for}, too new for {found.driver_text}"
        return Finding(SUBJECT, "bad", text, f"{remove}. Or install {_driver_for(built_for)}")
    if _major(found.installed.split()[-1]) < OLDEST:
        text = f"{found.installed} is too old: deadheat needs {OLDEST} or newer"
        return Finding(SUBJECT, "bad", text, f'pip install --upgrade "deadheat[{extra}]"')
    if found.problem:
        text = f"{found.installed} is installed, but computes nothing: {found.problem}"
        return Finding(SUBJECT, "bad", text, f"{install}, which brings CUDA's libraries, too")
    runtime = f", CUDA runtime {_cuda(found.runtime_cuda)}" if found.runtime_cuda else ""
    text = f"{found.installed}{runtime}, fits {found.driver_text}; it computes on {found.library}"
    return Finding(SUBJECT, "ok", text)


def _too_old_driver(found: Survey) -> tuple[str, str]:
    oldest = min(EXTRAS)
    there = f"; {found.installed} is installed" if found.distributions else ""
    text = f"{found.driver_text}, is too old: CuPy needs CUDA {oldest} or newer{there}"
    return text, f"install {_driver_for(oldest)}, then: pip install deadheat[cuda{oldest}]"


def _extra(speaks: int | None) -> str | None:
    """The newest that the driver can do; if it does not say, the one that most can."""
    if speaks is None:
        return f"cuda{min(EXTRAS)}"
    fitting = [major for major in EXTRAS if major <= speaks // 1000]
    return f"cuda{max(fitting)}" if fitting else None


def _driver_for(major: int) -> str:
    return f"driver {EXTRAS[major]} or newer" if major in EXTRAS else "a newer driver"


def _cuda(number: int) -> str:
    """
    >>> _cuda(12040)
    '12.4'
    """
    return f"{number // 1000}.{number % 1000 // 10}"


def _major(version: str) -> int:
    digits = version.partition(".")[0]
    return int(digits) if digits.isdecimal() else OLDEST
