"""Places of shared checkpoints: a repository of Hugging Face, a folder of an fsspec storage, a local folder.

A store lists, downloads and uploads files by name. It knows nothing of checkpoints. Errors are one line with
the URI and the fix.
"""

import abc
import contextlib
import functools
import shutil
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

import fsspec

from evclip_ray.artifacts import ArtifactError, replacing
from evclip_ray.config import ConfigError
from evclip_ray.data import storage
from evclip_ray.data.storage import StorageError
from evclip_ray.formatting import binary_size
from evclip_ray.training.checksums import DamagedFile

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

HUB = "hf://"
_TIMEOUT_SECONDS = 10
_BLOCK_BYTES = 2**20
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


class MissingFile(ArtifactError):
    """Error of a store without a file that was requested."""


class Store(abc.ABC):
    """Place of one shared checkpoint.

    Attributes:
        uri: Address, as a user gives it.
    """

    uri: str
    is_public: bool | None = None
    """Whether everybody can read what is there; None if nothing is there, or it is not known."""

    @property
    def revision(self) -> str | None:
        """Digest of an immutable version that the address names; None if the content can change."""
        return None

    @abc.abstractmethod
    def names(self) -> list[str]:
        """Return the sorted names of the files; empty if the place does not exist.

        Raises:
            StorageError: The place cannot be reached.
            ArtifactError: Access is denied.
        """

    @abc.abstractmethod
    def fetch(self, name: str, folder: Path, max_bytes: int) -> None:
        """Download a file to `folder / name`.

        Args:
            name: Name of the file.
            folder: Local folder.
            max_bytes: Most bytes of the file.

        Raises:
            MissingFile: There is no such file.
            StorageError: The place cannot be reached.
            ArtifactError: Access is denied, or the file is larger than `max_bytes`.
        """

    @abc.abstractmethod
    def upload(self, folder: Path, names: Sequence[str], *, removed: Sequence[str], summary: str) -> None:
        """Upload files in their order, after removing others.

        Args:
            folder: Local folder of the files.
            names: Names of the files.
            removed: Names of files at the place that are removed.
            summary: One line about the upload.

        Raises:
            StorageError: The place cannot be written to.
            ArtifactError: Access is denied.
        """


def open_store(uri: str, *, public: bool = False) -> Store:
    """Return the store of an address, without accessing it.

    Args:
        uri: `hf://user/name[@revision]`, a URI that fsspec knows, or a local folder.
        public: Whether a new repository of Hugging Face is public.

    Raises:
        ConfigError: The address is invalid.
    """
    return _HubStore(uri, public=public) if uri.startswith("hf:") else _FolderStore(uri)


class _FolderStore(Store):
    """Local folder, or a folder of a storage that fsspec opens."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._where = storage.place(uri)
        if isinstance(self._where, Path):
            self._where = self._where.expanduser()

    def names(self) -> list[str]:
        if isinstance(self._where, Path) and not self._where.is_dir():
            return []
        return storage.file_names(self._where)

    def fetch(self, name: str, folder: Path, max_bytes: int) -> None:
        try:
            source = storage.open_binary(self._file(name))
        except FileNotFoundError:
            raise MissingFile(f"{self.uri}: has no file {name}") from None
        with source, (folder / name).open("wb") as target:
            while block := source.read(_BLOCK_BYTES):
                target.write(block)
                if target.tell() > max_bytes:
                    raise DamagedFile(_too_large(f"{self.uri}/{name}", max_bytes))

    def upload(self, folder: Path, names: Sequence[str], *, removed: Sequence[str], summary: str) -> None:
        for name in removed:
            self._remove(name)
        for name in names:
            self._put(folder / name, name)

    def _file(self, name: str) -> storage.Place:
        return self._where / name if isinstance(self._where, Path) else f"{self._where}/{name}"

    def _put(self, path: Path, name: str) -> None:
        target = self._file(name)
        if isinstance(target, Path):
            with replacing(target) as temporary:
                shutil.copyfile(path, temporary)
            return
        with storage.storage_errors(target, "written"):
            system, remote = fsspec.core.url_to_fs(target, use_listings_cache=False)
            system.put_file(str(path), remote)

    def _remove(self, name: str) -> None:
        target = self._file(name)
        if isinstance(target, Path):
            target.unlink(missing_ok=True)
            return
        with storage.storage_errors(target, "written"):
            system, remote = fsspec.core.url_to_fs(target, use_listings_cache=False)
            if system.exists(remote):
                system.rm_file(remote)


class _HubStore(Store):
    """Repository of Hugging Face. The token is that of its library: `hf auth login`, or HF_TOKEN."""

    def __init__(self, uri: str, *, public: bool) -> None:
        from huggingface_hub import HfApi, parse_hf_uri
        from huggingface_hub.errors import HfUriError

        try:
            parsed = parse_hf_uri(uri)
        except HfUriError:
            parsed = None
        if parsed is None or parsed.type != "model" or parsed.path_in_repo:
            raise ConfigError(f"{uri}: must be {HUB}USER/NAME or {HUB}USER/NAME@REVISION")
        self.uri = uri
        self._id, self._revision, self._public = parsed.id, parsed.revision, public
        self._api = HfApi(library_name="evclip-ray")

    @property
    def revision(self) -> str | None:
        revision = self._revision or ""
        is_commit = len(revision) == 40 and set(revision) <= set("0123456789abcdef")
        return revision if is_commit else None

    @functools.cached_property
    def _info(self) -> "ModelInfo":
        with self._errors("read"):
            info = self._api.model_info(
                self._id, revision=self._revision, files_metadata=True, timeout=_TIMEOUT_SECONDS
            )
        for each in info.siblings or []:
            name = PurePosixPath(each.rfilename)
            if name.is_absolute() or ".." in name.parts or "\\" in each.rfilename:
                raise ArtifactError(
                    f"{self.uri}: lists the file {each.rfilename!r}, which leads out of its folder. Nothing "
                    "was downloaded; do not trust this source."
                )
        return info

    def names(self) -> list[str]:
        if self._revision is not None:
            raise ConfigError(f"{self.uri}: a push adds a new revision; leave out @{self._revision}")
        try:
            info = self._info
        # A private repository of somebody else looks the same; creating it is then refused.
        except MissingRepository:
            return []
        self.is_public = not info.private
        return sorted(each.rfilename for each in info.siblings or [])

    def fetch(self, name: str, folder: Path, max_bytes: int) -> None:
        sizes = {each.rfilename: each.size for each in self._info.siblings or []}
        if name not in sizes:
            raise MissingFile(f"{self.uri}: has no file {name}")
        if (sizes[name] or 0) > max_bytes:
            raise DamagedFile(_too_large(f"{self.uri}/{name}", max_bytes))
        with self._errors("read"):
            # All files of one commit, also if a new one is pushed meanwhile.
            self._api.hf_hub_download(self._id, name, revision=self._info.sha, local_dir=folder)

    def upload(self, folder: Path, names: Sequence[str], *, removed: Sequence[str], summary: str) -> None:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        with self._errors("written"), warnings.catch_warnings():
            # The library advises to put Parquet files into data sets. The record of rows is a small one.
            warnings.filterwarnings("ignore", message=".*commit a data file")
            self._api.create_repo(self._id, private=not self._public, exist_ok=True)
            # One commit: the repository has the old files or all new ones.
            self._api.create_commit(
                self._id,
                [
                    *(CommitOperationAdd(name, folder / name) for name in names),
                    *(CommitOperationDelete(name) for name in removed),
                ],
                commit_message=summary,
            )

    @contextlib.contextmanager
    def _errors(self, doing: Literal["read", "written"]) -> Iterator[None]:
        """Convert the errors of the library to those of this package, of one line each."""
        from huggingface_hub import errors

        endpoint = self._api.endpoint
        try:
            yield
        except errors.GatedRepoError:
            raise ArtifactError(
                f"{self.uri}: its owner grants access to it. Request access on {endpoint}/{self._id} and "
                f"{_LOG_IN}."
            ) from None
        except errors.RepositoryNotFoundError:
            raise MissingRepository(
                f"{self.uri}: does not exist at {endpoint}, or is private and not yours. Check the name and "
                f"{_LOG_IN}."
            ) from None
        except errors.RevisionNotFoundError:
            raise ArtifactError(f"{self.uri}: has no revision {self._revision!r}. Check its name.") from None
        except errors.LocalTokenNotFoundError:
            raise ArtifactError(f"{self.uri}: no token for {endpoint}; {_LOG_IN}") from None
        except errors.HfHubHTTPError as error:
            status = error.response.status_code
            if status in (401, 403):
                right = "write to" if doing == "written" else "read"
                raise ArtifactError(
                    f"{self.uri}: access denied (HTTP {status}). The token must be one that may {right} this "
                    f"repository: {_LOG_IN}."
                ) from None
            reason = error.server_message or f"HTTP {status}"
            raise StorageError(
                f"{self.uri}: cannot be {doing} at {endpoint} ({reason}); try again"
            ) from error
        except _failed_connections() as error:
            raise StorageError(
                f"{self.uri}: {endpoint} cannot be reached ({_first_line(error)}). Check the connection, and "
                "HF_ENDPOINT and HF_HUB_OFFLINE if they are set."
            ) from error


class MissingRepository(ArtifactError):
    """Error of a repository that does not exist, or that this token may not read."""


def _failed_connections() -> tuple[type[Exception], ...]:
    from huggingface_hub import errors

    # The base class of the errors of the library's HTTP client, whichever that is.
    http_error: type[Exception] = errors.HfHubHTTPError.__mro__[1]
    return http_error, errors.LocalEntryNotFoundError, ConnectionError, TimeoutError


def _too_large(name: str, max_bytes: int) -> str:
    return f"{name}: has more than the expected {binary_size(max_bytes)}; it is not the file that was pushed"


def _first_line(error: BaseException) -> str:
    # The library's own text is general; the cause has the reason.
    cause = error.__cause__ or error
    return (str(cause).splitlines() or [""])[0] or type(cause).__name__
