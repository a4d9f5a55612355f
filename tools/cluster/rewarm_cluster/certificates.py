"""Keys and certificates of a cluster, by openssl. A folder holds `<name>.crt` and `<name>.key`."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from .errors import ClusterError

DAYS = "365"


class Authority:
    """A certificate authority and what it signed, in one folder. Whatever is there already is kept."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.folder, self.name = folder, name
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self.certificate.exists():
            extensions = ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign,digitalSignature"]
            self._make(name, f"/CN=rewarm-cluster {name}", extensions, signer=None)

    @property
    def certificate(self) -> Path:
        return self.folder / f"{self.name}.crt"

    @property
    def key(self) -> Path:
        return self.folder / f"{self.name}.key"

    def client(self, name: str, user: str, groups: Sequence[str] = ()) -> tuple[Path, Path]:
        """(certificate, key) of a client: Kubernetes reads the user from CN and the groups from O."""
        subject = "".join(f"/O={_escaped(group)}" for group in groups) + f"/CN={_escaped(user)}"
        return self._signed(name, subject, ["extendedKeyUsage=clientAuth"])

    def server(self, name: str, user: str, hosts: Sequence[str], groups: Sequence[str] = ()) -> tuple[Path, Path]:
        """(certificate, key) of a server that is reached by these names and addresses."""
        names = ",".join(f"{'IP' if _is_address(host) else 'DNS'}:{host}" for host in hosts)
        subject = "".join(f"/O={_escaped(group)}" for group in groups) + f"/CN={_escaped(user)}"
        return self._signed(name, subject, [f"subjectAltName={names}", "extendedKeyUsage=serverAuth,clientAuth"])

    def _signed(self, name: str, subject: str, extensions: list[str]) -> tuple[Path, Path]:
        certificate, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        if not certificate.exists():
            usage = ["basicConstraints=critical,CA:FALSE", "keyUsage=critical,digitalSignature,keyEncipherment"]
            self._make(name, subject, usage + extensions, signer=self)
        return certificate, key

    def _make(self, name: str, subject: str, extensions: list[str], signer: Authority | None) -> None:
        # A configuration of our own: the machine's openssl.cnf would add extensions of its own.
        configuration = self.folder / f"{name}.cnf"
        lines = ["[req]", "distinguished_name = subject", "x509_extensions = extensions", "[subject]", "[extensions]"]
        configuration.write_text("\n".join(lines + extensions) + "\n")
        certificate, unfinished = self.folder / f"{name}.crt", self.folder / f"{name}.crt.new"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        command += ["-sha256", "-days", DAYS, "-config", str(configuration), "-subj", subject]
        command += ["-keyout", str(self.folder / f"{name}.key"), "-out", str(unfinished)]
        if signer is not None:
            command += ["-CA", str(signer.certificate), "-CAkey", str(signer.key)]
        _openssl(command)
        unfinished.rename(certificate)


def token_key(path: Path) -> Path:
    """The RSA key that signs service account tokens."""
    if not path.exists():
        unfinished = path.with_suffix(".new")
        _openssl(["openssl", "genrsa", "-out", str(unfinished), "2048"])
        unfinished.rename(path)
    return path


def _openssl(command: list[str]) -> None:
    try:
        result = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        raise ClusterError("openssl is not installed: install the package openssl") from None
    if result.returncode:
        raise ClusterError(f"openssl failed: {result.stderr.strip()[-400:]}")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("/", "\\/")


def _is_address(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdigit()
