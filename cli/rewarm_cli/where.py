"""Which cluster a word means, and the end of a word by Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from rewarm_cli.client import Kubernetes, RewarmClient
from rewarm_cli.records import Run

_INTERRUPTED = 130
_LAST_RESORT_SECONDS = 2.0


class Where(NamedTuple):
    """Which cluster and namespace, by the options of every word."""

    namespace: str
    context: str | None
    kubeconfig: str | None

    def kubernetes(self) -> Kubernetes:
        return Kubernetes(namespace=self.namespace, context=self.context, kubeconfig=self.kubeconfig)

    def client(self) -> RewarmClient:
        signal.signal(signal.SIGINT, _interrupted)
        return RewarmClient(self.kubernetes())

    def command(self, word: str, run: Run) -> str:
        """The next command, to be copied from the screen."""
        return f"{self.root()} {word.format(run.name)}{self.options(run.namespace)}"

    @staticmethod
    def root() -> str:
        return "kubectl rewarm" if Path(sys.argv[0]).name.startswith("kubectl-rewarm") else "rewarm"

    def options(self, namespace: str) -> str:
        """Those that lead to the same cluster again."""
        options = f" -n {namespace}" if self.namespace else ""
        options += f" --context {self.context}" if self.context else ""
        return options + (f" --kubeconfig {self.kubeconfig}" if self.kubeconfig else "")


def _interrupted(number: int, frame: FrameType | None) -> None:
    """Ctrl-C. An exception that falls into a destructor or a callback is lost there: then a timer ends the process."""
    last_resort = threading.Timer(_LAST_RESORT_SECONDS, os._exit, (_INTERRUPTED,))
    last_resort.daemon = True
    last_resort.start()
    raise KeyboardInterrupt
