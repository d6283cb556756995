"""Runs a configuration in Python within its sandbox, and says on standard output what manifest it comes to.

It is handed to the interpreter as text: `python3 -c TEXT PATH`. On standard input are a line of JSON, with the packages that
the launcher carries, and the configuration. What that prints goes to standard error.
"""

import ast
import importlib.abc
import importlib.util
import json
import os
import sys
import types


class Taken(BaseException):
    """`run_with_config` was called: stop executing the configuration here."""


class Carried(importlib.abc.MetaPathFinder, importlib.abc.ExecutionLoader):
    """Finds the launcher's packages, if there are none of their names elsewhere: it is the last that is asked."""

    def __init__(self, folder, files):
        self.folder = folder
        self.files = files

    def path(self, name):
        """The file of a module, and whether it is a package."""
        base = name.replace(".", "/")
        whole = base + "/__init__.py"
        return (whole, True) if whole in self.files else (base + ".py", False)

    def find_spec(self, name, path=None, target=None):
        file, package = self.path(name)
        if file not in self.files:
            return None
        return importlib.util.spec_from_loader(name, self, is_package=package)

    def get_source(self, name):
        return self.files[self.path(name)[0]]

    def get_filename(self, name):
        return "%s/carried/%s" % (self.folder, self.path(name)[0])

    def is_package(self, name):
        return self.path(name)[1]


def begin(path, text, launcher):
    """The config that the program makes: the one that it would run, or the only one that it has."""
    if not os.access(os.path.dirname(path), os.R_OK | os.X_OK):
        fail(
            "its folder is not for it to read: a configuration of root's runs as no user; move both to a folder that "
            "everybody may read, or give both to a user who is not root"
        )
    import pysecure

    version = getattr(pysecure, "__version__", None)
    if version != launcher:
        print(
            "pysecure: the package in %s is version %s, and the launcher is %s: install the same one"
            % (os.path.dirname(pysecure.__file__), version or "0.1.0 or older", launcher),
            file=sys.stderr,
        )
    taken = []

    def take(config, *arguments):
        taken.append(config)
        raise Taken

    pysecure.PySecure.run_with_config = staticmethod(take)
    main = types.ModuleType("__main__")
    main.__file__ = path
    sys.modules["__main__"] = main
    code = compile(text, path, "exec", dont_inherit=True)
    try:
        exec(code, main.__dict__)
    except Taken:
        pass
    if taken:
        return taken[0]
    made = []
    for value in list(main.__dict__.values()):
        if isinstance(value, pysecure.PySecureConfig) and not any(value is m for m in made):
            made.append(value)
    if len(made) == 1:
        return made[0]
    what = "no PySecureConfig" if not made else "%d of them, and runs none" % len(made)
    fail("a configuration makes one PySecureConfig, but this makes " + what)


def extents(text):
    """The last line of the call that begins on each line."""
    ends = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            ends[node.lineno] = max(ends.get(node.lineno, 0), node.end_lineno or node.lineno)
    return ends


def answer(**what):
    channel.write(json.dumps(what))
    channel.flush()


def fail(message, line=None):
    sys.stdout.flush()
    sys.stderr.flush()
    answer(error=message, line=line)
    os._exit(3)


def tell(error, path):
    """Prints the traceback as if the configuration had been run by itself."""
    import traceback

    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != path:
        trace = trace.tb_next
    traceback.print_exception(type(error), error, trace)
    line = getattr(error, "lineno", None) if getattr(error, "filename", None) == path else None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == path:
            line = trace.tb_lineno
        trace = trace.tb_next
    fail("%s: %s" % (type(error).__name__, error), line)


def main():
    path = sys.argv[1]
    sys.argv[:] = [path]
    sys.path[0] = os.path.dirname(path)
    sys.dont_write_bytecode = True
    text = ""
    try:
        carried = json.loads(sys.stdin.buffer.readline())
        sys.meta_path.append(Carried(carried["folder"], carried["files"]))
        text = sys.stdin.buffer.read().decode()
        config = begin(path, text, carried["version"])
        manifest = config.to_json()
        unrestricted = len(config.services) > 1 and config.calls_are_unrestricted()
        ends = extents(text)
        places = {
            key: [line, ends.get(line, line)] for key, (file, line) in config.places().items() if file == path
        }
        sys.stdout.flush()
    except BaseException as error:
        tell(error, path)
    answer(manifest=manifest, unrestricted=unrestricted, places=places)
    os._exit(0)


channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)
main()
