"""The chat page in a real browser, before a model that says what a test tells it to."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

PATIENCE_S = 20.0
DESKTOP, PHONE = (1280, 860), (390, 780)


class Page:
    """The page as its user sees it."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, url: str, size: tuple[int, int] = DESKTOP) -> None:
        self.resize(size)
        self.driver.get(url)
        self.driver.get_log("browser")  # what an earlier test left
        self.wait(lambda: self.one("#model").text)

    def resize(self, size: tuple[int, int], scheme: str = "light") -> None:
        width, height = size
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)

    def one(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        return [node.text for node in self.all(selector)]

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def press(self, *keys: str) -> None:
        """Keys into whatever has the focus."""
        self.driver.switch_to.active_element.send_keys(*keys)

    def click(self, text: str, within: str = "body") -> None:
        """The last button with this text or label."""
        buttons = [
            node
            for node in self.all(f"{within} button")
            if text in (node.text, node.get_attribute("aria-label")) and node.is_displayed()
        ]
        assert buttons, f"there is no button {text!r}"
        buttons[-1].click()

    def delete(self, title: str) -> None:
        self.click(f"Delete the chat “{title}”")
        self.driver.switch_to.alert.accept()

    def send(self, text: str) -> None:
        self.one("#prompt").send_keys(text, Keys.ENTER)

    def ask(self, text: str) -> str:
        """Sends a message and waits for the whole answer."""
        self.send(text)
        self.wait_answered()
        return self.texts(".assistant > .text")[-1]

    def wait_answered(self) -> None:
        self.wait(lambda: not self.run("return running"))

    def wait(self, condition: Callable[[], Any]) -> None:
        deadline = time.perf_counter() + PATIENCE_S
        while not condition():
            assert time.perf_counter() < deadline, "never happened"
            time.sleep(0.02)

    def choose(self, selector: str, value: str) -> None:
        """Sets a control as a hand does that moves it."""
        self.run(
            "arguments[0].value = arguments[1];"
            "arguments[0].dispatchEvent(new Event('input', {bubbles: true}))",
            self.one(selector),
            value,
        )

    def complaints(self) -> list[str]:
        """Errors and refusals of the browser since the last call."""
        entries = self.driver.get_log("browser")
        return [entry["message"] for entry in entries if entry["level"] != "INFO"]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    programs = shutil.which("chromium"), shutil.which("chromedriver")
    if not all(programs):
        pytest.skip("no chromium and chromedriver (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = str(programs[0])
    profile = tmp_path_factory.mktemp("browser")
    # The sandbox refuses root, which is who runs tests in containers; /dev/shm is small there.
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(str(programs[1]))
    with webdriver.Chrome(options=options, service=service) as browser:
        yield browser


@pytest.fixture
def page(driver: webdriver.Chrome) -> Iterator[Page]:
    """Every server has a port of its own, so every test begins with empty storage."""
    yield Page(driver)
    driver.get("about:blank")


def contents(conversation: tuple[list[Any], list[Any]]) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in conversation[0]]


def test_an_answer_streams_and_its_facts_follow(page: Page, serve: Any, scripted: Any) -> None:
    words = [f"w{i} ".encode() for i in range(40)]
    server = serve(scripted(words, delay_s=0.03, context_length=2000))
    page.open(server.url)
    page.send("Hello")
    page.wait(lambda: "w3" in page.texts(".assistant")[-1])
    assert "w39" not in page.one(".assistant").text, "words are shown as they come"
    page.wait_answered()
    assert page.one(".assistant > .text").text == " ".join(f"w{i}" for i in range(40))
    facts = page.one(".assistant > .facts").text
    assert "41 tokens" in facts  # with the end token, as the server counts
    assert "tokens/s" in facts
    assert "first token after 0." in facts
    assert "3 % of the context" in facts
    assert (
        page.one("#facts").text
        == "1.58 bits per weight · none · 1 thread · 2,000 tokens of context · script"
    )
    assert not page.complaints()
    resources = page.run("return performance.getEntriesByType('resource').map((e) => e.name)")
    assert all(name.startswith(server.url) for name in resources), "nothing comes from elsewhere"


@pytest.mark.parametrize("how", ["button", "escape"])
def test_stop_ends_the_answer_and_keeps_it(page: Page, serve: Any, scripted: Any, how: str) -> None:
    server = serve(scripted([b"on and "], endless=True, delay_s=0.02, context_length=50_000))
    page.open(server.url)
    page.send("Go")
    page.wait(lambda: "on and on" in page.one(".assistant").text)
    page.click("Stop") if how == "button" else page.press(Keys.ESCAPE)
    server.wait_idle()
    page.wait_answered()
    text = page.one(".assistant > .text").text
    assert text.startswith("on and on")
    assert "stopped" in page.one(".assistant > .facts").text
    assert page.one("#send").text == "Send"
    page.send("More")
    page.wait(lambda: len(page.all(".assistant")) == 2 and "on and" in page.texts(".assistant")[1])
    page.click("Stop")
    page.wait_answered()


def test_stopped_before_the_first_word(page: Page, serve: Any, scripted: Any) -> None:
    model = scripted([b"ok"], delay_s=1.0)
    server = serve(model)
    page.open(server.url)
    page.send("Hello")
    page.click("Stop")
    page.wait_answered()
    assert page.texts(".assistant") == []
    model.delay_s = 0
    page.click("Try again")
    page.wait_answered()
    assert page.texts(".assistant > .text") == ["ok"]
    assert page.texts(".error") == []


def test_regenerate_asks_the_same_again(page: Page, serve: Any, scripted: Any) -> None:
    model = scripted([b"ok"])
    page.open(serve(model).url)
    page.ask("one")
    page.ask("two")
    page.click("Regenerate")
    page.wait_answered()
    assert contents(model.conversations[-1]) == contents(model.conversations[-2])
    assert page.texts(".assistant > .text") == ["ok", "ok"]
    assert len([text for text in page.texts("button") if text == "Regenerate"]) == 1


def test_a_failed_regenerate_keeps_the_answer(page: Page, serve: Any, scripted: Any) -> None:
    model = scripted([b"ok"])
    server = serve(model)
    page.open(server.url)
    page.ask("one")
    model.fail_at = model.num_steps + 1
    page.click("Regenerate")
    page.wait(lambda: page.texts(".error"))
    page.wait(lambda: page.texts(".assistant > .text") == ["ok"])
    page.click("Try again")
    page.wait_answered()
    page.wait(lambda: page.texts(".assistant > .text") == ["ok"] and not page.texts(".error"))
    assert contents(model.conversations[-1]) == [("user", "one")]


def test_edit_continues_from_the_edited_message(page: Page, serve: Any, scripted: Any) -> None:
    model = scripted([b"ok"])
    page.open(serve(model).url)
    for text in ("one", "two", "three"):
        page.ask(text)
    page.run("document.querySelectorAll('.user button')[1].click()")
    page.press(" and a half", Keys.ENTER)
    page.wait_answered()
    assert page.texts(".user > .text") == ["one", "two and a half"]
    assert contents(model.conversations[-1]) == [
        ("user", "one"),
        ("assistant", "ok"),
        ("user", "two and a half"),
    ]
    page.one("#prompt").send_keys(Keys.ARROW_UP)  # edits the last message
    page.press("x", Keys.ESCAPE)
    assert page.texts(".user > .text") == ["one", "two and a half"], "Esc leaves it as it was"


def test_a_reload_keeps_the_conversation(page: Page, serve: Any, scripted: Any) -> None:
    model = scripted([b"so ", b"it ", b"is"], delay_s=0.01)
    page.open(serve(model).url)
    page.ask("one")
    before = page.one("#log").text
    page.driver.refresh()
    assert page.one("#log").text == before
    page.ask("two")
    assert contents(model.conversations[-1])[:2] == [("user", "one"), ("assistant", "so it is")]


def test_a_reload_in_an_answer_keeps_what_was_there(page: Page, serve: Any, scripted: Any) -> None:
    server = serve(scripted([b"on and "], endless=True, delay_s=0.02, context_length=50_000))
    page.open(server.url)
    page.send("Go")
    page.wait(lambda: "on and on" in page.one(".assistant").text)
    page.driver.refresh()
    server.wait_idle()
    assert page.one(".assistant > .text").text.startswith("on and on")
    assert "stopped" in page.one(".assistant > .facts").text


def test_chats_are_listed_and_deleted(page: Page, serve: Any, scripted: Any) -> None:
    page.open(serve(scripted([b"ok"])).url)
    page.ask("first chat")
    page.press(Keys.CONTROL, "k")
    page.driver.switch_to.active_element.send_keys(Keys.NULL)
    assert page.texts(".user") == []
    page.ask("second chat")
    assert page.texts("#list .name") == ["second chat", "first chat"]
    page.click("first chat", "#list")
    assert page.texts(".user > .text") == ["first chat"]
    page.delete("first chat")
    assert page.texts("#list .name") == ["second chat"]
    assert page.texts(".user") == [], "the open chat is gone too"
    page.driver.refresh()
    page.wait(lambda: page.texts("#list .name") == ["second chat"])


def test_two_tabs_show_the_same_chat(page: Page, serve: Any, scripted: Any) -> None:
    model = scripted([b"ok"])
    server = serve(model)
    page.open(server.url)
    page.ask("one")
    first = page.driver.current_window_handle
    page.driver.switch_to.new_window("tab")
    try:
        page.open(server.url)
        page.wait(lambda: page.texts("#list .name") == ["one"])
        page.click("one", "#list")
        page.ask("two")
        page.driver.switch_to.window(first)
        page.wait(lambda: page.texts(".user > .text") == ["one", "two"])
    finally:
        for handle in page.driver.window_handles:
            if handle != first:
                page.driver.switch_to.window(handle)
                page.driver.close()
        page.driver.switch_to.window(first)


def test_full_storage(page: Page, serve: Any, scripted: Any) -> None:
    """Of 5 million characters: the oldest chat makes room, but not in vain."""
    page.open(serve(scripted([b"ok"])).url)
    page.run("localStorage.other = 'x'.repeat(4_000_000)")
    saves = (
        "const [id, size] = arguments;"
        "return save({id, turns: [{role: 'user', content: id.repeat(size)}]})"
    )
    names = "return saved().map((talk) => talk.id)"
    assert page.run(saves, "a", 300_000)
    assert page.run(saves, "b", 300_000)
    assert page.run(saves, "c", 800_000)
    assert page.run(names) == ["c", "b"]
    assert not page.run(saves, "d", 1_500_000)
    assert page.run(names) == ["c", "b"]


@pytest.mark.parametrize("value", ["null", "{", "[]", '{"turns": 1}', "7"])
def test_spoilt_storage(page: Page, ok_server: Any, value: str) -> None:
    page.open(ok_server.url)
    page.run(
        "localStorage['wrinklefree.settings'] = arguments[0];"
        "localStorage['wrinklefree.chat.x'] = arguments[0];"
        "sessionStorage['wrinklefree.open'] = 'x'",
        value,
    )
    page.driver.refresh()
    assert page.ask("Hello") == "ok"
    page.run("localStorage.clear()")


def test_leaving_a_chat_stops_its_answer(page: Page, serve: Any, scripted: Any) -> None:
    server = serve(scripted([b"on and "], endless=True, delay_s=0.02, context_length=50_000))
    page.open(server.url)
    page.send("first")
    page.wait(lambda: "on and on" in page.one(".assistant").text)
    page.click("New chat")
    server.wait_idle()
    assert page.texts(".assistant") == []
    page.click("first", "#list")
    assert page.one(".assistant > .text").text.startswith("on and on"), "what was there is kept"
    page.click("Regenerate")
    page.wait(lambda: "on and on" in page.one(".assistant").text)
    page.delete("first")
    server.wait_idle()
    page.wait_answered()
    assert page.texts("#list .name") == [], "its end does not bring it back"
    page.driver.refresh()
    assert page.texts("#list .name") == []


def test_who_reads_back_is_left_there(page: Page, serve: Any, scripted: Any) -> None:
    server = serve(scripted([b"word\n\n"], endless=True, delay_s=0.01, context_length=50_000))
    page.open(server.url)
    page.send("Go")
    bottom = "return scroller.scrollHeight - scroller.clientHeight - scroller.scrollTop"
    page.wait(lambda: page.run("return scroller.scrollTop") > 100)
    assert page.run(bottom) < 80, "the page follows the answer"
    page.run("scroller.scrollTop = 10")
    page.wait(lambda: page.one("#latest").is_displayed())
    length = page.run("return scroller.scrollHeight")
    page.wait(lambda: page.run("return scroller.scrollHeight") > length + 100)
    assert page.run("return scroller.scrollTop") == 10
    page.click("Scroll to the end")
    page.wait(lambda: page.run(bottom) < 80 and not page.one("#latest").is_displayed())
    page.click("Stop")
    page.wait_answered()


LONG = 10_000
LINES = [
    b"Some words of **markdown**, ",
    b"`code` and ",
    b"more.\n\n",
    b"- an item\n",
    b"\n```\nx\n```\n\n",
]


def test_a_long_answer_stays_responsive(page: Page, serve: Any, scripted: Any) -> None:
    script = [LINES[i % len(LINES)] for i in range(LONG)]
    page.open(serve(scripted(script, context_length=LONG + 100, delay_s=0.0005)).url)
    # The longest time for which the page would not have answered a key.
    page.run(
        "window.worst = 0; let before = performance.now();"
        "setInterval(() => { const now = performance.now();"
        "window.worst = Math.max(window.worst, now - before); before = now; }, 0)"
    )
    page.send("Write a book")
    page.wait(lambda: page.all(".assistant .part"))
    page.one("#prompt").send_keys("typed meanwhile")
    assert page.run("return running !== null"), "it was typed while the answer went on"
    deadline = time.perf_counter() + 120
    while page.run("return running !== null"):
        assert time.perf_counter() < deadline
        time.sleep(0.2)
    assert page.one("#prompt").get_attribute("value") == "typed meanwhile"
    assert f"{LONG + 1} tokens" in page.texts(".assistant > .facts")[0]
    assert len(page.all(".assistant .code")) == LONG // len(LINES)
    assert page.run("return window.worst") < 500, "milliseconds"


HOSTILE = """<script>window.pwned = 1</script>
<img src=x onerror="window.pwned = 1"> <svg onload="window.pwned = 1"></svg>
<iframe src="javascript:parent.pwned = 1"></iframe> <style>body { display: none }</style>
[click](javascript:window.pwned=1) [click](JaVaScRiPt:window.pwned=1)
[click](data:text/html,<script>1</script>) [click](vbscript:x)
![x](http://127.0.0.1:9/track.png) <a href="javascript:window.pwned=1">a</a>
[fine](https://example.com/a_b?c=d) https://example.com/plain.

```html
</code></pre><script>window.pwned = 1</script>
```

| <b onclick="window.pwned = 1">x</b> | y |
|---|---|
| <script>window.pwned = 1</script> | [z](javascript:window.pwned=1) |

> <img src=x onerror="window.pwned = 1">

# <img src=x onerror="window.pwned = 1">

<think><img src=x onerror="window.pwned = 1"></think>
"""


def test_a_hostile_answer_stays_text(page: Page, serve: Any, scripted: Any) -> None:
    script = [HOSTILE[i : i + 7].encode() for i in range(0, len(HOSTILE), 7)]
    page.open(serve(scripted(script, context_length=2000)).url)
    page.ask("Attack")
    page.driver.refresh()  # what was kept is as harmless
    page.wait(lambda: page.all(".assistant"))
    for link in page.all(".assistant a"):
        link.click()
    page.driver.switch_to.window(page.driver.window_handles[0])
    found = page.run(
        "return [...document.querySelectorAll('.assistant *')].map((n) => n.tagName.toLowerCase())"
    )
    assert set(found) <= {
        *("div", "p", "span", "code", "pre", "button", "a", "table", "tr", "th", "td"),
        *("blockquote", "h1"),
    }
    attributes = page.run(
        "return [...document.querySelectorAll('.assistant .text *')]"
        ".flatMap((n) => n.getAttributeNames())"
    )
    assert set(attributes) <= {"class", "type", "href", "target", "rel", "title"}
    links = [link.get_attribute("href") for link in page.all(".assistant a")]
    assert links == [
        *("http://127.0.0.1:9/track.png", "https://example.com/a_b?c=d"),
        "https://example.com/plain",
    ]
    assert page.run("return window.pwned") is None
    assert "<script>window.pwned = 1</script>" in page.one(".assistant").text
    for handle in page.driver.window_handles[1:]:
        page.driver.switch_to.window(handle)
        page.driver.close()
    page.driver.switch_to.window(page.driver.window_handles[0])


def test_the_policy_stops_what_the_page_would_let_in(page: Page, serve: Any, scripted: Any) -> None:
    """The second wall: markup that did reach the document runs nothing and loads nothing."""
    page.open(serve(scripted([b"ok"])).url)
    page.run(
        "const node = document.createElement('div');"
        'node.innerHTML = \'<img src="/health" onerror="window.pwned = 1">\';'
        "document.body.append(node);"
        "const script = document.createElement('script');"
        "script.textContent = 'window.pwned = 1';"
        "document.body.append(script);"
    )
    page.wait(lambda: len(page.complaints()) >= 1)
    assert page.run("return window.pwned") is None


LIST_WITH_CODE = (
    '<ol start="1"><li><p>Make:</p><div class="code"><div><span>py</span><button type="button">Copy'
    "</button></div><pre><code>a\n\n\nb</code></pre></div></li><li><p>Run</p></li></ol>"
)
MARKDOWN = [
    ("one\ntwo\n\nthree", "<p>one\ntwo</p><p>three</p>"),
    ("# A\n### B #", "<h1>A</h1><h3>B</h3>"),
    ("**a *b* c** _d_ ~~e~~", "<p><strong>a <em>b</em> c</strong> <em>d</em> <del>e</del></p>"),
    ("***a***", "<p><strong><em>a</em></strong></p>"),
    ("2 * 3 * 4, snake_case_name", "<p>2 * 3 * 4, snake_case_name</p>"),
    ("`a*b*` and ``c`d``", "<p><code>a*b*</code> and <code>c`d</code></p>"),
    (r"\*no\* \# yes", "<p>*no* # yes</p>"),
    (
        "- a\n- b\n  - c\n  - d\n- e",
        "<ul><li><p>a</p></li><li><p>b</p><ul><li><p>c</p></li><li><p>d</p></li></ul></li>"
        "<li><p>e</p></li></ul>",
    ),
    ("3. a\n4. b", '<ol start="3"><li><p>a</p></li><li><p>b</p></li></ol>'),
    ("1. a\n\n   more\n\n2. b", '<ol start="1"><li><p>a</p><p>more</p></li><li><p>b</p></li></ol>'),
    ("- a\n\ntext", "<ul><li><p>a</p></li></ul><p>text</p>"),
    ("text\n- a", "<p>text</p><ul><li><p>a</p></li></ul>"),
    (
        "> a\n> > b\n\nc",
        "<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote><p>c</p>",
    ),
    ("---\n***", "<hr><hr>"),
    (
        "| a | b |\n|---|:-:|\n| 1 | `2` |\n| 3 |",
        "<table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td><code>2</code></td></tr>"
        "<tr><td>3</td></tr></table>",
    ),
    ("a | b\nno table", "<p>a | b\nno table</p>"),
    ("<b>x</b> &amp; y", "<p>&lt;b&gt;x&lt;/b&gt; &amp;amp; y</p>"),
    ("# C#\n## D ##", "<h1>C#</h1><h2>D</h2>"),
    (
        "*a **b** c* and **d *e***",
        "<p><em>a <strong>b</strong> c</em> and <strong>d <em>e</em></strong></p>",
    ),
    ("use *args and **kwargs", "<p>use *args and **kwargs</p>"),
    (
        "| `a \\| b` | c<br>d |\n|---|---|",
        "<table><tr><th><code>a | b</code></th><th>c<br>d</th></tr></table>",
    ),
    ("1. Make:\n   ```py\n   a\n\n\n   b\n   ```\n2. Run", LIST_WITH_CODE),
    ("", ""),
]  # fmt: skip


RENDER = (
    "const node = document.createElement('div'); new Markdown(node).show(arguments[0]);"
    "return [...node.childNodes].map((part) => part.innerHTML).join('')"
)


@pytest.mark.parametrize(("source", "html"), MARKDOWN)
def test_markdown(page: Page, ok_server: Any, source: str, html: str) -> None:
    page.driver.get(ok_server.url)
    assert page.run(RENDER, source) == html


def test_code_blocks(page: Page, ok_server: Any) -> None:
    page.driver.get(ok_server.url)
    blocks = page.run(
        "const node = document.createElement('div'); new Markdown(node).show(arguments[0]);"
        "return [...node.querySelectorAll('.code')].map("
        "(box) => [box.querySelector('span').textContent, box.querySelector('code').textContent])",
        "```python\na\n\n  b\n```\ntext\n~~~~\n```\n~~~~\n"
        "- item\n  ```c\n  x;\n    y;\n  ```\n```\nopen",
    )
    assert blocks == [
        ["python", "a\n\n  b"],
        ["text", "```"],
        ["c", "x;\n  y;"],
        ["text", "open"],
    ]


ADDRESSES = {
    "see https://a.example/b_(c).": ["https://a.example/b_(c)"],
    "(https://a.example/?q=1, https://b.example)": ["https://a.example/?q=1", "https://b.example/"],
    "[x](https://a.example/b_(c)) http:// https://...": ["https://a.example/b_(c)"],
}


@pytest.mark.parametrize("text", ADDRESSES)
def test_addresses(page: Page, ok_server: Any, text: str) -> None:
    page.driver.get(ok_server.url)
    links, shown = page.run(
        "const node = document.createElement('div'); new Markdown(node).show(arguments[0]);"
        "return [[...node.querySelectorAll('a')].map((a) => a.href), node.textContent]",
        text,
    )
    assert links == ADDRESSES[text]
    assert shown == text.replace("[x](https://a.example/b_(c))", "x")


LISTED_FENCE = "1. ```bash\n   npm i\n   ```\n2. Then\n\nOut:\n\n```\na\n\nb\n```\n\nDone"
PIECES = [
    *("a", "\n", "\n\n", "```", "~~~~", "``` py", "- ", "1. ", "   ", "> ", "# ", "| a | b |"),
    *("|---|---|", "\r\n", "\u2028", "<think>", "</think>", "**", "`", "---", "text", "[x](y)"),
]


def test_growing_text_is_drawn_like_whole_text(page: Page, ok_server: Any) -> None:
    page.driver.get(ok_server.url)
    texts = ["\n\n".join([HOSTILE, *(source for source, _ in MARKDOWN), LISTED_FENCE])]
    texts += ["".join(random.choices(PIECES, k=random.randrange(1, 60))) for _ in range(600)]
    different = page.run(
        "const whole = (text) => { const node = document.createElement('div');"
        "  blocks(node, text.split('\\n')); return node.innerHTML; };"
        "const grown = (text) => { const box = document.createElement('div');"
        "  const view = new Markdown(box.appendChild(document.createElement('div')));"
        "  for (let end = 0; end < text.length; end += 3) view.show(text.slice(0, end));"
        "  view.show(text);"
        "  return [...box.lastChild.childNodes].map((part) => part.innerHTML).join(''); };"
        "return arguments[0].filter((text) => !text.includes('<think>'))"
        "  .filter((text) => whole(text) !== grown(text))",
        texts,
    )
    assert different == []


AWKWARD = [
    *("[" * 50_000, "*" * 50_000, "`" * 50_000, "_a" * 25_000, "**a" * 20_000, "~~a" * 20_000),
    *("> " * 20_000 + "x", "](" * 25_000, "[a](" * 15_000, "http://" + "." * 50_000),
    *("\n".join(" " * i + "- x" for i in range(1500)), "|" * 50_000 + "\n" + "|-" * 25_000),
    *("- " * 20_000 + "x", "#" * 50_000, "\\" * 50_001, "<think>" * 10_000, "`` ` " * 15_000),
    *("\n".join("- x" for _ in range(10_000)), "- a\n1. b\n" * 10_000),
    *("# a" + " " * 50_000 + "b", "# " + " " * 5_000 + "a\u2028b", "# " + "#" * 50_000 + "x"),
    *("```" + "a" * 50_000 + "`", "a|b\n" + " " * 50_000 + "x", "https://" + "." * 50_000 + "x"),
    *("```py\r\nx\r\n```\r\n", "**a *b" * 15_000, "*a **b" * 15_000, "<br" * 30_000),
]  # fmt: skip


@pytest.mark.parametrize("text", AWKWARD, ids=range(len(AWKWARD)))
def test_awkward_text_takes_no_time(page: Page, ok_server: Any, text: str) -> None:
    page.driver.get(ok_server.url)
    took_ms = page.run(
        "const node = document.createElement('div'), begin = performance.now();"
        "new Markdown(node).show(arguments[0]); return performance.now() - begin",
        text,
    )
    assert took_ms < 2000


def test_thoughts_are_folded(page: Page, serve: Any, scripted: Any) -> None:
    page.open(serve(scripted([b"<think>\nhm ", b"**hm**\n</think>\n\n", b"**Yes**"])).url)
    assert page.ask("Is it?") == "Yes"
    assert page.one(".assistant summary").text == "Thoughts"
    assert page.one(".assistant strong").text == "Yes"
    assert page.run("return document.querySelector('details span').textContent") == "hm **hm**"


def test_settings_are_sent_and_kept(page: Page, serve: Any, scripted: Any) -> None:
    model = scripted([b"ok"])
    page.open(serve(model).url)
    page.click("Settings and server")
    chosen = {
        "system": "Be brief.",
        "temperature": "0.3",
        "top_p": "0.9",
        "top_k": "40",
        "min_p": "0.05",
    }
    chosen |= {
        "presence_penalty": "0.5",
        "frequency_penalty": "-0.5",
        "max_tokens": "7",
        "seed": "11",
    }
    for name, value in chosen.items():
        page.choose(f"#{name}", value)
    page.driver.refresh()
    page.ask("Hello")
    assert contents(model.conversations[-1]) == [("system", "Be brief."), ("user", "Hello")]
    sampling = model.slots[-1].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (
        0.3,
        0.9,
        40,
        0.05,
    )
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.seed) == (0.5, -0.5, 11)
    page.click("Settings and server")
    page.run("document.getElementById('defaults').click()")
    page.ask("Again")
    assert contents(model.conversations[-1])[0] == ("user", "Hello")
    assert model.slots[-1].sampling.temperature == 0.7
    assert model.slots[-1].sampling.seed is None


def test_settings_begin_with_the_sampling_of_the_model(
    page: Page, serve: Any, scripted: Any
) -> None:
    model = scripted([b"ok"])
    model.default_sampling = {"temperature": 0.33, "top_k": 20, "repetition_penalty": 1.1}
    page.open(serve(model).url)
    page.ask("Hello")
    sampling = model.slots[-1].sampling
    assert (sampling.temperature, sampling.top_k, sampling.repetition_penalty) == (0.33, 20, 1.1)
    page.click("Settings and server")
    page.choose("#top_k", "5")
    page.driver.refresh()
    page.ask("Again")
    sampling = model.slots[-1].sampling
    assert (sampling.temperature, sampling.top_k) == (0.33, 5)


def test_the_panel_shows_the_server(page: Page, serve: Any, scripted: Any) -> None:
    page.open(serve(scripted([b"a", b"b", b"c"])).url)
    page.ask("Hello")
    page.click("Settings and server")
    page.wait(lambda: len(page.all("#live dd")) > 5)
    shown = dict(zip(page.texts("#live dt"), page.texts("#live dd"), strict=True))
    assert shown["Tokens generated"] == "4"
    assert shown["Answers running, waiting"] == "0, 0"
    assert shown["Head rows rescored"] == "3 of 262"
    assert shown["First token, mean"].endswith(" ms")


def test_the_key_is_asked_for_and_stays_in_the_tab(page: Page, serve: Any, scripted: Any) -> None:
    server = serve(scripted([b"ok"]), api_keys=("the-key",))
    page.open(server.url)
    page.wait(lambda: page.one("#door").is_displayed())
    page.press("key\u200b", Keys.ENTER)
    assert page.one("#door").is_displayed(), "no header can carry this"
    page.one("#key").clear()
    page.press("a-wrong-key", Keys.ENTER)
    page.wait(
        lambda: (
            not page.one("#door").get_attribute("open")
            or page.one("#key").get_attribute("value") == ""
        )
    )
    page.wait(lambda: page.one("#door").is_displayed())
    page.one("#key").send_keys("the-key", Keys.ENTER)
    page.wait(lambda: page.one("#model").text == "tiny")
    assert page.ask("Hello") == "ok"
    assert page.run("return sessionStorage['wrinklefree.key']") == "the-key"
    assert "the-key" not in page.run("return JSON.stringify(localStorage)")
    page.driver.refresh()
    page.wait(lambda: page.one("#model").text == "tiny")


def test_a_busy_server_is_asked_again(page: Page, serve: Any, scripted: Any) -> None:
    model = scripted([b"x"], endless=True, delay_s=0.02, context_length=50_000)
    server = serve(model, parallel=1, max_queue=0)
    page.open(server.url)
    with server.http.stream(
        "POST", "/v1/completions", json={"prompt": "hi", "stream": True}
    ) as other:
        chunks = other.iter_raw()
        next(chunks)
        page.send("Hello")
        page.wait(lambda: page.texts(".error"))
        assert "try again in" in page.one(".error").text
    server.wait_idle()
    model.endless = False
    page.click("Try again")
    page.wait_answered()
    assert page.texts(".assistant > .text") == ["x"]


def test_a_lost_server_is_named(page: Page, serve: Any, scripted: Any) -> None:
    page.open(serve(scripted([b"ok"])).url)
    page.driver.execute_cdp_cmd("Network.enable", {})
    network = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    page.driver.execute_cdp_cmd("Network.emulateNetworkConditions", network)
    try:
        page.send("Hello")
        page.wait(lambda: page.texts(".error"))
        assert "cannot be reached" in page.one(".error").text
    finally:
        back = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        page.driver.execute_cdp_cmd("Network.emulateNetworkConditions", back)
    page.click("Try again")
    page.wait_answered()
    assert page.texts(".assistant > .text") == ["ok"]


def test_an_engine_failure_keeps_what_was_said(page: Page, serve: Any, scripted: Any) -> None:
    model = scripted([b"a ", b"b ", b"c "], endless=True, delay_s=0.01, context_length=5000)
    page.open(serve(model).url)
    model.fail_at = model.num_steps + 20
    page.send("Hello")
    page.wait(lambda: page.texts(".error"))
    assert page.one(".assistant > .text").text.startswith("a b c")
    assert "failed" in page.one(".assistant > .facts").text


def test_enter_sends_and_shift_enter_does_not(page: Page, serve: Any, scripted: Any) -> None:
    model = scripted([b"ok"])
    page.open(serve(model).url)
    prompt = page.one("#prompt")
    prompt.send_keys("one", Keys.SHIFT, Keys.ENTER, Keys.NULL, "two")
    assert prompt.get_attribute("value") == "one\ntwo"
    prompt.send_keys(Keys.ENTER)
    page.wait_answered()
    page.wait(lambda: model.conversations)
    assert contents(model.conversations[-1]) == [("user", "one\ntwo")]
    prompt.send_keys("   ", Keys.ENTER)
    assert len(page.all(".user")) == 1, "nothing is no message"


def test_exports(page: Page, serve: Any, scripted: Any, tmp_path: Path) -> None:
    page.open(serve(scripted([b"**ok**"])).url)
    behaviour = {"behavior": "allow", "downloadPath": str(tmp_path)}
    page.driver.execute_cdp_cmd("Browser.setDownloadBehavior", behaviour)
    page.ask("Größe? / 5")
    page.click("Markdown")
    page.click("JSON")
    names = {"Größe-5.md", "Größe-5.json"}
    page.wait(lambda: {path.name for path in tmp_path.iterdir()} == names)
    text = (tmp_path / "Größe-5.md").read_text("utf-8")
    assert text == "## User\n\nGröße? / 5\n\n## Assistant\n\n**ok**\n"
    assert json.loads((tmp_path / "Größe-5.json").read_text("utf-8")) == {
        "model": "tiny",
        "messages": [
            {"role": "user", "content": "Größe? / 5"},
            {"role": "assistant", "content": "**ok**"},
        ],
    }


def colours(page: Page) -> Sequence[str]:
    return page.run(
        "const style = getComputedStyle(document.body);return [style.backgroundColor, style.color]"
    )


def test_dark_and_light(page: Page, serve: Any, scripted: Any) -> None:
    page.open(serve(scripted([b"ok"])).url)
    light = colours(page)
    page.resize(DESKTOP, "dark")
    dark = colours(page)
    assert light != dark
    page.choose("#theme", "light")
    assert colours(page) == light, "the choice is stronger than the system"
    page.driver.refresh()
    assert colours(page) == light


@pytest.mark.parametrize("width", [320, PHONE[0], 800])
def test_narrow_windows(page: Page, serve: Any, scripted: Any, width: int) -> None:
    wide = b"| a | b | c |\n|---|---|---|\n| " + b"word " * 40 + b"| x | y |\n\n"
    long = b"`" + b"x" * 300 + b"`\n\n```\n" + b"y" * 300 + b"\n```\n\n" + b"z" * 300
    page.open(serve(scripted([wide, long])).url, (width, PHONE[1]))
    page.ask("An unbroken " + "w" * 200)
    assert page.run("return document.documentElement.scrollWidth") <= width
    assert page.run("return document.querySelector('main').scrollWidth") <= width
    assert not page.one("#chats").is_displayed()
    for name, drawer in (("Chats", "#chats"), ("Settings and server", "#panel")):
        page.click(name)
        assert page.one(drawer).is_displayed()
        assert page.one(drawer).size["width"] <= width
        page.press(Keys.ESCAPE)
        assert not page.one(drawer).is_displayed()
