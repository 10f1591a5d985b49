"""The database's schema, version by version, and the one function that brings it up to date.

A released migration is never edited; what it got wrong, the next one mends.
"""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", "deadheat:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def head() -> str:
    """The newest version that this release knows."""
    found = ScriptDirectory.from_config(_config()).get_current_head()
    assert found is not None
    return found


def current(connection: Connection) -> str | None:
    """The version of a database; None for an empty one."""
    return MigrationContext.configure(connection).get_current_revision()


def is_known(version: str) -> bool:
    """Whether this release knows a version; it does not know those of newer releases."""
    scripts = ScriptDirectory.from_config(_config())
    return any(script.revision == version for script in scripts.walk_revisions())


def upgrade(connection: Connection, version: str = "head") -> None:
    """Brings the database behind an open connection to a version."""
    command.upgrade(_config(connection), version)


def downgrade(connection: Connection, version: str) -> None:
    command.downgrade(_config(connection), version)
