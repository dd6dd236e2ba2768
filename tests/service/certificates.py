"""Certificates for tests of TLS: an authority, a server and a client, made by the `openssl` command."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

_PROGRAMS = ("redis-server", "valkey-server")


@dataclass(frozen=True)
class Certificates:
    """Paths without their endings: `.crt` is the certificate, `.key` its key."""

    authority: Path
    server: Path
    client: Path

    @property
    def options(self) -> dict[str, str]:
        """What a client of redis-py needs to be let in."""
        return {
            "ssl_ca_certs": f"{self.authority}.crt",
            "ssl_certfile": f"{self.client}.crt",
            "ssl_keyfile": f"{self.client}.key",
        }


def tls_program() -> str:
    """Return a server on PATH that speaks TLS; skips the test where there is none."""
    for name in _PROGRAMS:
        program = shutil.which(name)
        if program is not None and _speaks_tls(program):
            return program
    return pytest.skip("no redis-server with TLS on PATH: apt-get install redis-server openssl")


def make_certificates(folder: Path) -> Certificates:
    """Make an authority, and a server for 127.0.0.1 and a client that it vouches for."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on PATH: apt-get install redis-server openssl")
    folder.mkdir(parents=True, exist_ok=True)
    made = Certificates(folder / "authority", folder / "server", folder / "client")
    _openssl(*_REQUEST, "-x509", "-days", "2", "-subj", "/CN=authority", *_out(made.authority, "crt"))
    for name in (made.server, made.client):
        (folder / "extensions").write_text("subjectAltName=IP:127.0.0.1\n")
        _openssl(*_REQUEST, "-subj", f"/CN={name.name}", *_out(name, "csr"))
        sign = ["x509", "-req", "-days", "2", "-in", f"{name}.csr", "-extfile", str(folder / "extensions")]
        by = ["-CA", f"{made.authority}.crt", "-CAkey", f"{made.authority}.key", "-CAcreateserial"]
        _openssl(*sign, *by, "-out", f"{name}.crt")
    return made


_REQUEST = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def _out(name: Path, kind: str) -> list[str]:
    return ["-keyout", f"{name}.key", "-out", f"{name}.{kind}"]


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def _speaks_tls(program: str) -> bool:
    """Whether it was built with TLS: then it ends by asking for a certificate."""
    arguments = [program, "--port", "0", "--tls-port", "1", "--save", ""]
    tried = subprocess.run(arguments, capture_output=True, text=True, timeout=30, check=False)
    return "tls-cert-file" in tried.stdout
