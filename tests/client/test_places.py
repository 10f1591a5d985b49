"""Where a product is computed: by predictions, never waiting for a small one."""

from __future__ import annotations

from concurrent.futures import Future

import numpy as np

from deadheat.client import arrays
from deadheat.client.places import DeviceNews, News, Places, Work, _Rate, cluster_s
from deadheat.v1 import cluster_pb2

GB = 1e9


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Cluster:
    """Answers at once, or not at all."""

    def __init__(self, clock: Clock, *devices: DeviceNews, silent: bool = False) -> None:
        self.clock, self.devices, self.silent = clock, devices, silent
        self.questions = 0

    def ask(self) -> Future[News]:
        self.questions += 1
        future: Future[News] = Future()
        if not self.silent:
            future.set_result(News(self.devices, 1e-4, self.clock()))
        return future


def device(rate: float, queue_s: float = 0.0) -> DeviceNews:
    return DeviceNews(queue_s, {"float64": rate})


def work(flops: float, moved_bytes: int = 0) -> Work:
    return Work("float64", flops, flops, moved_bytes)


def places(
    *devices: DeviceNews, own: float = 50 * GB, silent: bool = False
) -> tuple[Places, Cluster]:
    clock = Clock()
    cluster = Cluster(clock, *devices, silent=silent)
    made = Places(cluster.ask, clock)
    made.took_here(work(own), 1.0)
    return made, cluster


def test_without_a_cluster_everything_is_done_here() -> None:
    assert Places(None).is_here(work(1e18))


def test_an_idle_cluster_of_the_same_cores_is_not_faster() -> None:
    made, _ = places(device(25 * GB), device(25 * GB))
    for side in (256, 512, 1024, 2048, 4096):
        assert made.is_here(work(2.0 * side**3, 3 * 8 * side**2))


def test_a_cluster_of_more_devices_gets_what_is_worth_it() -> None:
    made, _ = places(*[device(50 * GB)] * 4)
    made.shares_memory = True
    assert made.is_here(work(2.0 * 300**3, 3 * 8 * 300**2))
    assert not made.is_here(work(2.0 * 8192**3, 3 * 8 * 8192**2))


def test_a_busy_cluster_is_weighed_by_when_it_is_free() -> None:
    made, _ = places(*[device(50 * GB, queue_s=30.0)] * 4)
    assert made.is_here(work(2.0 * 4096**3))
    assert not made.is_here(work(2.0 * 20_000**3))


def test_a_slow_link_keeps_work_here() -> None:
    made, _ = places(*[device(50 * GB)] * 4)
    big = work(2.0 * 4096**3, 3 * 8 * 4096**2)
    assert made.is_here(big)
    made.shares_memory = True
    assert not made.is_here(big)


def test_a_small_product_never_waits_for_a_silent_cluster() -> None:
    made, cluster = places(*[device(50 * GB)] * 4, silent=True)
    assert made.is_here(work(1e9))
    assert made.is_here(work(1e9))
    assert cluster.questions == 1, "the first question is still open"


def test_the_first_products_are_done_here_and_tell_our_speed() -> None:
    clock = Clock()
    cluster = Cluster(clock, *[device(50 * GB)] * 40)
    made = Places(cluster.ask, clock)
    made.shares_memory = True
    assert made.is_here(work(3.9e9))
    made.took_here(work(3.9e9), 3.9)  # 1 GFLOP/s.
    assert not made.is_here(work(3.9e9))


def test_news_are_asked_for_again_when_they_are_old() -> None:
    made, cluster = places(device(GB))
    for later_s, questions in ((0.0, 1), (0.5, 1), (1.0, 2)):
        cluster.clock.now += later_s
        made.is_here(work(1e9))
        assert cluster.questions == questions


def test_predictions_of_the_cluster_are_corrected_by_what_jobs_took() -> None:
    made, _ = places(*[device(50 * GB)] * 4)
    made.shares_memory = True
    big = work(2.0 * 4096**3)
    assert not made.is_here(big)
    for _ in range(5):
        made.took_there(big, 10.0)
    assert made.is_here(big)


def test_one_disturbed_product_does_not_send_the_next_one_away() -> None:
    made, _ = places(device(25 * GB), device(25 * GB))
    made.shares_memory = True
    medium = work(2.0 * 1024**3)
    for _ in range(4):
        made.took_here(medium, 1.0)
        assert made.is_here(medium)
    made.took_here(medium, 1.0)
    assert not made.is_here(medium), "five in a row are no accident"


def test_a_long_product_is_worth_a_fresh_measurement() -> None:
    made, cluster = places(device(1.0), own=1.0)
    cluster.clock.now += 10.0
    clock = cluster.clock

    def ticking() -> float:
        clock.now += 0.001
        return clock.now

    made._clock = ticking
    made.is_here(work(1e12))
    assert made._rates["float64", True].flops > 1e9, "measured, where it was 1 flop a second before"


def test_a_rate_that_only_a_probe_tells_is_learned_by_doing_the_work() -> None:
    clock = Clock()
    made = Places(Cluster(clock, *[device(50 * GB)] * 4).ask, clock)
    made.shares_memory = True
    probed = made._rates["float64", True] = _Rate(is_probed=True)
    probed.add(20 * GB, clock())
    assert made.is_here(work(8 * GB)), "0.4 s here rather than 0.05 s there, by prediction"
    assert not made.is_here(work(20 * GB)), "a second is too much"
    made.took_here(work(8 * GB), 0.1)
    assert made._rates["float64", True].flops == 80 * GB, "what the probe said counts no more"
    made.took_here(work(8 * GB), 0.4)
    assert not made._rates["float64", True].is_probed


def test_an_old_rate_is_learned_anew_where_little_is_lost() -> None:
    made, cluster = places(*[device(50 * GB)] * 4, own=20 * GB)
    made.shares_memory = True
    small = work(8 * GB)
    assert not made.is_here(small)
    cluster.clock.now += 10.0
    assert not made.is_here(small), "a third of a second is more than 2 % of ten"
    cluster.clock.now += 10.0
    assert made.is_here(small)
    made.took_here(small, 0.1)
    cluster.clock.now += 10.0
    assert made.is_here(small), "as fast as the cluster, as has been found out"


def test_devices_share_the_work_from_when_they_are_free() -> None:
    news = News([device(10 * GB), device(10 * GB, 1.0), device(10 * GB, 9.0)], 0.0, 0.0)
    # One second alone, then half each: 1 + (30 - 10) / 20.
    assert abs(cluster_s(work(30 * GB), news, shares_memory=True) - 2.0) < 0.01
    assert cluster_s(work(1.0), News([], 0.0, 0.0), shares_memory=True) == float("inf")


def test_only_devices_that_are_there_count() -> None:
    speeds = {"float64": 10.0}
    known = cluster_pb2.Device(availability=0.5, speed_flops=speeds, queue_s=2.0)
    silent = cluster_pb2.Device(speed_flops=speeds)
    nodes = [
        cluster_pb2.Node(state=cluster_pb2.NODE_STATE_UP, devices=[known, silent]),
        cluster_pb2.Node(state=cluster_pb2.NODE_STATE_LOST, devices=[known]),
    ]
    assert News.of(nodes, 0.0, 0.0).devices == [DeviceNews(2.0, {"float64": 5.0})]


def test_a_product_with_its_own_transpose_is_half_the_work_here() -> None:
    a = np.ones((40, 30))
    for left, right, is_symmetric in ((a, a.T, True), (a.T, a, True), (a, a.T.copy(), False)):
        checked = arrays.product(left, right)
        assert arrays.is_symmetric(checked) is is_symmetric
        found = Work.of(checked, 100.0, 0)
        assert found.local_flops < 100.0 if is_symmetric else found.local_flops == 100.0
        assert found.moved_bytes == 8 * 1200 * (1 if is_symmetric else 2)
