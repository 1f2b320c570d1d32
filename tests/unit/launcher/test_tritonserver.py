"""Finding tritonserver in fake installations."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import threading
from pathlib import Path

import pytest

from trt_tokenizers.errors import ServerNotFoundError
from trt_tokenizers.launcher import tritonserver
from trt_tokenizers.launcher.tritonserver import TritonInstallation, find_server

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
NOWHERE = Path("/nonexistent")


def executable(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def distribution(site: Path, name: str, version: str) -> None:
    info = site / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A separate cache, and no tritonserver on PATH."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The relevant files of nvidia-pytriton, in a separate site-packages."""
    site = tmp_path / "site"
    root = site / "pytriton" / "tritonserver"
    executable(root / "bin" / "tritonserver")
    (root.parent / "__init__.py").write_text("raise AssertionError('must not be imported')")
    backend = root / "backends" / "python"
    (backend / "__pycache__").mkdir(parents=True)
    (backend / "libtriton_python.so").write_text("library")
    (backend / "triton_python_backend_utils.py").write_text("utils")
    executable(root / "python_backend_stubs" / PYTHON / "triton_python_backend_stub")
    (root / "python_backend_stubs" / "3.8").mkdir()
    (site / "nvidia_pytriton.libs").mkdir()
    distribution(site, "nvidia_pytriton", "0.7.0")
    distribution(site, "numpy", "1.26.4")
    libraries = tmp_path / "python" / "lib"
    libraries.mkdir(parents=True)
    (libraries / f"libpython{PYTHON}.so.1.0").touch()
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: str(libraries))
    monkeypatch.syspath_prepend(site)
    return root


def test_an_explicit_path_comes_first(tmp_path: Path) -> None:
    program = executable(tmp_path / "triton" / "bin" / "tritonserver")
    container = executable(tmp_path / "opt" / "bin" / "tritonserver").parents[1]
    (tmp_path / "triton" / "backends").mkdir()
    (tmp_path / "triton" / "TRITON_VERSION").write_text("2.51.0\n")
    for explicit in (program, tmp_path / "triton"):
        found = find_server(str(explicit), container)
        assert found.executable == program
        assert found.backend_directory == tmp_path / "triton" / "backends"
        assert found.version == "2.51.0"


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_an_explicit_path_without_a_program(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ServerNotFoundError, match=f"{name} is not an executable file"):
        find_server(str(tmp_path / name))


def test_the_container_comes_before_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_path = executable(tmp_path / "bin" / "tritonserver")
    monkeypatch.setenv("PATH", str(on_path.parent))
    assert find_server(None, NOWHERE).executable == on_path
    container = executable(tmp_path / "opt" / "bin" / "tritonserver")
    assert find_server(None, tmp_path / "opt").executable == container


def test_nothing_found_names_the_places_and_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tritonserver, "_wheel_root", lambda: None)
    with pytest.raises(ServerNotFoundError) as caught:
        find_server(None, NOWHERE)
    for part in (str(NOWHERE), "PATH", "nvidia-pytriton", "trt-tokenizers[embedded]"):
        assert part in str(caught.value)


def test_the_assembled_wheel(wheel: Path, tmp_path: Path) -> None:
    found = find_server(None, NOWHERE)
    assert found.executable == wheel / "bin" / "tritonserver"
    assert found.backend_directory is not None
    files = {p.name: p for p in (found.backend_directory / "python").iterdir()}
    assert set(files) - {"trt_tokenizers"} == {
        "libtriton_python.so",
        "triton_python_backend_utils.py",
        "triton_python_backend_stub",
    }
    assert os.access(files["triton_python_backend_stub"], os.X_OK)
    libraries = f"{wheel.parents[1] / 'nvidia_pytriton.libs'}:{tmp_path / 'python' / 'lib'}"
    assert found.env["LD_LIBRARY_PATH"] == libraries
    assert find_server(None, NOWHERE) == found, "assembled once"


def test_the_wheel_keeps_ld_library_path(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/usr/local/cuda/lib64")
    assert find_server(None, NOWHERE).env["LD_LIBRARY_PATH"].endswith(":/usr/local/cuda/lib64")


def test_the_wheels_own_program_named_explicitly(wheel: Path) -> None:
    named = find_server(str(wheel / "bin" / "tritonserver"))
    assert named == find_server(None, NOWHERE)


def test_the_server_runs_this_interpreters_packages(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv" / "bin" / "python"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
    env = find_server(None, NOWHERE).env
    assert env["PATH"] == f"{tmp_path / 'venv' / 'bin'}:/usr/bin"
    assert env["VIRTUAL_ENV"] == str(tmp_path / "venv")


def test_a_source_tree_is_visible_to_models(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = Path(tritonserver.__file__).parents[1]
    monkeypatch.setattr(tritonserver, "_run_from_source", lambda: True)
    found = find_server(None, NOWHERE)
    assert found.backend_directory is not None
    assert (found.backend_directory / "python" / "trt_tokenizers").resolve() == package.resolve()
    monkeypatch.setattr(tritonserver, "_run_from_source", lambda: False)
    assert find_server(None, NOWHERE).backend_directory != found.backend_directory


def test_an_incomplete_cache_is_replaced(wheel: Path) -> None:
    first = find_server(None, NOWHERE).backend_directory
    assert first is not None
    (first / "python" / "libtriton_python.so").write_text("lib")
    second = find_server(None, NOWHERE).backend_directory
    assert second == first
    assert (first / "python" / "libtriton_python.so").read_text() == "library"
    assert [p.name for p in first.parent.iterdir()] == [first.name], "no scratch folder is left"


def test_many_launches_at_once(wheel: Path) -> None:
    found: list[TritonInstallation] = []
    start = threading.Barrier(8)

    def find() -> None:
        start.wait()
        found.append(find_server(None, NOWHERE))

    threads = [threading.Thread(target=find) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len({f.backend_directory for f in found}) == 1


def test_a_cache_that_cannot_be_written(wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(ServerNotFoundError, match="set XDG_CACHE_HOME to a writable folder"):
        find_server(None, NOWHERE)


def test_numpy_2_is_refused(wheel: Path) -> None:
    site = wheel.parents[1]
    shutil.rmtree(site / "numpy-1.26.4.dist-info")
    distribution(site, "numpy", "2.1.0")
    with pytest.raises(ServerNotFoundError, match=r"numpy 2\.1\.0 .* pip install 'numpy<2'"):
        find_server(None, NOWHERE)


def test_a_python_that_the_wheel_does_not_support(wheel: Path) -> None:
    shutil.rmtree(wheel / "python_backend_stubs" / PYTHON)
    with pytest.raises(ServerNotFoundError, match=f"no Python backend for Python {PYTHON}; it has"):
        find_server(None, NOWHERE)


def test_an_interpreter_without_its_shared_library(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "python" / "lib" / f"libpython{PYTHON}.so.1.0").unlink()
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path / "python"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python" / "bin" / "python"))
    with pytest.raises(ServerNotFoundError) as caught:
        find_server(None, NOWHERE)
    assert f"libpython{PYTHON}.so.1.0" in str(caught.value)
    assert "--enable-shared" in str(caught.value)
    assert "\n" not in str(caught.value)
