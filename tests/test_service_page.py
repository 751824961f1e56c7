"""The service's page in a real browser: a conversation is pasted, then one more turn, and a wrong key is told."""

from proactor_lib.evaluate.agents import Fixed
from proactor_lib.schema import Action, Catalog
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from support.fake_vllm import Completions
from support.pages import asked_for, leave
from support.services import KEY, saying, scripted_agent, served

CATALOG = Catalog(domain="travel", actions=(Action(name="book"), Action(name="pay")))


def open_page(browser, url, key=KEY):
    leave(browser)
    browser.get(f"{url}/#key={key}")
    return WebDriverWait(browser, 60)


def say(browser, text):
    browser.find_element(By.ID, "text").send_keys(text)
    browser.find_element(By.ID, "say").click()


def shown(browser):
    return browser.find_element(By.ID, "turns").text.splitlines()


def test_a_page_in_a_tab_of_its_own_has_the_focus(browser):
    """Without, a JupyterLab in it has no current notebook, and whoever opens one there waits in vain."""
    leave(browser)
    browser.get("data:text/html,a page")
    assert browser.execute_script("return document.hasFocus()")


def test_a_pasted_conversation_shows_what_is_prepared_and_triggered_once(browser):
    says = saying("candidate: book", "ready: book | to=<b>Rome</b>", "ready: book | to=<b>Rome</b>")
    with Completions(says) as model, served(scripted_agent(model), CATALOG) as url:
        wait = open_page(browser, url)
        say(browser, "customer: I would like to travel\nto Rome")
        wait.until(lambda b: len(shown(b)) == 4)
        assert shown(browser) == [
            "customer: I would like to travel", "○ book()", "agent: to Rome", "● book(to=<b>Rome</b>)"
        ]  # fmt: skip
        say(browser, "customer: please")
        wait.until(lambda b: len(shown(b)) == 6)
        assert shown(browser)[4:] == ["customer: please", "· done before: book(to=<b>Rome</b>)"]
        asked = {u.split("#")[0] for u in asked_for(browser)}
        assert asked <= {f"{url}/", f"{url}/v1/proactor/turns", f"{url}/favicon.ico"}
        browser.find_element(By.ID, "again").click()
        assert shown(browser) == []


def test_a_wrong_key_is_told(browser):
    with served(Fixed("silent", 0), CATALOG) as url:
        wait = open_page(browser, url, "wrong")
        say(browser, "hm")
        wait.until(lambda b: "a wrong key, or none" in b.find_element(By.ID, "problem").text)
        assert browser.find_element(By.ID, "text").get_attribute("value") == "customer: hm"
