"""What is immutable and equal by its fields: policies and reports of events.

Not `dataclasses`: those write and compile source text for each class, which was two fifths of the time that
`import pmesh` takes (`benchmarks/targets.py import`).
"""

from __future__ import annotations

from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any, ClassVar, Self, dataclass_transform

if TYPE_CHECKING:
    from inspect import Signature

__all__ = ["Value"]


class _Signature:
    """What `inspect.signature` and `help` show of a class, made when they ask."""

    def __get__(self, instance: object, cls: type[Value]) -> Signature:
        from inspect import Parameter, Signature

        return Signature(
            [
                Parameter(
                    name,
                    Parameter.POSITIONAL_OR_KEYWORD,
                    default=cls._defaults.get(name, Parameter.empty),
                    annotation=cls._fields[name],
                )
                for name in cls.__match_args__
            ]
        )


@dataclass_transform(frozen_default=True)
class Value:
    """Base of classes whose annotations are their fields, after those of their base, as with a frozen dataclass.

    Equality, hash, repr, pickling, `match` and `copy.replace` (from Python 3.13 on) go by the fields, which cannot be
    assigned. A subclass may check them, and set them anew through `__dict__`, in `__post_init__`.
    """

    __match_args__: ClassVar[tuple[str, ...]] = ()
    __signature__: ClassVar[_Signature] = _Signature()
    _fields: ClassVar[dict[str, Any]] = {}  # their annotations by name
    _defaults: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = {name: kind for name, kind in cls.__annotations__.items() if "ClassVar[" not in str(kind)}
        defaults = {name: cls.__dict__[name] for name in own if name in cls.__dict__}
        for name in defaults:
            delattr(cls, name)
        cls._fields = {**cls._fields, **own}
        cls._defaults = {**cls._defaults, **defaults}
        cls.__match_args__ = tuple(cls._fields)  # type: ignore[misc]  # mypy thinks that it makes them

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        names = self.__match_args__
        if len(args) == len(names) and not kwargs:
            fields = dict(zip(names, args, strict=True))
        else:
            fields = {**self._defaults, **dict(zip(names, args, strict=False)), **kwargs}
            doubled = not kwargs.keys().isdisjoint(names[: len(args)])
            if len(args) > len(names) or fields.keys() != set(names) or doubled:
                self.__signature__.bind(*args, **kwargs)  # raises, with the reason
        self.__dict__.update(fields)
        self.__post_init__()

    def __post_init__(self) -> None:
        pass

    def _values(self) -> tuple[Any, ...]:
        return tuple(map(self.__dict__.__getitem__, self.__match_args__))

    def __eq__(self, other: object) -> bool:
        return self._values() == other._values() if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._values())

    @recursive_repr()
    def __repr__(self) -> str:
        fields = (f"{name}={value!r}" for name, value in zip(self.__match_args__, self._values(), strict=True))
        return f"{type(self).__qualname__}({', '.join(fields)})"

    def __reduce__(self) -> tuple[type[Self], tuple[Any, ...]]:
        return type(self), self._values()

    def __replace__(self, **changes: Any) -> Self:
        return type(self)(**{**dict(zip(self.__match_args__, self._values(), strict=True)), **changes})

    if not TYPE_CHECKING:  # to checkers, assigning a field is an error by itself

        def __setattr__(self, name: str, value: object) -> None:
            raise AttributeError(f"{type(self).__name__}.{name} cannot be assigned: it is immutable")

        def __delattr__(self, name: str) -> None:
            raise AttributeError(f"{type(self).__name__}.{name} cannot be deleted: it is immutable")
