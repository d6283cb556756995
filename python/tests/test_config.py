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
        # No service says who may call it, so all may call all.
        self.assertEqual(services["one"]["callers"], {"two": "*"})
        self.assertEqual(services["two"]["callers"], {"one": "*"})
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

    def test_jail_resources(self) -> None:
        outside = "/etc/os-release"  # everywhere, and in no template
        (self.folder / "jail_resources.txt").write_text(f"# what it needs\n/usr/bin/python3\n/bin/sh\n{outside}\n")
        config = PySecureConfig("app", (61000, 61999), (61000, 61999))
        config.register_services([PySecureService("a", "/", "sleep 1")])
        code = self.check(config)["app"]["code"]  # type: ignore[index]
        self.assertEqual(code[outside], os.path.realpath(outside))
        self.assertNotIn("/usr/bin/python3", code)

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
