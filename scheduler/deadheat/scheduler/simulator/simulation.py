"""The virtual shell: feeds the core what happens, and carries out what it decides, on a clock that
jumps from event to event.

Rules of this file: the core and the planner are the real ones; everything around them is played.
Planning takes a constant time on the virtual clock, so that an outcome does not depend on the
machine that simulates; what it really took is measured by the caller's stopwatch, on the side.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Any, Final

from deadheat.runtime.errors import DeadheatError
from deadheat.scheduler.core import effects, events
from deadheat.scheduler.core.core import Core
from deadheat.scheduler.core.report import JobReport, report_of
from deadheat.scheduler.planner.inputs import Cut
from deadheat.scheduler.planner.plan import Plan
from deadheat.scheduler.planner.planner import plan
from deadheat.scheduler.simulator.curves import Supply, supply_of
from deadheat.scheduler.simulator.device import Device
from deadheat.scheduler.simulator.models import speed_points
from deadheat.scheduler.simulator.network import Network, Transfer
from deadheat.scheduler.simulator.programs import program_of, result_ids
from deadheat.scheduler.simulator.sampling import Probe
from deadheat.scheduler.simulator.scenario import Fault, FaultKind, JobSpec, Scenario

Stopwatch = Callable[[], float]

#: The scheduler's own host, where the store is; local devices share its memory.
HOST: Final = "store"
PLANNING_S: Final = 0.001
#: Making room for a result, and sealing it.
STORE_ANSWER_S: Final = 0.0005
#: Agents tell their samples so often; in a large pool less often, but never so seldom that the
#: core takes them for silent (see core/nodes.py).
SAMPLE_S: Final = 1.0
LARGE_POOL: Final = 256
LARGE_POOL_SAMPLE_S: Final = 2.0
#: A job without a limit of its own gets one of a day, so that every simulation ends.
DEFAULT_TIMEOUT_S: Final = 86_400.0
#: If nothing has moved for so long and nothing is to come, nothing will: longer than any of the
#: core's own deadlines for silence and answers.
STUCK_AFTER_S: Final = 60.0
#: Without jobs, a longer time until the next event is skipped.
LONG_PAUSE_S: Final = 30.0


class Simulation:
    """One run of a scenario under one rule of cutting."""

    def __init__(self, scenario: Scenario, cut: Cut, stopwatch: Stopwatch) -> None:
        self.now = 0.0
        self.reports: list[JobReport] = []
        #: Real seconds of each call of the planner.
        self.planning_s: list[float] = []
        self.placements = 0
        #: When the store answers again; it does now unless that is to come.
        self.store_back_s = 0.0
        self._scenario = scenario
        self._cut = cut
        self._stopwatch = stopwatch
        self._core = Core(HOST, scenario.port_bytes_per_s or math.inf)
        self._network = Network(scenario.port_bytes_per_s)
        self._queue: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._serial = 0
        #: Events under way that are more than watching: while there are any, things move.
        self._moving = 0
        self._moved_s = 0.0
        self._devices = self._make_devices()
        self._kinds = {spec.name: spec.kind for spec in scenario.devices}
        self._probes = {name: Probe(device, 0.0) for name, device in self._devices.items()}
        self._holders: dict[str, set[Device]] = {}
        #: Jobs that have not ended, and those of them that were submitted.
        self._open = len(scenario.jobs)
        self._active = 0
        self._quiet_until_s = 0.0

    def _make_devices(self) -> dict[str, Device]:
        faults: dict[str, list[Fault]] = {}
        for fault in self._scenario.faults:
            faults.setdefault(fault.device, []).append(fault)
        shared: dict[tuple[object, object], Supply] = {}
        made: dict[str, Device] = {}
        for index, spec in enumerate(self._scenario.devices):
            own = faults.get(spec.name, ())
            supply = shared.get((spec.foreign, spec.sharing))
            if own or supply is None:
                supply = supply_of(spec, own)
                if not own:
                    shared[spec.foreign, spec.sharing] = supply
            seeds = (self._scenario.seed, index)
            made[spec.name] = Device(spec, supply, seeds, self)
        return made

    # The clock

    def at(self, when_s: float, action: Callable[[Any], None], argument: Any) -> None:
        self._moving += 1
        self._serial += 1
        heapq.heappush(self._queue, (when_s, self._serial, action, argument))

    def run(self) -> None:
        """Until every job has ended."""
        self._begin()
        queue, core, network = self._queue, self._core, self._network
        while self._open:
            event_s = queue[0][0] if queue else math.inf
            deadline_s = core.next_deadline_s()
            timer_s = math.inf if deadline_s is None else max(deadline_s, self._quiet_until_s)
            transfer_s = network.next_s()
            if timer_s < event_s and timer_s <= transfer_s:
                self.now = max(self.now, timer_s)
                self._feed(events.Ticked())
            elif transfer_s <= event_s:
                self.now = max(self.now, transfer_s)
                self._moved_s = self.now
                for device in network.take_ended(self.now):
                    device.moved()
            else:
                self.now, _, action, argument = heapq.heappop(queue)
                self._moving -= 1
                action(argument)

    def _begin(self) -> None:
        for spec in self._scenario.devices:
            self._register(spec.name)
        for index, job in enumerate(self._scenario.jobs):
            self.at(job.at_s, self._submit, (index, job))
        for fault in self._scenario.faults:
            self.at(fault.at_s, self._fault, fault)
        for at_s, for_s in self._scenario.store_away:
            self.at(at_s, self._lose_store, at_s + for_s)
        self._sample_all(None)

    # Agents

    def tell(self, latency_s: float, event: events.Event) -> None:
        self.at(self.now + latency_s, self._feed, event)

    def begin_transfer(self, device: Device, size_bytes: float) -> Transfer:
        assert device.spec.bandwidth_bytes_per_s is not None
        return self._network.start(device, size_bytes, device.spec.bandwidth_bytes_per_s, self.now)

    def end_transfer(self, device: Device, transfer: Transfer) -> float:
        assert device.spec.bandwidth_bytes_per_s is not None
        return self._network.stop(transfer, device.spec.bandwidth_bytes_per_s, self.now)

    def _register(self, name: str) -> None:
        device = self._devices[name]
        spec = device.spec
        facts = events.DeviceFacts(
            name, spec.kind, "simulated", 1, spec.memory_bytes, speed_points(spec.speed_flops)
        )
        self._feed(
            events.NodeRegistered(
                node=name,
                instance=device.instance,
                host=spec.name if device.is_remote else HOST,
                cpus=frozenset(),
                shares_cpus=False,
                shares_memory=not device.is_remote,
                version="simulated",
                devices=(facts,),
                held=device.held,
                bandwidth_bytes_per_s=spec.bandwidth_bytes_per_s or 0.0,
                latency_s=spec.latency_s,
            )
        )

    def _sample_all(self, argument: None) -> None:
        """Every agent that lives says what it sees, at one moment and without delay: for the core
        that is the same, and one event for a whole pool is cheap."""
        self._sample_living()
        pause_s = SAMPLE_S if len(self._devices) <= LARGE_POOL else LARGE_POOL_SAMPLE_S
        if self._moving or self._network.next_s() < math.inf:
            self._moved_s = self.now
        elif self.now - self._moved_s > STUCK_AFTER_S:
            self._skip_to_a_limit()
        next_s = self.now + pause_s
        upcoming_s = self._queue[0][0] if self._queue else self.now
        if not self._active and upcoming_s - self.now > LONG_PAUSE_S:
            # Nobody wants anything: what agents would say until then, nobody would use.
            self._quiet_until_s = next_s = upcoming_s - pause_s
            for probe in self._probes.values():
                probe.restart(next_s - pause_s)
        self.at(next_s, self._sample_all, argument)

    def _sample_living(self) -> None:
        for name, device in self._devices.items():
            if not device.is_lost and not device.is_stopped:
                sampled = self._probes[name].sample(self.now)
                if sampled:
                    self._feed(sampled)

    def _skip_to_a_limit(self) -> None:
        """Nothing will happen any more but that jobs run into their limits: the first does now."""
        limits_s = [
            job.submitted_s + job.policy.timeout_s
            for job in self._core.world.jobs.values()
            if not job.state.is_final and job.policy.timeout_s is not None
        ]
        self.now = max(self.now, min(limits_s, default=self.now))
        self._sample_living()
        self._feed(events.Ticked())

    def _fault(self, fault: Fault) -> None:
        device = self._devices[fault.device]
        match fault.kind:
            case FaultKind.LOST:
                device.lose()
            case FaultKind.STOPPED:
                device.stop()
            case FaultKind.SLOW:
                pass  # Its supply knows.
            case FaultKind.BACK:
                must_register = device.come_back()
                self._probes[fault.device].restart(self.now)
                if must_register:
                    self.at(self.now + device.spec.latency_s, self._register, fault.device)

    # The store

    def _lose_store(self, back_s: float) -> None:
        """As by SIGKILL: its files outlive it, so all that it had will be there again."""
        self.store_back_s = back_s
        self._network.pause(self.now, is_paused=True)
        self.at(back_s, self._return_store, None)

    def _return_store(self, argument: None) -> None:
        del argument
        self._network.pause(self.now, is_paused=False)
        self._feed(events.StoreRestarted())

    def _answer(self, event: events.Event) -> None:
        """The store's, which comes when it is there."""
        self.at(max(self.now, self.store_back_s) + STORE_ANSWER_S, self._feed, event)

    # Users

    def _submit(self, given: tuple[int, JobSpec]) -> None:
        index, job = given
        name = f"job-{index}"
        program = program_of(job, name)
        self._active += 1
        self._feed(
            events.JobSubmitted(
                job=name,
                request_id=name,
                user=job.user,
                kind=job.kind.value,
                program=program,
                policy=events.JobPolicy(
                    cut=self._cut,
                    timeout_s=DEFAULT_TIMEOUT_S if job.timeout_s is None else job.timeout_s,
                    priority=job.priority,
                ),
                result_ids=result_ids(program, name),
            )
        )

    # Effects

    def _feed(self, event: events.Event) -> None:
        for effect in self._core.handle(event, self.now):
            match effect:
                case effects.Commit() | effects.NotifyJob() | effects.SendSettled():
                    pass
                case effects.SendAssign():
                    self.placements += 1
                    device = self._devices[effect.node]
                    self._holders.setdefault(effect.job, set()).add(device)
                    self.at(self.now + device.spec.latency_s, device.receive, effect)
                case effects.SendCancel() | effects.SendResize():
                    device = self._devices[effect.node]
                    self.at(self.now + device.spec.latency_s, device.receive, effect)
                case effects.MakePlan():
                    self.at(self.now + PLANNING_S, self._feed, self._plan(effect))
                case effects.MakeResults(job):
                    self._answer(events.ResultsMade(job, effect.matrix_ids))
                case effects.SealResult(job, operation):
                    self._answer(events.ResultSealed(job, operation))
                case effects.FindMatrices(job):
                    self._answer(events.MatricesFound(job))
                case effects.ReleaseJob(job):
                    self._end(job)
                case effects.AcceptNode() | effects.SendDrain() | effects.SendNothingToDo():
                    pass
                case _:
                    raise AssertionError(f"the simulated pool never causes {effect}")

    def _plan(self, wanted: effects.MakePlan) -> events.PlanMade:
        started_s = self._stopwatch()
        outcome: Plan | events.Failure
        try:
            outcome = plan(wanted.given, now=self.now)
        except DeadheatError as error:
            outcome = events.Failure(error.code, error.message)
        self.planning_s.append(self._stopwatch() - started_s)
        return events.PlanMade(wanted.job, wanted.ticket, outcome, PLANNING_S)

    def _end(self, name: str) -> None:
        self._open -= 1
        self._active -= 1
        self.reports.append(report_of(self._core.world.jobs[name], self._kinds))
        for device in self._holders.pop(name, ()):
            device.forget_job(name)
