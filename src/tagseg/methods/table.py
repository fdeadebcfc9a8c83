"""The table of methods: their names, their settings, and, when one is to compute, their classes.

The files of `tagseg.methods.settings` declare the methods that come with tagseg, `METHODS` by name, so that names and
settings are known without importing torch; the class of a method stands in the file of the same name beside this one,
and is known by its `Settings`. A file of anybody's own has both: `METHOD = MyMethod`, called as the file is.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tagseg.errors import BadInput, brief, nearest
from tagseg.files import file_digest
from tagseg.methods import settings as declared_here
from tagseg.settings import TrainSettings

if TYPE_CHECKING:
    from tagseg.methods.base import Method


@dataclass(frozen=True)
class OwnFile:
    """The file of a method of somebody's own, and a digest of what it said when it was run."""

    path: Path
    digest: str


_own: dict[str, OwnFile] = {}  # by the method's name


@cache
def _declared() -> dict[str, tuple[type[TrainSettings], str]]:
    """Settings and file of the methods that come with tagseg."""
    found: dict[str, tuple[type[TrainSettings], str]] = {}
    for file in pkgutil.iter_modules(declared_here.__path__):
        methods = getattr(importlib.import_module(f"{declared_here.__name__}.{file.name}"), "METHODS", {})
        found |= {name: (kind, file.name) for name, kind in methods.items()}
    for file in pkgutil.iter_modules([str(Path(__file__).parent)]):  # a method in one file, settings and all
        path = Path(__file__).parent / f"{file.name}.py"
        if path.is_file() and "\nMETHOD = " in path.read_text(encoding="utf-8"):
            found.setdefault(file.name.replace("_", "-"), (TrainSettings, file.name))
    return found


def method_names() -> list[str]:
    """Returns the names of all methods: those that come with tagseg, and those of files that `use_method` has read."""
    return sorted({*_declared(), *_own})


def use_method(file: str | Path) -> str:
    """Makes the method that a Python file defines known by the file's name, and returns that name.

    The file is a program, and is run. It lies outside the package and says `METHOD = MyMethod`, a class that derives
    from `tagseg.methods.base.Method`. Its folder is put at the end of the places that Python imports from, for
    processes that train together import it too.

    Raises:
        BadInput: there is no such file, it has the name of something else, it cannot be run, or it has no such class.
    """
    path = Path(file).resolve()
    if not path.is_file():
        raise BadInput(f"{file}: there is no such file; a method of your own is a Python file that says METHOD = ...")
    name = path.stem
    if name in _declared():
        raise BadInput(f"{file}: tagseg has a method '{name}' already; give your file another name.")
    file_now = OwnFile(path, file_digest(path))
    module = _imported(path, name, again=_own.get(name) != file_now)
    from tagseg.methods.base import Method

    kind = getattr(module, "METHOD", None)
    if not (isinstance(kind, type) and issubclass(kind, Method)):
        raise BadInput(f"{file}: it has no line METHOD = ..., naming a class that derives from tagseg's Method.")
    settings = getattr(kind, "Settings", None)
    if not (isinstance(settings, type) and issubclass(settings, TrainSettings)):
        raise BadInput(f"{file}: {kind.__name__} has no Settings; give it a class derived from TrainSettings.")
    _own[name] = file_now
    return name


def _imported(path: Path, name: str, again: bool) -> Any:
    """The file as a module, run `again` if it was imported before."""
    if not name.isidentifier():
        raise BadInput(f"{path}: Python cannot import a file of this name; use letters, numbers and _ only.")
    known = sys.modules.get(name)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    importlib.invalidate_caches()
    if known is None:
        found = importlib.util.find_spec(name)
        where = None if found is None else found.origin
    else:
        where = getattr(known, "__file__", None) or "built in"
    if where is None or not Path(where).exists() or Path(where).resolve() != path:
        raise BadInput(f"{path}: Python has another module '{name}' ({where}); give your file another name.")
    try:
        if known is None:
            return importlib.import_module(name)
        return importlib.reload(known) if again else known
    except Exception as error:
        raise BadInput(f"{path}: running this file failed ({type(error).__name__}: {brief(error)}).") from error


def find_method(name: str) -> str:
    """Returns the name of a method, given its name or the file of one of your own.

    Raises:
        BadInput: there is none, with the nearest name.
    """
    if name in method_names():
        return name
    if name.endswith(".py"):
        return use_method(name)
    known = method_names()
    raise BadInput(f"method '{name}' does not exist{nearest(name, known) or '.'} Known: {', '.join(known)}.")


def method_settings(name: str) -> type[TrainSettings]:
    """Returns the settings class of a method, for one of tagseg's without importing torch.

    Raises:
        BadInput: there is no such method.
    """
    name = find_method(name)
    kind = _declared()[name][0] if name not in _own else TrainSettings
    return load_method(name).Settings if kind is TrainSettings else kind


def load_method(name: str) -> type[Method]:
    """Returns the class of a method.

    Raises:
        BadInput: there is no such method.
    """
    name = find_method(name)
    if name in _own:
        return importlib.import_module(name).METHOD
    kind, file = _declared()[name]
    module = importlib.import_module(f"tagseg.methods.{file}")
    if kind is TrainSettings:
        return module.METHOD
    classes = (value for value in vars(module).values() if isinstance(value, type))
    return next(c for c in classes if vars(c).get("Settings") is kind)


def method_file(name: str) -> Path | None:
    """Returns the file of a method of your own, None for one that comes with tagseg."""
    return _own[name].path if name in _own else None


def method_digest(name: str) -> str | None:
    """Returns a digest of a method of your own, which changes with its file; None for one that comes with tagseg."""
    return _own[name].digest if name in _own else None
