"""The ensemble around a TensorRT-LLM engine: from the engine's tensors and the client's names.

Nothing here knows a version: what the engine has is wired, what the client sends and reads stays
as it is in name, type and shape. Configurations are Triton's protobufs (`pbtxt.parse_config`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from trt_tokenizers.errors import RepositoryError
from trt_tokenizers.repository.pbtxt import parse_config
from trt_tokenizers.streams.ensemble_inputs import INPUTS

#: Output of our preprocessing -> input of the engine.
TO_ENGINE = {
    "INPUT_ID": "input_ids",
    "REQUEST_INPUT_LEN": "input_lengths",
    "REQUEST_OUTPUT_LEN": "request_output_len",
    "STOP_WORDS_IDS": "stop_words_list",
    "BAD_WORDS_IDS": "bad_words_list",
    "OUT_END_ID": "end_id",
    "OUT_PAD_ID": "pad_id",
    "OUT_EXCLUDE_INPUT_IN_OUTPUT": "exclude_input_in_output",
    "EMBEDDING_BIAS": "embedding_bias",
    "DECODER_INPUT_ID": "decoder_input_ids",
    "REQUEST_DECODER_INPUT_LEN": "decoder_input_lengths",
    "OUT_PROMPT_TABLE_EXTRA_IDS": "prompt_table_extra_ids",
}
#: Input of our preprocessing -> the client's name, for what only some ensembles have.
_OPTIONAL = {each.to_preprocessing: each.name for each in INPUTS if not each.skeleton}
#: Output of preprocessing that it makes only for a client that sends this input of its.
_ASKED_BY = {
    "EMBEDDING_BIAS": "EMBEDDING_BIAS_WORDS",
    "DECODER_INPUT_ID": "DECODER_QUERY",
    "REQUEST_DECODER_INPUT_LEN": "DECODER_QUERY",
    "OUT_PROMPT_TABLE_EXTRA_IDS": "PROMPT_TABLE_EXTRA_ID",
}
#: The client's name -> input of the engine without which it makes no sense.
_NEEDS = {
    "min_tokens": "min_tokens",
    "min_length": "min_length",
    "embedding_bias_words": "embedding_bias",
    "embedding_bias_weights": "embedding_bias",
}
#: Output of the engine -> input of our postprocessing.
_FROM_ENGINE = {
    "output_ids": "TOKENS_BATCH",
    "sequence_length": "SEQUENCE_LENGTH",
    "batch_index": "BATCH_INDEX",
    "sequence_index": "SEQUENCE_INDEX",
}
#: Output of our postprocessing -> the client's name.
_TO_CLIENT = {
    "OUTPUT": "text_output",
    "OUT_FINISH_REASON": "finish_reason",
    "NUM_INPUT_TOKENS": "num_input_tokens",
    "NUM_OUTPUT_TOKENS": "num_output_tokens",
}


@dataclass(frozen=True)
class Wired:
    """The three models around the engine, as ModelConfig protobufs."""

    ensemble: Any
    preprocessing: Any
    postprocessing: Any


def wire(ensemble: Any, engine: Any, skeleton: Mapping[str, Any], where: str) -> Wired:
    """
    Args:
        ensemble: what clients know: its inputs, outputs and max_batch_size count, and where it has
            steps, how the engine's inputs are mapped.
        engine: the engine's configuration, which stays as it is.
        skeleton: ensemble, preprocessing, postprocessing of the skeleton, filled; their
            parameters, instances and max_batch_size are kept.
        where: the ensemble's file, for errors.

    Raises:
        RepositoryError: the engine needs what nobody gives, or a client reads what nobody makes.
    """
    return EnsembleBuilder(ensemble, engine, skeleton, where).wired()


class EnsembleBuilder:
    def __init__(self, old: Any, engine: Any, skeleton: Mapping[str, Any], where: str) -> None:
        self._old = old
        self._engine = engine
        self._where = where
        self._engine_inputs = {tensor.name: tensor for tensor in engine.input}
        self._engine_outputs = {tensor.name: tensor for tensor in engine.output}
        self._skeleton = skeleton["ensemble"]
        self._before = _copy(skeleton["preprocessing"])
        self._after = _copy(skeleton["postprocessing"])
        self._new = _copy(skeleton["ensemble"])
        del self._new.input[:], self._new.output[:], self._new.ensemble_scheduling.step[:]
        self._new.max_batch_size = old.max_batch_size
        self._inputs: dict[str, Any] = {}
        for tensor in old.input:
            kept = self._inputs[tensor.name] = self._new.input.add()
            kept.CopyFrom(tensor)

    def wired(self) -> Wired:
        steps = self._new.ensemble_scheduling.step
        before = steps.add(model_name="preprocessing", model_version=-1)
        engine = steps.add(model_name=self._engine.name, model_version=-1)
        after = steps.add(model_name="postprocessing", model_version=-1)
        self._wire_preprocessing(before)
        self._wire_engine(engine)
        self._wire_postprocessing(engine, after)
        self._wire_outputs(engine)
        return Wired(self._new, self._before, self._after)

    def _wire_preprocessing(self, step: Any) -> None:
        """Inputs have the client's types; outputs the engine's."""
        maps = self._skeleton.ensemble_scheduling.step[0].input_map
        wanted = {tensor.name: tensor for tensor in self._before.input}
        for name, client_name in {**maps, **_OPTIONAL}.items():
            theirs = self._inputs.get(client_name)
            if theirs is None:
                needs = _NEEDS.get(client_name)
                needless = needs is not None and needs not in self._engine_inputs
                if name not in maps or needless:
                    if needless:
                        self._before.input.remove(wanted[name])
                    continue
                theirs = self._inputs[client_name] = self._new.input.add()
                theirs.CopyFrom(wanted[name])
                theirs.name = client_name
            if name in wanted:
                theirs.optional = True  # text_input or messages; the rest has defaults
            tensor = wanted[name] if name in wanted else self._before.input.add(optional=True)
            tensor.CopyFrom(theirs)
            tensor.name, tensor.optional = name, True
            step.input_map[name] = client_name
        del self._before.output[:]
        for name, engine_name in TO_ENGINE.items():
            if (tensor := self._engine_inputs.get(engine_name)) is None:
                continue
            if _ASKED_BY.get(name, "QUERY") not in step.input_map:
                continue
            self._before.output.add(name=name, data_type=tensor.data_type, dims=tensor.dims)
            step.output_map[name] = f"_{name}"

    def _wire_engine(self, step: Any) -> None:
        given = {TO_ENGINE[output.name]: f"_{output.name}" for output in self._before.output}
        usual = dict(self._skeleton.ensemble_scheduling.step[1].input_map)
        theirs: dict[str, str] = {}
        for old_step in self._old.ensemble_scheduling.step:
            if old_step.model_name == self._engine.name:
                theirs = dict(old_step.input_map)
        for name, tensor in self._engine_inputs.items():
            candidates = (given.get(name), theirs.get(name), usual.get(name), name)
            source = next((s for s in candidates if s in self._inputs or s in given.values()), None)
            if source is not None:
                step.input_map[name] = source
            elif not tensor.optional:
                raise RepositoryError(
                    f"{self._where}: the engine {self._engine.name!r} needs the input {name!r}, "
                    "which neither preprocessing nor a client gives; make it optional, or add an "
                    "input to the ensemble"
                )

    def _wire_postprocessing(self, engine: Any, step: Any) -> None:
        inputs = {tensor.name: tensor for tensor in self._after.input}
        del self._after.input[:]
        for engine_name, name in _FROM_ENGINE.items():
            made = self._engine_outputs.get(engine_name)
            if made is None:
                continue
            tensor = self._after.input.add()
            tensor.CopyFrom(inputs[name])
            tensor.data_type, tensor.dims[:] = made.data_type, made.dims
            engine.output_map[engine_name] = step.input_map[name] = f"_{engine_name.upper()}"
        if "TOKENS_BATCH" not in step.input_map:
            raise RepositoryError(
                f"{self._where}: the engine {self._engine.name!r} has no output 'output_ids'; "
                "only engines with TensorRT-LLM's tensor names can be wired"
            )
        outputs = {tensor.name: tensor for tensor in self._after.output}
        del self._after.output[:]
        theirs = {tensor.name: tensor for tensor in self._old.output}
        for name, client_name in _TO_CLIENT.items():
            if client_name in self._engine_outputs:
                continue  # as asked for, by the engine itself
            tensor = self._after.output.add()
            tensor.CopyFrom(theirs.get(client_name, outputs[name]))
            tensor.name = name
            step.output_map[name] = client_name

    def _wire_outputs(self, engine: Any) -> None:
        """What clients read: as it was, then what is new."""
        made = {_TO_CLIENT[tensor.name]: tensor for tensor in self._after.output}
        for tensor in self._old.output:
            if any(tensor.name == there.name for there in self._new.output):
                continue  # declared twice, as in the templates of 1.2
            self._new.output.add().CopyFrom(tensor)
            if tensor.name in made:
                continue
            if tensor.name not in self._engine_outputs:
                raise RepositoryError(
                    f"{self._where}: the output {tensor.name!r} is made by neither the engine "
                    f"{self._engine.name!r} nor postprocessing; remove it"
                )
            if tensor.name in engine.output_map:
                self._share(engine, tensor.name)
            engine.output_map[tensor.name] = tensor.name
        for name, tensor in made.items():
            if not any(name == there.name for there in self._new.output):
                self._new.output.add(name=name, data_type=tensor.data_type, dims=tensor.dims)

    def _share(self, engine: Any, name: str) -> None:
        """An engine's output that postprocessing reads too: under the client's name."""
        internal = engine.output_map[name]
        after = self._new.ensemble_scheduling.step[2]
        for key in [key for key, value in after.input_map.items() if value == internal]:
            after.input_map[key] = name


def _copy(config: Any) -> Any:
    made = parse_config("")
    made.CopyFrom(config)
    return made


def derived_parameters(engine: Any) -> dict[str, str]:
    """Parameters of pre- and postprocessing that follow from the engine's configuration."""
    told = parameters(engine).get("exclude_input_in_output", "").lower() in ("true", "1")
    types = {tensor.name: tensor.data_type for tensor in engine.input}
    stops = (
        "stop" in types
        and engine.model_transaction_policy.decoupled
        # postprocessing's own request has signed numbers, unlike that of 0.5.
        and types.get("request_output_len") == types.get("input_lengths")
    )
    return {
        "tokenizer_type": "auto",
        "template": "auto",
        "stream_key": "auto",
        "exclude_input_in_output": str(told).lower(),
        "prompt_in_output": str(not told and "exclude_input_in_output" not in types).lower(),
        "stop_model": engine.name if stops else "",
    }


def set_parameters(config: Any, values: Mapping[str, str]) -> None:
    """Give *config* these parameters and no others, in their order."""
    config.ClearField("parameters")
    for name, value in values.items():
        config.parameters[name].string_value = value


def parameters(config: Any, names: Iterable[str] | None = None) -> dict[str, str]:
    """Parameter -> value of a configuration; what still is a placeholder counts as empty."""
    found = {
        name: "" if value.string_value.startswith("${") else value.string_value
        for name, value in config.parameters.items()
    }
    return found if names is None else {name: found.get(name, "") for name in names}
