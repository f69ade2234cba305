"""YAML files from elsewhere: plain data alone, of bounded size, every key once, nothing by reference."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from erestore.errors import AccessError, NotFoundError, UsageError

if TYPE_CHECKING:
    import yaml

LARGEST = 1 << 16
"""Bytes of a file."""


def read_yaml(path: Path) -> Any:
    """Read a YAML file.

    Returns
    -------
    object
        Dictionaries, lists, text, numbers, booleans, dates and None.

    Raises
    ------
    NotFoundError
        If there is no such file.
    AccessError
        If it cannot be read.
    UsageError
        If it is no YAML, or has more than one document, a key twice, a key that is no text, or aliases; or is too large.
    """
    import yaml

    content = _content(path)
    try:
        return yaml.load(content, _loader())  # noqa: S506 - a SafeLoader that accepts less
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        _refuse(path, ", ".join(str(part) for part in (error.context, error.problem) if part), mark)
    except yaml.YAMLError as error:
        _refuse(path, str(error).partition("\n")[0])
    except RecursionError:
        _refuse(path, "it is nested too deeply")
    except (ValueError, ArithmeticError) as error:  # of numbers and dates that there are not
        _refuse(path, str(error))


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except FileNotFoundError:
        raise NotFoundError(f"There is no file '{path}'.", hint="Give the path of a YAML file.") from None
    except OSError as error:
        raise AccessError(
            f"'{path}' cannot be read: {error.strerror}.", hint="Give the path of a YAML file."
        ) from error
    if len(content) > LARGEST:
        raise UsageError(
            f"'{path}' has more than {LARGEST // 1024} KiB, too large for a recipe.",
            hint="Give the path of a YAML file.",
        )
    return content


def _refuse(path: Path, reason: str, mark: yaml.error.Mark | None = None) -> NoReturn:
    where = f" (line {mark.line + 1})" if mark else ""
    raise UsageError(f"'{path}' cannot be read: {reason}{where}.", hint="Correct the file.") from None


@cache
def _loader() -> type[yaml.SafeLoader]:
    import yaml

    class Loader(yaml.SafeLoader):
        """Reads plain data without references, so that what is read is no larger than the file."""

        def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
            events: Any = self  # a method without types
            event: Any = events.peek_event()
            if isinstance(event, yaml.AliasEvent):
                reason = "aliases are not followed; write it out"
                raise _stopped(reason, event.start_mark)
            if isinstance(event, yaml.NodeEvent) and getattr(event, "tag", None) is not None:
                raise _stopped("tags are not followed", event.start_mark)
            node: yaml.Node | None = super().compose_node(parent, index)
            return node

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            keys = set()
            for key, _ in node.value:
                if key.tag != "tag:yaml.org,2002:str":
                    raise _stopped("a key is not text; quote it", key.start_mark)
                if key.value in keys:
                    raise _stopped(f"the key '{key.value[:80]}' comes twice", key.start_mark)
                keys.add(key.value)
            mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
            return mapping

    return Loader


def _stopped(reason: str, mark: Any) -> yaml.MarkedYAMLError:
    import yaml

    return yaml.MarkedYAMLError(None, None, reason, mark)
