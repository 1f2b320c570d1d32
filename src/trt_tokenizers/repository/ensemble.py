"""Build the ensemble around an engine from the engine's tensors and the clients' names.

The code here does not depend on a TensorRT-LLM version. It connects the tensors that the engine
has. It keeps the name, type and shape of everything that clients send and read. Configurations are
Triton's protobufs (`pbtxt.parse_config`).
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from trt_tokenizers.errors import RepositoryError
from trt_tokenizers.repository.pbtxt import format_config
from trt_tokenizers.settings import PLACEHOLDER, as_text, parse_bool
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
#: Input of our preprocessing -> the client's name, for inputs that only some ensembles have.
_OPTIONAL = {each.to_preprocessing: each.name for each in INPUTS if not each.skeleton}
#: Output of preprocessing -> the preprocessing input without which it is not made.
_REQUIRED_INPUT = {
    "EMBEDDING_BIAS": "EMBEDDING_BIAS_WORDS",
    "DECODER_INPUT_ID": "DECODER_QUERY",
    "REQUEST_DECODER_INPUT_LEN": "DECODER_QUERY",
    "OUT_PROMPT_TABLE_EXTRA_IDS": "PROMPT_TABLE_EXTRA_ID",
}
#: The client's name -> the engine input without which it has no effect.
_REQUIRED_ENGINE_INPUT = {
    "min_tokens": "min_tokens",
    "min_length": "min_length",
    "embedding_bias_words": "embedding_bias",
    "embedding_bias_weights": "embedding_bias",
    "logit_bias_ids": "embedding_bias",
    "logit_bias_values": "embedding_bias",
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
    "ADDED_TOKENS": "added_tokens",
    "PROMPT_END": "prompt_end",
    "OUT_IDS": "token_ids",
}


#: Model -> the first line of its file.
_COMMENTS = {
    "ensemble": "Text or messages in, text out.",
    "preprocessing": "Text or messages -> token ids.",
    "postprocessing": "One instance and no dynamic batching keep the chunks of a stream in order.",
}


class EnsembleBuilder:
    """Connects preprocessing, the engine and postprocessing.

    Args:
        old: the ensemble that clients know. The new one has its inputs, outputs and
            max_batch_size, and maps the engine's inputs as its steps do, if it has steps.
        engine: the engine's configuration, which does not change.
        skeleton: the filled skeleton's ensemble, preprocessing and postprocessing. Their
            parameters, instances and max_batch_size are kept.
        where: the ensemble's file, for errors.
    """

    def __init__(self, old: Any, engine: Any, skeleton: Mapping[str, Any], where: str) -> None:
        self._old = old
        self._engine = engine
        self._where = where
        self._engine_inputs = {tensor.name: tensor for tensor in engine.input}
        self._engine_outputs = {tensor.name: tensor for tensor in engine.output}
        self._skeleton = skeleton["ensemble"]
        self._preprocessing = deepcopy(skeleton["preprocessing"])
        self._postprocessing = deepcopy(skeleton["postprocessing"])
        self._new = deepcopy(skeleton["ensemble"])
        del self._new.input[:], self._new.output[:], self._new.ensemble_scheduling.step[:]
        self._new.max_batch_size = old.max_batch_size
        self._new.input.extend(old.input)
        self._inputs = {tensor.name: tensor for tensor in self._new.input}

    def build(self) -> dict[str, str]:
        """Relative path -> text of the config.pbtxt of ensemble, preprocessing, postprocessing.

        Raises:
            RepositoryError: nothing provides a required input of the engine, or nothing makes an
                output that clients read.
        """
        steps = self._new.ensemble_scheduling.step
        preprocessing = steps.add(model_name="preprocessing", model_version=-1)
        engine = steps.add(model_name=self._engine.name, model_version=-1)
        postprocessing = steps.add(model_name="postprocessing", model_version=-1)
        self._connect_preprocessing(preprocessing)
        self._connect_engine(engine)
        self._connect_postprocessing(engine, postprocessing)
        self._connect_outputs(engine, postprocessing)
        configs = (self._new, self._preprocessing, self._postprocessing)
        return {
            f"{name}/config.pbtxt": format_config(config, comment)
            for config, (name, comment) in zip(configs, _COMMENTS.items(), strict=True)
        }

    def _connect_preprocessing(self, step: Any) -> None:
        """Give its inputs the clients' types and its outputs the engine's types."""
        usual_map = self._skeleton.ensemble_scheduling.step[0].input_map
        own_inputs = {tensor.name: tensor for tensor in self._preprocessing.input}
        # A map of protobuf has another order in each process.
        for name, client_name in sorted({**usual_map, **_OPTIONAL}.items()):
            client_input = self._inputs.get(client_name)
            if client_input is None:
                required = _REQUIRED_ENGINE_INPUT.get(client_name)
                if required is not None and required not in self._engine_inputs:
                    self._preprocessing.input.remove(own_inputs[name])
                    continue
                if name not in usual_map:
                    continue
                client_input = self._inputs[client_name] = self._new.input.add()
                client_input.CopyFrom(own_inputs[name])
                client_input.name = client_name
            tensor = own_inputs.get(name)
            if tensor is None:
                tensor = self._preprocessing.input.add()
            else:  # optional: text_input or messages is enough, the others have defaults
                client_input.optional = True
            tensor.CopyFrom(client_input)
            tensor.name, tensor.optional = name, True
            step.input_map[name] = client_name
        for tensor in list(self._preprocessing.output):
            if tensor.name != "PROMPT":  # for the OpenAI front end
                self._preprocessing.output.remove(tensor)
        for name, engine_name in TO_ENGINE.items():
            if (tensor := self._engine_inputs.get(engine_name)) is None:
                continue
            if _REQUIRED_INPUT.get(name, "QUERY") not in step.input_map:
                continue
            self._preprocessing.output.add(name=name, data_type=tensor.data_type, dims=tensor.dims)
            step.output_map[name] = f"_{name}"
        # Mapped by no ensemble: a request for it shows that a client calls preprocessing alone.
        self._preprocessing.output.add(name="STREAM_KEY", data_type="TYPE_INT64", dims=[1])

    def _connect_engine(self, step: Any) -> None:
        made = {output.name for output in self._preprocessing.output}
        prepared = {there: f"_{name}" for name, there in TO_ENGINE.items() if name in made}
        usual_map = dict(self._skeleton.ensemble_scheduling.step[1].input_map)
        old_steps = {step.model_name: step for step in self._old.ensemble_scheduling.step}
        old_step = old_steps.get(self._engine.name)
        old_map = dict(old_step.input_map) if old_step else {}
        available = {*self._inputs, *prepared.values()}
        for name, tensor in self._engine_inputs.items():
            candidates = (prepared.get(name), old_map.get(name), usual_map.get(name), name)
            source = next((c for c in candidates if c in available), None)
            if source is not None:
                step.input_map[name] = source
            elif not tensor.optional:
                raise RepositoryError(
                    f"{self._where}: the engine {self._engine.name!r} needs the input {name!r}, "
                    "which neither preprocessing nor a client provides; make it optional, or add "
                    "an input to the ensemble"
                )

    def _connect_postprocessing(self, engine: Any, step: Any) -> None:
        inputs = {tensor.name: tensor for tensor in self._postprocessing.input}
        del self._postprocessing.input[:]
        for engine_name, name in _FROM_ENGINE.items():
            output = self._engine_outputs.get(engine_name)
            if output is None:
                continue
            tensor = self._postprocessing.input.add()
            tensor.CopyFrom(inputs[name])
            tensor.data_type, tensor.dims[:] = output.data_type, output.dims
            engine.output_map[engine_name] = step.input_map[name] = f"_{engine_name.upper()}"
        if "TOKENS_BATCH" not in step.input_map:
            raise RepositoryError(
                f"{self._where}: the engine {self._engine.name!r} has no output 'output_ids'; "
                "use an engine with TensorRT-LLM's tensor names"
            )
        outputs = {tensor.name: tensor for tensor in self._postprocessing.output}
        del self._postprocessing.output[:]
        client_outputs = {tensor.name: tensor for tensor in self._old.output}
        for name, client_name in _TO_CLIENT.items():
            if client_name in self._engine_outputs:
                continue  # the engine makes it
            tensor = self._postprocessing.output.add()
            tensor.CopyFrom(client_outputs.get(client_name, outputs[name]))
            tensor.name = name
            step.output_map[name] = client_name

    def _connect_outputs(self, engine: Any, postprocessing: Any) -> None:
        """Add the ensemble's outputs: those that clients know, then the new ones."""
        text_outputs = {_TO_CLIENT[tensor.name]: tensor for tensor in self._postprocessing.output}
        added = set()
        for tensor in self._old.output:
            name = tensor.name
            if name in added:
                continue  # declared twice, as in the templates of 1.2
            added.add(name)
            self._new.output.add().CopyFrom(tensor)
            if name in text_outputs:
                continue
            if name not in self._engine_outputs:
                raise RepositoryError(
                    f"{self._where}: the output {name!r} is made by neither the engine "
                    f"{self._engine.name!r} nor postprocessing; remove it"
                )
            # An output has one name in the ensemble, also if postprocessing reads it.
            internal = engine.output_map.get(name)
            for key, source in list(postprocessing.input_map.items()):
                if source == internal:
                    postprocessing.input_map[key] = name
            engine.output_map[name] = name
        for name, tensor in text_outputs.items():
            if name not in added:
                self._new.output.add(name=name, data_type=tensor.data_type, dims=tensor.dims)


def derived_parameters(engine: Any) -> dict[str, str]:
    """Parameters of the text models that follow from the engine's configuration."""
    excludes = parse_bool(parameters(engine).get("exclude_input_in_output", "")) is True
    types = {tensor.name: tensor.data_type for tensor in engine.input}
    can_stop = (
        "stop" in types
        and engine.model_transaction_policy.decoupled
        # Postprocessing's stop request has signed integers; the engine of 0.5 has unsigned ones.
        and types.get("request_output_len") == types.get("input_lengths")
    )
    return {
        "tokenizer_type": "auto",
        "template": "auto",
        "stream_key": "auto",
        "exclude_input_in_output": as_text(excludes),
        "prompt_in_output": as_text(not excludes and "exclude_input_in_output" not in types),
        "stop_model": engine.name if can_stop else "",
    }


def set_parameters(config: Any, values: Mapping[str, str]) -> None:
    """Replace the parameters of *config* with *values*, in their order."""
    config.ClearField("parameters")
    for name, value in values.items():
        config.parameters[name].string_value = value


def parameters(config: Any) -> dict[str, str]:
    """Parameter -> value of a configuration; an unfilled placeholder counts as empty."""
    return {
        name: "" if PLACEHOLDER.fullmatch(value.string_value) else value.string_value
        for name, value in config.parameters.items()
    }
