"""Repositories of each surveyed TensorRT-LLM version, made from its schema.

`upstream_repository` has every value filled. `filled_by_readme` has only what that version's README
fills. `with_replay` puts the replay engine into them, with that version's tensors only.
"""

from __future__ import annotations

import shutil
import string
from pathlib import Path
from typing import Any

from trt_tokenizers.repository.ensemble import set_parameters
from trt_tokenizers.repository.nvidia_settings import FIXED, NVIDIA_SETTINGS
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
    if model.startswith("tensorrt_llm"):
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


#: Parameter -> its placeholder.
_PLACEHOLDERS = {s.parameter: name for name, s in NVIDIA_SETTINGS.items() if s.parameter}
#: 0.5's README says to write this by hand.
_BY_HAND = {"0.5": {"gpt_model_type": "inflight_fused_batching"}}


def _template(version: str, model: str, contents: dict[str, Any]) -> str:
    """NVIDIA's template: every value that it has a placeholder for is one."""
    fixed = {**FIXED, **_BY_HAND.get(version, {})}
    names = {key: _PLACEHOLDERS.get(key, key) for key in contents.get("parameters", ())}
    shown = {key: fixed.get(key, f"${{{name}}}") for key, name in names.items()}
    present = contents.get("placeholders", {})
    values = {
        **VALUES, **shown,
        **{name: f"${{{name}}}" for name, kind in present.items() if kind == "bare"},
        "engine_dir": shown.get("gpt_model_path", ""),
    }  # fmt: skip
    text = _config(version, model, contents, values)
    extra = ", ".join(f"${{{n}}}" for n in present if n.startswith("max_queue"))
    if "max_queue_delay_microseconds" in extra:
        text += "dynamic_batching {\n"
        text += "  max_queue_delay_microseconds: ${max_queue_delay_microseconds}\n"
        if "max_queue_size" in extra:
            text += "  default_queue_policy: { max_queue_size: ${max_queue_size} }\n"
        text += "}\n"
    return text


def readme_commands(version: str, tokenizer_dir: Path, engine_dir: str, decoupled: str) -> dict[
    str, str
]:  # fmt: skip
    """Model -> what the README of *version* gives to fill_template."""
    size = "triton_max_batch_size:4"
    if version == "0.5":
        text = f"tokenizer_dir:{tokenizer_dir},tokenizer_type:auto"
        engine = f"enable_trt_overlap:True,decoupled_mode:{decoupled},engine_dir:{engine_dir}"
        return {"preprocessing": text, "postprocessing": text, "tensorrt_llm": engine}
    logits = "" if version == "0.11" else ",logits_datatype:TYPE_FP32"
    engine = (
        f"triton_backend:tensorrtllm,{size},decoupled_mode:{decoupled},engine_dir:{engine_dir},"
        "max_queue_delay_microseconds:0,batching_strategy:inflight_fused_batching"
    )
    if version != "0.11":
        engine += ",max_queue_size:0,encoder_input_features_data_type:TYPE_FP16" + logits
    if version == "1.2":
        engine += ",prompt_embedding_table_data_type:TYPE_FP16"
    text = f"tokenizer_dir:{tokenizer_dir},{size}"
    return {
        "ensemble": size + logits,
        "preprocessing": f"{text},preprocessing_instance_count:1",
        "tensorrt_llm": engine,
        "postprocessing": f"{text},postprocessing_instance_count:1",
        "tensorrt_llm_bls": f"{size},decoupled_mode:{decoupled},bls_instance_count:1{logits}",
    }


def templates(repository: Path, version: str) -> Path:
    """NVIDIA's unfilled templates of *version*, the BLS model included."""
    models = dict(schema(version))
    if "tensorrt_llm_bls" in models and "inputs" not in models["tensorrt_llm_bls"]:
        models["tensorrt_llm_bls"] = {**schema("0.17")["tensorrt_llm_bls"]}
    for model, contents in models.items():
        folder = repository / model
        (folder / "1").mkdir(parents=True)
        (folder / "config.pbtxt").write_text(_template(version, model, contents))
        if model not in ("ensemble", "tensorrt_llm"):
            (folder / "1" / "model.py").write_text(f"# NVIDIA's model of {version}\n")
    return repository


def filled_by_readme(
    repository: Path, version: str, tokenizer_dir: Path, decoupled: str, engine_dir: str = "/e"
) -> Path:
    """NVIDIA's templates, filled as NVIDIA's fill_template does: what is not given stays."""
    templates(repository, version)
    for model, pairs in readme_commands(version, tokenizer_dir, engine_dir, decoupled).items():
        path = repository / model / "config.pbtxt"
        values = dict(pair.split(":", 1) for pair in pairs.split(","))
        values = {"max_queue_size": "0", "max_queue_delay_microseconds": "0", **values}
        path.write_text(string.Template(path.read_text()).safe_substitute(values))
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
    if (bls := repository / "tensorrt_llm_bls").is_dir():
        shutil.copy(SUPPORT / "bls.py", bls / "1" / "model.py")
    given = {"engine": "replay:ReplayEngine", "chunk_sizes": "1,3,2,7,5,4,6",
             "max_tokens_per_chunk": "1", "echo": str(echo).lower()}  # fmt: skip
    set_parameters(config, given)
    path.write_text(format_config(config))
    return repository


def set_bls_version(repository: Path, version: str) -> None:
    """Tell the stand-in for the BLS model which version's tensors it names."""
    path = repository / "tensorrt_llm_bls" / "config.pbtxt"
    if path.is_file():
        config = parse_config(path.read_text())
        config.parameters["version"].string_value = version
        config.model_transaction_policy.decoupled = False
        path.write_text(format_config(config))
