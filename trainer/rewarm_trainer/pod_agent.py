"""torchrun, with one thing more: what it knows of workers that left no word (killed by a signal) is written down.

python -m rewarm_trainer.pod_agent NOTES <arguments of torchrun>
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from rewarm_trainer.endings import Ending, of_status, write_ending
from rewarm_trainer.signals import die_with


def main(arguments: list[str]) -> int:
    """Runs torchrun to its end; 0 when all workers of this node ended with 0."""
    die_with(int(os.environ["REWARM_LAUNCHER_PID"]))
    os.environ["REWARM_AGENT_PID"] = str(os.getpid())
    # Only now the seconds that this import takes: a wrapper that dies meanwhile leaves nobody behind.
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    notes = Path(arguments[0])
    # Its own account of a failed worker is a page that says less than the worker itself did.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        run(parse_args(arguments[1:]))
    except ChildFailedError as error:
        for rank, failure in error.failures.items():
            if failure.exitcode < 0:
                write_ending(notes, of_status(failure.exitcode, f"rank-{rank}"))
        return 1
    except DistError as error:
        # Nothing was trained yet: workers meet through the agents' store, and somebody did not come.
        text = str(error).strip().splitlines()[0][:300]
        message = f"the nodes of this attempt did not all meet ({text}); they start again together"
        write_ending(notes, Ending("agent", 75, message, victim=True))
        return 1
    except SignalException:
        return 1
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
