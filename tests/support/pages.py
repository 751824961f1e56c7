"""Pages opened in the tests' browser, and what they ask for."""

import json


def leave(browser):
    """Go on in a tab of its own: the page of an earlier test may still ask for things, or ask whether to leave."""
    earlier = browser.current_window_handle
    browser.switch_to.new_window("tab")
    own = browser.current_window_handle
    browser.switch_to.window(earlier)
    browser.close()
    browser.switch_to.window(own)
    browser.execute_cdp_cmd("Page.bringToFront", {})  # JupyterLab has no current widget where its page has no focus
    browser.get_log("performance"), browser.get_log("browser")


def asked_for(browser):
    """The addresses that were asked for since the log was last read; the page's own data not among them."""
    events = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    return [url for url in asked if not url.startswith("data:")]


def check_page(browser, path):
    """Open a report: no console line, no request but for the file, every figure drawn, all filled in; its text."""
    leave(browser)
    browser.get(path.resolve().as_uri())
    assert browser.get_log("browser") == []
    asked = asked_for(browser)
    assert asked == [path.resolve().as_uri()], f"asked for {asked}"
    script = "return [...document.images].map(i => i.complete && i.naturalWidth > 50 && i.clientWidth > 50)"
    drawn = browser.execute_script(script)
    assert drawn and all(drawn)
    text = browser.execute_script("return document.body.innerText")
    assert "{{" not in text
    return text
