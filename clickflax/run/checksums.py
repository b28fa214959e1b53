"""SHA-256 of the small files of a run, kept beside them in checksums.json.

They cover config.json, variables.json and vocab/*.parquet. A run without checksums.json, of a
version before 0.2.0, is read as it is.

A resumed run may rewrite its config.json. Before that, checksums.json lists the digests of the old
and the new one; it keeps both until the next change. So every moment has a file that matches, also
for another process that reads the run.
"""

import hashlib
import pathlib

from ml_collections import ConfigDict

from clickflax.config.default import to_dict
from clickflax.runtime.files import atomic, read_json, sha256_of, text_of_json, write_json
from clickflax.runtime.redact import redact
from clickflax.runtime.schema import RELATIVE_PATH

CHECKSUMS_FILE = "checksums.json"
CONFIG = "config.json"


def write_config(folder: pathlib.Path, config: ConfigDict) -> None:
    """Writes the config of a run and the checksums of its small files."""
    text = text_of_json(redact(to_dict(config)))
    names = [CONFIG, "variables.json", *_vocabulary_names(folder)]
    sums = {name: [sha256_of(folder / name)] for name in names if (folder / name).is_file()}
    kept = read_checksums(folder)
    new = hashlib.sha256(text.encode()).hexdigest()
    if kept and sums.get(CONFIG) == [new]:
        return
    write_json(folder / CHECKSUMS_FILE, {**sums, **kept, CONFIG: [*sums.get(CONFIG, []), new]})
    with atomic(folder / CONFIG) as partial:
        partial.write_bytes(text.encode())


def read_checksums(folder: pathlib.Path) -> dict[str, list[str]]:
    """The SHA-256 digests of each file, one of which it has; {} for a run without checksums."""
    path = folder / CHECKSUMS_FILE
    return read_json(path, {RELATIVE_PATH: [str]}) if path.is_file() else {}


def check_file(folder: pathlib.Path, name: str) -> None:
    """Raises ValueError if a small file of a run is not as the run has written it."""
    digest = sha256_of(folder / name)  # first: checksums.json has also the digest of an older file
    sums = read_checksums(folder)
    if sums and digest not in sums.get(name, ()):
        raise ValueError(
            f"{folder / name} has changed since the run wrote it: its SHA-256 is not that of "
            f"{CHECKSUMS_FILE}. Restore it from a backup; if the change was meant, remove "
            f"{folder / CHECKSUMS_FILE}."
        )


def check_vocabularies(folder: pathlib.Path) -> None:
    """Raises ValueError if a vocabulary of a run is missing, new, or not as it was written."""
    names = _vocabulary_names(folder)
    for name in sorted(read_checksums(folder)):
        if name.startswith("vocab/") and name not in names:
            raise ValueError(f"{folder / name} is missing. Restore it from a backup.")
    for name in names:
        check_file(folder, name)


def _vocabulary_names(folder: pathlib.Path) -> list[str]:
    """The names of the vocabularies of a run, such as vocab/item.parquet."""
    return [f"vocab/{path.name}" for path in sorted((folder / "vocab").glob("*.parquet"))]
