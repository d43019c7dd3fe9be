"""Objects behind http://, https://, s3:// and gs://, by obstore: who may read them, and errors in plain words.

Credentials are those of the environment where it has some, otherwise requests are anonymous:
S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN), web identities and container roles; AWS_PROFILE
and the files in ~/.aws where boto3 is installed. AWS_REGION and AWS_ENDPOINT_URL count, also with http://.
GCS: GOOGLE_APPLICATION_CREDENTIALS, GOOGLE_SERVICE_ACCOUNT and the login of gcloud in ~/.config/gcloud; where
CLOUDSDK_CONFIG names another folder, the first one must name the file application_default_credentials.json in it.
The roles of virtual machines (EC2, Compute Engine) are not asked for: elsewhere, that would cost seconds at each start.
No credential is kept, printed or written by this program; an address that holds one is refused
(pipeline.volume.stores.absolute_location).
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
from collections.abc import Awaitable, Callable
from datetime import timedelta
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit

import obstore
from obstore import exceptions
from obstore.store import GCSStore, HTTPStore, S3Store
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import ObjectStore

from pipeline.errors import InputError
from pipeline.volume import patience
from pipeline.volume.cache import Entry, cache
from pipeline.volume.limits import check_whole
from pipeline.volume.web_index import check_leads, page_at

T = TypeVar("T")

QUICK_PAUSES_SECONDS = (0.1, 0.4)
"""Before a single request is tried again; what still fails is tried again with all its piece (patience)."""
CONNECT_SECONDS = 10.0
LARGEST_WHOLE = 1 << 20
"""Of an object that is read whole, for each part again, because the server sends no parts."""
DOCUMENTS = frozenset({"zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata"})
REFUSED_IS_ABSENT = "VOXCALIPER_REFUSED_IS_ABSENT"
"""Variable that says so: of public buckets that nobody may list, chunks that are not stored are refused (403).

Documents that were there and are refused later stay an error (Store.expect): the credentials have run out.
"""
NO_BUCKET = "<Code>NoSuchBucket</Code>"
"""As S3 and GCS say it; without it, the objects of a bucket that is gone would merely be missing."""
STATUS = re.compile(r"status code: (\d{3}(?: [A-Z][A-Za-z-]*)*)")
ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT", "GOOGLE_BASE_URL")
"""Variables that name another server than Amazon's and Google's."""
S3_ENVIRONMENT = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
GCS_ENVIRONMENT = (
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_SERVICE_ACCOUNT",
    "GOOGLE_SERVICE_ACCOUNT_PATH",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
    "GOOGLE_BEARER_TOKEN",
)


class RemoteStore(ObjectStore[Any]):
    """Zarr's store of what lies below an address, read only.

    Requests that fail for a moment (500, 503, 429, a dropped connection, a body that was cut) are soon tried again.
    Errors are those of the operating system: PermissionError, ConnectionError for what may pass, else OSError.
    """

    def __init__(self, location: str) -> None:
        super().__init__(_client(location), read_only=True)
        self._location = location
        self._origin = " ".join((*map(_environment, ENDPOINTS), location))
        self._asked = False
        self.lists = not isinstance(self.store, HTTPStore)

    @property
    def supports_listing(self) -> bool:
        """Plain web servers cannot list."""
        return self.lists

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """As `fetch`, but a document that is refused counts as absent: Zarr looks for all that there may be."""
        try:
            return await self.fetch(key, prototype, byte_range)
        except PermissionError:
            if key.rpartition("/")[2] in DOCUMENTS:
                return None
            raise

    async def fetch(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """The bytes of an object or of a range of it, None where it is not there."""
        if not self.lists and (not self._asked or key.rpartition("/")[2] in DOCUMENTS):
            # The client follows redirects without a word, and cannot be told which.
            self._asked = True
            url = "/".join((self._location, quote(key))) if key else self._location
            await asyncio.to_thread(check_leads, url, CONNECT_SECONDS)
        body = await self._unless_refused(self._again(lambda: self._body(key, byte_range)))
        return None if body is None else prototype.buffer.from_bytes(body)

    async def head(self, key: str) -> obstore.ObjectMeta | None:
        """What the server says of an object without sending it, None where it is not there."""
        return await self._unless_refused(self._again(lambda: _found(obstore.head_async(self.store, key))))

    async def _unless_refused(self, asking: Awaitable[T | None]) -> T | None:
        """What is asked for; None where the server refuses it and that is to count as absent."""
        try:
            return await asking
        except PermissionError:
            if _environment(REFUSED_IS_ABSENT) in ("", "0"):
                raise
            return None

    async def index_page(self, folder: str) -> tuple[str, bytes] | None:
        """What a web server shows of a folder, and the address of that page; None where there is no such page."""
        url = "/".join((self._location, quote(folder))) if folder else self._location
        return await self._again(lambda: _index_page(f"{url}/"))

    async def getsize(self, key: str) -> int:
        """Bytes of an object; FileNotFoundError where it is not there."""
        meta = await self.head(key)
        if meta is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), key)
        return meta["size"]

    async def exists(self, key: str) -> bool:
        """Whether an object is there."""
        return await self.head(key) is not None

    async def _body(self, key: str, byte_range: ByteRequest | None) -> bytes | None:
        options: obstore.GetOptions = {} if byte_range is None else {"range": _range(byte_range)}
        kept, name = cache(), f"{self._origin}/{key} {byte_range}"
        entry = await asyncio.to_thread(kept.get, name) if kept else None
        if entry is not None:
            options["if_none_match"] = entry.etag
        try:
            answer = await _found(obstore.get_async(self.store, key, options=options))
        except exceptions.NotModifiedError:
            assert entry is not None
            return entry.body
        except exceptions.NotSupportedError:  # a server that knows no ranges sends the whole object
            meta = await _found(obstore.head_async(self.store, key))
            if meta is not None and (size := meta["size"]) > LARGEST_WHOLE:
                text = (
                    f"this server sends no parts of objects, and this one has {size:,} bytes; copy the volume to this"
                    " machine, or use a server that knows ranges"
                )
                raise OSError(errno.EPROTO, text) from None
            whole = None if meta is None else await self._body(key, None)
            return None if whole is None else _part(whole, byte_range)
        if answer is None:
            return None
        if byte_range is None:
            check_whole(f"{self._location}/{key}", key, answer.meta["size"])
        body = bytes(await answer.bytes_async())
        start, stop = answer.range
        if len(body) != stop - start:
            raise ConnectionError(errno.ECONNRESET, f"the server sent {len(body)} of {stop - start} bytes")
        if kept and (etag := answer.meta["e_tag"]):
            await asyncio.to_thread(kept.put, name, Entry(body, etag))
        return body

    async def _again(self, request: Callable[[], Awaitable[T]]) -> T:
        """What is requested, within patience.READ_SECONDS for all tries: Zarr opens documents without a limit."""
        return await patience.limited(self._tries(request))

    async def _tries(self, request: Callable[[], Awaitable[T]]) -> T:
        for pause in (*QUICK_PAUSES_SECONDS, None):
            try:
                return await request()
            except exceptions.BaseError as failure:
                error: Exception = self.in_plain_words(failure)
            except OSError as failure:
                error = failure
            if pause is None or not patience.may_pass(error):
                raise error
            await asyncio.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def in_plain_words(self, error: exceptions.BaseError) -> OSError:
        """An error of obstore as one of the operating system, without the address and the server's HTML."""
        text = str(error)
        found = STATUS.search(text)
        status = int(found[1][:3]) if found else 0
        if NO_BUCKET in text:
            return OSError(errno.EPROTO, "the bucket does not exist")
        denied = isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError)
        if denied or found:
            return _answered(403 if denied else status, found[1] if found else "", bucket=self.lists)
        first = text.splitlines()[0].rpartition(" - ")[2].removeprefix("Generic HTTP error: ").strip(" .:")
        if "Content-Length Header missing" in text:
            return OSError(errno.EPROTO, "the server does not say how long this object is (no Content-Length)")
        if "redirect without LOCATION" in text:
            return OSError(errno.EPROTO, "the bucket lies in another region; name it in AWS_REGION")
        return ConnectionError(errno.ECONNRESET, f"the connection failed ({first})")


def _answered(status: int, words: str, *, bucket: bool = False) -> OSError:
    """An answer that is none, as an error. words : the status and its name."""
    if status in (401, 403):
        hint = (
            f"; buckets say this of a missing object, too, to those who may not list them: {REFUSED_IS_ABSENT}=1 takes"
            " what is refused for absent"
            if bucket
            else ""
        )
        return PermissionError(
            errno.EACCES, f"permission denied (give credentials in the environment, or ask its owner for access{hint})"
        )
    passing = status >= 500 or status in (408, 425, 429)
    return OSError(errno.EAGAIN if passing else errno.EPROTO, f"the server answered {words}")


async def _index_page(url: str) -> tuple[str, bytes] | None:
    try:
        return await asyncio.to_thread(page_at, url, patience.READ_SECONDS)
    except HTTPError as error:
        error.close()
        if error.code == HTTPStatus.NOT_FOUND:
            return None
        raise _answered(error.code, f"{error.code} {error.reason}") from error
    except (URLError, HTTPException) as error:
        raise ConnectionError(errno.ECONNRESET, f"the connection failed ({patience.reason(error)})") from error


async def _found(asked: Awaitable[T]) -> T | None:
    try:
        return await asked
    except FileNotFoundError as error:
        if NO_BUCKET in str(error):
            raise OSError(errno.EPROTO, "the bucket does not exist") from error
        return None


def _range(byte_range: ByteRequest) -> Any:
    if isinstance(byte_range, RangeByteRequest):
        return byte_range.start, byte_range.end
    if isinstance(byte_range, OffsetByteRequest):
        return {"offset": byte_range.offset}
    return {"suffix": byte_range.suffix}


def _part(body: bytes, byte_range: ByteRequest | None) -> bytes:
    if isinstance(byte_range, RangeByteRequest):
        return body[byte_range.start : byte_range.end]
    if isinstance(byte_range, OffsetByteRequest):
        return body[byte_range.offset :]
    return body[-byte_range.suffix :] if isinstance(byte_range, SuffixByteRequest) else body


def _client(location: str) -> HTTPStore | S3Store | GCSStore:
    parts = urlsplit(location)
    options: Any = {
        "client_options": {
            "allow_http": any(address.startswith("http://") for address in (location, *map(_environment, ENDPOINTS))),
            "timeout": timedelta(seconds=patience.READ_SECONDS),
            "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
        },
        "retry_config": {"max_retries": 0},
    }
    if parts.scheme in ("http", "https"):
        return HTTPStore(location, **options)
    place: dict[str, Any] = {"prefix": parts.path.strip("/")} if parts.path.strip("/") else {}
    if parts.scheme == "s3":
        return S3Store(parts.netloc, **place, **_s3_credentials(), **options)
    anonymous = not any(map(_environment, GCS_ENVIRONMENT)) and not _gcloud_login().exists()
    if anonymous:
        options["skip_signature"] = True
    return GCSStore(parts.netloc, **place, **options)


def _environment(name: str) -> str:
    return os.environ.get(name, "")


def _gcloud_login() -> Path:
    return Path("~/.config/gcloud/application_default_credentials.json").expanduser()


def _s3_credentials() -> dict[str, Any]:
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    if any(map(_environment, S3_ENVIRONMENT)):
        return {"region": region}
    profile = os.environ.get("AWS_PROFILE")
    files = [
        Path(os.environ.get(name) or default).expanduser()
        for name, default in (
            ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
            ("AWS_CONFIG_FILE", "~/.aws/config"),
        )
    ]
    if not profile and not any(file.exists() for file in files):
        return {"region": region, "skip_signature": True}
    try:
        from boto3 import Session
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError as error:
        if not profile:
            return {"region": region, "skip_signature": True}
        raise InputError(
            f"AWS_PROFILE names the profile {profile}, which is read with boto3, and that is not installed; install it"
            " or give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        ) from error
    session = Session()
    if session.get_credentials() is None:
        return {"region": region, "skip_signature": True}
    return {"region": session.region_name or region, "credential_provider": Boto3CredentialProvider(session)}
