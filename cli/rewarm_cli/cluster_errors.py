"""How a cluster's refusals read: one line each that names the object, what was found, what was expected, what to do.

Pure: reads an answer's status and body. Exit codes: 64 refused for what was asked or who asked, 66 not there,
75 the API server is away or busy.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rewarm_api.errors import DependencyError, ManifestError, MissingInputError, Problem, RewarmError

if TYPE_CHECKING:
    from rewarm_cli.cluster import Resource

INSTALL = "helm install rewarm charts/rewarm -n rewarm --create-namespace"
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_UNKNOWN = re.compile(r'(?:unknown|duplicate) field "([^"]+)"')
_INVALID = re.compile(r"^(?:Invalid value|Unsupported value|Too long|Too many|Too few|Duplicate value)\b")
_MISSING = re.compile(r'(?P<plural>[a-z.]+) "(?P<name>[^"]+)" not found')


class Asked(NamedTuple):
    """What a request wanted."""

    method: str
    resource: Resource
    namespace: str | None
    name: str
    subresource: str
    address: str

    @property
    def verb(self) -> str:
        """As RBAC calls it."""
        return _VERBS.get(self.method) or ("get" if self.name else "list")

    @property
    def where(self) -> str:
        return "in all namespaces" if self.namespace is None else f"in namespace {self.namespace}"

    @property
    def what(self) -> str:
        return self.resource.qualified + (f"/{self.subresource}" if self.subresource else "")


class ConflictError(ManifestError):
    """The object was changed by somebody else since it was read, or exists already; read it again (64)."""


class ExpiredError(DependencyError):
    """The API server has forgotten that resource version: list again (75)."""


class GoneError(MissingInputError):
    """This one object does not exist; `name` is the one that was asked for (66)."""

    def __init__(self, message: str, name: str) -> None:
        super().__init__(message)
        self.name = name


def refused(status: int, body: bytes, asked: Asked) -> RewarmError:
    """The error of an answer with this HTTP status."""
    answer = _status(body)
    message = " ".join(str(answer.get("message") or body.decode(errors="replace")).split())[:1000]
    if status == 401:
        return ManifestError(
            Problem("credentials", f"Unauthorized at {asked.address}", "a user it knows", "log in again")
        )
    if status == 403:
        return ManifestError(_forbidden(message, asked))
    if status == 404:
        return _not_found(answer, message, asked)
    if status == 409:
        return ConflictError(
            Problem(_named(asked), "a change by somebody else in between", "the newest version", "do it again")
        )
    if status == 410:
        return ExpiredError(f"{asked.what}: {message}")
    if status in (400, 422):
        return ManifestError(list(_problems(answer, message, asked)))
    if status == 429 or status >= 500:
        return DependencyError(f"{asked.address}: answered {status} ({message}); try again in a moment")
    return ManifestError(Problem(_named(asked), f"answer {status} ({message})", "a request it grants", "mend it"))


def unreachable(address: str, error: Exception) -> RewarmError:
    """The error of a server that gave no answer."""
    text = f"{type(error).__name__}: {error}"
    if "CERTIFICATE" in text or "certificate" in text:
        return ManifestError(
            Problem(
                "kubeconfig",
                f"a certificate of {address} that its authority did not sign",
                "the cluster's own certificate-authority",
                "fetch the kubeconfig again",
            )
        )
    if "refused" in text:
        why = "connection refused"
    elif "Timeout" in text or "timed out" in text:
        why = "no answer in time"
    elif "resolve" in text or "Name or service" in text or "getaddrinfo" in text:
        why = "no such host name"
    else:
        why = " ".join(str(error).split())[:300]
    return DependencyError(f"{address}: {why}; is the cluster up, and is it the context you mean?")


def meant(name: str, known: Sequence[str]) -> str:
    """`did you mean X?`, or nothing when nothing is near."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else ""


def _named(asked: Asked) -> str:
    return f"{asked.resource.qualified} {asked.name}".rstrip()


def _status(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _forbidden(message: str, asked: Asked) -> Problem:
    if "cannot" not in message:
        # An admission plugin or webhook: a quota, a policy.
        found = message.partition("is forbidden: ")[2] or message
        return Problem(_named(asked), found, "what the cluster's policies admit", "mend it or ask the administrator")
    user = re.match(r'.*?User "([^"]+)"', message)
    who = user.group(1) if user else "this user"
    return Problem(
        _named(asked),
        f"{who}, who may not {asked.verb} {asked.what} {asked.where}",
        f"a Role with the verb {asked.verb} on {asked.what}",
        "ask whoever administers the cluster",
    )


def _not_found(answer: dict[str, Any], message: str, asked: Asked) -> RewarmError:
    details = answer.get("details") or {}
    if details.get("kind") == "namespaces":
        return MissingInputError(
            f"namespace {details.get('name')}: not on {asked.address}; make it (kubectl create namespace "
            f"{details.get('name')}) or name another with -n"
        )
    if details.get("name") or _MISSING.search(message):
        return GoneError(f"{_named(asked)}: not found {asked.where}; see `rewarm list -A`", asked.name)
    return MissingInputError(
        f"{asked.resource.qualified}: the API server {asked.address} does not know this kind; "
        f"install Rewarm ({INSTALL}) or choose another --context"
    )


def _problems(answer: dict[str, Any], message: str, asked: Asked) -> Iterator[Problem]:
    """Every refusal of the schema, of CEL and of strict field checks."""
    unknown = _UNKNOWN.findall(message)
    for field in dict.fromkeys(unknown):
        again = f'duplicate field "{field}"' in message
        found = "the same field twice" if again else f"the unknown field {field.rpartition('.')[2]}"
        yield Problem(field, found, "a field of the installed version of Rewarm", f"correct or remove {field}")
    causes = (answer.get("details") or {}).get("causes") or []
    told = {cause.get("field") for cause in causes if cause.get("reason") != "FieldValueInvalid" or _says(cause)}
    for cause in causes:
        # With a schema error the server adds that its rules were not checked: no news for people.
        if "some validation rules were not checked" in cause.get("message", "") and len(told) > 1:
            continue
        yield _cause(cause)
    if not unknown and not causes:
        yield Problem(_named(asked), message, "what the API server accepts", "mend it")


def _says(cause: dict[str, Any]) -> bool:
    return "some validation rules were not checked" not in str(cause.get("message"))


def _cause(cause: dict[str, Any]) -> Problem:
    field = str(cause.get("field") or "").removeprefix("<nil>")
    message = " ".join(str(cause.get("message") or "").split())
    immutable = re.match(r"(?:Forbidden: )?(\S+ (?:is immutable|may change only)[^;]*); (.*)", message)
    if cause.get("reason") == "FieldValueForbidden" or immutable:
        what, _, fix = message.removeprefix("Forbidden: ").partition("; ")
        expected = "the value that the run was started with"
        if "suspended" in what:
            expected = "a change while the run is suspended, or none"
        return Problem(field, f"a change ({what})", expected, _immutable_fix(fix, what))
    if message.startswith("Required value"):
        return Problem(field, "nothing", message.partition(": ")[2] or "a value", f"add {field.rpartition('.')[2]}")
    if cause.get("reason") == "FieldValueNotSupported" or message.startswith("Unsupported value"):
        value = re.match(r"Unsupported value: (.*?): supported values: (.*)", message)
        if value:
            options = value.group(2).replace('"', "")
            return Problem(field, value.group(1).strip('"'), "one of " + options, "use one of these")
    value = re.match(r"(?:Invalid value|Duplicate value|Too \w+): (.*)", message)
    if not value:
        return Problem(field, message, "what the API server accepts", "mend this field")
    found, expected = _value_and_words(value.group(1))
    return Problem(field, found, expected, f"change {field.rpartition('.')[2] or 'it'}")


def _immutable_fix(fix: str, what: str) -> str:
    if "suspended" in what:
        return "run `rewarm suspend` first"
    return "submit it under another name (--name)" if "new run" in fix or not fix else fix


def _value_and_words(text: str) -> tuple[str, str]:
    """`"64": spec.x must be ...` -> (64, spec.x must be ...); whole objects are not shown."""
    match = re.match(r'("(?:[^"\\]|\\.)*"|\S+?)(?:: (.*))?$', text)
    if not match:
        return text, "what the API server accepts"
    value = match.group(1)
    words = re.sub(r"^in body |^\S+ in body ", "", match.group(2) or "each value once")
    if value in ('"object"', '"array"', "object", "array"):
        value = "what stands there"
    return value.strip('"') or '""', words.removeprefix("expected ")
