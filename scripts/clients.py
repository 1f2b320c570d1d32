"""Real clients from PyPI and npm against a served repository; a table says what worked."""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))
from harness import Server, free_ports, generate_replay, launched  # noqa: E402
from upstream import upstream_repository, with_replay  # noqa: E402

PROGRAMS = ROOT / "scripts" / "clients.d"
ENVIRONMENTS = ROOT / ".cache" / "clients"
PROMPT = "The capital of France is"
# perf_analyzer's binary is in tritonclient's wheels, and links to libcudart and libb64.
PERF_ANALYZER = ("tritonclient==2.51.0", "nvidia-cuda-runtime-cu12")
LIBB64 = ("libb64.so.0d", "libb64-0d")


@dataclass(frozen=True)
class Client:
    """A client, and the repositories that it can ask.

    Attributes:
        packages: what pip, or npm for a program of Node, installs for it.
        program: its file in scripts/clients.d.
        whole: it also asks ensembles that are not decoupled.
        generated: it can ask a generated repository.
        layout: the version of NVIDIA's layout whose tensor types it sends.
        library: a system library that it needs, and Debian's package of it.
        openai: it asks the OpenAI-compatible endpoint.
    """

    packages: tuple[str, ...]
    program: str
    whole: bool = False
    generated: bool = True
    layout: str = "0.17"
    library: tuple[str, str] | None = None
    openai: bool = False

    @property
    def node(self) -> bool:
        """Whether its program runs on Node."""
        return self.program.endswith(".mjs")

    @property
    def missing(self) -> str | None:
        """What the system lacks, and the fix."""
        if self.node and not shutil.which("npm"):
            return "no npm; apt-get install nodejs npm"
        if self.library is None:
            return None
        try:
            ctypes.CDLL(self.library[0])
        except OSError:
            return "no {}; apt-get install {}".format(*self.library)
        return None


CLIENTS = {
    "tritonclient": Client(("tritonclient[all]",), "tritonclient_client.py", whole=True),
    "llama-index": Client(("llama-index-llms-nvidia-triton",), "llama_index_client.py"),
    "litellm": Client(("litellm",), "litellm_client.py", whole=True),
    # Only a pre-release is on PyPI. It imports langchain_core.pydantic_v1 and sends UINT32.
    "langchain": Client(
        ("langchain-nvidia-trt==0.0.1rc0", "langchain-core<0.3"),
        "langchain_client.py", generated=False, layout="0.5",
    ),
    "perf-analyzer": Client(PERF_ANALYZER, "perf_analyzer_client.py", whole=True, library=LIBB64),
    # Newer ones want a perf_analyzer that is not on PyPI.
    "genai-perf": Client(
        ("genai-perf==0.0.8", *PERF_ANALYZER), "genai_perf_client.py", library=LIBB64
    ),
    "openai": Client(("openai",), "openai_client.py", openai=True),
    "openai-node": Client(("openai",), "openai_client.mjs", openai=True),
    "ai-sdk": Client(
        ("@ai-sdk/openai-compatible", "ai", "zod"), "ai_sdk_client.mjs", openai=True
    ),
    "langchain-openai": Client(
        ("langchain-openai", "langchain-tests"), "langchain_openai_client.py", openai=True
    ),
    "litellm-openai": Client(("litellm",), "litellm_openai_client.py", openai=True),
    "instructor": Client(("instructor",), "instructor_client.py", openai=True),
    "pydantic-ai": Client(("pydantic-ai-slim[openai]",), "pydantic_ai_client.py", openai=True),
    "openai-agents": Client(("openai-agents",), "openai_agents_client.py", openai=True),
    "canitoolcall": Client(("canitoolcall",), "canitoolcall_client.py", openai=True),
}  # fmt: skip


@dataclass(frozen=True)
class Repository:
    """What is served: a generated repository, or an adopted one of NVIDIA's *layout*.

    A *scripted* one calls the first tool of a request; its answer to the result is a text.
    """

    layout: str
    decoupled: bool
    scripted: bool = False

    def __str__(self) -> str:
        if self.scripted:
            return "scripted"
        name = f"adopted {self.layout}" if self.layout else "generated"
        return name if self.decoupled else f"{name}, not decoupled"

    def asked_by(self, client: Client) -> bool:
        if client.openai or self.scripted:
            return client.openai and self.decoupled and not self.layout
        if not self.decoupled and not client.whole:
            return False
        return self.layout == client.layout if self.layout else client.generated

    def write(self, path: Path, model: str) -> None:
        """Write the repository; raise CalledProcessError if the command line refuses to."""
        if self.scripted:
            generate_replay(path, scripted_tokenizer(path.with_name("tokenizer"), Path(model)))
        elif self.layout:
            values = {"decoupled_mode": str(self.decoupled)}
            upstream_repository(path, self.layout, Path(model), **values)
            with_replay(path, echo=True)
            run("trt-tokenizers", "adopt", str(path))
        else:
            whole = [] if self.decoupled else ["--set", "decoupled_mode=false"]
            # SmolLM2's own template has no tools.
            arguments = ["--model", model, "--template", "qwen", "--output", str(path), *whole]
            run("trt-tokenizers", "generate", *arguments)

    @property
    def expected(self) -> str:
        """What an answer holds; the stand-in engine of adopted repositories repeats the prompt."""
        return "capital of France" if self.layout else "Paris"


def scripted_tokenizer(folder: Path, model: Path) -> Path:
    """The model's tokenizer, with a template whose prompts are the answers, as the engine repeats
    its prompt."""
    folder.mkdir()
    shutil.copy(model / "tokenizer.json", folder)
    config = json.loads((model / "tokenizer_config.json").read_text())
    config["chat_template"] = (PROGRAMS / "scripted.jinja").read_text()
    config["added_tokens_decoder"] = {
        str(49152 + at): {"content": marker, "special": False}
        for at, marker in enumerate(("<tool_call>", "</tool_call>"))
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def run(program: str, *arguments: str) -> str:
    """Standard output of one of the environment's programs."""
    command = [str(Path(sys.executable).with_name(program)), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@click.command(
    epilog="Examples: scripts/clients, scripts/clients --adopted litellm tritonclient. "
    "Exit codes: 0 all worked, 1 something did not, 2 wrong options."
)
@click.argument("names", nargs=-1, metavar="[CLIENT]...", type=click.Choice(sorted(CLIENTS)))
@click.option("--adopted", is_flag=True, help="Also ask adopted repositories of NVIDIA's layout.")
def main(names: tuple[str, ...], adopted: bool) -> None:
    """Ask a served SmolLM2 through real clients; without names, through all of them.

    Each client has a virtual environment in .cache/clients, made the first time; remove it to have
    newer releases. Clients of OpenAI's API also ask a stand-in engine that answers with calls.
    Adopted repositories hold a stand-in for TensorRT-LLM, which repeats the prompt.
    """
    asked = {name: CLIENTS[name] for name in names or CLIENTS}
    chosen = {name: client for name, client in asked.items() if not client.missing}
    homes = {name: environment(name, client) for name, client in chosen.items()}
    model = run("python", str(ROOT / "scripts" / "smollm2.py"))
    layouts = ["", *sorted({client.layout for client in chosen.values()})] if adopted else [""]
    repositories = [Repository(v, decoupled) for v in layouts for decoupled in (True, False)]
    rows: list[tuple[str, ...]] = []
    for repository in (*repositories, Repository("", True, scripted=True)):
        asking = {n: c for n, c in chosen.items() if repository.asked_by(c)}
        if not asking:
            continue
        click.echo(f"Serving: {repository}", err=True)
        try:
            with served(repository, model) as (server, openai):
                for name, client in asking.items():
                    program = (
                        ["node", str(homes[name] / client.program)]
                        if client.node
                        else [str(homes[name] / "bin" / "python"), str(PROGRAMS / client.program)]
                    )
                    rows += ask(repository, server, openai, name=name, program=program, model=model)
        except (AssertionError, subprocess.CalledProcessError) as error:
            text = getattr(error, "stderr", "") or str(error)
            rows.append((str(repository), "launch_server", "", "serve", "NO", first_line(text)))
    unserved = [n for n, c in chosen.items() if not c.generated and not adopted]
    rows += [("", name, "", "", "not run", "add --adopted") for name in unserved]
    rows += [("", n, "", "", "not run", c.missing) for n, c in asked.items() if c.missing]
    show(rows)
    sys.exit(any(row[4] == "NO" for row in rows))


def environment(name: str, client: Client) -> Path:
    """The client's own environment, with the client installed."""
    folder = ENVIRONMENTS / name
    stamp = folder / ".installed"
    wanted = " ".join(client.packages)
    if not stamp.exists() or stamp.read_text() != wanted:
        click.echo(f"Making {folder} with {wanted}", err=True)
        if client.node:
            folder.mkdir(parents=True, exist_ok=True)
            npm = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder)]
            subprocess.run([*npm, *client.packages], check=True, stdout=subprocess.DEVNULL)
        else:
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
            pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
            pip.append("--disable-pip-version-check")
            subprocess.run([*pip, *client.packages], check=True)
        stamp.write_text(wanted)
    if client.node:  # Node finds packages from the program's own folder
        for program in PROGRAMS.glob("*.mjs"):
            shutil.copy(program, folder)
    return folder


@contextmanager
def served(repository: Repository, model: str) -> Iterator[tuple[Server, str]]:
    """The repository behind a launch_server on free ports, and the base URL of OpenAI's API."""
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory(prefix="trt-tokenizers-clients-") as folder:
        repository.write(Path(folder) / "repo", model)
        with launched(Path(folder) / "repo", Path(folder), "--openai-port", str(port)) as server:
            yield server, f"http://127.0.0.1:{port}/v1"


def ask(
    repository: Repository,
    server: Server,
    openai: str,
    *,
    name: str,
    program: list[str],
    model: str,
) -> list[tuple[str, ...]]:
    """Rows of the table: what the client's program reports, or why it ended."""
    report = {
        "http": server.http.removeprefix("http://"), "grpc": server.grpc, "openai": openai,
        "model": model, "prompt": PROMPT, "expected": repository.expected,
        "decoupled": repository.decoupled, "scripted": repository.scripted,
    }  # fmt: skip
    done = subprocess.run(
        [*program, json.dumps(report)], check=False, capture_output=True, text=True, timeout=600
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    version = next((line["version"] for line in lines if "version" in line), "")
    rows = [
        (str(repository), name, version, line["asked"],
         line.get("worked") or ("NO" if line["error"] else "yes"), line["error"][:160])
        for line in lines if "asked" in line
    ]  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        rows.append((str(repository), name, version, "start", "NO", last[:160]))
    return rows


def first_line(text: str) -> str:
    """The line that says what is wrong, if there is one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if line.lower().startswith("error")), lines[-1])[:160]


def show(rows: list[tuple[str, ...]]) -> None:
    head = ("REPOSITORY", "CLIENT", "VERSION", "ASKED", "WORKED", "ERROR")
    widths = [max(len(row[at]) for row in [head, *rows]) for at in range(len(head))]
    for row in [head, *rows]:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


if __name__ == "__main__":
    main(prog_name="scripts/clients")
