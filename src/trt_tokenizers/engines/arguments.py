"""The library of the engines `llmapi` and `vllm`, and the arguments that the operator gives it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from trt_tokenizers.errors import EngineError, SettingsError, one_line
from trt_tokenizers.settings import setting


@dataclasses.dataclass(frozen=True)
class ArgumentSettings:
    """Parameters of the model ``tensorrt_llm`` for these engines.

    Attributes:
        where: the engine, for error messages.
        arguments_name: the setting with the arguments, as a JSON object.
        length_name: the library's argument for max_seq_len.
        reserved: arguments that the engine sets -> the setting that controls them.
    """

    where: ClassVar[str]
    arguments_name: ClassVar[str]
    length_name: ClassVar[str]
    reserved: ClassVar[Mapping[str, str]]

    model_dir: str = setting(dataclasses.MISSING, "folder of a model, or its name on the hub")
    max_seq_len: int = setting(
        0, "most prompt and generated tokens of a sequence; also passed to the library"
    )
    loras: tuple[str, ...] = setting((), "adapters for lora_name, as name=folder, …")

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the operator, and max_seq_len.

        Raises:
            SettingsError: they are not a JSON object, or contain an argument that the engine sets.
        """
        name = self.arguments_name
        try:
            arguments = json.loads(getattr(self, name))
        except ValueError as error:
            raise SettingsError(
                f"{self.where}: {name} is not JSON: {error}; write an object such as "
                '{"tensor_parallel_size": 2}'
            ) from None
        if not isinstance(arguments, dict):
            raise SettingsError(
                f"{self.where}: {name} is {getattr(self, name)}; write an object such as "
                '{"dtype": "bfloat16"}'
            )
        for each in sorted(self.reserved.keys() & arguments.keys()):
            raise SettingsError(
                f"{self.where}: {name} contains {each!r}, which is set by {self.reserved[each]}; "
                "remove it"
            )
        length = self.max_seq_len
        if length and arguments.setdefault(self.length_name, length) != length:
            raise SettingsError(
                f"{self.where}: max_seq_len is {length}, but {self.length_name} in {name} is "
                f"{arguments[self.length_name]}; make them equal"
            )
        return arguments

    @property
    def adapters(self) -> dict[str, tuple[int, str]]:
        """Name -> (number, starting at 1, and folder).

        Raises:
            SettingsError: loras has a wrong form, a name twice, or a folder that does not exist.
        """
        found: dict[str, tuple[int, str]] = {}
        for number, pair in enumerate(self.loras, 1):
            name, _, folder = pair.partition("=")
            if not (name and folder) or name in found:
                raise SettingsError(
                    f"{self.where}: loras contains {pair!r}; write name=folder, each name once"
                )
            if not Path(folder).is_dir():
                raise SettingsError(
                    f"{self.where}: loras: there is no folder {folder} for {name!r}; correct the "
                    "path"
                )
            found[name] = (number, folder)
        return found


@contextlib.contextmanager
def importing(where: str, library: str, fix: str) -> Iterator[None]:
    """Convert the errors of importing a library.

    Raises:
        EngineError: the library is missing or does not import.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise EngineError(
            f"{where} needs {library}: there is no module {error.name!r}; {fix}"
        ) from error
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        raise EngineError(
            f"{where}: {library} does not import: {one_line(error)}; {fix}"
        ) from error
