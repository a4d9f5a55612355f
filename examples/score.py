"""A corpus with a score for quality.yaml: `python examples/score.py > examples/scored.jsonl`.

Each document is a source file of this repository; its score is the share of its lines that are not empty.
"""

import json
import sys
from pathlib import Path

for path in sorted((Path(__file__).resolve().parents[1] / "trainer" / "rewarm_trainer").glob("*.py")):
    lines = path.read_text().splitlines()
    score = sum(bool(line.strip()) for line in lines) / max(1, len(lines))
    sys.stdout.write(json.dumps({"text": "\n".join(lines), "score": score}) + "\n")
