"""The replay engine with the tensors of one version of TensorRT-LLM.

It sends only the outputs of its config.pbtxt. Answers that do not stream begin with the prompt,
unless the request or the parameter ``echo`` says otherwise. A version without sequence_length pads
answers with the end id.
"""

import json

import numpy as np

import keyless


class Reply(keyless.Reply):
    echo = True
    outputs = frozenset()

    def __init__(self, request, *more):
        super().__init__(request, *more)
        arrays = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        self.wanted = self.outputs
        self._end_id = int(arrays["end_id"].flat[0]) if "end_id" in arrays else -1
        excluded = arrays.get("exclude_input_in_output", np.zeros(1)).all()
        streams = arrays.get("streaming", np.zeros(1)).all()
        self._prompts = []
        if self.echo and not excluded and not streams:
            lengths = arrays["input_lengths"].flat
            self._prompts = [ids[:n] for ids, n in zip(arrays["input_ids"], lengths, strict=True)]

    def send(self, arrays, *, final):
        if self._prompts:
            row = arrays["batch_index"].item() if "batch_index" in arrays else 0
            prompt = self._prompts[row]
            ids = np.concatenate([prompt[np.newaxis, np.newaxis], arrays["output_ids"]], axis=2)
            if "sequence_length" not in self.outputs:
                ids = np.pad(ids, ((0, 0), (0, 0), (0, 5)), constant_values=self._end_id)
            else:
                length = arrays["sequence_length"] + len(prompt)
                arrays = {**arrays, "sequence_length": length.astype(np.int32)}
            arrays = {**arrays, "output_ids": ids}
        known = {name: array for name, array in arrays.items() if name in self.outputs}
        super(keyless.Reply, self).send(known, final=final)


class TritonPythonModel(keyless.TritonPythonModel):
    reply = Reply

    def initialize(self, args):
        config = json.loads(args["model_config"])
        Reply.outputs = frozenset(output["name"] for output in config["output"])
        Reply.echo = config["parameters"].pop("echo")["string_value"] == "true"
        super().initialize({**args, "model_config": json.dumps(config)})
