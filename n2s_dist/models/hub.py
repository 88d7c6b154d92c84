"""Networks in repositories of a model hub: hf://OWNER/REPO, or hf://OWNER/REPO@REVISION.

    model.safetensors     the weights
    model.json            what a checkpoint's model.json holds, and the weights' checksum
    README.md             the model card, for people

The package huggingface_hub does the rest: it knows the hub's address, the user's token and a cache on the disk, which
also serves without a network. A branch or tag becomes a commit once, and both files are of that commit. No other file
is ever read. n2s push writes these files.
"""

import contextlib
import hashlib
import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from n2s_dist import __version__
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.files import sha256_file

WEIGHTS, ABOUT, CARD = "model.safetensors", "model.json", "README.md"
_ADDRESS = re.compile(r"hf:/{1,2}(?P<repository>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[\w./-]+))?")
_SNAPSHOT = re.compile(r"models--(?P<owner>.+?)--(?P<name>.+)")  # of huggingface_hub's cache
_COMMIT = re.compile(r"[0-9a-f]{40}")


class Address(NamedTuple):
    """A repository, "OWNER/REPO", and a branch, tag or commit; None for the main branch."""

    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"hf://{self.repository}{f'@{self.revision}' if self.revision else ''}"


def is_address(text: str | Path) -> bool:
    """Whether a user means a repository of a hub. A Path has lost the second slash."""
    return str(text).startswith("hf:/")


def parse(text: str | Path) -> Address:
    """Raises UserError for what is no address."""
    found = _ADDRESS.fullmatch(str(text))
    if found is None:
        raise UserError(f"{text} is no repository: write hf://OWNER/REPO, or hf://OWNER/REPO@REVISION")
    return Address(found["repository"], found["revision"])


def library(address: Address) -> ModuleType:
    """The package huggingface_hub. Raises UserError that names the extra where it is missing."""
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError:
        raise UserError(f"{address} takes the package huggingface_hub: pip install n2s_dist[hub]") from None


def fetch(text: str | Path) -> Path:
    """The folder of the disk's cache that holds a network's weights and description, downloaded where they are not.

    Raises UserError where there is no such repository, revision or network, or it can't be reached and is not cached.
    """
    address = parse(text)
    package = library(address)
    said = {"library_name": "n2s_dist", "library_version": __version__}
    with told(address):
        about = Path(package.hf_hub_download(address.repository, ABOUT, revision=address.revision, **said))
        package.hf_hub_download(address.repository, WEIGHTS, revision=about.parent.name, **said)
    if problem := damage(about.parent):
        raise UserError(f"{address} can't be used: {problem}")
    return about.parent


def damage(folder: Path) -> str | None:
    """What is wrong with a folder that `fetch` gave; None where the weights are those that were described."""
    try:
        about = json.loads((folder / ABOUT).read_text())
        if not isinstance(about, dict) or "config" not in about:
            return f"its {ABOUT} is none of n2s_dist's"
        intact = about.get("sha256") in (None, sha256_file(folder / WEIGHTS))
    except (OSError, ValueError) as error:
        return f"its {ABOUT} can't be read ({type(error).__name__})"
    return None if intact else f"{WEIGHTS} does not match its checksum: remove {folder}, and it is downloaded again"


def source_of(folder: Path) -> str:
    """Where a folder that `fetch` gave comes from, with its commit, "hf://OWNER/REPO@COMMIT"; empty for any other."""
    if folder.parent.name != "snapshots" or not _COMMIT.fullmatch(folder.name):
        return ""
    found = _SNAPSHOT.fullmatch(folder.parents[1].name)
    return str(Address(f"{found['owner']}/{found['name']}", folder.name)) if found else ""


def push(address: Address, weights: bytes, about: dict[str, Any], card: str, private: bool, message: str) -> Address:
    """Put a network into a repository, which is made where there is none. Returns it with the commit.

    private: whether only its owner may see it; a public one is then refused. Raises UserError where there is no token,
    or none that may write there.
    """
    package = library(address)
    check_token(address)
    about = about | {"sha256": hashlib.sha256(weights).hexdigest()}
    files = {WEIGHTS: weights, ABOUT: (json.dumps(about, indent=1) + "\n").encode(), CARD: card.encode()}
    api = package.HfApi(library_name="n2s_dist", library_version=__version__)
    with told(address):
        api.create_repo(address.repository, private=True if private else None, exist_ok=True)
        if private and not api.model_info(address.repository).private:
            raise UserError(f"{address} is there already and is public: leave --private out, or name another")
        operations = [package.CommitOperationAdd(name, content) for name, content in files.items()]
        done = api.create_commit(address.repository, operations, commit_message=message)
    return Address(address.repository, done.oid)


def check_token(address: Address) -> None:
    """UserError where the user has no token, without which nothing can be written."""
    if library(address).get_token() is None:
        raise UserError(f"{address} takes a token to write there: set HF_TOKEN, or log in by hf auth login")


@contextlib.contextmanager
def told(address: Address) -> Iterator[None]:
    """What the package raises becomes one UserError, with nothing of a request in it."""
    errors = importlib.import_module("huggingface_hub.errors")
    access = "check the name; if it is private, set HF_TOKEN, or log in by hf auth login"
    try:
        yield
    except UserError:
        raise
    except errors.GatedRepoError:
        raise UserError(f"{address} is gated: accept its terms on its page, and set HF_TOKEN to your token") from None
    except errors.RepositoryNotFoundError:
        raise UserError(f"there is no {address}, or you may not see it: {access}") from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{address} has no such revision: give a branch, a tag or a commit, or leave it out") from None
    except errors.LocalEntryNotFoundError:
        raise UserError(f"{address} can't be reached, and is not in the cache: connect, or check HF_ENDPOINT") from None
    except errors.EntryNotFoundError:
        raise UserError(f"{address} is no network of n2s_dist: {ABOUT} or {WEIGHTS} is missing") from None
    except errors.OfflineModeIsEnabled:
        raise UserError(f"{address} can't be reached while HF_HUB_OFFLINE is set: remove it") from None
    except errors.HfHubHTTPError as error:
        code = error.response.status_code
        reasons = {
            401: "the token is not valid, so log in anew",
            403: "the token may not do that, so take one that may",
        }
        raise UserError(f"{address} was refused ({code}): {reasons.get(code, 'try again later')}") from None
    except errors.HFValidationError:
        raise UserError(f"{address} is no name that a repository can have: write hf://OWNER/REPO") from None
    except (getattr(errors, "HTTPError", OSError), ConnectionError, RuntimeError) as error:
        raise UserError(f"{address} can't be reached ({type(error).__name__}): try again later") from None
