"""`LocalCluster`: a scheduler, its store and agents on this machine, as real daemons."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from deadheat.client.supervision import Supervisor
from deadheat.runtime.children import Child
from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.settings import parse_cpus, parse_gpus, parse_numa, parse_size

START_TIMEOUT_S: Final = 30.0
#: The first agent on a machine calibrates before it registers.
AGENT_TIMEOUT_S: Final = 150.0
MAX_AGENTS: Final = 256
_AGENT_KEYS: Final = (
    *("cpus", "gpus", "memory_bytes", "name", "numa", "politeness", "shares_cpus"),
)


class LocalCluster:
    """Daemons of this process: they end with it, even if it is killed.

    Args:
        agents: One mapping for each agent: `cpus` (a list of cores) and optionally `name`,
            `gpus` ("all", "none", or a list of UUIDs and of numbers in NVML's order),
            `memory_bytes`, `numa` ("auto", "split" or "whole": whether the cores of each NUMA
            node are a device), `politeness` ("normal" or "idle") and `shares_cpus`. Default: one
            agent with every core and GPU that this process may use. Of several agents each has
            the GPUs that it names.
        state_dir: Where the database and the matrices live. Default: a temporary directory that
            goes with the cluster.
        listen: Where the scheduler listens; port 0 is any free one.
        memory_bytes: Shared memory that matrices may take. Default: a share of what is free.

    Raises:
        InvalidInput: An agent is described by something it does not have.
        ClusterError: A daemon did not start; the message has its last words.

    """

    def __init__(
        self,
        agents: Sequence[Mapping[str, Any]] | None = None,
        *,
        state_dir: str | os.PathLike[str] | None = None,
        listen: str = "127.0.0.1:0",
        memory_bytes: int | None = None,
    ) -> None:
        given = _listed(agents)
        self._described = [
            _describe(agent, k, is_only=len(given) == 1) for k, agent in enumerate(given)
        ]
        _check_names(self._described)
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        if state_dir is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="deadheat-")
            state_dir = self._temporary.name
        self.state_dir = Path(state_dir).absolute()
        self.logs = self.state_dir / "logs"
        self.agents: list[Child] = []
        self._arguments = [
            *("--state-dir", str(self.state_dir), "--listen", listen),
            *(("--memory", str(memory_bytes)) if memory_bytes is not None else ()),
            *(("--ephemeral",) if self._temporary else ()),
        ]
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
            self.scheduler = self._start_scheduler()
            self.address = str(self.scheduler.ready["address"])
            self.agents = [self._start_agent(arguments) for arguments in self._described]
            for agent in self.agents:
                agent.wait_ready(AGENT_TIMEOUT_S)
        except BaseException:
            self.close()
            raise

    def _start_scheduler(self) -> Child:
        child = Child("deadheat.scheduler", self._arguments, log_path=self.logs / "scheduler.log")
        child.wait_ready(START_TIMEOUT_S)
        return child

    def _start_agent(self, arguments: Sequence[str]) -> Child:
        name = arguments[arguments.index("--name") + 1]
        return Child(
            "deadheat.agent",
            ["--scheduler", self.address, *arguments],
            log_path=self.logs / f"agent-{name}.log",
        )

    def supervise(self, say: Callable[[str], None]) -> None:
        """Starts daemons that die again, and tells, until interrupted."""
        described = dict(zip(self.agents, self._described))

        def restart(dead: Child) -> Child:
            if dead is self.scheduler:
                # On the same port, so that agents and clients find it again.
                self._arguments[self._arguments.index("--listen") + 1] = self.address
                self.scheduler = self._start_scheduler()
                return self.scheduler
            arguments = described.pop(dead)
            self.agents.remove(dead)
            agent = self._start_agent(arguments)
            self.agents.append(agent)
            described[agent] = arguments
            # It is not waited for: the scheduler that it looks for may have died as well.
            return agent

        supervisor = Supervisor(restart, say)
        for child in (self.scheduler, *self.agents):
            supervisor.watch(child)
        supervisor.run()

    def close(self) -> None:
        """Stops every daemon, agents first."""
        for agent in self.agents:
            agent.process.terminate()
        for agent in self.agents:
            agent.stop()
        if scheduler := getattr(self, "scheduler", None):
            scheduler.stop()
        if self._temporary:
            self._temporary.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _listed(agents: object) -> Sequence[Mapping[str, Any]]:
    """The agents' descriptions, each of which is yet to be checked."""
    if agents is None:
        return [{}]
    if not isinstance(agents, Sequence) or isinstance(agents, str | bytes):
        raise InvalidInput(
            f"agents is {agents!r}; it must be a list with a mapping for each agent, like "
            '[{"cpus": [0]}, {"cpus": [1]}]',
            field="agents",
        )
    return agents


def _check_names(described: Sequence[Sequence[str]]) -> None:
    """A name belongs to one agent: two would take it from each other for ever."""
    names = [arguments[arguments.index("--name") + 1] for arguments in described]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise InvalidInput(
                f"agents[{index}] and agents[{names.index(name)}] have one name, {name!r}",
                field="agents",
            )


def _describe(agent: Mapping[str, Any], index: int, *, is_only: bool) -> list[str]:
    """An agent's description as arguments of its daemon."""
    if index >= MAX_AGENTS:
        raise InvalidInput(f"agents has more than {MAX_AGENTS} entries", field="agents")
    if not isinstance(agent, Mapping):
        raise InvalidInput(f"agents[{index}] is {agent!r}; it must be a mapping", field="agents")
    for key in agent:
        if key not in _AGENT_KEYS:
            known = ", ".join(_AGENT_KEYS)
            raise InvalidInput(f"agents[{index}] has {key!r}; known are {known}", field="agents")
    arguments = ["--name", str(agent.get("name", f"local-{index}"))]
    if "cpus" in agent:
        arguments += ["--cpus", ",".join(str(cpu) for cpu in parse_cpus(agent["cpus"]))]
    if "gpus" in agent:
        arguments += ["--gpus", parse_gpus(agent["gpus"])]
    elif not is_only:
        arguments += ["--gpus", "none"]  # They cannot all have them.
    if "memory_bytes" in agent:
        arguments += ["--memory", str(parse_size(agent["memory_bytes"]))]
    if "numa" in agent:
        arguments += ["--numa", parse_numa(agent["numa"])]
    if "politeness" in agent:
        arguments += ["--politeness", str(agent["politeness"])]
    if agent.get("shares_cpus"):
        arguments.append("--shares-cpus")
    return arguments
