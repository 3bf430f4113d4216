"""Put the empty engine in place of every other, in each Python process that finds this folder on its PYTHONPATH.

`benchmarks/serve.py` starts the real service so, unchanged. Python imports a `sitecustomize` at its start; torch is not
imported here, only when the service itself imports its engines.
"""

import importlib.abc
import importlib.util
import sys

TARGET = "neuralblack.inference.engines"


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != TARGET:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        sys.meta_path.insert(0, self)
        execute = spec.loader.exec_module

        def execute_and_replace(module):
            execute(module)
            from benchmarks.empty import EmptyEngine

            module.build_engine = lambda folder, **_: EmptyEngine(folder)

        spec.loader.exec_module = execute_and_replace
        return spec


sys.meta_path.insert(0, _Finder())
