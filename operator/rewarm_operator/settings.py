"""What an administrator sets once for the operator. Pure values; `main.py` reads them from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rewarm_api.errors import ManifestError, Problem


@dataclass(frozen=True)
class Settings:
    """Each field is set by the environment variable `REWARM_` + its name in capitals (the chart writes them)."""

    trainer_image: str = ""
    """Image of prepare and attempt pods where `compute.image` is empty. Required."""
    image_pull_policy: str = "IfNotPresent"
    namespaces: tuple[str, ...] = ()
    """Namespaces to watch; empty: all (cluster-wide mode)."""
    operator_namespace: str = "default"
    """Where the Lease is held."""
    identity: str = ""
    """Holder name in the Lease: the pod's name."""
    lease_name: str = "rewarm-operator"
    lease_seconds: int = 15
    default_checkpoints_uri: str = ""
    default_cache_uri: str = ""
    default_tracking_uri: str = ""
    default_credentials: tuple[str, ...] = ()
    """Secrets, in each run's namespace, given to every pod beside the run's own `credentials`."""
    progress_url: str = ""
    """`https://SERVICE.NAMESPACE.svc:8443`; empty: no progress reporting, and no hang by missing heartbeats."""
    progress_ca: str = ""
    """PEM text of the authority that signed the progress server's certificate; pods get it by annotation."""
    prepare_cpu: str = "2"
    prepare_memory: str = "8Gi"
    service_account: str = ""
    """Of trainer pods where podTemplate names none; empty: the namespace's default (its token is never mounted)."""
    scratch_size_limit: str = ""
    """sizeLimit of the work emptyDir; empty: none."""
    heartbeat_timeout_seconds: int = 300
    stuck_margin_seconds: int = 60
    """A pod still there this long after its grace period has ended, is on a lost node."""
    status_interval_seconds: int = 10
    """A run's status is patched at most once in this time (transitions that gate a write apart)."""
    resync_seconds: int = 300
    environment: Mapping[str, str] = field(default_factory=dict)
    """Further environment of every trainer pod (administrator's)."""


def problem(name: str, found: str, expected: str, fix: str) -> ManifestError:
    """A wrong setting, in the words of every other wrong input."""
    return ManifestError(Problem(f"REWARM_{name.upper()}", found, expected, fix))
