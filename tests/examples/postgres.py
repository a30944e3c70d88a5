"""A real PostgreSQL for tests: Debian's, in a folder of the test's own, on a socket only its user can reach."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path


def find(program: str) -> str:
    """A program of the newest PostgreSQL installed; Debian keeps them out of the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"), key=lambda path: int(path.parts[4]))
    where = str(found[-1]) if found else shutil.which(program)
    if not where:
        raise RuntimeError(f"{program} is not installed; `make test` installs it: apt install postgresql")
    return where


@contextlib.contextmanager
def running() -> Iterator[str]:
    """Start one and give its URL; it is gone afterwards. It refuses to run as root, so root lends it a user."""
    as_user: list[str] = []
    folder = Path(tempfile.mkdtemp(prefix="gatewayd-pg-"))
    user = pwd.getpwuid(os.geteuid()).pw_name
    if os.geteuid() == 0:
        user = "postgres"
        account = pwd.getpwnam(user)
        os.chown(folder, account.pw_uid, account.pw_gid)
        as_user = ["setpriv", "--reuid", user, "--regid", user, "--init-groups"]
    try:
        data = folder / "data"

        def run(*command: str) -> None:
            subprocess.run([*as_user, *command], stdout=subprocess.DEVNULL, check=True, cwd=folder)

        run(find("initdb"), "-D", str(data), "-U", "gw", "--auth", "trust", "--no-sync")
        ctl = (find("pg_ctl"), "-D", str(data), "-w", "-l", str(folder / "log"))
        run(*ctl, "-o", f"-k {folder} -c listen_addresses='' -c fsync=off", "start")
        try:
            yield f"postgresql://gw@/postgres?host={folder}"
        finally:
            run(*ctl, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
