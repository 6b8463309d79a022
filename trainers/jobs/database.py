"""The database of the job store: where it is, how it is opened, and its schema."""

from __future__ import annotations

import os
import time
from pathlib import Path

from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.pool import NullPool

from trainers.jobs.paths import runs_folder

MIGRATIONS = Path(__file__).parent / "migrations"
LOCK = 0x46464E  # PostgreSQL's advisory lock of this application ("FFN")


class DatabaseDown(ConnectionError):
    """The job database cannot be reached; the message says which one and why."""


def database_url() -> str:
    """``FFN_DATABASE_URL``, or the SQLite file jobs.db in the folder of the runs."""
    return os.environ.get("FFN_DATABASE_URL") or f"sqlite:///{runs_folder() / 'jobs.db'}"


def open_database(url: str, *, patience: float = 10, pooled: bool = True) -> Engine:
    """An engine on ``url``, its schema made or brought up to date.

    Args:
        patience: seconds to wait for another writer's lock, and for a connection.
        pooled: keep connections open; without, each use opens its own, which a fork cannot inherit.

    Raises:
        DatabaseDown: if it cannot be reached.
        ValueError: if ``url`` names no database that can be used here.
    """
    try:
        parsed = make_url(url)
        if parsed.drivername in ("postgresql", "postgres"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        sqlite = parsed.get_backend_name() == "sqlite"
        if sqlite and parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        wait = {"timeout": patience} if sqlite else {"connect_timeout": max(1, round(patience))}
        pool = {"pool_pre_ping": True} if pooled else {"poolclass": NullPool}
        engine = create_engine(parsed, connect_args=wait, **pool)
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise ValueError(f"FFN_DATABASE_URL cannot be used ({error}); try sqlite:////folder/jobs.db") from error
    except OSError as error:
        raise DatabaseDown(f"the job database {named(parsed)} cannot be made: {error}") from error
    if sqlite:
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    try:
        _upgrade(engine, patience)
    except DBAPIError as error:
        engine.dispose()
        raise unreachable(engine, error) from error
    return engine


def unreachable(engine: Engine, error: DBAPIError) -> DatabaseDown:
    """``error`` in one sentence, without the statement, its values or a password."""
    why = " ".join(str(error.orig).split())
    return DatabaseDown(f"the job database {named(engine.url)} cannot be used: {why}; check FFN_DATABASE_URL")


def named(url) -> str:
    return url.render_as_string(hide_password=True)


def writing(engine: Engine) -> Engine:
    """The same engine, whose transactions take the write lock at once rather than fail half-way."""
    return engine.execution_options(ffn_writes=True)


def _prepare_sqlite(connection, _record) -> None:
    connection.isolation_level = None  # the driver begins nothing by itself: _begin_sqlite does
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute("PRAGMA synchronous = NORMAL")
    if cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        cursor.execute("PRAGMA journal_mode = WAL")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("ffn_writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _upgrade(engine: Engine, patience: float) -> None:
    """Bring the schema up to date; several processes may try at once, one of them does it."""
    scripts = AlembicConfig()
    scripts.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    head = ScriptDirectory.from_config(scripts).get_current_head()
    deadline = time.monotonic() + patience
    while True:
        try:
            with engine.connect() as connection:
                if MigrationContext.configure(connection).get_current_revision() == head:
                    return
            with writing(engine).begin() as connection:
                if engine.dialect.name == "postgresql":
                    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
                scripts.attributes["connection"] = connection
                command.upgrade(scripts, "head")
                return
        except DBAPIError as error:  # a change of SQLite's journal mode does not wait for its lock
            if "database is locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
