"""How a cluster's refusals read: one line each that names the object, what was found, what was expected, what to do.

Pure: reads an answer's status and body. Exit codes: 64 refused for what was asked or who asked, 66 not there,
75 the API server is away or busy.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rewarm_api.errors import DependencyError, ManifestError, MissingInputError, Problem, RewarmError
from rewarm_api.messages import found_text

if TYPE_CHECKING:
    from rewarm_cli.cluster import Resource

INSTALL = "helm install rewarm charts/rewarm -n rewarm --create-namespace"
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_UNKNOWN = re.compile(r'(?:unknown|duplicate) field "([^"]+)"')
_NOT_CHECKED = "some validation rules were not checked"
_MISSING = re.compile(r'(?P<plural>[a-z.]+) "(?P<name>[^"]+)" not found')


class Asked(NamedTuple):
    """What a request wanted."""

    method: str
    resource: Resource
    namespace: str | None
    name: str
    subresource: str
    address: str
    body: Mapping[str, Any] | None = None

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


class DeniedError(ManifestError):
    """This user may not do that (64)."""


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
        return DeniedError(
            Problem("credentials", f"Unauthorized at {asked.address}", "a user it knows", "log in again")
        )
    if status == 403:
        return DeniedError(_forbidden(message, asked))
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
    # With an error of the schema the server adds that its rules were not checked: no news for people.
    told = [cause for cause in causes if _NOT_CHECKED not in str(cause.get("message"))]
    for cause in told or causes:
        yield _cause(cause, asked.body)
    if not unknown and not causes:
        yield Problem(_named(asked), message, "what the API server accepts", "mend it")


def _cause(cause: dict[str, Any], body: Mapping[str, Any] | None) -> Problem:
    message = " ".join(str(cause.get("message") or "").split())
    field = str(cause.get("field") or "").removeprefix("<nil>")
    immutable = re.match(r"(?:Forbidden: )?\S+ (?:is immutable|may change only)", message)
    if cause.get("reason") == "FieldValueForbidden" or immutable:
        what, _, fix = message.removeprefix("Forbidden: ").partition("; ")
        expected = "the value that the run was started with"
        if "suspended" in what:
            expected = "a change while the run is suspended, or none"
        return Problem(field, f"a change ({what})", expected, _immutable_fix(fix, what))
    if message.startswith("Required value"):
        return Problem(field, "nothing", message.partition(": ")[2] or "a value", f"add {field.rpartition('.')[2]}")
    options = re.match(r"Unsupported value: (.*?): supported values: (.*)", message)
    if options:
        return Problem(field, options[1].strip('"'), "one of " + options[2].replace('"', ""), "use one of these")
    if message.startswith("Duplicate value"):
        return Problem(field, message.partition(": ")[2], "each name once", "rename or remove it")
    found, words = _value_and_words(re.sub(r"^(Invalid value|Too \w+): ", "", message))
    path = re.match(r"(metadata\.\w+) must be", words)
    if path and not field:
        # A rule of the root, where the API server names no field.
        field = path[1]
    expected, _, fix = words.partition("; ")
    found = _standing(body, field) or found or "what stands there"
    if " are longer than the plan" in expected:
        found, expected = expected, "segments within the plan"
    expected = re.sub(r"^([\w.]+ )?must be (?=an? )", "", expected)
    return Problem(field, found, expected, fix or f"change {field.rpartition('.')[2] or 'it'}")


def _value_and_words(text: str) -> tuple[str, str]:
    """`"64": spec.x in body should be less than 1` -> (64, less than 1); the value may be missing, or only its type."""
    match = re.match(r'("(?:[^"\\]|\\.)*"|[^\s:]+): (.*)', text)
    value, words = (match[1], match[2]) if match else ("", text)
    words = re.sub(r"^\S+ in body ", "", words).removeprefix("expected ")
    words = re.sub(r"^(should|must) (be|have) (?=greater|less|at least|at most|of type)", "", words)
    words = re.sub(r'(of type \w+): "\w+"$', r"a value \1", words)
    return "" if value.strip('"') in ("object", "array", "string", "null") else value.strip('"'), words


def _standing(body: Mapping[str, Any] | None, field: str) -> str:
    """What the request has at that field; empty when it has nothing there."""
    place: Any = body
    for step in re.findall(r"[^.\[\]]+", field):
        if isinstance(place, list) and step.isdigit() and int(step) < len(place):
            place = place[int(step)]
        elif isinstance(place, dict) and step in place:
            place = place[step]
        else:
            return ""
    return found_text(place) if field else ""


def _immutable_fix(fix: str, what: str) -> str:
    if "suspended" in what:
        return "run `rewarm suspend` first"
    return "submit it under another name (--name)" if "new run" in fix or not fix else fix
