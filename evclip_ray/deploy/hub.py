"""Sharing of checkpoints: `push` uploads one, `resolve` downloads and checks it for `Recognizer.load`.

    CACHE/checkpoints/NAME-DIGEST/KEY     a downloaded checkpoint; KEY is the digest of its `digests.json`
    CACHE/checkpoints/NAME-DIGEST/latest.json   the key that the address had when it was last read

A download is written to a temporary folder, checked and renamed, so that a folder in the cache is whole.
"""

import dataclasses
import hashlib
import logging
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evclip_ray.artifacts import ArtifactError, cache_folder, check_writable, digest, read_json, write_json
from evclip_ray.config import ConfigError
from evclip_ray.data import storage
from evclip_ray.data.storage import StorageError
from evclip_ray.deploy.digests import (
    CARD,
    DIGESTS,
    MAX_LIST_BYTES,
    FileDigest,
    check_files,
    check_size,
    parse_digests,
    read_digests,
)
from evclip_ray.deploy.model_card import model_card, own_card
from evclip_ray.deploy.shared_copy import LOADED, Rows, write_shared_copy
from evclip_ray.deploy.stores import HUB, MissingFile, Store, open_store
from evclip_ray.locking import building
from evclip_ray.training.checkpoint import ADAPTER, CONFIG, read_record
from evclip_ray.training.checksums import DamagedFile, check_checkpoint

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
"""Folder of downloaded checkpoints in the cache."""

_LATEST = "latest.json"
_PATH_OF_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/[^/]")
_ON_ITS_OWN = {CARD, ".gitattributes"}
"""Files that a new repository may have."""


@dataclasses.dataclass(frozen=True)
class PushPlan:
    """What a push uploads, and what is at the target.

    Attributes:
        checkpoint: Folder of the checkpoint.
        target: Address of the target.
        files: Size in bytes of each file, in the order of the upload.
        replaced: Files at the target that are replaced.
        removed: Files at the target that are removed.
        access: Who can read the target, in words.
        hidden: Settings whose value the copy does not have, because it is a place on this machine.
        needed_files: Settings for which a user of the copy must give a file, with its name.
        has_own_card: Whether the card is the user's own text.
    """

    checkpoint: Path
    target: str
    files: dict[str, int]
    replaced: tuple[str, ...]
    removed: tuple[str, ...]
    access: str
    hidden: tuple[str, ...]
    needed_files: dict[str, str]
    has_own_card: bool


def resolve(source: str | Path, *, cache: str | Path | None = None) -> Path:
    """Return the checked local folder of a checkpoint. One with an address is downloaded once per version.

    If the address cannot be reached, the version that it had last is used, with a warning.

    Args:
        source: Folder, `hf://user/name[@revision]`, or a URI that fsspec knows, such as `s3://bucket/name`.
        cache: See `cache_folder`.

    Raises:
        ConfigError: The address is invalid.
        ArtifactError: There is no checkpoint, access is denied, or the source is not to be trusted.
        DamagedFile: A file is missing, cut or changed. The message names it.
        StorageError: The address cannot be reached, and no copy is in the cache.
    """
    where = storage.place(str(source))
    if isinstance(where, Path):
        return _check_local(where.expanduser())
    store = open_store(where)
    home = _home(store.uri, cache)
    key, content = _find_version(store, home)
    folder = home / key
    if content is not None and not folder.is_dir():
        check_writable(home, "choose another cache with EVCLIP_RAY_CACHE")
        with building([folder]):
            # Another process may have downloaded it meanwhile.
            if not folder.is_dir():
                _download(store, content, folder)
    if content is not None and _latest(home) != key:
        write_json(home / _LATEST, {"uri": store.uri, "key": key})
    digests = read_digests(folder)
    if digests is None:
        raise DamagedFile(f"{folder}: has lost its {DIGESTS}. Remove this folder to download it again.")
    check_files(folder, _loaded(digests), advice="Remove this folder to download it again.")
    return folder


def push(
    checkpoint: str | Path,
    target: str | Path,
    *,
    public: bool = False,
    rows: Rows = "digests",
    exports: Sequence[Path] = (),
    evaluations: Sequence[Path] = (),
    licence: str | None = None,
    data_name: str | None = None,
    force: bool = False,
    dry_run: bool = False,
    on_plan: Callable[[PushPlan], None] = lambda plan: None,
) -> PushPlan:
    """Upload a checkpoint with a model card and digests, without places on this machine.

    Args:
        checkpoint: Folder of the checkpoint.
        target: `hf://user/name`, a URI that fsspec knows, or a local folder.
        public: Whether everybody may read a repository of Hugging Face.
        rows: What to share of the training videos: "digests" of their content, "none", or "paths" too.
        exports: Exported models to add.
        evaluations: Folders of evaluations for the card that are not next to the checkpoint.
        licence: Identifier of the licence, see `model_card`.
        data_name: Name of the videos on the card.
        force: Whether to replace another checkpoint at the target.
        dry_run: Whether to stop after the plan.
        on_plan: Called with the plan before anything is uploaded.

    Raises:
        ConfigError: An option is invalid.
        ArtifactError: The folder is no checkpoint, access is denied, or the target has another checkpoint.
        StorageError: The target cannot be reached.
    """
    folder, address = resolve(checkpoint), str(target).rstrip("/")
    if public and not address.startswith(HUB):
        raise ConfigError(f"--public: is for {HUB} only. Who reads {address} is set at that storage.")
    there = storage.place(address)
    if isinstance(there, Path) and there.expanduser().resolve() == folder.resolve():
        raise ConfigError(f"{address}: is the checkpoint itself. Choose another target.")
    own = own_card(folder)
    # A path on this machine must not be on the card.
    shown = address if storage.is_uri(address) else None

    def card(record: Mapping[str, Any]) -> str:
        text = model_card(
            folder, address=shown, licence=licence, data_name=data_name, evaluations=evaluations
        )
        return text if own is None else own

    with tempfile.TemporaryDirectory(prefix="evclip-ray-push-") as temporary:
        copy = Path(temporary)
        shared = write_shared_copy(folder, copy, card=card, rows=rows, exports=exports)
        # Nobody could load a larger one.
        check_size(_loaded(read_digests(copy) or {}), str(folder))
        store = open_store(address, public=public)
        existing = _check_target(store, copy, public=public, force=force)
        plan = PushPlan(
            folder,
            address,
            {name: (copy / name).stat().st_size for name in shared.names},
            tuple(name for name in shared.names if name in existing),
            tuple(name for name in LOADED if name in existing and name not in shared.names),
            _access(address, store, public),
            shared.removed,
            shared.needed_files,
            own is not None,
        )
        on_plan(plan)
        if not dry_run:
            summary = (
                f"Upload a checkpoint of evclip-ray ({read_record(folder)['experiment']['method']['name']})"
            )
            store.upload(copy, shared.names, removed=plan.removed, summary=summary)
    return plan


def _check_local(folder: Path) -> Path:
    if not folder.exists() and _PATH_OF_URI.match(str(folder)):
        raise ConfigError(f"{folder}: does not exist. Give an address with // as text, not as a Path.")
    if not folder.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", str(folder)):
        raise ArtifactError(f"{folder}: does not exist. For a repository of Hugging Face, give {HUB}{folder}")
    read_record(folder)
    digests = read_digests(folder)
    if digests is None:
        check_checkpoint(folder)
    else:
        advice = f"Download the folder again; if you changed the file on purpose, remove {folder / DIGESTS}."
        check_files(folder, _loaded(digests), advice=advice)
    return folder


def _home(uri: str, cache: str | Path | None) -> Path:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", uri.partition("://")[2]).strip("-.")[:60]
    # The name is for people; the digest keeps addresses apart that have the same name.
    return cache_folder(cache) / CHECKPOINTS / f"{name}-{digest(uri)[:8]}"


def _latest(home: Path) -> str | None:
    path = home / _LATEST
    key = read_json(path).get("key") if path.is_file() else None
    return key if isinstance(key, str) and (home / key).is_dir() else None


def _find_version(store: Store, home: Path) -> tuple[str, bytes | None]:
    """Return the key of the version at an address, and its list of digests; None if the copy is used."""
    latest = _latest(home)
    # A commit never changes.
    if store.revision is not None and latest is not None:
        return latest, None
    try:
        content = _fetch_digests(store)
    except StorageError as error:
        if latest is None:
            raise
        log.warning("%s The copy in %s is used.", error, home / latest)
        return latest, None
    return hashlib.sha256(content).hexdigest()[:16], content


def _fetch_digests(store: Store) -> bytes:
    with tempfile.TemporaryDirectory(prefix="evclip-ray-") as temporary:
        try:
            store.fetch(DIGESTS, Path(temporary), MAX_LIST_BYTES)
        except MissingFile:
            raise ArtifactError(
                f"{store.uri}: has no {DIGESTS}. The address is wrong, its upload was cut, or it was not "
                "uploaded with evclip-ray push."
            ) from None
        return (Path(temporary) / DIGESTS).read_bytes()


def _download(store: Store, content: bytes, folder: Path) -> None:
    """Download the files that a list of digests names and that loading reads."""
    digests = _loaded(parse_digests(content, f"{store.uri}/{DIGESTS}"))
    check_size(digests, store.uri)
    missing = {ADAPTER, CONFIG} - digests.keys()
    if missing:
        raise ArtifactError(
            f"{store.uri}: is not a checkpoint; {DIGESTS} lists no {', '.join(sorted(missing))}"
        )
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    advice = "The file was damaged or changed after its upload, or a new upload is running. Try again later."
    try:
        for name, expected in digests.items():
            try:
                store.fetch(name, temporary, expected.num_bytes)
            except MissingFile:
                raise DamagedFile(
                    f"{store.uri}/{name}: is missing, but {DIGESTS} lists it. {advice}"
                ) from None
        check_files(temporary, digests, source=store.uri, advice=advice)
        # Notes of Hugging Face's library about the download.
        shutil.rmtree(temporary / ".cache", ignore_errors=True)
        (temporary / DIGESTS).write_bytes(content)
        temporary.chmod(0o755)
        for file in temporary.iterdir():
            file.chmod(0o644)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _loaded(digests: Mapping[str, FileDigest]) -> dict[str, FileDigest]:
    return {name: digests[name] for name in LOADED if name in digests}


def _check_target(store: Store, copy: Path, *, public: bool, force: bool) -> list[str]:
    """Return the names of the files at a target after checking that they may be replaced."""
    names = store.names()
    if store.is_public and not public:
        raise ArtifactError(
            f"{store.uri}: is public. Add --public to upload to it, or make it private on its page."
        )
    if force:
        return names
    if DIGESTS in names:
        there = parse_digests(_fetch_digests(store), f"{store.uri}/{DIGESTS}")
        mine = read_digests(copy) or {}
        if there.get(ADAPTER) != mine[ADAPTER]:
            raise ArtifactError(
                f"{store.uri}: has another checkpoint, with other trained tensors. Choose another target, or "
                "add --force to replace it."
            )
    elif others := [name for name in names if name not in _ON_ITS_OWN]:
        raise ArtifactError(
            f"{store.uri}: has other files ({', '.join(others[:3])}) and no {DIGESTS}. Choose another "
            "target; if an upload of this checkpoint was cut, add --force to complete it."
        )
    return names


def _access(address: str, store: Store, public: bool) -> str:
    if not address.startswith(HUB):
        return "as set at the storage"
    is_public = public if store.is_public is None else store.is_public
    access = "public" if is_public else "private"
    if store.is_public is None:
        return f"{access}, a new repository"
    kept = ", which --public does not change" if public and access == "private" else ""
    return f"{access}, an existing repository{kept}"
