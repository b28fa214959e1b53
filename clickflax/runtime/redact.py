"""URLs without secrets, for everything that is stored, printed or sent to a service."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
CHAIN = re.compile(r"::(?=[A-Za-z][A-Za-z0-9+.-]*://)")  # simplecache::s3://...
# Azure has the container, which is no secret, where others have the user: abfs://container@account.
CONTAINER = ("abfs", "abfss", "wasb", "wasbs")


def without_secrets(text: str) -> str:
    """Returns a URL without user, password, query and fragment, any of which may be a secret.

    The URL may follow other text (`--engine=URL`) and be chained (`simplecache::s3://k:s@b/x`); a
    text without a URL stays as it is. If a password has an unescaped `@` or `/`, more is left out
    rather than less.
    """
    if "://" not in text:
        return text
    return "::".join(URL.sub(_strip, part) for part in CHAIN.split(text))


def _strip(match: re.Match[str]) -> str:
    """The URL of a match without its secrets."""
    scheme, rest = match.groups()
    try:
        authority = urlsplit(f"{scheme}://{rest}").netloc
    except ValueError:  # such as a host in half a pair of brackets
        return f"{scheme}://..."
    if "@" in authority:
        rest = re.split(r"[?#]", rest, maxsplit=1)[0]
        # Without a password, an @ further on is one of the path.
        end = rest.rindex("@") if ":" in authority.split("@")[0] else authority.rindex("@")
        container = scheme.lower() in CONTAINER and ":" not in authority
        rest = rest if container else rest[end + 1 :]
    elif ":" in authority and "@" in rest:  # a password with a / or another end of an authority
        rest = rest[rest.rindex("@") + 1 :]
    return f"{scheme}://" + re.split(r"[?#]", rest, maxsplit=1)[0]


def redact(value: Any) -> Any:
    """Returns a JSON value with all of its URLs without secrets."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, Mapping):
        return {name: redact(item) for name, item in value.items()}
    return type(value)(map(redact, value)) if type(value) in (list, tuple) else value
