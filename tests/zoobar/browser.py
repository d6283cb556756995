"""Two people use zoobar in Chromium: browser.py URL. Ends with 0 if all was as it should be.

Wants Debian's packages chromium, chromium-driver, python3-selenium.
"""

import os
import sys
import tempfile

from selenium import webdriver
from selenium.common.exceptions import JavascriptException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

URL = sys.argv[1]


def browser(profile: str) -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    options.add_argument("--headless=new")
    options.add_argument(f"--user-data-dir={profile}")
    # What it shares with its renderers lies in /tmp: /dev/shm is small in containers.
    options.add_argument("--disable-dev-shm-usage")
    options.add_argument("--disable-gpu")
    if os.geteuid() == 0:
        # Chromium refuses to start as root without this: its sandbox gives up rights that root would have again.
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(service=Service("/usr/bin/chromedriver"), options=options)
    # Never a time limit: what is waited for comes, or the test is stuck where it can be looked at.
    driver.set_page_load_timeout(3600)
    return driver


def by(driver: webdriver.Chrome, selector: str):  # type: ignore[no-untyped-def]
    return driver.find_element(By.CSS_SELECTOR, selector)


def fill(driver: webdriver.Chrome, button: str, **fields: str) -> None:
    """Types into a form, and sends it."""
    for name, text in fields.items():
        field = by(driver, f"form:has(#{button}) [name={name}]")
        field.clear()
        field.send_keys(text)
    go(driver, f"#{button}")


def go(driver: webdriver.Chrome, selector: str) -> None:
    """Clicks what leads to another page, and waits until that is there."""
    driver.execute_script("window.before = true")
    by(driver, selector).click()
    while True:
        try:
            if driver.execute_script("return window.before === undefined && document.readyState === 'complete'"):
                return
        except JavascriptException:
            pass  # asked in between two pages


def zoobars(driver: webdriver.Chrome) -> int:
    return int(by(driver, "#zoobars").text)


def expect(what: str, seen: object, wanted: object) -> None:
    assert seen == wanted, f"{what}: {seen!r}, not {wanted!r}"
    print(f"{what}: {seen!r}", flush=True)


with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
    amy, ben = browser(one), browser(two)
    try:
        for driver, name in ((amy, "amy"), (ben, "ben")):
            driver.get(URL)
            expect("who is not logged in is led to", driver.current_url, f"{URL}/login")
            go(driver, "a[href='/register']")
            fill(driver, "enter", name=name, password=f"the password of {name}")
            expect(f"{name} begins with", zoobars(driver), 10)
        expect("the style is there", by(amy, "header").value_of_css_property("background-color"), "rgba(36, 81, 63, 1)")

        fill(amy, "transfer", recipient="ben", zoobars="4")
        expect("amy has", zoobars(amy), 6)
        ben.get(URL)
        expect("ben has", zoobars(ben), 14)
        row = [cell.text for cell in ben.find_elements(By.CSS_SELECTOR, "#transfers td")][1:4]
        expect("ben reads in the log", row, ["amy", "ben", "4"])

        fill(amy, "transfer", recipient="ben", zoobars="7")
        expect("more than one has", by(amy, ".message").text, "You do not have so many.")
        amy.get(URL)
        expect("amy has", zoobars(amy), 6)

        text = "<script>document.title = 'owned'</script><b>I am amy</b>"
        fill(amy, "save", profile=text)
        ben.get(f"{URL}/users?user=amy")
        expect("amy's profile", by(ben, "#profile").text, text)
        expect("the title", ben.title, "amy")
        expect("ben sees that amy has", zoobars(ben), 6)

        # Another site makes the browser send a transfer: a page of that site, with a form that posts here.
        cookies = {c["name"]: c["value"] for c in amy.get_cookies()}
        expect("cookies that scripts cannot read", amy.execute_script("return document.cookie"), "")
        expect("cookies", sorted(cookies), ["seed", "token"])
        forged = f"<form method=post action={URL}/transfer><input name=recipient value=ben><input name=zoobars value=1>"
        amy.get(f"data:text/html,{forged}<button id=forged>Win</button></form>")
        fill(amy, "forged")
        assert amy.find_element(By.CSS_SELECTOR, ".message"), "the forged form was taken"
        amy.get(URL)
        expect("after a forged form amy has", zoobars(amy), 6)

        fill(amy, "logout")
        amy.get(URL)
        expect("after logging out", amy.current_url, f"{URL}/login")
        fill(amy, "enter", name="amy", password="a wrong password")
        expect("a wrong password", by(amy, ".message").text, "Wrong name or password.")
        fill(amy, "enter", name="amy", password="the password of amy")
        expect("amy, logged in again, has", zoobars(amy), 6)
    finally:
        amy.quit()
        ben.quit()
print("that was all", flush=True)
