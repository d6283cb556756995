#!/usr/bin/env python3
"""An agent: a model writes code, which runs in a sandbox and calls a shop's functions; what came of it goes back to the model.

The model here is a script, so that this runs anywhere: it makes the mistakes that models make, and reads what it is told about them.
Put yours in its place: `ask(prompt, history)` returns the next code, or None when it is done.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pysecure_sandbox import ApiCall, Function, Functions, Result, Sandbox, stub

TASK = "Customer alice complains: her lamp came broken. Refund what is fair, and tell her."
#: Cents that are given back without asking a person.
WITHOUT_A_PERSON = 50_00


@dataclass
class Order:
    number: int
    item: str
    cents: int


class Shop:
    """What the code may touch, and nothing else."""

    def __init__(self) -> None:
        self.orders = {"alice": [Order(7, "lamp", 30_00), Order(8, "sofa", 900_00)]}
        self.refunds: dict[int, int] = {}
        self.mails: list[tuple[str, str]] = []

    def orders_of(self, customer: str) -> list[Order]:
        """The orders of a customer."""
        return self.orders.get(customer, [])

    def refund(self, order: int, cents: int) -> str:
        """Gives money back for an order, once, and at most its price."""
        found = next((each for orders in self.orders.values() for each in orders if each.number == order), None)
        if found is None or order in self.refunds or not 0 < cents <= found.cents:
            raise ValueError(f"order {order} cannot have {cents} cents back")
        self.refunds[order] = cents
        return f"{cents} cents for order {order}"

    def mail(self, customer: str, text: str) -> None:
        """Writes to a customer."""
        self.mails.append((customer, text))

    def api(self) -> Functions:
        return {
            "orders_of": Function(self.orders_of, calls=10, bytes=100_000),
            "refund": Function(self.refund, calls=2),
            "mail": Function(self.mail, calls=1, bytes=2_000),
        }


def approve(call: ApiCall) -> bool | str:
    """Asked before each call. A program of yours would ask a person here, and wait for the answer."""
    given = dict(zip(("order", "cents"), call.args)) | call.kwargs
    if call.function == "refund" and given.get("cents", 0) > WITHOUT_A_PERSON:
        return f"a person did not agree: more than {WITHOUT_A_PERSON} cents"
    return True


class ScriptedModel:
    """Says what it was written to say. Each step expects something in what it was told about the one before."""

    STEPS = (
        # It looks first for what is not there.
        ("", "import urllib.request\nurllib.request.urlopen('http://198.51.100.1/orders/alice')"),
        ("unreachable", "orders = orders_of('alice')\n[(o['number'], o['item'], o['cents']) for o in orders]"),
        # It is generous with what is not its own.
        ("sofa", "for o in orders:\n    print(refund(o['number'], o['cents']))"),
        ("NotApproved", "for _ in range(3):\n    mail('alice', 'Your lamp is paid back. We are sorry.')"),
        ("BudgetExceeded", "'refunded: lamp'"),
    )

    def __init__(self) -> None:
        self._steps: Iterator[tuple[str, str]] = iter(self.STEPS)

    def ask(self, prompt: str, history: list[tuple[str, str]]) -> str | None:
        step = next(self._steps, None)
        if step is None:
            return None
        expected, code = step
        told = history[-1][1] if history else prompt
        assert expected in told, f"{expected!r} is not in what the model was told: {told}"
        return code


def told(result: Result) -> str:
    """What the model reads of a run."""
    if not result.ok:
        return f"{result.stdout}{result.explain()}"
    return result.stdout + ("" if result.value is None else f"{result.value!r}\n")


def work(model: ScriptedModel, shop: Shop) -> list[tuple[str, str]]:
    """The loop. All steps are cells of one session, so that a budget is for the whole task."""
    api = shop.api()
    prompt = f"{TASK}\nWrite Python. You may call:\n\n{stub(api)}"
    history: list[tuple[str, str]] = []
    with Sandbox(wall=60, memory="256M") as sandbox, sandbox.session(api=api, approve=approve) as session:
        while (code := model.ask(prompt, history)) is not None:
            history.append((code, told(session.run(code, wall=20))))
    return history


def main() -> None:
    shop = Shop()
    for code, answer in work(ScriptedModel(), shop):
        print("\n".join(f">>> {line}" for line in code.splitlines()))
        print(answer.rstrip(), end="\n\n")
    print(f"refunds: {shop.refunds}, mails: {shop.mails}")


if __name__ == "__main__":
    main()
