"""An application's services and what each may touch, written in Python; PySecure starts them.

    cred_db = PySecureResource("/zoobar/db/cred/cred.db", "rw", "", "")
    authsvc = PySecureService("authsvc", "/zoobar", "/zoobar/auth.py", [cred_db])
    config = PySecureConfig("zoobar", None, None)
    config.register_resources([cred_db])
    config.register_services([authsvc])
    PySecure.run_with_config(config)

This module decides nothing: a config becomes a manifest (`to_json`), and `pysecure` checks and runs it.
"""
# Names that begin with _ are private to this module, not to a class.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shlex
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, NoReturn, Union

__all__ = [
    "PySecure",
    "PySecureBundle",
    "PySecureConfig",
    "PySecureResource",
    "PySecureSandbox",
    "PySecureService",
    "PySecureSharedBundle",
]

__version__ = "0.1.0"

Callers = Mapping[str, Union[str, Sequence[str]]]
#: A path of the host, or {"source": PATH, "exclude": [".env", "*.db"]}, whose excluded names and paths no service sees.
Code = Union[str, Mapping[str, Any]]

#: Services that would not find the RPC package otherwise see it here.
_PACKAGES = "/opt/pysecure"
#: A script of this name beside the config file runs when the app's data is made, as in the original.
_INITIALIZE = "pysecure_initialize_resources.sh"
#: Folders that the jail `host` shows in any case.
_SHOWN = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/alternatives", "/etc/ssl/certs")
#: Directories that a root holds anyway (`SYSTEM` of the launcher's model/nesting.rs), beside those.
_ROOTS_OWN = ("/boot", "/etc", "/home", "/libx32", "/media", "/mnt", "/opt", "/root", "/run", "/srv", "/tmp", "/var", "/var/lib", "/var/tmp")
#: What says in code which service a function runs in: the service's name, or what it is computed from.
_RUNS_AS = re.compile(rb"\brun_as\b(?:\s*=(?!=)\s*)?|\bstart_service\((?:\s*service_name\s*=)?\s*")
_TEXT = re.compile(rb"(['\"])([A-Za-z0-9_-]*)\1\s*[,)\n#]")
#: The same by a constant, which other files may set, and where one is set.
_CONSTANT = re.compile(rb"(?:[A-Za-z_]\w*\.)*([A-Z][A-Z0-9_]*)\s*[,)\n#]")
_SET = re.compile(rb"^[ \t]*([A-Z][A-Z0-9_]*)[ \t]*(?::[^=\n]*)?=(?!=)[ \t]*", re.MULTILINE)
#: Folders that hold others' code, and how many files of an application's are looked at.
_OTHERS = ("__pycache__", "node_modules", "site-packages", "dist-packages", "pysecure", "pysecure_rpc", "pysecure_sandbox")
_MOST_FILES = 10_000
#: Services see the packages that the launcher carries here.
_CARRIED = "/run/pysecure/python"
#: Keywords of before version 1, and what each is called now: for one release, as src/former.rs of the launcher.
_FORMER = {"adopt": "chown", "initialize": "setup", "initialize_rootfs": "setup_jail", "rpc_largest": "rpc_max_message"}


class PySecureResource:
    """A file or directory, as services see it, and what each class of service may do with it: any of r, w, x.

    If the code holds something at this path already, the resource is that: the original if no service may write it, else a copy.
    `source` (a path of the host) and `initial` (a path that is copied once) name its content explicitly. With `initial=""` it begins
    empty. `was` is the path or name that it had before; its data stays with it. `chown`: PySecure may change owner, group and mode of
    `source`. `write_as_root`: services may write in `source` although it is root's.
    """

    def __init__(
        self,
        path: str,
        owner_permissions: str,
        bundle_permissions: str,
        global_permissions: str,
        owned_by_dynamic_svc: bool = False,
        *,
        source: str | None = None,
        kind: str | None = None,
        name: str | None = None,
        initial: str | None = None,
        exclude: Sequence[str] = (),
        was: str | None = None,
        chown: bool = False,
        write_as_root: bool = False,
        **former: NoReturn,
    ) -> None:
        _refuse_former(former)
        for label, permissions in (
            ("owner", owner_permissions),
            ("bundle", bundle_permissions),
            ("global", global_permissions),
        ):
            # For those who use no type checker.
            is_text = isinstance(permissions, str)  # pyright: ignore[reportUnnecessaryIsInstance]
            if not is_text or set(permissions) - set("rwx"):
                raise ValueError(f"{path}: {label} permissions are any of 'r', 'w' and 'x', not {permissions!r}")
        self.path = _text("path", path)
        self.owner_permissions = owner_permissions
        self.bundle_permissions = bundle_permissions
        self.global_permissions = global_permissions
        self.owned_by_dynamic_svc = owned_by_dynamic_svc
        self.source = source
        self.kind = kind
        self.name = name
        self.initial = initial
        self.exclude: list[str] = _all("exclude", exclude, str)
        self.was = None if was is None else _text("was", was)
        self.chown = chown
        self.write_as_root = write_as_root
        self._made = _place()


class PySecureBundle:
    """Resources that several services share."""

    def __init__(
        self, resources: Iterable[PySecureResource], used_by_dynamic_svc: bool = False, *, name: str | None = None
    ) -> None:
        self.resources: list[PySecureResource] = _all("resources", resources, PySecureResource)
        self.used_by_dynamic_svc = used_by_dynamic_svc
        self.name = name
        self._made = _place()


PySecureSharedBundle = PySecureBundle


class PySecureService:
    """A command that runs as a user of its own, with the resources that it owns and those of its bundle, or of its `bundles`.

    `callers`: who may call which of its functions, `{"web": ["login"], "bank": "*"}`.
    Other keyword arguments are keys of the manifest's `[services.NAME]`, such as `restart="always"`.
    """

    def __init__(
        self,
        service_name: str,
        directory: str,
        command: str | Sequence[str],
        owner_resources: Iterable[PySecureResource] = (),
        bundle: PySecureBundle | None = None,
        runs_with_root: bool = False,
        *,
        bundles: Iterable[PySecureBundle | str] = (),
        callers: Callers | None = None,
        environment: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        self.service_name = _text("service_name", service_name)
        self.directory = _text("directory", directory)
        self.command = command if isinstance(command, str) else _all("command", command, str)
        self.owner_resources: list[PySecureResource] = _all("owner_resources", owner_resources, PySecureResource)
        self.bundle = None if bundle is None else _all("bundle", [bundle], PySecureBundle)[0]
        self.bundles: list[PySecureBundle | str] = _all("bundles", bundles, PySecureBundle, str)
        if self.bundle is not None and self.bundles:
            raise ValueError(f"{service_name}: name one bundle as `bundle`, or several as `bundles`, and not both")
        self.runs_with_root = runs_with_root
        self.callers = None if callers is None else _table("callers", callers)
        self.environment: dict[str, str] = dict(environment or {})
        self.more = more
        self._made = _place()


class PySecureSandbox:
    """Where services have code run that they do not trust. Each run has a user of its own, and none of the services' rights.

    `used_by`: the services that may have code run in it. `userdirs`: the resource below which the directory of each run lies.
    Other keyword arguments are keys of the manifest's `[sandboxes.NAME]`, such as `limits={"wall": "5s"}` or `preload=["numpy"]`.
    """

    def __init__(
        self,
        sandbox_name: str,
        used_by: Iterable[PySecureService | str] = (),
        userdirs: PySecureResource | None = None,
        **more: Any,
    ) -> None:
        self.sandbox_name = _text("sandbox_name", sandbox_name)
        self.used_by: list[PySecureService | str] = _all("used_by", used_by, PySecureService, str)
        self.userdirs = None if userdirs is None else _all("userdirs", [userdirs], PySecureResource)[0]
        self.more = more
        self._made = _place()


class PySecureConfig:
    """The configuration of an application: a manifest in the making.

    `uid_range` and `gid_range` are the lowest and highest id to give out. `None` is a free range of the host, chosen once.
    `setup` is a script that makes the first content, and `setup_jail` the root that it runs in. `rpc_max_message` is the
    most bytes of one call, such as "256M".
    """

    def __init__(
        self,
        app_name: str,
        uid_range: tuple[int, int] | None = None,
        gid_range: tuple[int, int] | None = None,
        dynamic_svc_uid: int | None = None,
        dynamic_svc_gid: int | None = None,
        *,
        code: Mapping[str, Code] | None = None,
        never: Iterable[str] = (),
        always: Iterable[str] = (),
        setup: str | None = None,
        setup_jail: str | None = None,
        rpc_max_message: int | str | None = None,
        **former: NoReturn,
    ) -> None:
        _refuse_former(former)
        self.app_name = _text("app_name", app_name)
        self.uid_range = uid_range
        self.gid_range = gid_range
        self.dynamic_svc_uid = dynamic_svc_uid
        self.dynamic_svc_gid = dynamic_svc_gid
        self.code = None if code is None else _table("code", code)
        self.never: list[str] = _all("never", never, str)
        self.always: list[str] = _all("always", always, str)
        self.setup = setup
        self.setup_jail = setup_jail
        self.rpc_max_message = rpc_max_message
        self.resources: list[PySecureResource] = []
        self.bundles: list[PySecureBundle] = []
        self.services: list[PySecureService] = []
        self.sandboxes: list[PySecureSandbox] = []
        file = sys._getframe(1).f_globals.get("__file__")
        #: The folder of the file that made this object. Relative paths begin there.
        self.folder: str = os.path.dirname(os.path.abspath(file)) if file else os.getcwd()
        self._made = _place()

    def register_resources(self, resources: Iterable[PySecureResource]) -> None:
        """Adds resources. Those of services and bundles are part of the config without this."""
        _extend(self.resources, _all("resources", resources, PySecureResource))

    def register_bundles(self, bundles: Iterable[PySecureBundle]) -> None:
        """Adds bundles. Those of services are part of the config without this."""
        _extend(self.bundles, _all("bundles", bundles, PySecureBundle))

    def register_services(self, services: Iterable[PySecureService]) -> None:
        """Adds services."""
        _extend(self.services, _all("services", services, PySecureService))

    def register_sandboxes(self, sandboxes: Iterable[PySecureSandbox]) -> None:
        """Adds sandboxes."""
        _extend(self.sandboxes, _all("sandboxes", sandboxes, PySecureSandbox))

    def to_dict(self) -> dict[str, Any]:
        """The manifest as plain values, with all that services and bundles refer to, registered or not."""
        resources, bundles = self._parts()
        resource_names, bundle_names = _names(resources, bundles)

        app: dict[str, Any] = {"name": self.app_name}
        if self.uid_range is not None:
            app["uid_range"] = self.uid_range
        if self.gid_range is not None:
            app["gid_range"] = self.gid_range
        if self.dynamic_svc_uid is not None:
            app["external_uid"] = self.dynamic_svc_uid
        if self.dynamic_svc_gid is not None:
            app["external_gid"] = self.dynamic_svc_gid
        given: Mapping[str, Code] = self.code if self.code is not None else self._code(resources)
        code: dict[str, Code] = _plain(given, "app.code", self.places())
        packages = _packages()
        for shown, source in packages.items():
            code.setdefault(shown, source)
        if code:
            app["code"] = code
        setup = self.setup
        if setup is None and os.path.isfile(os.path.join(self.folder, _INITIALIZE)):
            setup = _INITIALIZE
        if setup:
            app["setup"] = setup
        if self.setup_jail is not None:
            app["setup_jail"] = self.setup_jail
        if self.rpc_max_message is not None:
            app["rpc_max_message"] = self.rpc_max_message
        manifest: dict[str, Any] = {"app": app}
        if resources:
            manifest["resources"] = {resource_names[id(r)]: self._resource(r, code) for r in resources}
        if bundles:
            manifest["bundles"] = {bundle_names[id(b)]: _bundle(b, resource_names) for b in bundles}
        called: set[str] = self._called(code) if self.calls_are_unrestricted() else set()
        manifest["services"] = {}
        for service in self.services:
            if service.service_name in manifest["services"]:
                raise _WrongValue(f"two services are named {service.service_name!r}", service._made)
            table: dict[str, Any] = {"command": self._command(service, code), "directory": service.directory}
            if service.owner_resources:
                table["owner_resources"] = [resource_names[id(r)] for r in service.owner_resources]
            if service.bundle is not None:
                table["bundle"] = bundle_names[id(service.bundle)]
            if service.bundles:
                table["bundles"] = [b if isinstance(b, str) else bundle_names[id(b)] for b in service.bundles]
            if service.runs_with_root:
                table["runs_with_root"] = True
            callers = service.callers
            if service.service_name in called:
                callers = {s.service_name: "*" for s in self.services if s is not service}
            if callers:
                table["callers"] = {caller: _listed(functions) for caller, functions in callers.items()}
            environment = dict(service.environment)
            if packages:
                environment.setdefault("PYTHONPATH", _PACKAGES)
            if environment:
                table["environment"] = environment
            table.update(service.more)
            manifest["services"][service.service_name] = table
        if self.sandboxes:
            manifest["sandboxes"] = {}
        for sandbox in self.sandboxes:
            if sandbox.sandbox_name in manifest["sandboxes"]:
                raise _WrongValue(f"two sandboxes are named {sandbox.sandbox_name!r}", sandbox._made)
            manifest["sandboxes"][sandbox.sandbox_name] = _sandbox(sandbox, resource_names)
        rules = {"never": self.never, "always": self.always}
        if any(rules.values()):
            manifest["assert"] = {key: said for key, said in rules.items() if said}
        plain: dict[str, Any] = _plain(manifest, "", self.places())
        return plain

    def to_json(self) -> str:
        """The manifest as JSON, for `pysecure -f FILE`."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def calls_are_unrestricted(self) -> bool:
        """Whether no service names its callers. Then every service may call all that others have to call, as in the original."""
        return all(service.callers is None for service in self.services)

    def places(self) -> dict[str, tuple[str, int]]:
        """File and line that made each object of the manifest, for errors to point at."""
        resources, bundles = self._parts()
        resource_names, bundle_names = _names(resources, bundles)
        return {
            "": self._made,
            "app": self._made,
            **{f"resources.{resource_names[id(r)]}": r._made for r in resources},
            **{f"bundles.{bundle_names[id(b)]}": b._made for b in bundles},
            **{f"services.{s.service_name}": s._made for s in self.services},
            **{f"sandboxes.{s.sandbox_name}": s._made for s in self.sandboxes},
        }

    def _parts(self) -> tuple[list[PySecureResource], list[PySecureBundle]]:
        bundles, resources = list(self.bundles), list(self.resources)
        for service in self.services:
            _extend(bundles, [service.bundle] if service.bundle is not None else [])
            _extend(bundles, [bundle for bundle in service.bundles if not isinstance(bundle, str)])
            _extend(resources, service.owner_resources)
        for bundle in bundles:
            _extend(resources, bundle.resources)
        for sandbox in self.sandboxes:
            _extend(resources, [sandbox.userdirs] if sandbox.userdirs is not None else [])
        return resources, bundles

    def _code(self, resources: list[PySecureResource]) -> dict[str, str]:
        """The folders beside the config file that services' commands and directories name, and jail_resources.txt."""
        code: dict[str, str] = {}
        for service in self.services:
            for path in [service.directory, *_words(service.command)]:
                top = path.split("/")[1] if path.startswith("/") else ""
                if top and "/" + top not in _SHOWN and os.path.isdir(os.path.join(self.folder, top)):
                    code.update(self._shown_of(top))
        declared = {r.path.rstrip("/") for r in resources}
        for path in self._jail_resources():
            inside = any(path == s or path.startswith(s + "/") for s in _SHOWN)
            if not inside and path not in declared and not any(path == c or path.startswith(c + "/") for c in code):
                code[path] = os.path.realpath(path)  # a source goes through no link
        return code

    def _shown_of(self, top: str) -> dict[str, str]:
        """A folder beside the config file, as services see it. What a root holds anyway is not covered by one, but has what is in it."""
        if "/" + top not in _ROOTS_OWN:
            return {"/" + top: "./" + top}
        names = sorted(os.listdir(os.path.join(self.folder, top)))
        return {f"/{top}/{name}": f"./{top}/{name}" for name in names if f"/{top}/{name}" not in _ROOTS_OWN}

    def _called(self, code: Mapping[str, Code]) -> set[str]:
        """Services that have functions to call, as far as the code beside the config says it, and all if it does not. Others are
        handed no callers' sockets, which some programs would take for their own, as gunicorn does."""
        everyone = {service.service_name for service in self.services}
        found: set[str] = set()
        constants: set[str] = set()
        values: dict[str, set[str | None]] = {}
        many = 0
        packages = set(_packages().values())
        beside = [_source(source) for source in code.values()]
        hosts = [os.path.normpath(os.path.join(self.folder, text)) for text in beside if text not in packages]
        within = [h for h in hosts if h == self.folder or h.startswith(self.folder.rstrip("/") + "/")]
        elsewhere = self.code is not None and within != hosts
        if not within or elsewhere or not all(map(os.path.exists, within)):
            return everyone
        for host in within:
            for path in _files(host):
                many += 1
                names = _runs_as(path, constants, values)
                if names is None or many > _MOST_FILES:
                    return everyone
                found |= names
        for constant in constants:
            for value in values.get(constant, {None}):
                if value is None:
                    return everyone
                found.add(value)
        programs = {s.service_name for s in self.services if self._may_be_compiled(s, code)}
        return (found | programs) & everyone

    def _may_be_compiled(self, service: PySecureService, code: Mapping[str, Code]) -> bool:
        """Whether a service's program is none whose functions can be seen in its text."""
        words = _words(service.command)
        path = os.path.normpath(os.path.join("/", service.directory, words[0])) if words else ""
        host = self._on_host(path, code)
        try:
            with open(host or "", "rb") as file:
                return file.read(4) == b"\x7fELF"
        except OSError:
            return False

    def _on_host(self, path: str, code: Mapping[str, Code]) -> str | None:
        for shown, source in code.items():
            if path.startswith(shown.rstrip("/") + "/"):
                text = _source(source)
                return os.path.join(self.folder, text, path[len(shown.rstrip("/")) + 1 :])
        return None

    def _jail_resources(self) -> list[str]:
        try:
            with open(os.path.join(self.folder, "jail_resources.txt"), encoding="utf-8") as file:
                lines = [line.split("#")[0].strip() for line in file]
        except FileNotFoundError:
            return []
        return [line.rstrip("/") for line in lines if line.startswith("/") and line != "/"]

    def _resource(self, resource: PySecureResource, code: Mapping[str, Code]) -> dict[str, Any]:
        table = _resource(resource)
        if resource.source is None and resource.initial is None:
            brought = self._brought(resource.path, code)
            writable = any("w" in table[label] for label in ("owner", "bundle", "global"))
            if brought is not None:
                # As in the original, the file that lies there is the resource.
                table["initial" if writable else "source"] = brought
                table.pop("kind", None)
        return table

    def _brought(self, path: str, code: Mapping[str, Code]) -> str | None:
        """The host's path of what the code holds at a path of services; None if it holds nothing there."""
        path = path.rstrip("/")
        for shown, source in sorted(code.items(), key=lambda c: -len(c[0])):
            inside = shown.rstrip("/") + "/"
            if not path.startswith(inside):
                continue
            if not isinstance(source, str):
                # Code with `exclude` shows exactly what it says, and no more.
                return None
            host = os.path.normpath(os.path.join(source, path[len(inside) :]))
            if not _holds_something(os.path.join(self.folder, host)):
                return None
            return host if os.path.isabs(host) else "./" + host
        return None

    def _command(self, service: PySecureService, code: Mapping[str, Code]) -> list[str]:
        words = _words(service.command)
        if not words:
            raise _WrongValue(f"{service.service_name}: its command is empty", service._made)
        # A module need not be executable: Python runs it.
        if words[0].endswith(".py") and not self._executable(words[0], service.directory, code):
            return ["python3", *words]
        return words

    def _executable(self, program: str, directory: str, code: Mapping[str, Code]) -> bool:
        host = self._on_host(os.path.normpath(os.path.join("/", directory, program)), code)
        try:
            with open(host or "", "rb") as file:
                runs = os.fstat(file.fileno()).st_mode & stat.S_IXOTH != 0
                return runs and file.read(2) == b"#!"
        except OSError:
            return False


class PySecure:
    """Starts the application that a config describes."""

    @staticmethod
    def run_with_config(config: PySecureConfig, *arguments: str) -> NoReturn:
        """Replaces this process by `pysecure up` of this config. `arguments` go to `up`, such as "-d".

        The manifest is written beside the config file as APP.pysecure.json, for a later `pysecure -f`.
        """
        text = config.to_json()
        if config.calls_are_unrestricted() and len(config.services) > 1:
            print(
                f"pysecure: no service of {config.app_name} names `callers`, so each may call every function of all "
                "others; PySecureService(..., callers={'web': ['login']}) says who may call what",
                file=sys.stderr,
                flush=True,
            )
        # The wheel installs `pysecure` beside this interpreter, whose environment need not be active.
        beside = os.path.dirname(sys.executable)
        program = (
            os.environ.get("PYSECURE_BINARY") or shutil.which("pysecure") or shutil.which("pysecure", path=beside)
        )
        if program is None:
            raise FileNotFoundError("there is no `pysecure` in PATH: install it, or set PYSECURE_BINARY to where it is")
        path = _write(os.path.join(config.folder, f"{config.app_name}.pysecure.json"), text)
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(program, [program, "-f", path, "up", *arguments])


def _write(path: str, text: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            if file.read() == text:
                return path
    except (FileNotFoundError, PermissionError):
        pass
    folder = os.path.dirname(path)
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=".", suffix=".json")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)
    return path


def _place() -> tuple[str, int]:
    """The line outside of this module that is making an object."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return ("", 0) if frame is None else (frame.f_code.co_filename, frame.f_lineno)


def _all(what: str, values: Iterable[Any], *kinds: type) -> list[Any]:
    """A list of what was given, for those who use no type checker: each is of these kinds."""
    wanted = " or ".join("text" if kind is str else kind.__name__ for kind in kinds)
    several = isinstance(values, Iterable)  # pyright: ignore[reportUnnecessaryIsInstance]
    if not several or isinstance(values, (str, bytes, Mapping)):
        raise TypeError(f"`{what}` is a list, whose items are {wanted}, and not {values!r}")
    found = list(values)
    for value in found:
        if not isinstance(value, kinds):
            raise TypeError(f"`{what}` has {value!r} in it, and its items are {wanted}")
    return found


def _listed(value: Any) -> Any:
    """What can be gone through, as a list; anything else as it is."""
    return list(value) if isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping)) else value  # pyright: ignore


def _text(what: str, value: Any) -> str:
    """Text that was given, for those who use no type checker."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if not isinstance(value, str):
        raise TypeError(f"`{what}` is text, and not {value!r}")
    return value


def _table(what: str, value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise TypeError(f"`{what}` is a dict, and not {value!r}")
    return value  # pyright: ignore[reportUnknownVariableType]


class _WrongType(TypeError):
    """What a manifest cannot hold, and where the object was made that has it."""

    def __init__(self, text: str, made: tuple[str, int]) -> None:
        super().__init__(text)
        self.filename, self.lineno = made


class _WrongValue(ValueError):
    """What contradicts something else, and where it was made."""

    def __init__(self, text: str, made: tuple[str, int]) -> None:
        super().__init__(text)
        self.filename, self.lineno = made


def _plain(value: Any, where: str, places: Mapping[str, tuple[str, int]]) -> Any:
    """The same in the values of JSON."""
    if value is None or isinstance(value, (str, bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, os.PathLike):
        found: Any = os.fspath(value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        if isinstance(found, str):
            return found
    if isinstance(value, Mapping):
        table: dict[str, Any] = {}
        for key, each in value.items():  # pyright: ignore[reportUnknownVariableType]
            if not isinstance(key, str):
                raise _WrongType(f"`{where}` has the key {key!r}, and keys are text", _made(where, places))
            table[key] = _plain(each, f"{where}.{key}".lstrip("."), places)
        return table
    if isinstance(value, (list, tuple)):
        return [_plain(each, where, places) for each in value]  # pyright: ignore[reportUnknownVariableType]
    raise _WrongType(
        f"`{where}` has {value!r}, and a manifest holds text, numbers, true and false, lists and tables", _made(where, places)
    )


def _made(where: str, places: Mapping[str, tuple[str, int]]) -> tuple[str, int]:
    parts = where.split(".")
    return places.get(".".join(parts[:2])) or places.get(parts[0]) or places[""]


def _extend(known: list[Any], more: Iterable[Any]) -> None:
    for each in more:
        if not any(each is k for k in known):
            known.append(each)


def _names(
    resources: list[PySecureResource], bundles: list[PySecureBundle]
) -> tuple[dict[int, str], dict[int, str]]:
    """The names of resources and bundles, by id(). Uids and data belong to names, so no name depends on the order of objects."""
    resource_names: dict[int, str] = {}
    taken: dict[str, PySecureResource] = {}
    for resource in resources:
        name = resource.name or _from_path(resource.path)
        other = taken.setdefault(name, resource)
        if other is not resource:
            raise _WrongValue(
                f"the resources {other.path!r} and {resource.path!r} would both be called {name!r}; "
                "give one of them a name: PySecureResource(..., name='...')",
                resource._made,
            )
        resource_names[id(resource)] = name
    bundle_names: dict[int, str] = {}
    known: dict[str, PySecureBundle] = {}
    for bundle in bundles:
        name = bundle.name or _from_resources(sorted({resource_names[id(r)] for r in bundle.resources}))
        if known.setdefault(name, bundle) is not bundle:
            raise _WrongValue(
                f"two bundles would be called {name!r}, by their resources; make them one, or give one of them a name: "
                "PySecureBundle(..., name='...')",
                bundle._made,
            )
        bundle_names[id(bundle)] = name
    return resource_names, bundle_names


def _from_resources(names: list[str]) -> str:
    """The name of a bundle that was given none. It depends on the resources alone, not on the bundles before it."""
    name = "-".join(["shared", *names])
    if len(name) <= 63:
        return name
    return f"{name[:50]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def _source(code: Any) -> str:
    """The host's path of a part of `code`. What is no such part is told by whoever reads the manifest."""
    return code if isinstance(code, str) else str(code.get("source", "")) if isinstance(code, dict) else ""  # pyright: ignore


def _files(path: str) -> Iterator[str]:
    """A file, or those of a folder that may be an application's code. What cannot be read comes, too."""
    unread: list[str] = []
    if not os.path.isdir(path):
        yield path
    for folder, folders, files in os.walk(path, onerror=lambda error: unread.append(str(error.filename))):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _OTHERS)
        for name in files:
            if name.endswith(".py") or "." not in name:
                yield os.path.join(folder, name)
    yield from unread


def _runs_as(path: str, constants: set[str], values: dict[str, set[str | None]]) -> set[str] | None:
    """The services that a file of Python names as those in which functions run; None if that is not to be known. Adds the constants by
    which it names some, and what it sets constants to."""
    try:
        if not os.path.isdir(path) and not os.path.isfile(path):
            return set()  # a pipe, or a link to nothing
        with open(path, "rb") as file:
            text = file.read(2)
            if not path.endswith(".py") and text != b"#!":
                return set()
            text += file.read() + b"\n"
    except OSError:
        return None
    names: set[str] = set()
    for said in _RUNS_AS.finditer(text):
        name = _TEXT.match(text, said.end())
        constant = None if name else _CONSTANT.match(text, said.end())
        if name is not None:
            names.add(name[2].decode())
        elif constant is not None:
            constants.add(constant[1].decode())
        else:
            return None
    for setting in _SET.finditer(text):
        value = _TEXT.match(text, setting.end())
        values.setdefault(setting[1].decode(), set()).add(value[2].decode() if value else None)
    return names


def _holds_something(path: str) -> bool:
    """Whether it is a file that is not empty, or a folder with more in it than empty folders."""
    try:
        found = os.lstat(path)
        if not stat.S_ISDIR(found.st_mode):
            return found.st_size > 0
        with os.scandir(path) as entries:
            return any(_holds_something(entry.path) for entry in entries)
    except OSError:
        return False


def _from_path(path: str) -> str:
    name = re.sub(r"[^A-Za-z0-9]+", "_", path).strip("_")[-58:].strip("_")
    return name if name[:1].isalpha() else f"r_{name}".rstrip("_")


def _words(command: str | Sequence[str]) -> list[str]:
    return shlex.split(command) if isinstance(command, str) else list(command)


def _refuse_former(given: Mapping[str, object]) -> None:
    for name in given:
        new = _FORMER.get(name)
        told = f": it is called {new!r} now" if new else ""
        raise TypeError(f"unexpected keyword argument {name!r}{told}")


def _resource(resource: PySecureResource) -> dict[str, Any]:
    table: dict[str, Any] = {
        "path": resource.path,
        "owner": resource.owner_permissions,
        "bundle": resource.bundle_permissions,
        "global": resource.global_permissions,
    }
    if resource.owned_by_dynamic_svc:
        table["owned_by_external"] = True
    if resource.source is not None:
        table["source"] = resource.source
    if resource.kind is not None:
        table["kind"] = resource.kind
    if resource.initial:
        table["initial"] = resource.initial
    if resource.exclude:
        table["exclude"] = resource.exclude
    if resource.chown:
        table["chown"] = True
    if resource.write_as_root:
        table["write_as_root"] = True
    if resource.was is not None:
        table["was"] = _from_path(resource.was) if "/" in resource.was else resource.was
    return table


def _bundle(bundle: PySecureBundle, names: Mapping[int, str]) -> dict[str, Any]:
    table: dict[str, Any] = {"resources": [names[id(r)] for r in bundle.resources]}
    if bundle.used_by_dynamic_svc:
        table["used_by_external"] = True
    return table


def _sandbox(sandbox: PySecureSandbox, names: Mapping[int, str]) -> dict[str, Any]:
    table: dict[str, Any] = {
        "used_by": [user if isinstance(user, str) else user.service_name for user in sandbox.used_by]
    }
    if sandbox.userdirs is not None:
        table["userdirs"] = names[id(sandbox.userdirs)]
    table.update(sandbox.more)
    return table


def _packages() -> dict[str, str]:
    """The RPC package as code to show, unless it lies where services see it in any case."""
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if any(here == s or here.startswith(s + "/") for s in (*_SHOWN, _CARRIED)):
        return {}
    return {f"{_PACKAGES}/{name}": os.path.join(here, name) for name in ("pysecure", "pysecure_rpc")}
