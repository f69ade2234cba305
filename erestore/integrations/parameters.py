"""Parameters of a merge configuration: numbers and flags, of each model or of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, NoReturn

from erestore.errors import UsageError
from erestore.merge.configuration import rational

_LONGEST = 80
"""Characters of what is quoted in a message."""


@dataclass(frozen=True)
class Parameters:
    """What ``models`` and ``parameters`` say.

    Attributes
    ----------
    models : tuple of str
        Names, each once.
    by_model : Mapping[str, Mapping[str, object]]
        Parameters of each model.
    shared : Mapping[str, object]
        Those of all, which a model's own go before.
    """

    models: tuple[str, ...]
    by_model: Mapping[str, Mapping[str, Any]]
    shared: Mapping[str, Any]

    @classmethod
    def read(
        cls, document: Mapping[str, Any], method: str, of_models: Sequence[str], of_all: Sequence[str]
    ) -> Parameters:
        """Read a configuration.

        Parameters
        ----------
        document : Mapping[str, object]
        method : str
            As messages name it.
        of_models, of_all : sequence of str
            Parameters that the method has of each model, which may be given for all too; and of all alone.

        Raises
        ------
        UsageError
            If something is not what it should be, or a parameter is none of the method's.
        """
        listed = document.get("models")
        if not isinstance(listed, list) or not listed:
            refuse("`models` lists no models", "Write `models:` and under it `- model: NAME`, one for each.")
        by_model: dict[str, Mapping[str, Any]] = {}
        for number, entry in enumerate(listed, 1):
            name, parameters = _model(entry, number)
            if name in by_model:
                refuse(f"`models` lists '{shown(name)}' twice", "List it once, with the sum of the weights.")
            by_model[name] = _section(
                parameters, f"`parameters` of '{shown(name)}'", method, of_models, elsewhere=of_all
            )
        shared = _section(document.get("parameters"), "`parameters`", method, (*of_models, *of_all))
        return cls(tuple(by_model), by_model, shared)

    def with_model(self, name: str) -> Parameters:
        """Return the same with one model more, without parameters of its own."""
        return replace(self, models=(*self.models, name), by_model={**self.by_model, name: {}})

    def without_model(self, name: str | None) -> Parameters:
        """Return the same without the base, which may be listed for completeness.

        Raises
        ------
        UsageError
            If it has parameters, or nothing else is listed.
        """
        if name not in self.models:
            return self
        if self.by_model[name]:
            refuse(
                f"`parameters` of '{shown(name)}' mean nothing, as it is the base_model", "Leave them out of its entry."
            )
        models = tuple(model for model in self.models if model != name)
        if not models:
            refuse("`models` lists nothing but the base_model", "List the variants to merge.")
        return replace(self, models=models)

    def per_model(self, key: str) -> tuple[Fraction, ...]:
        """Return a number of every model.

        Raises
        ------
        UsageError
            If one has none.
        """
        return tuple(self._of(name, key) for name in self.models)

    def same(self, key: str, default: int) -> Fraction:
        """Return a number that has to be the same for every model.

        Raises
        ------
        UsageError
            If it is not.
        """
        values = {self._of(name, key, default) for name in self.models}
        if len(values) > 1:
            refuse(f"`{key}` differs from model to model, and there is one for all here", f"Give one `{key}`.")
        return values.pop()

    def number(self, key: str, default: int | None = None) -> Fraction:
        """Return a number of all.

        Raises
        ------
        UsageError
            If there is none, and no default.
        """
        return _number(self.shared.get(key, default), key)

    def flag(self, key: str, *, default: bool) -> bool:
        """Return a truth value of all."""
        value = self.shared.get(key, default)
        if not isinstance(value, bool):
            refuse(f"`{key}: {shown(value)}` is neither true nor false", f"Write `{key}: true` or `{key}: false`.")
        return value

    def _of(self, name: str, key: str, default: int | None = None) -> Fraction:
        return _number(self.by_model[name].get(key, self.shared.get(key, default)), key, f" of '{shown(name)}'")


def refuse(reason: str, hint: str) -> NoReturn:
    """Say what is wrong with a configuration.

    Raises
    ------
    UsageError
    """
    raise UsageError(f"The recipe cannot be followed: {reason}.", hint=hint)


def shown(value: Any) -> str:
    """Return a value of the configuration as a message quotes it: short."""
    if isinstance(value, int) and value.bit_length() > _LONGEST:
        return "a very large number"
    text = str(value) if isinstance(value, str | int | float) else f"a {type(value).__name__}"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _model(entry: Any, number: int) -> tuple[str, Any]:
    where = f"entry {number} of `models`"
    if not isinstance(entry, dict) or not isinstance(entry.get("model"), str):
        refuse(f"{where} names no model", "Write `- model: NAME`; quote a name that looks like a number.")
    for key in entry:
        if key not in ("model", "parameters"):
            refuse(f"`{shown(key)}` in {where} has no meaning here", "Leave it out; there are model and parameters.")
    return entry["model"], entry.get("parameters")


def _section(
    section: Any, where: str, method: str, accepted: Sequence[str], elsewhere: Sequence[str] = ()
) -> Mapping[str, Any]:
    if section is None:
        return {}
    if not isinstance(section, dict):
        refuse(f"{where} is not a list of parameters", "Write them as `weight: 0.5`, one a line.")
    for key, value in section.items():
        if key in elsewhere:
            refuse(f"`{shown(key)}` in {where} is for all models alike", "Write it under `parameters` of the recipe.")
        if key not in accepted:
            hint = f"Leave it out; there is {', '.join(accepted)}." if accepted else "Leave it out."
            refuse(f"`{shown(key)}` in {where} is not a parameter of {method} here", hint)
        if isinstance(value, dict | list):
            conditional = isinstance(value, dict) or any(isinstance(item, dict) for item in value)
            what = "depends on tensors' names (filter)" if conditional else "is a gradient over layers"
            refuse(f"`{shown(key)}` in {where} {what}; here one value is for all tensors", "Give one number.")
    return section


def _number(value: Any, key: str, whose: str = "") -> Fraction:
    if value is None:
        refuse(
            f"`{key}`{whose} is missing", f"Write `{key}: NUMBER` under its parameters, or under those of the recipe."
        )
    text = repr(value) if isinstance(value, float) else value
    number = rational(text) if isinstance(text, int | str) and not isinstance(text, bool) else None
    if number is None:
        refuse(f"`{key}: {shown(value)}`{whose} is not a number", "Write it as 0.25.")
    return number
