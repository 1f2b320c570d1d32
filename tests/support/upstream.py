"""Filled repositories of each surveyed TensorRT-LLM version, made from its schema.

`with_replay` puts the replay engine into them, with that version's tensors only.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from trt_tokenizers.repository.ensemble import set_parameters
from trt_tokenizers.repository.pbtxt import format_config, parse_config
from trt_tokenizers.repository.schemas import schema

SUPPORT = Path(__file__).parent
VALUES = {
    "triton_max_batch_size": "8", "preprocessing_instance_count": "2",
    "postprocessing_instance_count": "1", "decoupled_mode": "True",
    "logits_datatype": "TYPE_FP32", "encoder_input_features_data_type": "TYPE_FP16",
    "prompt_embedding_table_data_type": "TYPE_FP16", "max_queue_delay_microseconds": "0",
    "max_queue_size": "0", "triton_backend": "tensorrtllm", "engine_dir": "/engines/e",
    "skip_special_tokens": "True", "kv_cache_free_gpu_mem_fraction": "0.2",
}  # fmt: skip


def tensor(line: str) -> dict[str, Any]:
    """Parse «name TYPE_X 1,-1 optional» of a schema."""
    name, kind, dims, *optional = line.split()
    shape = [int(size) for size in dims.split(",")]
    return {"name": name, "type": kind, "dims": shape, "optional": bool(optional)}


def _tensors(what: str, lines: list[str]) -> str:
    entries = []
    for line in lines:
        t = tensor(line)
        optional = "\n    optional: true" if t["optional"] else ""
        entries.append(
            f'  {{\n    name: "{t["name"]}"\n    data_type: {t["type"]}\n'
            f"    dims: {t['dims']}{optional}\n  }}"
        )
    return f"{what} [\n" + ",\n".join(entries) + "\n]\n"


def _maps(maps: dict[str, str], kind: str) -> str:
    # Some of NVIDIA's files have commas between the entries.
    return "".join(
        f'      {kind} {{\n        key: "{key}"\n        value: "{value}"\n      }},\n'
        for key, value in maps.items()
    )


def _config(version: str, model: str, contents: dict[str, Any], values: dict[str, str]) -> str:
    size = 128 if version == "0.5" else values["triton_max_batch_size"]
    text = f'name: "{model}"\nmax_batch_size: {size}\n'
    text += _tensors("input", contents["inputs"]) + _tensors("output", contents["outputs"])
    if model == "ensemble":
        steps = ",\n".join(
            f'    {{\n      model_name: "{step["model"]}"\n      model_version: -1\n'
            + "".join(_maps(step[kind], kind) for kind in ("input_map", "output_map"))
            + "    }"
            for step in contents["steps"]
        )
        return f'{text}platform: "ensemble"\nensemble_scheduling {{\n  step [\n{steps}\n  ]\n}}\n'
    count = values["preprocessing_instance_count"] if model == "preprocessing" else "1"
    text += f'backend: "{"tensorrtllm" if model == "tensorrt_llm" else "python"}"\n'
    text += f"instance_group [\n    {{\n        count: {count}\n        kind: KIND_CPU\n    }}\n]\n"
    if model == "tensorrt_llm":
        text += f"model_transaction_policy {{\n  decoupled: {values['decoupled_mode']}\n}}\n"
    names = {"gpt_model_path": "engine_dir"}
    for key in contents["parameters"]:
        value = values.get(names.get(key, key), "")
        text += (
            f'parameters: {{\n  key: "{key}"\n  value: {{\n    string_value: "{value}"\n  }}\n}}\n'
        )
    return text


def upstream_repository(repository: Path, version: str, tokenizer_dir: Path, **values: str) -> Path:
    """A filled repository of *version*, as a user has it."""
    filled = {**VALUES, "tokenizer_dir": str(tokenizer_dir), "tokenizer_type": "auto", **values}
    for model, contents in schema(version).items():
        if model == "tensorrt_llm_bls":
            continue
        folder = repository / model
        (folder / "1").mkdir(parents=True)
        (folder / "config.pbtxt").write_text(_config(version, model, contents, filled))
        if model in ("preprocessing", "postprocessing"):
            (folder / "1" / "model.py").write_text(f"# NVIDIA's model of {version}\n")
    return repository


def with_replay(repository: Path, *, echo: bool) -> Path:
    """Replace the engine by the replay engine, with that version's tensors only.

    Args:
        echo: answers that are not streamed begin with the prompt, TensorRT-LLM's default.
    """
    engine = repository / "tensorrt_llm"
    shutil.copy(SUPPORT / "replay.py", engine / "1")
    shutil.copy(SUPPORT / "keyless.py", engine / "1")
    shutil.copy(SUPPORT / "versioned.py", engine / "1" / "model.py")
    path = engine / "config.pbtxt"
    config = parse_config(path.read_text())
    config.backend = "python"
    given = {"engine": "replay:ReplayEngine", "chunk_sizes": "1,3,2,7,5,4,6",
             "max_tokens_per_chunk": "1", "echo": str(echo).lower()}  # fmt: skip
    set_parameters(config, given)
    path.write_text(format_config(config))
    return repository
