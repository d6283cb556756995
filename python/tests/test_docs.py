"""The Python that docs/how-to/rpc.md shows is run, in order."""

from __future__ import annotations

import importlib.util
import pathlib
import re
import sys
import tempfile
import unittest

import support


class Documentation(unittest.TestCase):
    def test_what_is_shown_works(self) -> None:
        text = (support.SRC.parent.parent / "docs" / "how-to" / "rpc.md").read_text()
        blocks = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
        self.assertEqual(len(blocks), 6)
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "shown.py"
            path.write_text("\n".join(blocks))
            spec = importlib.util.spec_from_file_location("shown", path)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules["shown"] = module
            spec.loader.exec_module(module)
            self.assertIn('"login"', module.config.to_json())


if __name__ == "__main__":
    unittest.main()
