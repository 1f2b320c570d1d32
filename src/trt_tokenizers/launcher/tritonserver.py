"""Where tritonserver is, and what it needs around it to run.

Looked for in this order: the path that was given, NVIDIA's containers (/opt/tritonserver), PATH,
and the wheel ``nvidia-pytriton``. The wheel holds a whole Triton, but not laid out to be run: its
Python backend lies apart from the stub of each Python version, and its libraries where only
pytriton looks for them. `find_server` puts the few files together in a cache folder.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import shutil
import site
import sys
import sysconfig
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trt_tokenizers.errors import ServerNotFoundError

_CONTAINER = Path("/opt/tritonserver")
_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_STUB = "triton_python_backend_stub"
_PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class TritonInstallation:
    """A tritonserver that can be started.

    Attributes:
        executable: absolute path.
        backend_directory: for ``--backend-directory``; None where the server's own default serves.
        env: variables to set for the server, whole values.
        source: where it was found, for people.
        version: what its installation says, e.g. ``2.51.0``; None if it does not say.
    """

    executable: Path
    backend_directory: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    version: str | None = None


def find_server(explicit: str | None = None, container: Path = _CONTAINER) -> TritonInstallation:
    """The tritonserver to start, ready to run Python models with this interpreter's packages.

    Args:
        explicit: path of a tritonserver, or of the folder that holds ``bin/tritonserver``.
        container: the folder of a Triton container.

    Raises:
        ServerNotFoundError: there is none, or the one there is cannot run; says what mends it.
    """
    wheel = _wheel_root()
    if explicit:
        path = Path(explicit).expanduser()
        path = path / "bin" / "tritonserver" if path.is_dir() else path
        if not _runnable(path):
            raise ServerNotFoundError(
                f"--triton-server {explicit}: {path} is not an executable file; "
                "give the path of a tritonserver"
            )
        return _server_at(path, wheel, "--triton-server")
    in_container = container / "bin" / "tritonserver"
    if _runnable(in_container):
        return _server_at(in_container, wheel, str(container))
    on_path = shutil.which("tritonserver")
    if on_path:
        return _server_at(Path(on_path), wheel, "PATH")
    if wheel is not None:
        return _wheel_server(wheel)
    raise ServerNotFoundError(
        f"no tritonserver: not in {container}, not on PATH, and the wheel nvidia-pytriton is not "
        f"installed in {sys.prefix}; pip install 'trt-tokenizers[embedded]', "
        "or name one with --triton-server"
    )


def _runnable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def _server_at(path: Path, wheel: Path | None, source: str) -> TritonInstallation:
    path = path.absolute()
    if wheel is not None and path.resolve() == (wheel / "bin" / "tritonserver").resolve():
        return _wheel_server(wheel)
    root = path.resolve().parent.parent
    backends = root / "backends"
    version_file = root / "TRITON_VERSION"
    return TritonInstallation(
        executable=path,
        # The default is /opt/tritonserver/backends wherever the program itself lies.
        backend_directory=backends if root != _CONTAINER and backends.is_dir() else None,
        env=_python_env(),
        source=source,
        version=version_file.read_text().strip() if version_file.is_file() else None,
    )


def _wheel_root() -> Path | None:
    """The wheel's ``tritonserver`` folder. Found without importing pytriton, which is heavy."""
    with contextlib.suppress(ImportError, ValueError):
        spec = importlib.util.find_spec("pytriton")
        for place in (spec and spec.submodule_search_locations) or ():
            if _runnable(Path(place) / "tritonserver" / "bin" / "tritonserver"):
                return Path(place) / "tritonserver"
    return None


def _wheel_server(root: Path) -> TritonInstallation:
    _check_numpy()
    version = importlib.metadata.version("nvidia-pytriton")
    stub = root / "python_backend_stubs" / _PYTHON / _STUB
    if not stub.is_file():
        has = ", ".join(sorted(p.name for p in stub.parent.parent.iterdir()))
        raise ServerNotFoundError(
            f"nvidia-pytriton {version} has no Python backend for Python {_PYTHON}; it has {has}"
        )
    libraries = [root.parent.parent / "nvidia_pytriton.libs", _libpython_folder()]
    given = os.environ.get("LD_LIBRARY_PATH")
    return TritonInstallation(
        executable=root / "bin" / "tritonserver",
        backend_directory=_assemble(root / "backends" / "python", stub, version),
        # The wheel's libraries first: the stub finds them by this path alone once it is copied.
        env={
            "LD_LIBRARY_PATH": ":".join([*map(str, libraries), *([given] if given else [])]),
            **_python_env(),
        },
        source=f"the wheel nvidia-pytriton {version}",
        version=None,
    )


def _python_env() -> dict[str, str]:
    """Variables by which an embedded Python finds this interpreter's packages.

    It looks for the first ``python3`` on PATH and takes that one's environment, so a launcher
    that runs as /venv/bin/launch_server has to activate its environment for the server. PYTHONPATH
    helps newer stubs only: up to 24.10 they run isolated (as ``python -I``), and see neither it
    nor the user's site-packages.
    """
    env = {"PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"}
    if sys.prefix != sys.base_prefix:
        env["VIRTUAL_ENV"] = sys.prefix
    if _run_from_source():
        given = os.environ.get("PYTHONPATH")
        env["PYTHONPATH"] = f"{_PACKAGE.parent}:{given}" if given else str(_PACKAGE.parent)
    return env


def _run_from_source() -> bool:
    return str(_PACKAGE.parent) not in site.getsitepackages()


def _check_numpy() -> None:
    try:
        version = importlib.metadata.version("numpy")
    except importlib.metadata.PackageNotFoundError:
        raise ServerNotFoundError(
            "numpy is not installed, which the Python backend needs; pip install 'numpy<2'"
        ) from None
    if int(version.partition(".")[0]) >= 2:
        raise ServerNotFoundError(
            f"numpy {version} is installed, and the Python backend of the wheel nvidia-pytriton "
            "cannot read string tensors with numpy 2; pip install 'numpy<2'"
        )


def _libpython_folder() -> Path:
    """The folder of this interpreter's own shared library, which the stub loads.

    Another patch release's library starts as well, and then fails on the first extension module
    that wants a newer symbol (ssl, seen), so the system's is no substitute.
    """
    library = f"libpython{_PYTHON}.so.1.0"
    base = Path(sys.base_prefix)
    folders = [
        Path(sysconfig.get_config_var("LIBDIR") or base / "lib"),
        base / "lib",  # relocated interpreters (uv, conda) keep the LIBDIR of their build machine
        Path(sys.executable).resolve().parent.parent / "lib",
    ]
    for folder in folders:
        if (folder / library).is_file():
            return folder
    if (base / "bin" / f"python{_PYTHON}").resolve().parent == Path("/usr/bin"):
        mend = f"apt-get install libpython{_PYTHON}"
    else:
        mend = (
            "make the environment with a Python that has one: built with --enable-shared "
            "(PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install …), uv's, conda's or the system's"
        )
    raise ServerNotFoundError(
        f"the Python backend of the wheel nvidia-pytriton loads {library}, and this interpreter "
        f"({base}) has none in {folders[0]}; {mend}"
    )


def _assemble(backend: Path, stub: Path, version: str) -> Path:
    """A backend directory with the wheel's Python backend and the stub beside it.

    Copies, 3 MB, so that removing one environment does not break another's. Made under another
    name and renamed, so two launches at once see nothing or everything.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trt-tokenizers"
    target = cache / f"triton-backends-{version}-py{_PYTHON}"
    if _run_from_source():  # models import this package, and the backend's folder is on their path
        target = target.with_name(f"{target.name}-{zlib.crc32(os.fsencode(_PACKAGE)):08x}")
    sources = [*(p for p in backend.iterdir() if p.is_file()), stub]
    if _complete(target, sources):
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".making-") as scratch:
            made = Path(scratch) / "new"
            (made / "python").mkdir(parents=True)
            for source in sources:
                shutil.copy2(source, made / "python")
            if _run_from_source():
                (made / "python" / _PACKAGE.name).symlink_to(_PACKAGE)
            # Incomplete: a full disk, or a hand that tidied up.
            if target.exists() and not _complete(target, sources):
                with contextlib.suppress(FileNotFoundError):
                    target.rename(Path(scratch) / "old")
            try:
                made.rename(target)
            except OSError:
                if not _complete(target, sources):  # else another launch was faster
                    raise
    except OSError as error:
        raise ServerNotFoundError(
            f"cannot lay out the Python backend in {cache}: {error.strerror}; "
            "set XDG_CACHE_HOME to a folder that can be written"
        ) from None
    return target


def _complete(target: Path, sources: list[Path]) -> bool:
    copies = [(source, target / "python" / source.name) for source in sources]
    return all(c.is_file() and c.stat().st_size == s.stat().st_size for s, c in copies)
