"""Videos by URL: an allow-list of prefixes, and a download that reaches no other address.

A server that fetches any URL lets its clients read what only the server can reach: other machines of its
network, the metadata of a cloud instance, itself (server-side request forgery). A URL must therefore start
with a listed prefix, also after each redirect, and its name must resolve to public addresses. The checked
addresses are those that are connected to, so a name that changes its address in between gains nothing.
"""

import asyncio
import dataclasses
import ipaddress
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from evclip_ray.config import ConfigError
from evclip_ray.deploy.server.limits import Limits, Refusal
from evclip_ray.deploy.server.uploads import timely, too_large

if TYPE_CHECKING:
    from aiohttp.abc import AbstractResolver

_PORTS = {"http": 80, "https": 443}
_MAX_REDIRECTS = 3
_REDIRECTS = (301, 302, 303, 307, 308)
_CHUNK_BYTES = 2**16
# IPv6 addresses that contain an IPv4 address, which a gateway would connect to (RFC 6052).
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclasses.dataclass(frozen=True)
class _Prefix:
    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, text: str) -> "_Prefix":
        parts = _split(text)
        if parts is None:
            raise ConfigError(
                f"--allow-url {text}: must be the start of a URL with its host, such as https://host/videos/"
            )
        if parts.query or parts.fragment:
            raise ConfigError(f"--allow-url {text}: must not have a query or a fragment")
        return cls(parts.scheme, parts.hostname or "", _port(parts), parts.path or "/")

    def matches(self, parts: SplitResult) -> bool:
        # Without its end a prefix /videos would also admit /videos-of-others.
        folder = self.path if self.path.endswith("/") else f"{self.path}/"
        path = parts.path or "/"
        is_inside = path == self.path or path.startswith(folder)
        return (parts.scheme, parts.hostname, _port(parts)) == (
            self.scheme,
            self.host,
            self.port,
        ) and is_inside


class AllowedUrls:
    """Allow-list of URLs.

    Args:
        prefixes: Prefixes such as `https://host/videos/`. A prefix whose host is a private address admits
            this address; a name must resolve to public ones.

    Raises:
        ConfigError: A prefix is not one of a URL.
    """

    def __init__(self, prefixes: Sequence[str]) -> None:
        self._prefixes = [_Prefix.parse(text) for text in prefixes]

    def check(self, url: str) -> None:
        """Check that a URL is listed, and that its host is public if it is an address.

        Raises:
            Refusal: It is not.
        """
        parts = _split(url)
        if parts is None:
            raise Refusal(422, f"{url[:200]!r}: must be a URL of http or https, without a user name")
        if not any(prefix.matches(parts) for prefix in self._prefixes):
            listed = "the server allows no URLs (--allow-url)" if not self._prefixes else "it is not listed"
            raise Refusal(403, f"{_shown(parts)}: {listed}")

    async def download(self, url: str, path: Path, limits: Limits) -> None:
        """Download a URL to a file.

        Raises:
            Refusal: The URL is not allowed, cannot be read, or its file is too large or too slow.
        """
        import aiohttp

        self.check(url)
        timeout = aiohttp.ClientTimeout(total=limits.upload_seconds, sock_connect=limits.stall_seconds)
        connector = aiohttp.TCPConnector(resolver=_resolver(self._private_hosts), use_dns_cache=False)
        # No proxies from the environment, no cookies, and no decompression: a small file could expand.
        async with aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            trust_env=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers={"Accept-Encoding": "identity", "User-Agent": "evclip-ray"},
        ) as session:
            shown = _shown(urlsplit(url))
            try:
                await self._download(session, url, path, limits)
            except TimeoutError:
                raise Refusal(504, f"{shown}: no answer within {limits.upload_seconds:g} s") from None
            except _PrivateAddressError as error:
                raise Refusal(403, f"{shown}: {error}") from None
            except (aiohttp.ClientError, ValueError) as error:
                cause = error.__cause__ or error.__context__
                if isinstance(cause, _PrivateAddressError):
                    raise Refusal(403, f"{shown}: {cause}") from None
                raise Refusal(502, f"{shown}: cannot be read ({type(error).__name__})") from None

    async def _download(self, session: Any, url: str, path: Path, limits: Limits) -> None:
        for _ in range(_MAX_REDIRECTS + 1):
            async with session.get(url, allow_redirects=False) as response:
                if response.status in _REDIRECTS and "Location" in response.headers:
                    url = urljoin(url, response.headers["Location"])
                    self.check(url)
                    continue
                await _save(response, path, limits)
                return
        raise Refusal(502, f"{_shown(urlsplit(url))}: more than {_MAX_REDIRECTS} redirects")

    @property
    def _private_hosts(self) -> frozenset[str]:
        return frozenset(prefix.host for prefix in self._prefixes if _is_literal(prefix.host))


async def _save(response: Any, path: Path, limits: Limits) -> None:
    shown = _shown(urlsplit(str(response.url)))
    if response.status != 200:
        raise Refusal(502, f"{shown}: its server answers {response.status}")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise Refusal(415, f"{shown}: compressed responses are not accepted")
    # A wrong Content-Length is noticed below.
    if (response.content_length or 0) > limits.upload_bytes:
        raise too_large(limits.upload_bytes)
    total = 0
    with path.open("wb") as stream:
        async for chunk in timely(response.content.iter_chunked(_CHUNK_BYTES).__aiter__(), limits):
            total += len(chunk)
            if total > limits.upload_bytes:
                raise too_large(limits.upload_bytes)
            stream.write(chunk)
    if not total:
        raise Refusal(422, f"{shown}: the file is empty")


def _split(url: str) -> SplitResult | None:
    """Split a URL; None if it is not one that this module can check."""
    # Parsers differ in how they read these characters, so a check and a client could see different hosts.
    if any(character <= " " or character in "\\\x7f" for character in url):
        return None
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    is_usable = parts.scheme in _PORTS and parts.hostname and port != 0 and "@" not in parts.netloc
    return parts if is_usable and ".." not in unquote(unquote(parts.path)).split("/") else None


def _port(parts: SplitResult) -> int:
    return parts.port or _PORTS[parts.scheme]


def _shown(parts: SplitResult) -> str:
    """Return a URL without its query, which may hold a signature."""
    return f"{parts.scheme}://{parts.netloc}{parts.path}"[:200]


def _is_literal(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_public(address: str) -> bool:
    """Return whether an IP address is one of the public internet.

    >>> [is_public(address) for address in ("10.0.0.1", "169.254.169.254", "::ffff:127.0.0.1", "8.8.8.8")]
    [False, False, False, True]
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    mapped = ip.ipv4_mapped or ip.sixtofour if isinstance(ip, ipaddress.IPv6Address) else None
    if mapped is not None:
        return is_public(str(mapped))
    return ip.is_global and not ip.is_multicast and ip not in _NAT64


class _PrivateAddressError(OSError):
    """Name of a URL that resolves to an address that is not public."""


def _resolver(private_hosts: frozenset[str]) -> "AbstractResolver":
    from aiohttp.abc import AbstractResolver, ResolveResult

    class PublicResolver(AbstractResolver):
        """Resolver of names that refuses private addresses. The connection uses the addresses it returns."""

        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> list[ResolveResult]:
            loop = asyncio.get_running_loop()
            infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family)
            for *_, address in infos:
                if host not in private_hosts and not is_public(str(address[0])):
                    raise _PrivateAddressError(f"its host has the address {address[0]}, which is not public")
            return [
                ResolveResult(
                    hostname=host,
                    host=str(address[0]),
                    port=port,
                    family=info_family,
                    proto=proto,
                    flags=socket.AI_NUMERICHOST,
                )
                for info_family, _, proto, _, address in infos
            ]

        async def close(self) -> None:
            """Close nothing: the resolver of the system has no state."""

    return PublicResolver()
