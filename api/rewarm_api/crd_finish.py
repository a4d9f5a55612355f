"""CEL rules of `spec.finish`; by place in the schema."""

from __future__ import annotations

from rewarm_api.cel import CelRule, address, exactly_one, local_only, rule


def finish_rules() -> dict[str, list[CelRule]]:
    """A model is one source, a run has one name; both as in spec.baseModel."""
    models = ("huggingFace", "s3", "volume", "file", "mlflow", "run")
    residual = "spec.finish[].instructResidual"
    rules = {
        "spec.finish": [
            rule(
                "self.filter(s, has(s.average)).size() == (size(self) > 0 && has(self[0].average) ? 1 : 0)",
                "average only as the first step: it is made of checkpoints; move it to the front",
            )
        ],
        "spec.finish[]": [exactly_one("average", "soup", "interpolate", "instructResidual")],
        "spec.finish[].average": [
            rule(
                "!has(self.alpha) || (has(self.kind) && self.kind != 'SMA')",
                "alpha only with EMA and GeometricEMA; remove alpha, or choose EMA",
                fieldPath=".alpha",
            )
        ],
        "spec.finish[].soup.runs[]": named_run(),
    }
    for part in ("instruct", "base"):
        rules |= {
            f"{residual}.{part}": [exactly_one(*models), local_only("file", "huggingFace, s3, volume, mlflow or run")],
            f"{residual}.{part}.s3.uri": [address("^s3://[^/]+", "s3://BUCKET/prefix/")],
            f"{residual}.{part}.mlflow": [exactly_one("alias", "version")],
            f"{residual}.{part}.run": named_run(),
        }
    return rules


def named_run() -> list[CelRule]:
    return [local_only("path", "name"), rule("has(self.name) || has(self.path)", "exactly one of name | path")]


FINISH_RULES = finish_rules()
