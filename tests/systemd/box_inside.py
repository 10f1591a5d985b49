"""Inside a box's namespaces: makes its file system and becomes systemd. Run by `box.py`.

Rules, each learned from a box that hurt: /proc/sys is read-only, or the box's systemd sets the
host's sysctls; /tmp is a tmpfs, or tmpfiles whites out the host's in the overlay; the root is
shared, or LoadCredential= gives EACCES to dynamic users; the target is our own, or whatever the
host has enabled starts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

MASKED = (
    "systemd-sysctl.service",
    "systemd-modules-load.service",
    "modprobe@.service",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "sys-fs-fuse-connections.mount",
    "dev-hugepages.mount",
    "proc-sys-fs-binfmt_misc.automount",
    "tmp.mount",
)
TARGET = """[Unit]
Requires=systemd-journald.service
After=systemd-journald.service
AllowIsolate=yes
"""
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def make_root(base: Path, binds: dict[str, str]) -> Path:
    mount("--make-rprivate", "/")
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(base))
    root = base / "root"
    for name in ("upper", "work", "root"):
        (base / name).mkdir()
    layers = f"lowerdir=/,upperdir={base}/upper,workdir={base}/work"
    mount("-t", "overlay", "-o", layers, "overlay", str(root))
    units = root / "etc/systemd/system"
    units.mkdir(parents=True, exist_ok=True)
    for name in MASKED:
        (units / name).unlink(missing_ok=True)
        (units / name).symlink_to("/dev/null")
    (units / "box.target").write_text(TARGET)
    journal = root / "etc/systemd/journald.conf"
    journal.unlink(missing_ok=True)
    journal.write_text("[Journal]\nStorage=volatile\nReadKMsg=no\nRateLimitIntervalSec=0\n")
    for source, target in binds.items():
        place = root / target.lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        mount("--bind", source, str(place))
        mount("-o", "remount,bind,ro", str(place))
    return root


def make_kernel_file_systems(root: Path) -> None:
    proc, dev, sysctl = root / "proc", root / "dev", root / "proc/sys"
    mount("-t", "proc", "-o", "nosuid,nodev,noexec", "proc", str(proc))
    mount("--bind", str(sysctl), str(sysctl))
    mount("--bind", str(sysctl / "net"), str(sysctl / "net"))
    mount("-o", "remount,bind,ro", str(sysctl))
    mount("-t", "sysfs", "-o", "ro,nosuid,nodev,noexec", "sysfs", str(root / "sys"))
    mount("-t", "tmpfs", "-o", "mode=755,nosuid", "tmpfs", str(dev))
    for name in DEVICES:
        (dev / name).touch()
        mount("--bind", f"/dev/{name}", str(dev / name))
    for name in ("pts", "shm"):
        (dev / name).mkdir()
    mount("-t", "devpts", "-o", "newinstance,ptmxmode=0666,mode=620", "devpts", str(dev / "pts"))
    mount("-t", "tmpfs", "-o", "mode=1777,nosuid,nodev", "tmpfs", str(dev / "shm"))
    (dev / "ptmx").symlink_to("pts/ptmx")
    (dev / "fd").symlink_to("/proc/self/fd")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        (dev / name).symlink_to(f"/proc/self/fd/{number}")
    mount("-t", "tmpfs", "-o", "mode=755,nosuid,nodev", "tmpfs", str(root / "run"))
    mount("-t", "tmpfs", "-o", "mode=1777,nosuid,nodev", "tmpfs", str(root / "tmp"))
    cgroup = str(root / "sys/fs/cgroup")
    mount("-t", "cgroup2", "-o", "nosuid,nodev,noexec", "cgroup2", cgroup)


def main() -> None:
    base, binds = Path(sys.argv[1]), json.loads(sys.argv[2])
    root = make_root(base, binds)
    make_kernel_file_systems(root)
    subprocess.run(["hostname", "box"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=False)
    os.chdir(root)
    subprocess.run(["pivot_root", ".", "."], check=True)
    subprocess.run(["umount", "-l", "."], check=True)
    mount("--make-rshared", "/")
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "container": "box",
        "LANG": "C.UTF-8",
        "SYSTEMD_LOG_TARGET": "journal",
    }
    os.execve("/lib/systemd/systemd", ["systemd", "--unit=box.target"], environment)


if __name__ == "__main__":
    main()
