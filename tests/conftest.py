"""Shared by all tests: small tokenizers trained here."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers
from hypothesis import settings
from tokenizers import decoders, models, pre_tokenizers, trainers

from texts import HARD_TEXTS

os.environ.setdefault("HF_HUB_OFFLINE", "1")
settings.register_profile(
    "default", deadline=None, derandomize=True, print_blob=True, max_examples=25
)
settings.load_profile("default")


def pytest_configure() -> None:
    """Signals as in a terminal: a shell has its background jobs ignore these, and so would what
    the tests start and then interrupt."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


#: Files of which one worker runs all tests: they share servers, or the import of transformers,
#: which takes 3 s of CPU time.
TOGETHER = (
    (
        "tests/unit/cli/test_cli_tokenize",
        "tests/unit/tokenizers/",
        "tests/unit/processing/test_pr",
        "tests/unit/templates/",
    ),
    ("tests/serving/test_smollm2", "tests/serving/test_guides", "tests/serving/test_llmapi_para"),
    ("tests/serving/test_nvidia_client", "tests/serving/test_openai.py"),
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With ``--dist loadfile``, one worker runs all tests of a file, or of a line of `TOGETHER`."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return next(
                (group[0] for group in TOGETHER if nodeid.startswith(group)),
                super()._split_scope(nodeid),
            )

    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(scope="session")
def bpe_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE tokenizer.json like those of GPT-2, Llama 3 or Qwen, trained here."""
    folder = tmp_path_factory.mktemp("bpe")
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(HARD_TEXTS * 3, trainer)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": "<|endoftext|>",
                "eos_token": "<|im_end|>",
                "chat_template": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
                "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
                "{% endif %}",
            }
        )
    )
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 2]}))
    return folder


@pytest.fixture(scope="session")
def sentencepiece_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama-style SentencePiece model with byte fallback, trained here."""
    folder = tmp_path_factory.mktemp("sentencepiece")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        # Latin letters and a little Korean; all other scripts have to be spelled in bytes.
        sentence_iterator=iter([HARD_TEXTS[0], HARD_TEXTS[2], *HARD_TEXTS[10].splitlines()] * 5),
        model_writer=model,
        vocab_size=400,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "LlamaTokenizer",
                "bos_token": "<s>",
                "eos_token": "</s>",
                "unk_token": "<unk>",
                "legacy": False,
                "add_bos_token": True,
                "add_eos_token": False,
            }
        )
    )
    return folder


@pytest.fixture(scope="session")
def gpt2_dir(bpe_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same BPE as vocab.json and merges.txt."""
    folder = tmp_path_factory.mktemp("gpt2")
    tokenizers.Tokenizer.from_file(str(bpe_dir / "tokenizer.json")).model.save(str(folder))
    return folder


@pytest.fixture
def ranks_dir(tmp_path: Path) -> Path:
    """A rank file of 256 bytes and two merges, with the special tokens of its config."""
    ranks = [*(bytes([b]) for b in range(256)), b"he", b"ll"]
    lines = [f"{base64.b64encode(token).decode()} {at}" for at, token in enumerate(ranks)]
    (tmp_path / "mini.tiktoken").write_text("\n".join(lines))
    config = {
        "eos_token": "<|end|>",
        "added_tokens_decoder": {"258": {"content": "<|end|>"}, "259": {"content": "<|more|>"}},
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct, fetched and converted once into the user's cache."""
    script = Path(__file__).parents[1] / "scripts" / "smollm2.py"
    done = subprocess.run([sys.executable, str(script)], check=True, stdout=subprocess.PIPE)
    return Path(done.stdout.decode().strip())
