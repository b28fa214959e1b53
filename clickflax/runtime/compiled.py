"""The cache of compiled programs, kept between starts of the commands."""

import hashlib
import os
import pathlib
import platform
import warnings

CACHE_PROGRAMS = 300  # the newest programs that are kept


def enable_compilation_cache() -> None:
    """Makes JAX, which must not be imported yet, keep compiled programs in the user's cache folder.

    The environment takes precedence: JAX_COMPILATION_CACHE_DIR names another folder, and
    JAX_ENABLE_COMPILATION_CACHE=false turns the cache off. If the folder cannot be written or one
    of its files cannot be read, programs are compiled as without a cache.
    """
    # The default of JAX is to keep programs that take a second or more.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    # On some processors XLA warns at every program it loads that the processor differs, because its
    # list of features includes hints to the compiler (+prefer-no-gather). Real errors are raised.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = cache_folder()
        if folder:
            os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)


def cache_folder() -> pathlib.Path | None:
    """The cache folder of this user and this processor, after removing old programs; None if it
    cannot be used.

    Only its owner may have access: whoever can write to it can make this user run any code.
    """
    try:
        base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        folder = pathlib.Path(base) / "clickflax" / f"compiled-{processor()}"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = folder.stat()
        if about.st_uid != os.getuid() or about.st_mode & 0o077:
            return None
        programs = sorted(folder.glob("*-cache"), key=lambda path: path.stat().st_mtime)
        for old in programs[:-CACHE_PROGRAMS]:
            old.unlink()
    except (OSError, RuntimeError):  # no home, or another process has just removed a program
        return None
    return folder if os.access(folder, os.W_OK) else None


def processor() -> str:
    """A fingerprint of the processor.

    JAX would load a program that was compiled on another machine with the same home folder, and
    crash if it has instructions that this processor lacks.
    """
    info = pathlib.Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.exists() else platform.processor()
    names = ("model name", "flags", "Features")
    lines = sorted({line for line in text.splitlines() if line.startswith(names)})
    return hashlib.sha256("\n".join(lines or [text]).encode()).hexdigest()[:12]
