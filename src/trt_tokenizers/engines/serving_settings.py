"""The settings of the engine model that are the same for all Python engines."""

from __future__ import annotations

import dataclasses
import os

from trt_tokenizers.errors import SettingsError
from trt_tokenizers.settings import parse, setting


@dataclasses.dataclass(frozen=True)
class ServingSettings:
    """Parameters of the model ``tensorrt_llm`` that are the same for all Python engines."""

    engine: str = setting(dataclasses.MISSING, "an engine's name, or module:Class")
    max_tokens_per_chunk: int = setting(
        0, "most tokens of a response that merges several emissions; 0: no limit, 1: no merging"
    )
    max_queue_size: int = setting(
        1024,
        "sequences that may wait for the engine, beside those that it generates at once; a request "
        "beyond is refused as UNAVAILABLE; 0: no limit",
    )
    gpu_device_ids: str = setting(
        "",
        "GPUs of each instance of the model: 0,1;2,3 gives two instances two GPUs each; empty: all "
        "GPUs for one instance",
    )

    @classmethod
    def take(cls, parameters: dict[str, str], where: str) -> ServingSettings:
        """Parse the settings of this class and remove them from *parameters*.

        Raises:
            SettingsError: a value cannot be used.
        """
        own = {field.name: parameters.pop(field.name, "") for field in dataclasses.fields(cls)}
        settings = parse(cls, own, where)
        if settings.max_queue_size < 0:
            raise SettingsError(
                f"{where}: max_queue_size is {settings.max_queue_size}; it must be at least 0"
            )
        return settings

    def choose_gpus(self, instance: str, where: str) -> None:
        """Set CUDA_VISIBLE_DEVICES of this process to the GPUs of its instance.

        Args:
            instance: Triton's name of the instance; it ends with ``_`` and the instance's number.

        Raises:
            SettingsError: gpu_device_ids has no list for this instance.
        """
        if not self.gpu_device_ids:
            return
        lists = self.gpu_device_ids.split(";")
        number = int(instance.rpartition("_")[2])
        if number >= len(lists):
            raise SettingsError(
                f"{where}: gpu_device_ids is {self.gpu_device_ids!r} and has no GPUs for instance "
                f"{number + 1}; write one list for each instance, separated by ;"
            )
        os.environ["CUDA_VISIBLE_DEVICES"] = lists[number].strip()
