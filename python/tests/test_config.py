"""The original's configuration API: its documentation's examples as written, and manifests that `pysecure` accepts."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import textwrap
import unittest

import support  # first: it says where the packages are

from pysecure import (
    PySecure,
    PySecureBundle,
    PySecureConfig,
    PySecureResource,
    PySecureSandbox,
    PySecureService,
    PySecureSharedBundle,
)

#: Where the program is; tests/rpc.rs says so.
BINARY = os.environ["PYSECURE_BINARY"]


class Folder(unittest.TestCase):
    def setUp(self) -> None:
        holder = tempfile.TemporaryDirectory(prefix="pysecure-config-")
        self.addCleanup(holder.cleanup)
        self.folder = pathlib.Path(holder.name)
        self.env = {**os.environ, "PYSECURE_STATE_DIR": str(self.folder / "state"), "PYTHONPATH": str(support.SRC)}
        (self.folder / "zoobar").mkdir()
        (self.folder / "zoobar" / "auth.py").write_text("")

    def check(self, config: PySecureConfig) -> dict[str, object]:
        config.folder = str(self.folder)
        (self.folder / "app.json").write_text(config.to_json())
        done = subprocess.run([BINARY, "-f", "app.json", "check"], cwd=self.folder, env=self.env, capture_output=True)
        self.assertEqual(done.returncode, 0, done.stdout.decode() + done.stderr.decode() + config.to_json())
        manifest: dict[str, object] = json.loads(config.to_json())
        return manifest


class Original(Folder):
    def test_ids_may_be_left_to_the_host(self) -> None:
        for config in (PySecureConfig("zoobar", None, None), PySecureConfig("zoobar")):
            config.register_services([PySecureService("one", "/", "true")])
            self.assertEqual(self.check(config)["app"].keys() & {"uid_range", "gid_range"}, set())

    def test_the_documentation_s_examples(self) -> None:
        cred_db_resource = PySecureResource('/zoobar/db/cred/cred.db', 'rw',
        '', '')  # fmt: skip
        zoobar_bundle = PySecureSharedBundle([PySecureResource("/zoobar/db/zoobars/", "rw", "r", "")])
        authsvc = PySecureService('authsvc', '/', '/zoobar/auth.py',
        [cred_db_resource], zoobar_bundle)  # fmt: skip
        config = PySecureConfig("zoobar", (61000, 61999), (61000, 61999))
        config.register_resources([cred_db_resource])
        config.register_bundles([zoobar_bundle])
        config.register_services([authsvc])
        manifest = self.check(config)
        self.assertEqual(
            manifest["services"],
            {
                "authsvc": {
                    "command": ["python3", "/zoobar/auth.py"],
                    "directory": "/",
                    "owner_resources": ["zoobar_db_cred_cred_db"],
                    "bundle": "shared-zoobar_db_zoobars",
                    "environment": {"PYTHONPATH": "/opt/pysecure"},
                }
            },
        )
        self.assertEqual(
            manifest["resources"]["zoobar_db_cred_cred_db"],  # type: ignore[index]
            {"path": "/zoobar/db/cred/cred.db", "owner": "rw", "bundle": "", "global": ""},
        )
        self.assertEqual(manifest["app"]["code"]["/zoobar"], "./zoobar")  # type: ignore[index]

    def test_sandboxes(self) -> None:
        people = PySecureResource("/zoobar/db/people/", "rw", "", "")
        config = PySecureConfig("zoobar", (61000, 61999), (61000, 61999))
        profiles = PySecureService("profiles", "/", "sleep 1", [people])
        config.register_services([profiles])
        config.register_sandboxes(
            [
                PySecureSandbox("profile", [profiles], people, uids=4, limits={"wall": "5s"}),
                PySecureSandbox("sums", ["profiles"]),
            ]
        )
        manifest = self.check(config)
        self.assertEqual(
            manifest["sandboxes"],
            {
                "profile": {
                    "used_by": ["profiles"],
                    "userdirs": "zoobar_db_people",
                    "uids": 4,
                    "limits": {"wall": "5s"},
                },
                "sums": {"used_by": ["profiles"]},
            },
        )
        self.assertEqual(config.places()["sandboxes.sums"][0], __file__)
        config.register_sandboxes([PySecureSandbox("sums", [profiles])])
        with self.assertRaisesRegex(ValueError, "two sandboxes are named 'sums'"):
            config.to_dict()

    def test_all_that_the_original_has(self) -> None:
        self.assertIs(PySecureBundle, PySecureSharedBundle)
        static = PySecureResource("/zoobar/static/", "rw", "r", "r", owned_by_dynamic_svc=True)
        db = PySecureResource("/zoobar/db/a.db", "rw", "", "")
        again = PySecureResource("/zoobar_db/a.db", "rw", "", "", name="again")
        bundle = PySecureBundle(iter([static]), used_by_dynamic_svc=True)
        config = PySecureConfig(
            app_name="zoobar", uid_range=(61000, 61999), gid_range=(61000, 61999), dynamic_svc_uid=33, dynamic_svc_gid=33
        )
        config.register_services(
            [
                PySecureService("one", "/zoobar", "python3 auth.py --quick 'two words'", [db], bundle),
                PySecureService(
                    service_name="two", directory="/", command=["sh", "-c", "true"], owner_resources=[again],
                    bundle=bundle, runs_with_root=True,
                ),
            ]
        )  # fmt: skip
        manifest = self.check(config)
        services = manifest["services"]
        assert isinstance(services, dict)
        self.assertEqual(services["one"]["command"], ["python3", "auth.py", "--quick", "two words"])
        self.assertTrue(services["two"]["runs_with_root"])
        # No service says who may call it, and no code that any has functions.
        self.assertNotIn("callers", services["one"])
        self.assertEqual(
            set(manifest["resources"]),  # type: ignore[call-overload]
            {"zoobar_static", "zoobar_db_a_db", "again"},
        )

    def test_names_do_not_depend_on_order(self) -> None:
        def names(*paths: tuple[str, ...]) -> dict[frozenset[str], str]:
            config = PySecureConfig("app", (61000, 61999), (61000, 61999))
            for number, group in enumerate(paths):
                bundle = PySecureBundle([PySecureResource(path, "", "r", "") for path in group])
                config.register_services([PySecureService(f"s{number}", "/", "sleep 1", bundle=bundle)])
            bundles = self.check(config)["bundles"]
            assert isinstance(bundles, dict)
            return {frozenset(table["resources"]): name for name, table in bundles.items()}

        alone = names(("/data/a/", "/data/b/"))
        self.assertEqual(alone, {frozenset({"data_a", "data_b"}): "shared-data_a-data_b"})
        both = names(("/data/c/",), ("/data/b/", "/data/a/"))
        self.assertEqual(both, {**alone, frozenset({"data_c"}): "shared-data_c"})
        # However many are in it.
        many = [f"/data/a-rather-long-name-{number}/" for number in range(9)]
        (long,), (again,) = names(tuple(many)).values(), names(tuple(reversed(many))).values()
        self.assertEqual(long, again)
        self.assertLessEqual(len(long), 63)

    def test_what_would_have_the_same_name_is_an_error(self) -> None:
        config = PySecureConfig("app", (61000, 61999), (61000, 61999))
        config.register_resources([PySecureResource("/a/b.db", "rw", "", ""), PySecureResource("/a_b/db", "rw", "", "")])
        with self.assertRaisesRegex(ValueError, "'/a/b.db' and '/a_b/db' would both be called 'a_b_db'; give one"):
            config.to_dict()
        shared = PySecureResource("/x/", "", "r", "")
        config = PySecureConfig("app", (61000, 61999), (61000, 61999))
        config.register_bundles([PySecureBundle([shared]), PySecureBundle([shared])])
        with self.assertRaisesRegex(ValueError, "two bundles would be called 'shared-x'"):
            config.to_dict()

    def test_what_lies_in_the_code_is_what_it_is(self) -> None:
        for name in ("media/logo.png", "db/old.db", "empty.db"):
            (self.folder / "zoobar" / name).parent.mkdir(exist_ok=True)
            (self.folder / "zoobar" / name).write_text("" if name == "empty.db" else "old")
        config = PySecureConfig("app", (61000, 61999), (61000, 61999))
        wanted = {
            # Nobody may write it: the files themselves.
            PySecureResource("/zoobar/media", "r", "r", ""): ("./zoobar/media", None),
            # Somebody may: a copy to begin with.
            PySecureResource("/zoobar/db/old.db", "rw", "", ""): (None, "./zoobar/db/old.db"),
            PySecureResource("/zoobar/empty.db", "rw", "", ""): (None, None),
            PySecureResource("/zoobar/new/", "rw", "", ""): (None, None),
            PySecureResource("/zoobar/db/media/", "rw", "", "", initial=""): (None, None),
            PySecureResource("/data/media/", "rw", "", "", source="./zoobar/media"): ("./zoobar/media", None),
        }
        service = PySecureService("authsvc", "/", "/zoobar/auth.py", list(wanted))
        config.register_services([service])
        config.folder = str(self.folder)
        tables = config.to_dict()["resources"]
        for resource, (source, initial) in wanted.items():
            table = tables[resource.path.strip("/").replace("/", "_").replace(".", "_")]
            self.assertEqual((table.get("source"), table.get("initial")), (source, initial), resource.path)

    def test_code_with_what_is_left_out(self) -> None:
        config = PySecureConfig(
            "app", (61000, 61999), (61000, 61999), code={"/zoobar": {"source": "./zoobar", "exclude": [".env", "*.db"]}}
        )
        config.register_services([PySecureService("authsvc", "/zoobar", "/zoobar/auth.py")])
        manifest = self.check(config)
        app = manifest["app"]
        assert isinstance(app, dict)
        self.assertEqual(app["code"]["/zoobar"], {"source": "./zoobar", "exclude": [".env", "*.db"]})
        self.assertEqual(manifest["services"]["authsvc"]["command"], ["python3", "/zoobar/auth.py"])  # type: ignore[index]

    def test_callers(self) -> None:
        config = PySecureConfig("app", (61000, 61999), (61000, 61999), never=["call bank from web"], always=["call auth.login by web"])
        config.register_services(
            [
                PySecureService("auth", "/", "sleep 1", callers={"web": ["login"], "bank": "*"}),
                PySecureService("bank", "/", "sleep 1"),
                PySecureService("web", "/", "sleep 1", restart="always", environment={"A": "b"}),
            ]
        )
        manifest = self.check(config)
        self.assertEqual(
            manifest["assert"], {"never": ["call bank from web"], "always": ["call auth.login by web"]}
        )
        services = manifest["services"]
        assert isinstance(services, dict)
        self.assertEqual(services["auth"]["callers"], {"web": ["login"], "bank": "*"})
        self.assertNotIn("callers", services["bank"])
        self.assertEqual(services["web"]["restart"], "always")

    def called(self, **written: str) -> dict[str, object]:
        """Whom the services one, two and three are called by, if nobody says so and this is the code."""
        for name, text in written.items():
            path = self.folder / "zoobar" / name.replace("__", "/").replace("_py", ".py")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        config = PySecureConfig("app", (61000, 61999), (61000, 61999))
        config.register_services([PySecureService(name, "/zoobar", "true") for name in ("one", "two", "three")])
        services = self.check(config)["services"]
        assert isinstance(services, dict)
        for path in written:
            (self.folder / "zoobar" / path.replace("__", "/").replace("_py", ".py")).unlink()
        return {name: sorted(table["callers"]) for name, table in services.items() if "callers" in table}

    def test_who_can_be_called_where_nobody_says_it(self) -> None:
        all_of_them = {"one": ["three", "two"], "two": ["one", "three"], "three": ["one", "two"]}
        one, two = {"one": ["three", "two"]}, {"two": ["one", "three"]}
        self.assertEqual(self.called(), {})
        self.assertEqual(self.called(one_py="@rpc(run_as='one')\ndef f(): pass\n"), one)
        self.assertEqual(self.called(inside__two_py="start_service( service_name = \"two\" , threads=1)"), two)
        self.assertEqual(self.called(one_py="@rpc(run_as='one')\n", two="#!/usr/bin/python3\nstart_service('two')\n"), one | two)
        self.assertEqual(self.called(two="run_as = 'two'\n"), {})  # no program
        os.mkfifo(self.folder / "zoobar" / "pipe")
        os.symlink("nowhere", self.folder / "zoobar" / "link.py")
        self.assertEqual(self.called(two_py="start_service('two')"), two)
        # What only the program knows.
        self.assertEqual(self.called(one_py="@rpc(run_as=names.ONE)\n", names_py="ONE: str = 'one'\nTWO = 'two'\n"), one)
        for text in ("@rpc(run_as=NAME)", "NAME = 'one'\nif x:\n    NAME = sys.argv[1]\n@rpc(run_as=NAME)", "name = 'one'\n@rpc(run_as=name)", "rpc(**{'run_as': 'one'})", "start_service(sys.argv[1])", "f(run_as='one' if x else 'two')",
                     "@rpc(run_as=f'{x}')"):  # fmt: skip
            with self.subTest(text):
                self.assertEqual(self.called(one_py=text), all_of_them)
        self.assertEqual(self.called(site_packages_py="x", **{"site-packages__a_py": "run_as=NAME"}), {})

    def test_who_can_be_called_by_code_that_is_not_beside_it(self) -> None:
        (self.folder / "zoobar" / "two").write_bytes(b"\x7fELF and so on")
        for code, called in (
            (None, ["two"]), ({"/zoobar": "./zoobar"}, ["two"]), ({"/zoobar": "."}, []), ({"/usr/local/x": "/usr/share"}, ["one", "two"]),
            ({"/zoobar": "./zoobar", "/x": "/usr/share"}, ["one", "two"]), ({"/zoobar": "./nothing"}, ["one", "two"]),
            ({"/zoobar": {"source": "./zoobar", "exclude": ["a"]}}, ["two"]), ({}, ["one", "two"]),
        ):  # fmt: skip
            with self.subTest(code=code):
                config = PySecureConfig("app", (61000, 61999), (61000, 61999), code=code)
                config.folder = str(self.folder)
                config.register_services([PySecureService("one", "/zoobar", "true"), PySecureService("two", "/zoobar", "./two")])
                services = config.to_dict()["services"]
                self.assertEqual([name for name, table in services.items() if "callers" in table], called)

    def test_jail_resources(self) -> None:
        outside = "/etc/issue"  # everywhere, and in no template
        (self.folder / "jail_resources.txt").write_text(f"# what it needs\n/usr/bin/python3\n/bin/sh\n{outside}\n")
        config = PySecureConfig("app", (61000, 61999), (61000, 61999))
        config.register_services([PySecureService("a", "/", "sleep 1")])
        code = self.check(config)["app"]["code"]  # type: ignore[index]
        self.assertEqual(code[outside], os.path.realpath(outside))
        self.assertNotIn("/usr/bin/python3", code)

    def test_all_keys_that_a_manifest_has(self) -> None:
        data = PySecureResource(
            "/zoobar/db/", "rw", "r", "", False, source="./db", kind="directory", exclude=["*.bak"], was="old", chown=True,
            write_as_root=True,
        )  # fmt: skip
        more = PySecureResource("/zoobar/more/", "", "rw", "", True, initial="./zoobar")
        shared, other = PySecureBundle([more], True, name="shared"), PySecureBundle([data], name="other")
        config = PySecureConfig(
            "app", (61000, 61999), (61000, 61999), 33, 33, code={"/zoobar": "./zoobar"}, setup="./make.sh",
            setup_jail="minimal", rpc_max_message="256M",
        )  # fmt: skip
        config.register_services(
            [
                PySecureService("one", "/", "true", bundles=[shared, other]),
                PySecureService("two", "/", "true", bundles=["shared"]),
            ]
        )
        manifest = config.to_dict()
        self.assertEqual(manifest["services"]["one"]["bundles"], ["shared", "other"])
        self.assertEqual(manifest["services"]["two"]["bundles"], ["shared"])
        self.assertEqual((manifest["app"]["rpc_max_message"], manifest["app"]["setup_jail"]), ("256M", "minimal"))
        resources = manifest["resources"].values()
        self.assertTrue(all(manifest["resources"]["zoobar_db"][key] is True for key in ("chown", "write_as_root")))
        # All keys of all tables but services' and sandboxes', which take the others by keyword.
        schema = json.loads((support.HERE.parent.parent / "specs/manifest.schema.json").read_text())

        def keys(table: str) -> set[str]:
            where = schema["properties"][table]
            where = where if table == "app" else where["additionalProperties"]
            while "$ref" in where:
                where = schema[where["$ref"].split("/")[1]][where["$ref"].split("/")[2]]
            return set(where["properties"])

        for table, made in (
            ("app", [manifest["app"]]), ("resources", resources), ("bundles", manifest["bundles"].values()),
        ):  # fmt: skip
            self.assertEqual({key for each in made for key in each}, keys(table), table)
        config.services[:] = [PySecureService("one", "/", "true", bundles=[shared])]
        for name in ("setup", "setup_jail"):
            setattr(config, name, None)
        data.source = data.was = None
        data.chown = data.write_as_root = False
        data.exclude = []
        self.check(config)

    def test_what_is_of_another_kind(self) -> None:
        here = __file__
        data = PySecureResource("/a", "r", "", "")
        for make in (
            lambda: PySecureService("one", "/", "true", ["a"]),  # type: ignore[list-item]
            lambda: PySecureService("one", "/", "true", data),  # type: ignore[arg-type]
            lambda: PySecureService("one", "/", "true", bundle=[data]),  # type: ignore[arg-type]
            lambda: PySecureService("one", "/", "true", bundles="shared"),
            lambda: PySecureService("one", "/", "true", bundles=[3]),  # type: ignore[list-item]
            lambda: PySecureService("one", "/", None),  # type: ignore[arg-type]
            lambda: PySecureService("one", "/", ["true", 1]),  # type: ignore[list-item]
            lambda: PySecureBundle(["a"]),  # type: ignore[list-item]
            lambda: PySecureSandbox("s", [data]),  # type: ignore[list-item]
            lambda: PySecureSandbox("s", [], "a"),  # type: ignore[arg-type]
            lambda: PySecureResource("/a", "r", "", "", exclude="*.db"),
            lambda: PySecureResource(5, "r", "", ""),  # type: ignore[arg-type]
            lambda: PySecureService("one", "/", "true", callers=["two"]),  # type: ignore[arg-type]
            lambda: PySecureConfig("app", code=["/zoobar"]),  # type: ignore[arg-type]
            lambda: PySecureConfig("app", never="call a from b"),
            lambda: PySecureConfig("app").register_services(["one"]),  # type: ignore[list-item]
            lambda: PySecureConfig("app").register_services(PySecureService("one", "/", "true")),  # type: ignore[arg-type]
        ):
            with self.assertRaises(TypeError):
                make()
        with self.assertRaisesRegex(ValueError, "not both"):
            PySecureService("one", "/", "true", bundle=PySecureBundle([]), bundles=["a"])

        config = PySecureConfig("app", code={"/zoobar": pathlib.Path("./zoobar"), "/x": 5})  # type: ignore[dict-item]
        service = PySecureService("one", "/", "true")
        config.register_services([service])
        self.assertEqual(config.to_dict()["app"]["code"]["/zoobar"], "zoobar")
        for more, says in (
            ({"limits": {"memory": object()}}, "`services.one.limits.memory` has <object"),
            ({"environment": {"A": {1, 2}}}, "`services.one.environment.A` has"),
            ({"stop": {"after": [1, b"x"]}}, "`services.one.stop.after` has b'x'"),
            ({"limits": {5: "1M"}}, "`services.one.limits` has the key 5"),
            ({"limits": {"cpu": float("nan")}}, "`services.one.limits.cpu` has nan"),
        ):
            service.more = more
            with self.assertRaises(TypeError) as caught:
                config.to_dict()
            self.assertIn(says, str(caught.exception))
            self.assertEqual((caught.exception.filename, caught.exception.lineno), service._made)  # type: ignore[attr-defined]
            self.assertEqual(service._made[0], here)

    def test_code_that_lies_where_a_root_has_a_folder_of_its_own(self) -> None:
        for top in ("srv", "opt", "home", "var", "bin"):
            (self.folder / top / "app").mkdir(parents=True)
            (self.folder / top / "app" / "web.py").write_text("")
            (self.folder / top / "run.py").write_text("")
            config = PySecureConfig("app", (61000, 61999), (61000, 61999))
            if top == "bin":
                # What the root has is no code that lies beside it.
                config.register_services([PySecureService("web", "/zoobar", "/bin/true")])
                self.assertEqual(self.check(config)["app"]["code"]["/zoobar"], "./zoobar")  # type: ignore[index]
                continue
            config.register_services([PySecureService("web", f"/{top}/app", f"/{top}/app/web.py"), PySecureService("run", "/", f"/{top}/run.py")])
            code = self.check(config)["app"]["code"]  # type: ignore[index]
            self.assertEqual({p: s for p, s in code.items() if p.startswith(f"/{top}/") and "pysecure" not in p},
                             {f"/{top}/app": f"./{top}/app", f"/{top}/run.py": f"./{top}/run.py"})  # fmt: skip

    def test_wrong_permissions(self) -> None:
        with self.assertRaisesRegex(ValueError, "owner permissions are any of"):
            PySecureResource("/a", "rq", "", "")


class Run(Folder):
    def test_run_with_config_brings_it_up(self) -> None:
        (self.folder / "zoobar" / "auth.py").write_text(
            textwrap.dedent(
                """
                import pysecure_rpc
                from pysecure_rpc import rpc

                @rpc(run_as='authsvc')
                def protected_function():
                    return 'for ' + pysecure_rpc.caller()

                if __name__ == '__main__':
                    pysecure_rpc.start_service('authsvc')
                """
            )
        )
        (self.folder / "zoobar" / "web.py").write_text("import auth\nprint('got:', auth.protected_function())\n")
        (self.folder / "pysecure_config.py").write_text(
            textwrap.dedent(
                """
                from pysecure import *

                config = PySecureConfig('zoobar-run', (61000, 61999), (61000, 61999))
                config.register_services([
                    PySecureService('authsvc', '/zoobar', '/zoobar/auth.py'),
                    PySecureService('web', '/zoobar', '/zoobar/web.py', depends_on=['authsvc']),
                ])
                if __name__ == '__main__':
                    PySecure.run_with_config(config, '-d')
                """
            )
        )
        env = {**self.env, "PYSECURE_BINARY": BINARY}
        self.folder.chmod(0o755)
        done = subprocess.run([sys.executable, "pysecure_config.py"], cwd=self.folder, env=env, capture_output=True)
        pysecure = [BINARY, "-f", "zoobar-run.pysecure.json"]
        try:
            self.assertEqual(done.returncode, 0, done.stderr.decode())
            self.assertIn(b"each may call every function of all others", done.stderr)

            def logs() -> bytes:
                return subprocess.run([*pysecure, "logs"], cwd=self.folder, env=env, capture_output=True).stdout

            support.until(lambda: b"got: for web" in logs())
        finally:
            subprocess.run([*pysecure, "down", "--purge"], cwd=self.folder, env=env, capture_output=True)

    def test_without_the_program(self) -> None:
        config = PySecureConfig("app", (61000, 61999), (61000, 61999))
        path, binary = os.environ["PATH"], os.environ.pop("PYSECURE_BINARY")
        os.environ["PATH"] = "/nowhere"
        python, sys.executable = sys.executable, "/nowhere/python"
        try:
            with self.assertRaisesRegex(FileNotFoundError, "set PYSECURE_BINARY"):
                PySecure.run_with_config(config)
        finally:
            os.environ["PATH"], os.environ["PYSECURE_BINARY"] = path, binary
            sys.executable = python


if __name__ == "__main__":
    unittest.main()
