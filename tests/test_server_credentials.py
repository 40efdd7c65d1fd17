"""Content credentials: what C2PA's own reader says of the server's pictures."""

import io
import json
import socket
import threading

import c2pa
import pytest
from helpers.certificates import write_chain
from helpers.server import in_base64, pixels, png, running

from ssd1b_jax import Request, RequestError, images, records
from ssd1b_jax.server import credentials

SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/"
MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """The folder of a chain and its key, and the settings of a reader that trusts their authority."""
    folder = tmp_path_factory.mktemp("certificates")
    root = write_chain(folder)
    return folder, {"trust": {"trust_anchors": root.decode()}, "verify": {"verify_trust": True}}


@pytest.fixture(scope="module")
def client(tiny_pipe, authority, tmp_path_factory):
    folder, _ = authority
    signing = credentials.read(folder / "chain.pem", folder / "key.pem")
    kept = tmp_path_factory.mktemp("kept")
    with running(tiny_pipe, credentials=signing, keep=kept) as server, server.client() as client:
        client.kept = kept
        yield client


def manifest(file: bytes, media_type: str, settings: dict) -> tuple[str, dict]:
    """Whether a reader trusts it, and what the file's manifest says."""
    with c2pa.Context(c2pa.Settings.from_dict(settings)) as context:
        with c2pa.Reader(media_type, io.BytesIO(file), context=context) as reader:
            told = json.loads(reader.json())
            return reader.get_validation_state(), told["manifests"][told["active_manifest"]]


def actions(told: dict) -> dict[str, dict]:
    (data,) = (each["data"] for each in told["assertions"] if each["label"].startswith("c2pa.actions"))
    return {each["action"]: each for each in data["actions"]}


@pytest.mark.parametrize("form", MEDIA_TYPES)
def test_a_picture_is_signed_with_its_input_as_the_parent(client, authority, form):
    body = dict(prompt="apple", image=in_base64(png()), num_inference_steps=2, seed=5, format=form)
    file = client.post("/pictures", json=body).content
    state, told = manifest(file, MEDIA_TYPES[form], authority[1])
    assert state == "Trusted"
    made = actions(told)
    assert [*made] == ["c2pa.opened", "c2pa.edited"]
    assert made["c2pa.edited"]["digitalSourceType"] == f"{SOURCE}compositeWithTrainedAlgorithmicMedia"
    (parent,) = told["ingredients"]
    assert parent["relationship"] == "parentOf" and "thumbnail" not in parent and "thumbnail" not in told
    assert images.read_label(file)["DigitalSourceType"] == made["c2pa.edited"]["digitalSourceType"]
    kept = client.kept / f"5.{'jpg' if form == 'jpeg' else form}"
    assert kept.read_bytes() == file and records.read(kept)["request"]["seed"] == 5


def test_a_picture_from_text_has_no_parent(client, authority):
    file = client.post("/pictures", json=dict(prompt="apple", num_inference_steps=2)).content
    state, told = manifest(file, "image/png", authority[1])
    assert state == "Trusted" and told.get("ingredients", []) == []
    assert actions(told)["c2pa.created"]["digitalSourceType"] == f"{SOURCE}trainedAlgorithmicMedia"


def test_the_address_of_an_inputs_manifest_is_not_asked(authority, monkeypatch):
    """Whoever sends a picture chooses that address; with fetching on, it is asked."""
    signing = credentials.read(authority[0] / "chain.pem", authority[0] / "key.pem")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        image = with_remote_manifest(signing, f"http://127.0.0.1:{listener.getsockname()[1]}/a.c2pa")
        request = Request(prompt="apple", image=image)
        listener.settimeout(0.5)
        assert signing.sign(png(), "image/png", request)
        with pytest.raises(TimeoutError):
            listener.accept()
        monkeypatch.setitem(credentials.SETTINGS["verify"], "remote_manifest_fetch", True)
        thread = threading.Thread(target=signing.sign, args=(png(), "image/png", request))
        thread.start()
        listener.settimeout(60)
        asked, _ = listener.accept()
        with asked:
            assert asked.recv(99).startswith(b"GET /a.c2pa")
            asked.sendall(b"HTTP/1.0 404 Not Found\r\n\r\n")
        thread.join(60)


def with_remote_manifest(signing: credentials.Credentials, url: str) -> bytes:
    """A picture whose manifest is elsewhere, at an address that its file names."""
    signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo(signing.algorithm, signing.chain, signing.key, None))
    manifest, signed = {"claim_generator_info": [credentials.PROGRAM], "assertions": []}, io.BytesIO()
    settings = c2pa.Settings.from_dict({"verify": credentials.NO_NETWORK})
    with c2pa.Context(settings) as context, c2pa.Builder(manifest, context) as builder:
        builder.set_intent(c2pa.C2paBuilderIntent.CREATE, c2pa.C2paDigitalSourceType.TRAINED_ALGORITHMIC_MEDIA)
        builder.set_no_embed()
        builder.set_remote_url(url)
        builder.sign(signer, "image/png", io.BytesIO(png()), signed)
    assert url.encode() in signed.getvalue()
    return signed.getvalue()


def test_a_changed_pixel_is_seen(client, authority):
    file = client.post("/pictures", json=dict(prompt="apple", num_inference_steps=2)).content
    at = file.rindex(b"IDAT") + 6
    changed = file[:at] + bytes([file[at] ^ 1]) + file[at + 1 :]
    assert manifest(changed, "image/png", authority[1])[0] == "Invalid"
    assert pixels(file).shape == (32, 32, 3)


def test_what_can_not_sign_is_told(authority, tmp_path):
    folder, _ = authority
    with pytest.raises(RequestError, match=r"^sign: .*none\.pem can't be read: no such file"):
        credentials.read(folder / "none.pem", folder / "key.pem")
    (tmp_path / "other").mkdir()
    write_chain(tmp_path / "other")
    with pytest.raises(RequestError, match="can't sign pictures"):
        credentials.read(folder / "key.pem", folder / "chain.pem")
