"""The cache of compiled programs that the commands keep between starts."""

import hashlib
import os
import pathlib
import platform
import warnings

CACHE_FOLDER = 300  # programs; those written last


def enable_compilation_cache() -> None:
    """Has JAX, which must not have been imported, keep what it compiles in the user's cache folder.

    What the environment says already wins: JAX_COMPILATION_CACHE_DIR names another folder, and
    JAX_ENABLE_COMPILATION_CACHE=false turns it off. Without a folder that can be written, and where
    one of its files cannot be read, programs are compiled as if there were none.
    """
    # By itself JAX keeps only what takes a second.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    # For some processors XLA says at every program it loads that it is of another one, because its
    # list of their features has hints to the compiler (+prefer-no-gather). Real errors are raised.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = cache_folder()
        if folder:
            os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)


def cache_folder() -> pathlib.Path | None:
    """The folder of this user and this processor, with the newest programs; None for none.

    It is readable by its owner alone: who can write there can have this user run anything.
    """
    try:
        base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        folder = pathlib.Path(base) / "clickflax" / f"compiled-{processor()}"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = folder.stat()
        if about.st_uid != os.getuid() or about.st_mode & 0o077:
            return None
        programs = sorted(folder.glob("*-cache"), key=lambda path: path.stat().st_mtime)
        for old in programs[:-CACHE_FOLDER]:
            old.unlink()
    except (OSError, RuntimeError):  # no home, or a program that another process removes just now
        return None
    return folder if os.access(folder, os.W_OK) else None


def processor() -> str:
    """Twelve characters that tell processors apart: JAX loads what was compiled for another one, as
    machines that share a home may have left it, and dies of instructions that this one has not.
    """
    info = pathlib.Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.exists() else platform.processor()
    names = ("model name", "flags", "Features")
    lines = sorted({line for line in text.splitlines() if line.startswith(names)})
    return hashlib.sha256("\n".join(lines or [text]).encode()).hexdigest()[:12]
