"""The command line: build the programs, start and stop the cluster of one node, build and import the images."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from . import binaries, packages
from .errors import ClusterError
from .example import start as start_example
from .images import TARGETS, Builder
from .node import STATE, Cluster
from .suite import Suite


def say(line: str) -> None:
    print(line, flush=True)


def tools(arguments: argparse.Namespace) -> None:
    """Build (or find) the programs of a set."""
    wanted = arguments.sets or ["e2e"]
    if unknown := sorted(set(wanted) - set(binaries.SETS)):
        raise ClusterError(f"{', '.join(unknown)}: no such set of programs, expected {' | '.join(binaries.SETS)}")
    binaries.build(dict.fromkeys(name for part in wanted for name in binaries.SETS[part]), say)
    if "e2e" in wanted:
        packages.ensure(packages.E2E, say)
    say(f"cluster-tools: all there, in {binaries.tools_folder()}/bin")


def up(arguments: argparse.Namespace) -> None:
    """Start the cluster; nothing is changed when it runs already."""
    cluster = Cluster(state=arguments.state, say=say)
    if cluster.running():
        say(f"cluster-up: it runs already; export KUBECONFIG={cluster.kubeconfig}")
        return
    binaries.build(binaries.NODE, say)
    packages.ensure(packages.NODE, say)
    started = time.monotonic()
    try:
        cluster.start()
    except BaseException:
        say("cluster-up: it failed; taking down what was started")
        cluster.stop(keep_logs=True)
        raise
    say(f"cluster-up: one node, ready after {time.monotonic() - started:.1f} s. Next:")
    say(f"  export KUBECONFIG={cluster.kubeconfig} PATH={binaries.find('kubectl').parent}:$PATH")
    say("  make cluster-images     # both images of this tree, into the cluster")
    say("  make cluster-example    # S3 with real text, the chart, and a run on two nodes")
    say("  make cluster-down       # leaves nothing behind")


def down(arguments: argparse.Namespace) -> None:
    """Take the cluster down, also one that was only half started."""
    if not arguments.state.exists():
        say("cluster-down: there is no cluster")
        return
    started = time.monotonic()
    Cluster(state=arguments.state, say=say).stop(keep_images=arguments.keep_images)
    say(f"cluster-down: nothing left, after {time.monotonic() - started:.1f} s")


def images(arguments: argparse.Namespace) -> None:
    """Build both images of this tree and import them into the cluster."""
    cluster = Cluster(state=arguments.state, say=say)
    if not cluster.running():
        raise ClusterError("there is no cluster to import the images into: make cluster-up")
    packages.ensure(packages.IMAGES, say)
    builder = Builder(say)
    builder.build(arguments.targets or TARGETS)
    builder.give(cluster, arguments.targets or TARGETS)


def example(arguments: argparse.Namespace) -> None:
    """S3 with real text, the chart and a run on two nodes, on the cluster."""
    cluster = Cluster(state=arguments.state, say=say)
    if not cluster.running():
        raise ClusterError("there is no cluster to run the example on: make cluster-up")
    binaries.build(("versitygw", "helm"), say)
    cluster.attach()
    start_example(cluster, say)


def main() -> int:
    parser = argparse.ArgumentParser(prog="rewarm_cluster", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("tools", help="build the programs that are missing")
    command.add_argument("sets", nargs="*", metavar="SET", help=f"{' | '.join(binaries.SETS)} (default: e2e)")
    command.set_defaults(run=tools)

    command = commands.add_parser("test", help="integration and end-to-end tests, with all their set-up")
    command.add_argument("--minutes", type=float, help="leave out, and say so, what would not end in this time")
    command.set_defaults(run=lambda arguments: Suite(say, arguments.minutes).run())

    for name, run in (("images", images), ("example", example), ("up", up), ("down", down)):
        command = commands.add_parser(name, help=(run.__doc__ or "").rstrip("."))
        command.add_argument("--state", type=Path, default=STATE, help="its folder (default: %(default)s)")
        command.set_defaults(run=run)
        if run is images:
            command.add_argument("targets", nargs="*", metavar="operator|trainer")
    command.add_argument("--keep-images", action="store_true", help="keep what was imported, for the next start")

    arguments = parser.parse_args()
    try:
        return arguments.run(arguments) or 0
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
