"""Settings: flag before environment before file before default, errors that name the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.settings import (
    AgentSettings,
    ClientSettings,
    SchedulerSettings,
    Sources,
    parse_cpus,
)


def scheduler(
    flags: dict[str, object] | None = None,
    environment: dict[str, str] | None = None,
    config: Path | None = None,
) -> SchedulerSettings:
    sources = Sources("scheduler", flags or {}, environment=environment or {}, config=config)
    return SchedulerSettings.load(sources)


def test_flags_win_over_environment_over_file(tmp_path: Path) -> None:
    config = tmp_path / "deadheat.toml"
    config.write_text('[scheduler]\nlisten = "127.0.0.1:1"\nmemory = "1G"\ndisk = "2G"\n')
    environment = {"DEADHEAT_LISTEN": "127.0.0.1:2", "DEADHEAT_MEMORY": "3G"}
    found = scheduler({"listen": "127.0.0.1:4"}, environment, config)
    assert found.listen == "127.0.0.1:4"
    assert found.memory_bytes == 3 << 30
    assert found.disk_bytes == 2 << 30


def test_the_state_directory_has_its_order() -> None:
    home = {"XDG_STATE_HOME": "/x"}
    assert scheduler(environment=home).state_dir == Path("/x/deadheat")
    systemd = {**home, "STATE_DIRECTORY": "/var/lib/deadheat:/other"}
    assert scheduler(environment=systemd).state_dir == Path("/var/lib/deadheat")
    ours = {**systemd, "DEADHEAT_STATE_DIR": "/ours"}
    assert scheduler(environment=ours).state_dir == Path("/ours")
    assert scheduler({"state_dir": "/flag"}, ours).state_dir == Path("/flag")


def test_another_machine_is_let_in_only_with_tls_or_insecure(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="--insecure"):
        scheduler({"listen": "0.0.0.0:7433"})
    with pytest.raises(InvalidInput, match="--insecure"):
        scheduler({"listen": "example.org:7433"})
    assert scheduler({"listen": "0.0.0.0:7433", "insecure": True}).insecure
    files = {name: str(tmp_path / name) for name in ("tls_cert", "tls_key", "tls_ca")}
    assert scheduler({"listen": "0.0.0.0:7433", **files}).tls is not None
    del files["tls_ca"]
    with pytest.raises(InvalidInput, match="tls_ca is missing"):
        scheduler({"listen": "0.0.0.0:7433", **files})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[scheduler]\nlissten = "127.0.0.1:1"\n', "unknown key 'lissten'; known are"),
        ('[scheduler]\nmemory = "lots"\n', "memory: size is 'lots'"),
        ('[scheduler]\ninsecure = "perhaps"\n', "insecure: 'perhaps' is neither yes nor no"),
        ('[scheduler]\nlisten = "7433"\n', "must be HOST:PORT"),
        ("[scheduler]\nmemory = -5\n", "memory: size is -5; it must be more than nothing"),
        ("[scheduler]\nmemory = true\n", "memory: size is 'True'; give a size"),
        ('[scheduler]\ndisk = "0"\n', "disk: size is '0'; it must be more than nothing"),
        ("[shceduler]\n", r"unknown 'shceduler'; known are \[scheduler\], \[agent\]"),
        ('listen = "127.0.0.1:1"\n', "unknown 'listen'; known are"),
        ("scheduler = 3\n", "must be a table"),
        ("[scheduler\n", "Expected"),
    ],
)
def test_a_wrong_file_is_refused_with_key_and_value(tmp_path: Path, text: str, words: str) -> None:
    config = tmp_path / "deadheat.toml"
    config.write_text(text)
    with pytest.raises(InvalidInput, match=words):
        scheduler(config=config)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="No such file"):
        scheduler(config=tmp_path / "none.toml")


def test_agents_take_only_cores_that_they_may_use() -> None:
    with pytest.raises(InvalidInput, match="this process may use"):
        AgentSettings.load(Sources("agent", {"cpus": "100000"}, environment={}))
    with pytest.raises(InvalidInput, match="normal or idle"):
        AgentSettings.load(Sources("agent", {"politeness": "rude"}, environment={}))
    with pytest.raises(InvalidInput, match="letters, digits"):
        AgentSettings.load(Sources("agent", {"name": "a/b"}, environment={}))


def test_agents_serve_each_other_beyond_loopback_only_with_certificates() -> None:
    with pytest.raises(InvalidInput, match=r"peers is 10\.0\.0\.1:7434, which other machines"):
        AgentSettings.load(Sources("agent", {"peers": "10.0.0.1:7434"}, environment={}))
    for peers in ("off", "127.0.0.1:0"):
        assert AgentSettings.load(Sources("agent", {"peers": peers}, environment={})).peers == peers


def test_cores_come_as_text_or_list() -> None:
    assert parse_cpus([3, 1]) == (1, 3)
    assert parse_cpus("0-2,8") == (0, 1, 2, 8)
    with pytest.raises(InvalidInput, match="'x' is not a core"):
        parse_cpus("0,x")
    with pytest.raises(InvalidInput, match="'3-1' runs backwards; write 1-3"):
        parse_cpus("0,3-1")


def test_an_address_from_the_environment_is_explicit() -> None:
    found = ClientSettings.load(
        Sources("client", {}, environment={"DEADHEAT_SCHEDULER": "10.0.0.1:1"})
    )
    assert (found.scheduler, found.is_explicit) == ("10.0.0.1:1", True)
    default = ClientSettings.load(Sources("client", {}, environment={}))
    assert (default.scheduler, default.is_explicit) == ("127.0.0.1:7433", False)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"log_level": "loud"}, "--log-level: 'loud' may be debug, info, warning, error"),
        ({"memory_dir": "/nonexistent"}, "--memory-dir: /nonexistent is not a directory"),
    ],
)
def test_what_cannot_be_is_said_before_anything_starts(
    flags: dict[str, object], words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        scheduler(flags)


def test_systemds_configuration_directory_is_looked_into_the_instances_own_first(
    tmp_path: Path,
) -> None:
    shared, own = tmp_path / "deadheat", tmp_path / "deadheat" / "zero"
    own.mkdir(parents=True)
    environment = {"CONFIGURATION_DIRECTORY": f"{shared}:{own}"}
    assert scheduler(environment=environment).log_level == "info"
    (shared / "deadheat.toml").write_text('[scheduler]\nlog_level = "debug"\n')
    assert scheduler(environment=environment).log_level == "debug"
    (own / "deadheat.toml").write_text('[scheduler]\nlog_level = "error"\n')
    assert scheduler(environment=environment).log_level == "error"
    flag = tmp_path / "flag.toml"
    flag.write_text("")
    assert scheduler(environment=environment, config=flag).log_level == "info"


def test_tls_files_may_be_credentials_of_the_unit(tmp_path: Path) -> None:
    environment = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert scheduler(environment=environment).tls is None
    for name in ("tls_cert", "tls_key", "tls_ca"):
        (tmp_path / name).write_text("none")
    assert scheduler(environment=environment).tls is None
    (tmp_path / "tls_cert").write_text("PEM")
    with pytest.raises(InvalidInput, match="tls_key is missing"):
        scheduler(environment=environment)
    for name in ("tls_key", "tls_ca"):
        (tmp_path / name).write_text("PEM")
    found = scheduler(environment=environment).tls
    assert found is not None
    assert found.key == tmp_path / "tls_key"
    other = scheduler({"tls_key": "/other"}, environment).tls
    assert other is not None
    assert other.key == Path("/other")


def test_when_an_agent_gives_way_is_said_as_people_say_it(tmp_path: Path) -> None:
    def agent(**flags: object) -> AgentSettings:
        return AgentSettings.load(Sources("agent", flags, environment={}))

    assert (agent().yield_above, agent().yield_hours, agent().once) == (None, (), False)
    assert agent(yield_above="50%").yield_above == agent(yield_above=0.5).yield_above == 0.5
    assert len(agent(yield_hours="08:00-12:00,22:00-06:00").yield_hours) == 2
    for bad in ("0", "1", "150%", "much", "nan"):
        with pytest.raises(InvalidInput, match=r"--yield-above: .* between 0 and 1"):
            agent(yield_above=bad)
    with pytest.raises(InvalidInput, match=r"--yield-hours: 'noon' is not a span"):
        agent(yield_hours="noon")
    with pytest.raises(InvalidInput, match=r"--until: 'soon' is no time"):
        agent(until="soon")
