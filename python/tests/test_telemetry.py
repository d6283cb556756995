"""OpenTelemetry's context goes along with calls. Wants the package opentelemetry-api in this Python's environment."""

from __future__ import annotations

import asyncio
import unittest

import support  # noqa: F401  first: it says where the packages are
import functions as f  # isort: skip
from support import WithServices

from opentelemetry import trace

import pysecure_rpc

IDS = (0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331)
PARENT = f"00-{IDS[0]:032x}-{IDS[1]:016x}-01"


class Telemetry(WithServices):
    def setUp(self) -> None:
        super().setUp()
        # The services load it, too.
        environment = {"PYSECURE_TEST_TELEMETRY": "1"}
        self.supervisor.start("one", {"web": "*", "two": "*"}, environment=environment)
        self.supervisor.start("two", {"web": "*", "one": "*"}, environment=environment)
        self.supervisor.act_as("web")

    def test_the_current_span_goes_along_and_is_the_parent_there(self) -> None:
        context = trace.SpanContext(*IDS, False, trace.TraceFlags(1))
        with trace.use_span(trace.NonRecordingSpan(context)):
            self.assertEqual(pysecure_rpc.traceparent(), PARENT)
            self.assertEqual(f.traced(), PARENT)
            # In the service it is OpenTelemetry's current span, in functions of every kind.
            self.assertEqual(f.span(), PARENT)
            self.assertEqual(asyncio.run(f.span_async()), PARENT)
            self.assertEqual(list(f.span_stream()), [PARENT, PARENT])
            self.assertEqual(f.traced_nested(), [PARENT, PARENT])
            with pysecure_rpc.trace(PARENT.replace("0af7", "1bf8")):
                self.assertEqual(f.span(), PARENT.replace("0af7", "1bf8"))
        self.assertIsNone(f.span())
        self.assertIsNone(f.traced())

    def test_what_is_no_trace_context_harms_nothing(self) -> None:
        for parent in ("", "00", "00-x-y-z", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "00-" + "f" * 99 + "-1-1", "-" * 5):
            with pysecure_rpc.trace(parent):
                self.assertIsNone(f.span(), parent)


if __name__ == "__main__":
    unittest.main()
