"""Bundles on the Hugging Face Hub: fetched into its cache, and published.

Where the hub is (HF_ENDPOINT), where the cache is (HF_HOME), who asks (HF_TOKEN) and whether to ask at all
(HF_HUB_OFFLINE) is huggingface_hub's to read; it is imported on first use, because it takes a while.
"""

import contextlib
import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffrt.bundle import Bundle, read_manifest
from diffrt.errors import DiffrtError, HubError
from diffrt.manifest import MANIFEST

ID = re.compile(r"(?!\.)[\w.-]+/[\w.-]+", re.ASCII)
PAGES = ("README.md", "LICENSE", "LICENSE.md", "LICENSE.txt")  # kept and published where they are there


def is_id(model: str | os.PathLike[str]) -> bool:
    """Whether this is a hub id: text of the form org/name that is no path here. "./org/name" is always a path."""
    return isinstance(model, str) and bool(ID.fullmatch(model)) and not os.path.lexists(model)


def fetch(repo_id: str, revision: str | None = None) -> Path:
    """The folder of a published bundle in the cache: its manifest and the files it lists, and nothing else. Of another
    program's folder of graphs, the graphs and what they need.

    revision is a branch, a tag or a commit. Files in the cache are not asked for again. Raises HubError; BundleError
    for a damaged manifest.
    """
    from diffrt import foreign

    def no_bundle(names: frozenset[str]) -> HubError | None:
        if MANIFEST in names or foreign.among(names):
            return None
        if "model_index.json" in names:
            return HubError(f"{repo_id} is a checkpoint, not a bundle: run diffrt export {repo_id} DEST and load DEST")
        return HubError(f"{repo_id} is no bundle: it has no {MANIFEST}")

    repo = open_repo(repo_id, revision, (MANIFEST, foreign.INDEX), no_bundle)
    if MANIFEST in repo.names:
        return repo.fetch(read_manifest(repo.root).files)
    root = repo.fetch(foreign.files_among(repo.names))
    return repo.fetch(foreign.data_among(root, repo.names))


def push(bundle: str | os.PathLike[str], repo_id: str, *, private: bool = False, revision: str | None = None) -> str:
    """Publish a bundle's folder in one commit, and return the address of its page.

    What goes up is the manifest, the files it lists, README.md and LICENSE. The repository is created where there is
    none, private if asked, and so is the branch `revision`. Raises BundleError for a damaged bundle, HubError.
    """
    opened = Bundle.open(Path(bundle)).own()
    pages = [name for name in PAGES if (opened.root / name).is_file()]
    names = dict.fromkeys([MANIFEST, *opened.manifest.files, *pages])
    with _explained(repo_id, revision):
        from huggingface_hub import CommitOperationAdd, HfApi

        api = HfApi()
        url = api.create_repo(repo_id, private=private or None, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        operations = [CommitOperationAdd(name, opened.root / name) for name in names]
        api.create_commit(repo_id, operations, commit_message="diffrt push", revision=revision)
    return f"{url}/tree/{revision}" if revision is not None else str(url)


@dataclass(frozen=True)
class Repo:
    """A model on the hub at one commit. `names` are its files; where the hub is out of reach, those in the cache."""

    id: str
    root: Path  # the commit's folder in the cache
    names: frozenset[str]
    unreached: Exception | None = None  # why the hub is out of reach

    def fetch(self, names: Iterable[str]) -> Path:
        """Bring these files into the cache and return the folder they lie in."""
        wanted = set(names)
        for missing in sorted(wanted - self.names):
            if self.unreached:
                raise HubError(_message(self.unreached, self.id, None))
            raise HubError(f"{self.id} is incomplete: it has no {missing}; try another revision, or tell its owner")
        if not all((self.root / name).is_file() for name in wanted):
            with _explained(self.id, self.root.name):
                from huggingface_hub import snapshot_download

                patterns = [glob.escape(name) for name in sorted(wanted)]
                snapshot_download(self.id, revision=self.root.name, allow_patterns=patterns)
        return self.root


def open_repo(
    repo_id: str, revision: str | None, first: Sequence[str], lacking: Callable[[frozenset[str]], DiffrtError | None]
) -> Repo:
    """Ask the hub for a model's files and fetch the first of `first` that is there; `lacking` gives the error where
    the files are not those of what is looked for."""
    with _explained(repo_id, revision):
        from huggingface_hub import HfApi, constants, hf_hub_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            info = HfApi().model_info(repo_id, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        except Exception as error:
            if not _out_of_reach(error):
                raise
            for name in first:
                with contextlib.suppress(LocalEntryNotFoundError):
                    root = Path(hf_hub_download(repo_id, name, revision=revision, local_files_only=True)).parent
                    cached = frozenset(f.relative_to(root).as_posix() for f in root.rglob("*") if f.is_file())
                    return Repo(repo_id, root, cached, error)
            raise
        names = frozenset(sibling.rfilename for sibling in info.siblings or ())
        if refusal := lacking(names):
            raise refusal
        there = next(name for name in first if name in names)
        return Repo(repo_id, Path(hf_hub_download(repo_id, there, revision=revision)).parent, names)


@contextlib.contextmanager
def _explained(repo_id: str, revision: str | None) -> Iterator[None]:
    """Whatever huggingface_hub raises becomes a HubError."""
    try:
        yield
    except DiffrtError:
        raise
    except Exception as error:
        raise HubError(_message(error, repo_id, revision)) from error


def _out_of_reach(error: Exception) -> bool:
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500
    return isinstance(error, (HTTPError, OfflineModeIsEnabled))


def _message(error: BaseException, repo_id: str, revision: str | None) -> str:
    """What went wrong and what to do about it, in one line."""
    from huggingface_hub import constants, errors

    while error.__cause__ and isinstance(error, (RuntimeError, errors.LocalEntryNotFoundError)):
        error = error.__cause__  # those two only say where it happened
    hub, token = constants.ENDPOINT, "set HF_TOKEN or run hf auth login"
    detail = " ".join(str(error).split())[:300] or type(error).__name__
    match error:
        case errors.HFValidationError():
            return f"{repo_id!r} is no hub id: give organization/name ({detail})"
        case errors.GatedRepoError():
            return f"{repo_id} is gated: accept its terms on {hub}/{repo_id}, then {token}"
        case errors.RepositoryNotFoundError():
            return f"{repo_id!r} is no folder here, and no model on {hub} that you may see: if it is private, {token}"
        case errors.RevisionNotFoundError():
            return f"{repo_id} has no revision {revision!r}: give a branch, a tag or a commit of {hub}/{repo_id}"
        case errors.OfflineModeIsEnabled():
            return f"{repo_id} needs {hub}, and HF_HUB_OFFLINE is set: unset it"
        case errors.HfHubHTTPError() if error.response.status_code in (401, 403):
            status = error.response.status_code
            return f"{hub} refuses access to {repo_id} ({status}): {token}; the token needs the right to do this"
        case errors.HfHubHTTPError():
            status = error.response.status_code
            advice = error.server_message or "try again later, and check HF_ENDPOINT where it is set"
            return f"{hub} answered {status} for {repo_id}: {advice}"
        case errors.HTTPError():
            return f"{repo_id} needs {hub}, which does not answer ({detail}): check the network"
        case OSError(errno=int()):
            return f"{error.strerror} in {constants.HF_HUB_CACHE}: make room, or set HF_HOME to another folder"
        case OSError():
            return f"the transfer of {repo_id} broke off ({detail.partition('. ')[0]}): run it again"
        case _:
            return f"{repo_id} could not be transferred: {detail}"
