"""Finds a tritonserver and prepares what it needs to run.

The order is: an explicit path, NVIDIA's containers (/opt/tritonserver), PATH, the wheel
``nvidia-pytriton``. The wheel contains a complete Triton that cannot run in place: the Python
backend is not in one folder with the stub for this Python version, and only pytriton knows the
folder of the libraries. `find_server` assembles the few files in a cache folder.
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
from trt_tokenizers.repository.demo_model import cache_folder

_CONTAINER = Path("/opt/tritonserver")
_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_STUB = "triton_python_backend_stub"
_PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class TritonInstallation:
    """A tritonserver that can be started.

    Attributes:
        executable: absolute path.
        backend_directory: for ``--backend-directory``; None if the server's default works.
        env: environment variables to set for the server.
        version: e.g. ``2.51.0``; None if the installation does not contain it.
    """

    executable: Path
    backend_directory: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    version: str | None = None


def find_server(explicit: str | None = None, container: Path = _CONTAINER) -> TritonInstallation:
    """Find a tritonserver, ready to run Python models with this interpreter's packages.

    Args:
        explicit: path of a tritonserver, or of the folder that contains ``bin/tritonserver``.
        container: the folder of a Triton container.

    Raises:
        ServerNotFoundError: there is none, or it cannot run; the message contains the fix.
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
        return _server_at(path, wheel)
    in_container = container / "bin" / "tritonserver"
    if _runnable(in_container):
        return _server_at(in_container, wheel)
    on_path = shutil.which("tritonserver")
    if on_path:
        return _server_at(Path(on_path), wheel)
    if wheel is not None:
        return _wheel_server(wheel)
    raise ServerNotFoundError(
        f"no tritonserver: not in {container}, not on PATH, and the wheel nvidia-pytriton is not "
        f"installed in {sys.prefix}; pip install 'trt-tokenizers[embedded]', "
        "or set TRITONSERVER to its path (launch_server: --triton-server)"
    )


def _runnable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def _server_at(path: Path, wheel: Path | None) -> TritonInstallation:
    path = path.absolute()
    if wheel is not None and path.resolve() == (wheel / "bin" / "tritonserver").resolve():
        return _wheel_server(wheel)
    root = path.resolve().parent.parent
    backends = root / "backends"
    version_file = root / "TRITON_VERSION"
    return TritonInstallation(
        executable=path,
        # Triton's default is /opt/tritonserver/backends, wherever the program is.
        backend_directory=backends if root != _CONTAINER and backends.is_dir() else None,
        env=_python_env(),
        version=version_file.read_text().strip() if version_file.is_file() else None,
    )


def _wheel_root() -> Path | None:
    """The wheel's ``tritonserver`` folder, found without the slow import of pytriton."""
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
        # The wheel's libraries come first: the copied stub finds them only by this path.
        env={
            "LD_LIBRARY_PATH": ":".join([*map(str, libraries), *([given] if given else [])]),
            **_python_env(),
        },
    )


def _python_env() -> dict[str, str]:
    """Variables with which the stub's embedded Python finds this interpreter's packages.

    It uses the environment of the first ``python3`` on PATH, so the launcher must activate its own
    virtual environment for the server. Only newer stubs use PYTHONPATH: up to 24.10 they run
    isolated (as ``python -I``), and ignore it and the user's site-packages.
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
    version = importlib.metadata.version("numpy")
    if int(version.partition(".")[0]) >= 2:
        raise ServerNotFoundError(
            f"numpy {version} is installed, and the Python backend of the wheel nvidia-pytriton "
            "cannot read string tensors with numpy 2; pip install 'numpy<2'"
        )


def _libpython_folder() -> Path:
    """The folder of this interpreter's own shared library, which the stub loads.

    The system's library does not replace it: that of another patch release starts, but then fails
    on an extension module that needs a newer symbol (for example ssl).
    """
    library = f"libpython{_PYTHON}.so.1.0"
    base = Path(sys.base_prefix)
    folders = [
        Path(sysconfig.get_config_var("LIBDIR") or base / "lib"),
        base / "lib",  # relocated interpreters (uv, conda) have the LIBDIR of their build machine
        Path(sys.executable).resolve().parent.parent / "lib",
    ]
    for folder in folders:
        if (folder / library).is_file():
            return folder
    if (base / "bin" / f"python{_PYTHON}").resolve().parent == Path("/usr/bin"):
        fix = f"apt-get install libpython{_PYTHON}"
    else:
        fix = (
            "create the environment with a Python that has one: built with --enable-shared "
            "(PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install …), uv's, conda's or the system's"
        )
    raise ServerNotFoundError(
        f"the Python backend of the wheel nvidia-pytriton loads {library}, and this interpreter "
        f"({base}) has none in {folders[0]}; {fix}"
    )


def _assemble(backend: Path, stub: Path, version: str) -> Path:
    """Create a backend directory with the wheel's Python backend and the stub.

    The files are copies (3 MB), so removing one environment does not break another. Each appears
    whole, so concurrent launches may all write it.
    """
    cache = cache_folder()
    target = cache / f"triton-backends-{version}-py{_PYTHON}"
    if _run_from_source():  # models import this package from the backend's folder
        target = target.with_name(f"{target.name}-{zlib.crc32(os.fsencode(_PACKAGE)):08x}")
    folder = target / "python"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for source in (*(p for p in backend.iterdir() if p.is_file()), stub):
            copy = folder / source.name
            if not copy.is_file() or copy.stat().st_size != source.stat().st_size:
                with tempfile.TemporaryDirectory(dir=folder, prefix=".making-") as scratch:
                    Path(shutil.copy2(source, scratch)).replace(copy)
        if _run_from_source():
            with contextlib.suppress(FileExistsError):
                (folder / _PACKAGE.name).symlink_to(_PACKAGE)
    except OSError as error:
        raise ServerNotFoundError(
            f"cannot assemble the Python backend in {cache}: {error.strerror}; "
            "set XDG_CACHE_HOME to a writable folder"
        ) from None
    return target
