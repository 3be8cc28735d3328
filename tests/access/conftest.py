"""A PostgreSQL of its own for the tests that ask for one: Debian's, on a socket in a folder."""

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from serve_app.core.access.access_key import AccessKey
from tests.access.builders import Service

POSTGRES = Path("/usr/lib/postgresql/15/bin")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Path]:
    """The folder of its socket."""
    if not (POSTGRES / "initdb").exists():
        pytest.skip("PostgreSQL 15 is not installed (Debian's package postgresql-15)")
    # A socket's path has little room, and the server's user must be able to enter the folder.
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    user = _server_user()
    if user is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)
    as_user: dict[str, Any] = (
        {"user": user.pw_uid, "group": user.pw_gid} if user is not None else {}
    )
    data = folder / "data"
    make = [POSTGRES / "initdb", "-D", data, "-U", "tierserve", "-A", "trust", "--no-sync"]
    options = f"-k {folder} -c listen_addresses='' -c max_connections=40"
    control = [POSTGRES / "pg_ctl", "-D", data, "-w", "-t", "60", "-l", folder / "log"]
    try:
        subprocess.run(make, check=True, capture_output=True, cwd=folder, **as_user)
        # Its own log keeps what it says; a pipe would be held open by it.
        start = [*control, "-o", options, "start"]
        subprocess.run(start, check=True, stdout=subprocess.DEVNULL, cwd=folder, **as_user)
        yield folder
        stop = [*control, "-m", "immediate", "stop"]
        subprocess.run(stop, check=True, stdout=subprocess.DEVNULL, cwd=folder, **as_user)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: Path) -> str:
    """Of an empty database."""
    name = f"t{uuid.uuid4().hex}"
    url = f"postgresql+psycopg://tierserve@/{{}}?host={postgres_server}"
    server = sa.create_engine(url.format("postgres"), isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    server.dispose()
    return url.format(name).replace("+psycopg", "")


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of either kind."""
    if request.param == "sqlite":
        return str(tmp_path / "keys.sqlite")
    return request.getfixturevalue("postgres_url")


@pytest.fixture
def services(database_url: str) -> Iterator[Callable[..., Service]]:
    """Makes a service on the test's database, and closes it."""
    made: list[Service] = []

    def make(*keys: AccessKey, offline_leases: bool = False) -> Service:
        made.append(Service(database_url, *keys, offline_leases=offline_leases))
        return made[-1]

    yield make
    for service in made:
        service.database.close()


def _server_user() -> pwd.struct_passwd | None:
    """PostgreSQL refuses to run as root."""
    return pwd.getpwnam("postgres") if os.geteuid() == 0 else None
