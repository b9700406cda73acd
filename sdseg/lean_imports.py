"""Imports diffusers' models and scheduler without the packages that they name and inference never runs.

`from diffusers import UNet2DConditionModel` takes three times as long as `import torch`: it imports every model there
is, and with them transformers, PEFT, SciPy and torch's compiler. None of these draws a matte.
"""

import importlib
import importlib.util
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

STOOD_IN = ("transformers", "peft", "scipy", "diffusers.hooks")  # imported when one of their names is used
HIDDEN = "torch._dynamo"  # without the compiler diffusers leaves out a mark on its blocks that only old ones need
POSTPONED = ("diffusers.models.transformers", "diffusers.models.unets", "diffusers.models.autoencoders")
MODELS = (
    "diffusers.models.unets.unet_2d_condition",
    "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.schedulers.scheduling_ddim",
    "diffusers.pipelines.marigold.marigold_image_processing",
)


def import_diffusion_models() -> None:
    """Imports MODELS; afterwards `from diffusers import AutoencoderKL` and the like take no time.

    Everything else of diffusers can still be imported and used: names of STOOD_IN packages that its modules took are
    imported at their first use, and the packages of POSTPONED run their `__init__` when asked for another name. A
    release of diffusers that cannot be imported in this way is imported as usual. Call it before other threads import
    any of these packages: for half a second they would get the stand-ins.
    """
    if any(name in sys.modules for name in MODELS):
        return
    before = set(sys.modules)
    try:
        with _standing_in():
            importlib.import_module("diffusers.models")
            for name in POSTPONED:
                _postpone(name)
            for name in MODELS:
                importlib.import_module(name)
    except Exception:
        for name in set(sys.modules) - before:
            if name.partition(".")[0] == "diffusers":
                del sys.modules[name]
        for name in MODELS:
            importlib.import_module(name)


class Name:
    """A name of a module that is imported once the name is called, subclassed, looked into or compared with a type."""

    def __init__(self, module: str, name: str):
        self.__dict__.update(_module=module, _name=name)

    def _value(self):
        if "_found" not in self.__dict__:
            self.__dict__["_found"] = getattr(importlib.import_module(self._module), self._name)
        return self._found

    def __getattr__(self, name: str):
        return getattr(self._value(), name)

    def __call__(self, *arguments, **keywords):
        return self._value()(*arguments, **keywords)

    def __mro_entries__(self, bases: tuple) -> tuple:
        return (self._value(),)

    def __instancecheck__(self, instance) -> bool:
        return isinstance(instance, self._value())

    def __subclasscheck__(self, subclass) -> bool:
        return issubclass(subclass, self._value())

    def __or__(self, other):  # in annotations
        return self._value() | other

    def __ror__(self, other):
        return other | self._value()


class StandIn(ModuleType):
    """A module all of whose names are `Name`."""

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return Name(self.__name__, name)


class Finder(MetaPathFinder, Loader):
    """Finds a StandIn for the packages named and nothing for HIDDEN, for imports of the thread that made it."""

    def __init__(self, packages: tuple[str, ...], hidden: str | None):
        self.packages, self.hidden, self.thread = packages, hidden, threading.get_ident()

    def find_spec(self, fullname: str, path=None, target=None) -> ModuleSpec | None:
        if threading.get_ident() != self.thread:
            return None
        if self.hidden and f"{fullname}.".startswith(f"{self.hidden}."):
            raise ModuleNotFoundError(f"{fullname} is not needed here", name=fullname)
        if any(f"{fullname}.".startswith(f"{package}.") for package in self.packages):
            return ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


@contextmanager
def _standing_in() -> Iterator[None]:
    absent = tuple(name for name in STOOD_IN if name not in sys.modules)
    finder = Finder(absent, None if HIDDEN in sys.modules else HIDDEN)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name, module in list(sys.modules.items()):
            if isinstance(module, StandIn):
                del sys.modules[name]
                parent, _, child = name.rpartition(".")
                with suppress(KeyError, AttributeError):
                    delattr(sys.modules[parent], child)


class Postponed(ModuleType):
    """A package that runs its `__init__` when a name is asked for that none of its submodules has set."""

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        self.__class__ = ModuleType
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)


def _postpone(name: str) -> None:
    module = importlib.util.module_from_spec(importlib.util.find_spec(name))
    module.__class__ = Postponed
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    setattr(sys.modules[parent], child, module)
