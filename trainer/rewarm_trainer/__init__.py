"""From a snapshot to a trained, evaluated and registered model.

Importing this package imports nothing heavy: planning and preparation run without torch.
"""

import os

# OpenMP's threads spin at every barrier, for milliseconds. Where anything else wants a core (another run, the tracking
# thread, a laptop's browser) training on a CPU then gets several times slower. A few dozen microseconds gain a part of
# what milliseconds do, and cost little beside others. Read when torch loads its OpenMP, so it has to stand before that;
# benchmarks/speed/threads.py measures it.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
