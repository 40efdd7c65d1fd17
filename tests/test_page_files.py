"""The page's files as they are served, what its controls are made from, and settings read from pictures."""

import re
from pathlib import Path

import httpx2 as httpx
import numpy as np
import pytest
from helpers.server import events, in_base64, pixels, png, running

from ssd1b_jax import images, settings
from ssd1b_jax.records import a1111
from ssd1b_jax.server import documents, markdown, own, page
from ssd1b_jax.server.options import ServerOptions
from ssd1b_jax.server.schema import openapi
from ssd1b_jax.server.service import Service

PAGE = Path(__file__).parents[1] / "ssd1b_jax" / "server" / "page"
TEXT = """a cat, (very:1.2) fat
on a mat <lora:style:0.5>
Negative prompt: dogs, "birds"
and fish
Steps: 30, Sampler: Euler a, Schedule type: Karras, CFG scale: 6.5, Seed: 18446744073709551615, Size: 512x768, \
Model: "a, b", Denoising strength: 0.4, RNG: CPU, Clip skip: 2"""


@pytest.fixture(scope="module")
def client(tiny_pipe):
    with running(tiny_pipe) as server, server.client() as client:
        yield client


def recalled(client, file: bytes) -> dict:
    answer = client.post("/records", files={"file": file})
    assert answer.status_code == 200, answer.text
    return answer.json()


# Files


def test_the_page_runs_nothing_foreign(client):
    answer = client.get("/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self';" in policy and "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    html = (PAGE / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=|https?://", html)
    modules = [file.read_text() for file in PAGE.rglob("*.js")]
    named = {path for text in modules for path in re.findall(r'from "\./([^"]+)"', text)}
    assert "dom.js" in named and all((PAGE / path).is_file() for path in named)


def test_a_browser_that_has_a_file_gets_it_once(client):
    answer = client.get("/page/main.js")
    assert answer.headers["content-encoding"] == "gzip" and answer.headers["content-type"].startswith("text/javascript")
    assert answer.text == (PAGE / "main.js").read_text()
    again = client.get("/page/main.js", headers={"if-none-match": answer.headers["etag"]})
    assert again.status_code == 304 and again.content == b""
    plain = client.get("/page/main.js", headers={"accept-encoding": "identity"})
    assert plain.content == (PAGE / "main.js").read_bytes() and "content-encoding" not in plain.headers


def test_nothing_else_of_the_disk_is_a_file_of_the_page(client):
    for path in ("none", "%2e%2e/own.py", "strings", "/etc/passwd", "../page.py"):
        assert client.get(f"/page/{path}").status_code == 404
    assert client.get("/page/examples/face.png").headers["content-type"] == "image/png"


def test_all_of_the_page_is_small():
    long = {path.name: count for path in PAGE.rglob("*.*s*") if (count := len(path.read_text().splitlines())) > 300}
    assert long == {}


def test_only_the_page_is_there_without_a_key(tiny_pipe):
    with running(tiny_pipe, keys=("long-secret",)) as server, server.client() as client:
        assert client.get("/").status_code == client.get("/page/main.js").status_code == 200
        assert client.get("/settings").headers["www-authenticate"].endswith('Basic realm="ssd1b"')
        answer = client.get("/settings", headers={"x-api-key": "another"})
        assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        assert client.post("/records", files={"file": png()}).status_code == 401
        assert client.get("/settings", headers={"x-api-key": "long-secret"}).status_code == 200


def test_controls_are_made_from_the_rows(client):
    described = client.get("/settings").json()
    properties = described["schema"]["properties"]
    listed = [name for group in described["schema"]["groups"].values() for name in group["settings"]]
    assert sorted(listed) == sorted(properties) and "overwrite" not in properties
    assert properties["strength"]["default"] == 0.6 and described["sizes"] == [[32, 32]]
    assert described["samplers"]["dpmpp_2m_karras"] == "DPM++ 2M Karras"
    assert described["samplers"].keys() == set(properties["scheduler"]["enum"])


def test_documents_are_pages_whose_links_lead_somewhere(client):
    """The guide with its figures, every setting, and samples of all three languages."""
    first = client.get("/docs", follow_redirects=True)
    assert all(word in first.text for word in ("curl -sf", "import base64", "node:fs")) and "<script" not in first.text
    assert "default-src 'none'" in first.headers["content-security-policy"]
    for name in documents.NAMES:
        shown = client.get(f"/docs/{name}").text
        named = re.findall(r'(?:href|src)="([^"#]+)', shown)
        assert len(named) > 6
        for target in named:
            if "://" not in target:
                assert client.get(str(httpx.URL(f"{client.base_url}/docs/").join(target))).status_code == 200, target
        assert not re.search(r"\*\*[A-Za-z]|\]\(|```|\0", re.sub(r"<code>.*?</code>", "", shown, flags=re.DOTALL))
    assert len(re.findall(r"<img", client.get("/docs/guide.md").text)) == 11
    assert client.get("/docs/../pyproject.toml").status_code == client.get("/docs/accelerators.md").status_code == 404


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("# A *b* <c>", '<h1 id="a-b-c">A <em>b</em> &lt;c&gt;</h1>'),
        ("one\ntwo `a*b*<` **x `y`**", "<p>one\ntwo <code>a*b*&lt;</code> <strong>x <code>y</code></strong></p>"),
        ("- a\n  b\n- [`c`](d.md)", '<ul>\n<li>a\nb</li>\n<li><a href="at/d.md"><code>c</code></a></li>\n</ul>'),
        ("| a | b |\n|---|---|\n| `x \\| y` | |", "<tr>\n<td><code>x | y</code></td>\n<td></td>\n</tr>"),
        ("```sh\na <b\n\n# c\n```", '<pre tabindex="0"><code class="language-sh">a &lt;b\n\n# c\n</code></pre>'),
        ("![a](b.png)", '<p><img src="at/b.png" alt="a" /></p>'),
        ("[words](none)", "<p>words</p>"),
    ],
)
def test_markdown_becomes_html(written, shown):
    assert shown in markdown.to_html(written, lambda target: None if target == "none" else f"at/{target}")


# Settings of pictures that come back


def test_all_of_our_routes_are_described():
    service = Service("tiny", ServerOptions())
    routes = [*own.routes(service), *page.routes(service)]
    ours = {(route.path.replace(":int", ""), *(route.methods - {"HEAD"})) for route in routes}
    described = openapi(service)
    paths = {(path, method.upper()) for path, methods in described["paths"].items() for method in methods}
    assert paths == ours - {("/", "GET"), ("/page/{path:path}", "GET")}
    for path, methods in described["paths"].items():
        for operation in methods.values():
            named = {parameter["name"] for parameter in operation.get("parameters", ())}
            assert named == {*re.findall(r"{(\w+)}", path)} and {"401", "403"} <= operation["responses"].keys()
    assert "504" in described["paths"]["/replay"]["post"]["responses"]


def test_a_picture_of_ours_has_all_of_its_settings(client):
    asked = dict(prompt="a <lora> cat", seed=str(2**64 - 1), num_inference_steps=2, guidance_interval=[0.1, 0.9])
    body = asked | dict(image=in_base64(png()), embed_input=True, negative_prompt="")
    job = client.post("/jobs", json=body).json()
    with client.stream("GET", f"/jobs/{job['id']}/events") as answer:
        events(answer)
    file = client.get(f"/jobs/{job['id']}/pictures/0").content
    found = recalled(client, file)
    assert found["source"] == "ssd1b_jax" and found["notes"] == []
    assert asked.items() <= found["settings"].items() and found["settings"]["negative_prompt"] == ""
    assert np.array_equal(pixels(found["pictures"]["image"]), pixels(png()))
    again = client.post("/jobs", json=found["settings"] | dict(image=found["pictures"]["image"]))
    assert again.status_code == 202, again.text


def test_a_picture_of_a1111_has_what_means_the_same(client):
    found = recalled(client, images.encode(pixels(png()), ".png", text={"parameters": TEXT}))
    assert found["source"] == "a1111" and found["pictures"] == {}
    assert found["settings"] == dict(
        prompt="a cat, (very:1.2) fat\non a mat",
        negative_prompt='dogs, "birds"\nand fish',
        num_inference_steps=30,
        guidance_scale=6.5,
        seed=str(2**64 - 1),
        strength=0.4,
        noise="torch",
        loras={},
    )
    notes = " ".join(found["notes"])
    assert "scheduler must be one of" in notes and "512x768" in notes and "no LoRA named style" in notes


@pytest.mark.parametrize("text", ["", "a cat", "Steps", "Steps: many, Seed: x", '{"a": 1}', "\n\n", 'Steps: 3, A: "\\'])
def test_other_texts_are_no_settings_or_few(text):
    found = {name: value for name, value in a1111.settings_of(text).items() if value}
    assert found.keys() <= {"num_inference_steps"}


def test_what_is_written_as_a1111s_is_read_back():
    request = dict(prompt="a: b\nc", negative_prompt="d", num_inference_steps=9, scheduler="dpmpp_2m_karras", seed=3)
    request |= dict(strength=0.5, guidance_scale=1.5, width=64, height=32, noise="nv", image={})
    record = dict(request=request | dict(image=dict(name="a")), loras={}, versions=dict(ssd1b_jax="0"))
    record["model"] = dict(sha256="0" * 64, name="m")
    found = a1111.settings_of(a1111.parameters(record))
    found["scheduler"] = settings.SETTINGS["scheduler"].check(found["scheduler"])
    assert {name: found[name] for name in request if name != "image"} == {
        name: value for name, value in request.items() if name != "image"
    }


@pytest.mark.parametrize(
    "record", ["{}", "[1]", '{"request": 5}', '{"request": {"seed": {}, "loras": {"a": "b"}}}', "[" * 99999]
)
def test_damaged_records_do_no_harm(client, record):
    file = images.encode(pixels(png()), ".png", text={"ssd1b": record})
    assert recalled(client, file)["settings"].keys() <= {"loras"}


def test_what_is_no_picture_has_no_record(client):
    answer = client.post("/records", files={"file": b"no picture"})
    assert answer.status_code == 400 and answer.json()["error"]["field"] == "file"
    assert client.post("/records", files={"other": png()}).status_code == 400
    assert recalled(client, png()) == dict(source=None, settings={}, pictures={}, notes=[])


def test_strings_have_the_same_keys_in_both_languages():
    """German also names settings that English takes from their rows."""
    english, german = (
        re.findall(r'"([\w.]+)": "', (PAGE / "strings" / f"{tag}.js").read_text(encoding="utf-8"))
        for tag in ("en", "de")
    )
    assert len(english) == len(set(english)) and len(german) == len(set(german))
    rows = {f"{kind}.{name}" for kind in ("setting", "help") for name in settings.SETTINGS}
    assert set(english) - set(german) == set() and set(german) - set(english) <= rows
