"""Stands in for a package that PySecure's launcher carries, and steps aside for one of its name that is installed.

A service's PYTHONPATH names the folder of this file, and so comes before what is installed for its interpreter: with the
compiled core, for one. Therefore what is looked for first is another package of this name, everywhere else.
"""

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec


def _found(name, own):
    elsewhere = [place for place in sys.path if place != own]
    for finder in sys.meta_path:
        if finder is PathFinder:
            spec = finder.find_spec(name, elsewhere)
        else:
            spec = finder.find_spec(name, None)
        if spec is not None and spec.loader is not None:
            return spec
    return PathFinder.find_spec(name, [own + "/carried"])


def _load(name, own):
    spec = _found(name, own)
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


_load(__name__, __file__.rpartition("/")[0])
