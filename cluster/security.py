"""Who may talk to a scheduler: those who hold the credentials of this one cluster, which live as long as it does.

A scheduler without them runs whatever code anyone sends who reaches its port, and other users of this machine reach
every port of it. So everything is TLS in both directions, here as elsewhere, and a plain scheduler has to be asked for.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import psutil
from distributed.security import Security

from cluster.profile import SchedulerProfile
from pipeline.errors import InputError, StorageError

PREFIX = "credentials-"


@contextlib.contextmanager
def temporary_credentials(folder: Path) -> Iterator[Security]:
    """Fresh credentials in FOLDER/credentials-…, mode 0700, files 0600; removed at the end.

    Security.temporary makes them; as files, so that no job script, command line or environment holds the key itself.
    Raises StorageError where the folder cannot be made, or where its file system does not keep others out.
    """
    made: Any = Security.temporary()
    parts = {"ca": made.tls_ca_file, "certificate": made.tls_client_cert, "key": made.tls_client_key}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep_credentials(folder)
        own = Path(tempfile.mkdtemp(prefix=PREFIX, dir=folder))
    except OSError as error:
        raise StorageError(
            f"The credentials of the workers cannot be written in {folder}: {error.strerror}; make room or mend the"
            " permissions there, or name another shared_folder in the profile."
        ) from error
    try:
        mode = stat.S_IMODE(own.stat().st_mode)
        if mode != stat.S_IRWXU:
            raise StorageError(
                f"The file system of {folder} does not keep credentials from other users (a folder made for its owner"
                f" alone has the mode {mode:o}); name a shared_folder on another one in the profile."
            )
        for name, text in parts.items():
            with open(own / f"{name}.pem", "x", encoding="ascii", opener=_for_owner) as file:
                file.write(str(text))
        yield security_of(own / "ca.pem", own / "certificate.pem", own / "key.pem")
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _for_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def security_of(ca_file: Path, certificate: Path, key: Path) -> Security:
    """Credentials in files; one pair for every role."""
    roles = {f"tls_{role}_{part}" for role in ("client", "scheduler", "worker") for part in ("cert", "key")}
    pair = {name: str(certificate if name.endswith("cert") else key) for name in roles}
    return Security(require_encryption=True, tls_ca_file=str(ca_file), **pair)


def sweep_credentials(folder: Path) -> None:
    """Remove those of a driver that was killed; its scheduler went with it."""
    for left in folder.glob(f"{PREFIX}*"):
        shutil.rmtree(left, ignore_errors=True)


def folder_of(credentials: Security) -> Path:
    """The folder of credentials in files, which is its owner's alone."""
    made: Any = credentials
    return Path(made.tls_ca_file).parent


def security_for(profile: SchedulerProfile) -> Security | None:
    """How to log in to a running scheduler; None for a plain one that may be taken.

    Raises InputError where credentials are missing, or where the scheduler is plain and nobody said that this is meant.
    """
    files = (profile.ca_file, profile.certificate, profile.key)
    if not profile.address.startswith("tls://"):
        if not profile.unencrypted and names_a_host(profile.address):
            who = "every user of this machine" if is_here(profile.address) else "anyone on the way to it"
            raise InputError(
                f"The scheduler {profile.address} is not encrypted, so {who} can read everything and run code as you;"
                " use a tls:// address, or say --unencrypted (unencrypted = true in a profile) if this is meant."
            )
        return None
    if not any(files):
        configured: Any = Security(require_encryption=True)
        if configured.tls_ca_file and configured.tls_client_cert:
            return cast(Security, configured)
        raise InputError(
            f"{profile.address} asks for credentials; name ca_file, certificate and key in a profile of kind"
            ' "scheduler".'
        )
    for name, file in zip(("ca_file", "certificate", "key"), files, strict=True):
        if file is None or not os.access(file, os.R_OK):
            raise InputError(f"{name} of the scheduler {profile.address} cannot be read ({file}); check the profile.")
    assert profile.ca_file is not None
    assert profile.certificate is not None
    assert profile.key is not None
    return security_of(profile.ca_file, profile.certificate, profile.key)


def names_a_host(address: str) -> bool:
    """Whether an address names a host by a protocol of plain connections; nothing answers at any other."""
    parts = urlsplit(address if "://" in address else f"tcp://{address}")
    return bool(parts.hostname) and parts.scheme in ("tcp", "ws", "ucx")


def is_here(address: str) -> bool:
    """Whether an address reaches nothing but this machine itself."""
    host = urlsplit(address if "://" in address else f"tcp://{address}").hostname or ""
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return bool(found) and all(ipaddress.ip_address(str(ip).split("%")[0]).is_loopback for ip in found)


def address_of(interface: str | None) -> str:
    """The IP address of this machine at which jobs on other nodes reach it: of an interface, or of the default route.

    Raises InputError where the interface is not there.
    """
    if interface is None:
        from distributed.utils import get_ip

        return str(get_ip())
    found = psutil.net_if_addrs()
    for each in found.get(interface, ()):
        if each.family == socket.AF_INET:
            return str(each.address)
    usable = sorted(name for name, each in found.items() if any(a.family == socket.AF_INET for a in each))
    raise InputError(
        f"This machine has no network interface {interface!r} with an IPv4 address; it has {', '.join(usable)}:"
        " change interface in the profile."
    )
