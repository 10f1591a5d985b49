"""The Slurm scripts: valid shell, and, with a stand-in for srun, whole runs of real daemons."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import CORES
from tests.e2e.processes import daemons
from tests.waiting import wait_until

from deadheat.client import Client

SCRIPTS = sorted((Path(__file__).parents[2] / "deploy/slurm").glob("*.sbatch"))
POOL = next(path for path in SCRIPTS if path.name == "pool.sbatch")
AGENTS = next(path for path in SCRIPTS if path.name == "agents.sbatch")
BASH = shutil.which("bash")
pytestmark = pytest.mark.skipif(BASH is None, reason="needs bash")
MATRIX = np.random.default_rng(3).standard_normal((700, 700))

#: What srun comes to on one node: the step's variables, the step's cores, the command.
SRUN = f"""#!/bin/bash
while [[ $1 == --* ]]; do shift; done
export SLURM_PROCID=0
exec taskset -c {CORES[-1]} "$@"
"""


def step_environment(folder: Path, ends_in_s: float, **more: str) -> Mapping[str, str]:
    """What Slurm sets in a job on one node, and a `deadheat` and an `srun` in front of others."""
    commands = folder / "bin"
    commands.mkdir()
    for name, text in {
        "srun": SRUN,
        "deadheat": f'#!/bin/bash\nexec {sys.executable} -m deadheat.cli "$@"\n',
    }.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{commands}:{os.environ['PATH']}",
        "TMPDIR": str(folder),
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_CPUS_PER_TASK": "1",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_JOB_END_TIME": str(round(time.time() + ends_in_s)),
        **more,
    }


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_each_script_is_valid_shell(script: Path) -> None:
    assert BASH is not None
    assert os.access(script, os.X_OK)
    for command in ([BASH, "-n"], ["shellcheck", "--shell=bash"]):
        if shutil.which(command[0]):
            ran = subprocess.run([*command, script], capture_output=True, text=True, check=False)
            assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    # Slurm reads its directives only before the first command.
    lines = script.read_text().splitlines()
    last = max(n for n, line in enumerate(lines) if line.startswith("#SBATCH"))
    assert all(line.startswith("#") for line in lines[: last + 1])


def test_a_pool_runs_a_command_and_ends_with_it(tmp_path: Path) -> None:
    work = tmp_path / "work.py"
    work.write_text(
        "import numpy as np\n"
        "from deadheat.client import Client\n"
        "a = np.ones((600, 600))\n"
        "with Client() as client:\n"
        "    job = client.submit_matmul(a, a)\n"
        "    assert (job.result(90) == 600).all()\n"
        '    print([d["node"] for d in job.report().devices])\n'
    )
    ran = subprocess.run(
        [POOL, sys.executable, work],
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
        env=step_environment(tmp_path, 600),
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip().endswith("-0']")
    assert list(tmp_path.glob("deadheat-*")) == []


def test_a_pool_passes_its_commands_failure_on_and_wants_one(tmp_path: Path) -> None:
    environment = step_environment(tmp_path, 600)
    ran = subprocess.run([POOL, "false"], env=environment, capture_output=True, check=False)
    assert ran.returncode == 1
    ran = subprocess.run([POOL], env=environment, capture_output=True, check=False)
    assert (ran.returncode, ran.stderr.startswith(b"usage:")) == (2, True)


def test_a_pool_that_is_told_to_end_ends_all_of_it(tmp_path: Path) -> None:
    process = subprocess.Popen([POOL, "sleep", "600"], env=step_environment(tmp_path, 600))
    wait_until(lambda: list(tmp_path.glob("deadheat-*/deadheat.db")), "the scheduler")
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert list(tmp_path.glob("deadheat-*")) == []


def test_agents_of_a_job_leave_when_the_work_is_done(tmp_path: Path) -> None:
    with daemons(tmp_path) as found:
        address = str(found.scheduler().ready["address"])
        environment = step_environment(tmp_path, 600, DEADHEAT_SCHEDULER=address)
        process = subprocess.Popen([AGENTS], env=environment)
        with Client(address) as client:
            job = client.submit_matmul(MATRIX, MATRIX)
            assert np.allclose(job.result(120), MATRIX @ MATRIX)
            (node,) = client.nodes()
        assert process.wait(60) == 0
        assert node["name"].endswith(f"-{os.getpid()}-0")
        # The cores of the step, not the machine's.
        assert node["devices"][0]["threads"] == 1
