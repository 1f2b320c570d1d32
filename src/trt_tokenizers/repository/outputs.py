"""The ensemble's outputs: those of the skeleton, and more on request."""

from __future__ import annotations

import numpy as np

from trt_tokenizers.engines.tensors import PERF
from trt_tokenizers.errors import RepositoryError
from trt_tokenizers.repository.pbtxt import format_config, parse_config
from trt_tokenizers.settings import nearest

_TYPES = {np.int32: "TYPE_INT32", np.int64: "TYPE_INT64", np.float32: "TYPE_FP32"}
#: Outputs of the engine that the skeleton's ensemble lacks -> type.
_EXTRA_OUTPUTS = {name: _TYPES[dtype] for name, dtype in PERF.items()}


def with_outputs(text: str, wanted: tuple[str, ...]) -> str:
    """The ensemble's configuration with only these outputs, because each mapped one costs time.

    Raises:
        RepositoryError: an output does not exist.
    """
    config = parse_config(text)
    present = {output.name: output for output in config.output}
    steps = {step.model_name: step for step in config.ensemble_scheduling.step}
    for name in wanted:
        if name in present:
            continue
        if name not in _EXTRA_OUTPUTS:
            known = [*present, *_EXTRA_OUTPUTS]
            raise RepositoryError(
                f"the ensemble has no output {name!r}{nearest(name, known)}; valid are: "
                + ", ".join(sorted(known))
            )
        steps["tensorrt_llm"].output_map[name] = name
        config.output.add(name=name, data_type=_EXTRA_OUTPUTS[name], dims=(1,))
    for name, output in present.items():
        if name not in wanted:
            config.output.remove(output)
            for step in steps.values():
                for tensor in [t for t, target in step.output_map.items() if target == name]:
                    del step.output_map[tensor]
    return format_config(config)
