"""Python values as JSON, exactly: what a program in one sandbox and its tests in another tell each other.

Numbers, texts, None and lists are themselves; what JSON has no word for is tagged: a tuple {"t": [...]}, a set, a dict.
A value is taken by what it holds, whatever its class says about itself: of a list whose class has an `__eq__` that is
always true, the list arrives. What holds nothing that can be told is {"o": n}, the program's n-th object.

Runs inside the sandbox: nothing but Python 3.9 and its standard library here.
"""

import collections
import decimal
import fractions
from typing import Any

TYPES = {kind.__name__: kind for kind in (int, float, complex, bool, str, bytes, list, tuple, set, frozenset, dict)}
PLAIN: Any = ((int, int.__int__), (float, float.__float__), (str, str.__str__))  # of a class of its own, what it is
MANY: Any = {"l": list, "t": tuple, "s": set, "z": frozenset, "q": collections.deque}


class Remote:
    """An object that stays in the program: it can be handed back, and is equal to itself only."""

    def __init__(self, number: int):
        self.number = number


class NotTold(TypeError):
    """A value that cannot leave its process."""


def encoded(value: Any, objects: Any) -> Any:
    """`objects`: a list that takes those that stay; None where nothing may."""
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if isinstance(value, Remote):
        return {"o": value.number}
    for base, plain in PLAIN:
        if isinstance(value, base):
            return plain(value)
    for tag, base in MANY.items():
        if isinstance(value, base):
            items = [encoded(item, objects) for item in base.__iter__(value)]
            return items if tag == "l" else {tag: items}
    if isinstance(value, dict):
        pairs = [(key, dict.__getitem__(value, key)) for key in dict.keys(value)]
        return {"d": [[encoded(key, objects), encoded(held, objects)] for key, held in pairs]}
    if kind is complex:
        return {"c": [value.real, value.imag]}
    if kind in (bytes, bytearray):
        return {"b": bytes(value).hex()}
    if kind is range:
        return {"r": [value.start, value.stop, value.step]}
    if kind in (fractions.Fraction, decimal.Decimal):
        return {"F" if kind is fractions.Fraction else "D": str(value)}
    if kind in (type({}.keys()), type({}.values()), type({}.items())) or hasattr(kind, "__next__"):
        return [encoded(item, objects) for item in value]
    if callable(getattr(value, "tolist", None)):  # numpy's
        return encoded(value.tolist(), objects)
    if kind is type and value in TYPES.values():
        return {"y": value.__name__}
    if objects is None:
        raise NotTold(f"a value of type {kind.__name__} cannot be handed to a program")
    objects.append(value)
    return {"o": len(objects) - 1}


def decoded(value: Any, objects: Any) -> Any:
    """`objects`: this process's own by number, a list; or what makes a Remote of a number.

    Raises ValueError, LookupError or TypeError on nonsense.
    """
    if isinstance(value, list):
        return [decoded(item, objects) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        raise ValueError("not one tag")
    ((tag, held),) = value.items()
    if tag == "o":
        return objects[held] if isinstance(objects, list) else objects(held)
    if tag == "d":
        return {decoded(key, objects): decoded(one, objects) for key, one in held}
    if tag == "b":
        return bytes.fromhex(held)
    if tag == "y":
        return TYPES[held]
    if tag in ("F", "D"):
        return fractions.Fraction(held) if tag == "F" else decimal.Decimal(held)
    if tag == "c":
        return complex(*held)
    if tag == "r":
        return range(*held)
    return MANY[tag](decoded(item, objects) for item in held)
