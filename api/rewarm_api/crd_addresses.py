"""CEL rules of addresses, wherever they stand: what a cluster reaches, and what safety_rules.py refuses in them."""

from __future__ import annotations

from rewarm_api.cel import address, rule
from rewarm_api.redaction import USERINFO
from rewarm_api.safety_rules import CLAIM_ESCAPE, TRACKING

TEXT_ADDRESS = address("^(s3|file|hf|claim)://.+", "s3:// | file:// | hf:// | claim://NAME/path")
FOLDER_ADDRESS = address("^(s3|claim)://.+", "s3:// | claim://NAME/path")
NO_USER = rule(
    f"!self.matches('{USERINFO}')".replace("\\", "\\\\"),
    "an address without user and password; give them by a Secret that spec.credentials names",
)
INSIDE = rule(f"!self.matches('{CLAIM_ESCAPE}')", "a path inside the claim, without .. and without a second slash")
INSIDE_FOLDER = rule(
    f"!('claim://c/' + self).matches('{CLAIM_ESCAPE}')", "a folder inside the claim, without .. and first slash"
)
SERVER = rule(
    f"self.matches('{TRACKING}')".replace("\\", "\\\\"), "http:// or https:// and the host of an MLflow server"
)
