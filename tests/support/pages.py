"""Reports opened in a browser."""

import json


def check_page(browser, path):
    """Open a report: no console line, no request but for the file, every figure drawn, all filled in; its text."""
    browser.get_log("performance"), browser.get_log("browser")
    browser.get(path.resolve().as_uri())
    assert browser.get_log("browser") == []
    events = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    others = [u for u in asked if not u.startswith("data:")]
    assert others == [path.resolve().as_uri()], f"asked for {others}"
    script = "return [...document.images].map(i => i.complete && i.naturalWidth > 50 && i.clientWidth > 50)"
    drawn = browser.execute_script(script)
    assert drawn and all(drawn)
    text = browser.execute_script("return document.body.innerText")
    assert "{{" not in text
    return text
