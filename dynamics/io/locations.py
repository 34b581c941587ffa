"""Paths of files and folders, on this machine or in an object store.

A checkpoint in an object store is named by a URL such as ``s3://bucket/folder``. ``RemotePath`` has those methods of ``pathlib.Path`` that
the readers of checkpoints use, so that they read both. The stores are those of ``fsspec``, which is imported only for a URL.
"""

from __future__ import annotations

import fnmatch
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

from dynamics.errors import InputError, printable
from dynamics.extras import optional_import

#: scheme of a URL -> the package of Python that reads it, beside fsspec; None if fsspec needs no other
SCHEMES = {
    "s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub", "http": "aiohttp", "https": "aiohttp", "memory": None,
}  # fmt: skip
URL = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
#: a URL with one slash after the colon, or none
CUT_URL = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*):/?(?!/)")
#: details of an object that change with its content, the most exact first
VERSIONS = ("ETag", "etag", "blob_id", "md5Hash", "crc32c", "generation", "LastModified", "Last-Modified", "updated", "mtime", "created")
#: variables of the environment that hold addresses and credentials of stores start with these
SETTINGS = ("AWS_", "FSSPEC_", "GCSFS_", "GOOGLE_", "HF_", "STORAGE_EMULATOR_HOST")
#: times that a part of a file is asked of a web server
TRIES = 4
Result = TypeVar("Result")


@dataclass(frozen=True, order=True)
class RemotePath:
    """A file or folder in an object store. ``str`` of it is the URL without user name, password and query, which may be secret.

    Attributes
    ----------
    url : the whole URL, without a slash at the end.
    details : what a listing of its folder said about it, as ``fsspec`` does: type, size, ...; None if it is not known yet.
    """

    url: str = field(repr=False)
    details: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        """Return the URL without its secrets."""
        return without_secrets(self.url)

    def __truediv__(self, name: str) -> RemotePath:
        """Return the path of an entry of this folder."""
        base, mark, query = self.url.partition("?")
        return RemotePath(f"{base}/{name}{mark}{query}")

    @property
    def name(self) -> str:
        """Last part of the path."""
        return str(self).rstrip("/").rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """End of the name, from its last dot on."""
        stem, dot, end = self.name.rpartition(".")
        return dot + end if stem and end else ""

    @property
    def parent(self) -> RemotePath:
        """The folder."""
        return RemotePath(self.url.partition("?")[0].rpartition("/")[0])

    def is_symlink(self) -> bool:
        """Return False: object stores have no links."""
        return False

    def exists(self) -> bool:
        """Tell whether there is such an object, or a folder of objects."""
        return self._info() is not None

    def is_file(self) -> bool:
        """Tell whether this is an object."""
        info = self._info()
        return info is not None and not _is_folder(info)

    def is_dir(self) -> bool:
        """Tell whether this is a folder of objects."""
        info = self._info()
        return info is not None and _is_folder(info)

    def iterdir(self) -> Iterator[RemotePath]:
        """List a folder; what the listing says about each entry is kept, and saves a request for each."""
        system, path = _store(self.url)
        try:
            entries = self._ask(lambda: system.ls(path, detail=True))
        except FileNotFoundError:
            raise InputError(f"{printable(self)}: no such folder, or the server does not list it; name a file in it") from None
        for entry in entries:
            name = str(entry["name"]).rstrip("/").rpartition("/")[2].partition("?")[0]
            if name and str(entry["name"]).rstrip("/") != path.rstrip("/"):
                known = entry.get("size") is not None or _is_folder(entry)
                yield RemotePath((self / name).url, entry if known else None)

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """List the entries of a folder whose names match."""
        return (entry for entry in self.iterdir() if fnmatch.fnmatchcase(entry.name, pattern))

    def size_and_version(self) -> tuple[int, tuple[str, ...]]:
        """Return the size of an object in bytes, and what identifies its content: the store, the path, and the version of the object."""
        info = self._info()
        if info is None:
            raise InputError(f"{printable(self)}: no such object")
        if _is_folder(info):
            raise InputError(f"{printable(self)}: is not a regular file")
        if not isinstance(info.get("size"), int):
            raise InputError(f"{printable(self)}: the server does not say how large it is; download it first")
        if urlsplit(self.url).scheme in ("http", "https") and info["size"] > 1:
            self._check_ranges()
        version = next((str(info[name]) for name in VERSIONS if info.get(name)), "")
        return info["size"], (urlsplit(self.url).scheme, _store(self.url)[1], version)

    def read(self, start: int, stop: int) -> bytes:
        """Read bytes ``start:stop`` of an object."""
        system, path = _store(self.url)
        tries = TRIES if urlsplit(self.url).scheme in ("http", "https") else 1  # the others try again by themselves
        try:
            exactly = {} if system.async_impl else {"cache_type": "none"}  # the others read ahead by themselves
            data: bytes = self._ask(lambda: system.cat_file(path, start=start, end=stop, **exactly), tries)
        except FileNotFoundError:
            raise InputError(f"{printable(self)}: no such object any more; it was there when it was opened") from None
        if len(data) != stop - start:
            gave = f"{len(data)} of {stop - start} bytes at byte {start}"
            raise InputError(f"{printable(self)}: the server gave {gave}; the object has changed, or was cut short")
        return data

    def _info(self) -> Mapping[str, Any] | None:
        if self.details is None:
            system, path = _store(self.url)
            try:
                details = self._ask(lambda: system.info(path))
            except FileNotFoundError:
                return None
            object.__setattr__(self, "details", details)
        return self.details

    def _check_ranges(self) -> None:
        """Refuse a web server that answers a request for one byte with the whole file."""
        system, path = _store(self.url)

        async def status() -> int:
            session = await system.set_session()
            headers = {**system.kwargs.get("headers", {}), "Range": "bytes=0-0"}
            async with session.get(system.encode_url(path), headers=headers) as answer:
                return int(answer.status)

        from fsspec.asyn import sync

        if self._ask(lambda: sync(system.loop, status)) == 200:
            raise InputError(f"{printable(self)}: the server sends whole files only, not parts of them; download it first")

    def _ask(self, request: Callable[[], Result], tries: int = 1) -> Result:
        """Make a request of the store. A missing object is a FileNotFoundError; any other fault is an InputError of one line."""
        try:
            return request()
        except (InputError, MemoryError):
            raise
        except FileNotFoundError as error:
            cause = error.__cause__  # of a web server, every fault is a FileNotFoundError with its cause
            if cause is None or getattr(cause, "status", None) in (404, 410):
                raise
            raise InputError(f"{printable(self)}: {_reason(cause, self.url)}") from None
        except ImportError as error:
            raise InputError(f"{printable(self)}: needs the package {printable(error.name)}") from None
        except Exception as error:
            if tries > 1 and getattr(error, "status", 500) >= 500:  # not access that is denied
                time.sleep(1 / tries)
                return self._ask(request, tries - 1)
            raise InputError(f"{printable(self)}: {_reason(error, self.url)}") from None


Location = Path | RemotePath


def exists(path: Location) -> bool:
    """Tell whether a file or folder exists; a name that is not valid does not."""
    return os.path.exists(path) if isinstance(path, Path) else path.exists()


def location(text: str | Location) -> Location:
    """Return the path that a text names: a URL of an object store or a local path."""
    if not isinstance(text, str):
        return text
    scheme = scheme_of(text)
    if scheme is None:
        if (cut := CUT_URL.match(text)) and cut[1].lower() in SCHEMES and not os.path.lexists(text):
            meant = without_secrets(f"{cut[1]}://{text[cut.end() :]}")
            given = meant.replace("://", cut[0][len(cut[1]) :], 1)
            raise InputError(f"{printable(given)}: no such file or folder; did you mean {printable(meant)}?")
        return Path(text)
    if scheme == "file":
        return _local(text)
    if scheme not in SCHEMES or "::" in text:
        known = ", ".join(f"{name}://" for name in SCHEMES if name not in ("gcs", "http", "memory"))
        raise InputError(f"{printable(without_secrets(text))}: is no kind of URL that is read; there are {known}")
    parts = _split(text)
    if parts.hostname in ("huggingface.co", "hf.co") and not re.search("/(resolve|raw)/", parts.path):
        raise InputError(f"{printable(without_secrets(text))}: is a page for people; name the model as hf://org/name or org/name")
    if scheme not in ("http", "https", "hf") and "@" in _user(text):
        raise InputError(
            f"{printable(without_secrets(text))}: was given with credentials in it, which are not read there; "
            "set them as the store's own tools do (~/.aws, AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, ...)"
        )
    base, mark, query = text.partition("?")
    path = base.partition("://")[2].rstrip("/")
    if not path and scheme != "memory":
        raise InputError(f"{printable(base)}: names no bucket, host or model")
    return RemotePath(f"{scheme}://{path}{mark}{query}")


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError as error:  # brackets that hold no address
        raise InputError(f"{printable(without_secrets(url))}: is no URL that can be read ({printable(error, 60)})") from None


def _local(url: str) -> Path:
    """Return the path of a ``file://`` URL, in which spaces and the like may be encoded."""
    parts = _split(url)
    if parts.netloc not in ("", "localhost"):
        raise InputError(f"{printable(url)}: names the host {printable(parts.netloc)}; a file of this machine is file:///folder/file")
    return Path(unquote(url.partition("://")[2].removeprefix("localhost")))


def scheme_of(text: str) -> str | None:
    """Return the scheme of a URL in lower case, or None for any other text.

    >>> scheme_of("s3://bucket/run"), scheme_of("runs/s3")
    ('s3', None)
    """
    matched = URL.match(text)
    return matched[1].lower() if matched else None


def without_secrets(url: str) -> str:
    """Remove user name, password, query and fragment from a URL.

    >>> without_secrets("https://me:secret@example.org/model.safetensors?X-Amz-Signature=0a1b")
    'https://example.org/model.safetensors'
    """
    scheme, mark, rest = url.partition("://")
    rest = re.split(r"[?#]", rest, maxsplit=1)[0] if scheme.lower() in ("http", "https") else rest
    return f"{scheme}{mark}{rest[len(_user(url)) :]}"


def _user(url: str) -> str:
    """Return the part of a URL that names the user, up to its ``@``; empty if there is none, as in the paths of the Hub.

    >>> _user("s3://key:pass/word@bucket/model")
    'key:pass/word@'
    """
    scheme, _, rest = url.partition("://")
    if scheme.lower() == "hf":
        return ""
    end = len(re.split(r"[?#]", rest, maxsplit=1)[0]) if scheme.lower() in ("http", "https") else len(rest)
    host = rest[:end].partition("/")[0]
    if "@" not in host and re.search(r":(?!\d*$)", host):  # a password with a slash in it, as keys of AWS have
        host = rest[:end]
    return rest[: host.rfind("@") + 1]


def _store(url: str) -> tuple[Any, str]:
    """Return the ``fsspec`` file system of a URL, and the path in it."""
    scheme = scheme_of(url) or ""
    settings = tuple(sorted(item for item in os.environ.items() if item[0].startswith(SETTINGS)))
    try:
        system = _file_system(scheme, "%" in url, settings)
        return system, str(system._strip_protocol(url))
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{printable(without_secrets(url))}: {_reason(error, url)}") from None


@lru_cache(maxsize=32)
def _file_system(scheme: str, encoded: bool, _settings: tuple[tuple[str, str], ...]) -> Any:
    """Make the file system of a scheme for the settings of the environment. Listings are not kept: a folder may change."""
    with optional_import(f"reading {scheme}://"):
        import fsspec

        try:
            fsspec.get_filesystem_class(scheme)
        except ImportError as error:  # fsspec says which package is missing in its text only
            raise ImportError(str(error), name=SCHEMES[scheme]) from None
    for package in ("aiobotocore", "asyncio", "fsspec", "gcsfs", "s3fs"):  # what they log is raised as well
        logging.getLogger(package).addHandler(logging.NullHandler())
    if scheme == "hf":
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it prints a line for each request that it repeats
    if scheme in ("hf", "memory"):
        return fsspec.filesystem(scheme, skip_instance_cache=scheme == "hf")
    options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if scheme in ("http", "https"):  # a signed URL must be sent as it is
        options |= {"headers": {"Accept-Encoding": "identity"}, "encoded": encoded}
    return fsspec.filesystem(scheme, **options)


def _is_folder(info: Mapping[str, Any]) -> bool:
    """Tell whether details are those of a folder; a web server answers for a folder with a page."""
    return info.get("type") == "directory" or (info.get("mimetype") == "text/html" and str(info.get("name")).startswith("http"))


def _reason(error: BaseException, url: str) -> str:
    """Explain a fault of a store in one line, without secrets."""
    kind = type(error).__name__
    if isinstance(error, PermissionError) or kind in ("Unauthorized", "Forbidden") or getattr(error, "status", None) in (401, 403):
        return "access is denied; check the credentials of this machine, or whether the object is there"
    if kind in ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "DefaultCredentialsError"):
        return f"no credentials were found ({kind}); for a public bucket set FSSPEC_S3_ANON=true, or FSSPEC_GCS_TOKEN=anon"
    if kind in ("EndpointConnectionError", "ClientConnectorError", "ClientConnectorDNSError", "ConnectTimeoutError", "ConnectError") or (
        isinstance(error, (ConnectionError, TimeoutError))
    ):
        return f"the server cannot be reached ({kind})"
    if kind in ("RepositoryNotFoundError", "RevisionNotFoundError", "GatedRepoError"):
        return f"the Hub refuses it ({kind}); check the name, or log in with `hf auth login`"
    if kind == "NoSuchBucket":
        return "no such bucket"
    text = str(error).replace(url, without_secrets(url))
    for secret in filter(None, (_user(url), urlsplit(url).query)):
        text = text.replace(secret, "")
    text = re.sub(r"\S+://\S+", lambda found: without_secrets(found[0]), text)
    return f"cannot be read ({kind}: {printable(text, 100)})"
