"""Malformed checkpoints: each is refused at once, in one sentence that names the file; nothing is run or written."""

import json
import os
import shutil
import struct
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers import checkpoints as made
from helpers import tiny

from convert.__main__ import main
from ssd1b_jax.checkpoints.safetensors import read_safetensors

VAE = "vae/diffusion_pytorch_model.safetensors"
INDEX = "vae/diffusion_pytorch_model.safetensors.index.json"
BIAS = "encoder.conv_in.bias"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 5\n"
HTML = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>\n"
LIMIT = 2.0  # seconds of processor time, so that a busy machine does not fail the test


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    config = tiny.tiny_config()
    folder = made.diffusers_folder(tmp_path_factory.mktemp("malformed") / "source", config, made.tensors(config))
    assert main([str(folder), str(folder.parent / "model")]) == 0  # undamaged, it is no fault; and networks are built
    return folder


def header(change):
    """Change the JSON header of the VAE's file."""

    def damage(folder: Path) -> None:
        data = (folder / VAE).read_bytes()
        size = int.from_bytes(data[:8], "little")
        said = json.loads(data[8 : 8 + size])
        said = change(said) or said
        new = said if isinstance(said, bytes) else json.dumps(said).encode()
        (folder / VAE).write_bytes(len(new).to_bytes(8, "little") + new + data[8 + size :])

    return damage


def entry(**changes):
    return header(lambda said: said[BIAS].update(changes))


def data(change):
    return lambda folder: (folder / VAE).write_bytes(change((folder / VAE).read_bytes()))


def tensors(change):
    """Change the VAE's tensors."""

    def damage(folder: Path) -> None:
        named = {name: tensor.copy() for name, tensor in read_safetensors(folder / VAE)}
        change(named)
        made.save(folder / VAE, named)

    return damage


def text(path: str, content):
    return lambda folder: (folder / path).write_bytes(content if isinstance(content, bytes) else content.encode())


def config(path: str, **changes):
    def damage(folder: Path) -> None:
        (folder / path).write_text(json.dumps(json.loads((folder / path).read_text()) | changes))

    return damage


def shards(weight_map):
    """Give the VAE an index of one shard."""

    def damage(folder: Path) -> None:
        names = [name for name, _ in read_safetensors(folder / VAE)]
        (folder / VAE).rename(folder / "vae" / "one.safetensors")
        said = weight_map(dict.fromkeys(names, "one.safetensors"))
        (folder / INDEX).write_text(said if isinstance(said, str) else json.dumps({"weight_map": said}))

    return damage


def removed(path: str):
    return lambda folder: (folder / path).unlink()


def words(change, file: str = "tokenizer/vocab.json"):
    def damage(folder: Path) -> None:
        vocab = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(change(vocab)))

    return damage


def overlapping(said):
    names = sorted((name for name in said if name != "__metadata__"), key=lambda name: said[name]["data_offsets"])
    first, second = said[names[0]], said[names[1]]
    size = second["data_offsets"][1] - second["data_offsets"][0]
    second["data_offsets"] = [first["data_offsets"][0], first["data_offsets"][0] + size]


def crowded(said) -> bytes:
    """With empty tensors in every name that fits."""
    entry = json.dumps(dict(dtype="F32", shape=[0], data_offsets=[0, 0]), separators=(",", ":"))
    return json.dumps(said)[:-1].encode() + "".join(f',"{i}":{entry}' for i in range(60_000)).encode() + b"}"


def sparse(path: str, size: int):
    def damage(folder: Path) -> None:
        with open(folder / path, "r+b") as file:
            file.truncate(size)

    return damage


def only_tokenizer_json(folder: Path) -> None:
    for name in ("vocab.json", "merges.txt"):
        (folder / "tokenizer" / name).unlink()
    (folder / "tokenizer" / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": 3}}')


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


# What is done to a whole diffusers folder, and what must be said, after the path of the file.
FOLDERS = {
    "empty file": (data(lambda d: b""), f"{VAE} is no whole safetensors file"),
    "cut in the header": (data(lambda d: d[:100]), "its header is said to have"),
    "cut in the numbers": (data(lambda d: d[:-4]), f"{VAE} is no whole safetensors file"),
    "more behind the numbers": (data(lambda d: d + b"1234"), "its tensors end at byte"),
    "header length that overflows": (data(lambda d: b"\xff" * 8 + d[8:]), "its header is said to have"),
    "header length beyond the file": (data(lambda d: len(d).to_bytes(8, "little") + d[8:]), "the file has"),
    "header that is no JSON": (header(lambda said: b"{'a': 1}"), f"{VAE} is no whole safetensors file"),
    "header that is no text": (header(lambda said: b"\xff\xfe\x00{"), f"{VAE} is no whole safetensors file"),
    "header that is a list": (header(lambda said: b"[1, 2]"), "its header is no table of tensors"),
    "header of many megabytes": (
        header(lambda said: json.dumps(said).encode() + b" " * (8 << 20)),
        "more than the 8388608",
    ),
    "header of many tensors": (header(crowded), "its header has more than 50000 tables"),
    "header of many tables": (
        header(lambda said: b'{"a":[' + b"{}," * 2_700_000 + b"{}]}"),
        "has more than 50000 tables",
    ),
    "metadata that are a number": (
        header(lambda said: said | {"__metadata__": 5}),
        "its metadata are no table of texts",
    ),
    "metadata that are null": (
        header(lambda said: said | {"__metadata__": None}),
        "its metadata are no table of texts",
    ),
    "metadata that are a list": (
        header(lambda said: said | {"__metadata__": [5]}),
        "its metadata are no table of texts",
    ),
    "metadata that are pairs": (
        header(lambda said: said | {"__metadata__": ["ab"]}),
        "its metadata are no table of texts",
    ),
    "metadata of numbers": (
        header(lambda said: said | {"__metadata__": {"a": 5}}),
        "its metadata are no table of texts",
    ),
    "header nested deeply": (header(lambda said: nested(40_000)), "its header is nested too deeply"),
    "foreign dtype": (entry(dtype="F8_E4M3"), "dtype F8_E4M3 is not one of"),
    "dtype that is a list": (entry(dtype=["F32"]), f"{VAE} can't be read: dtype ['F32'] is not one of"),
    "dtype of another width": (entry(dtype="F64"), "can't hold F64"),
    "dtype of whole numbers": (entry(dtype="I32"), f"1 of whole numbers (vae {BIAS} is int32)"),
    "overlapping tensors": (header(overlapping), "overlapping, or a hole"),
    "offsets backwards": (entry(data_offsets=[8, 4]), f"{VAE} is no whole safetensors file"),
    "offsets beyond the file": (entry(data_offsets=[1 << 40, (1 << 40) + 32]), f"{VAE} is no whole safetensors file"),
    "negative shape": (entry(shape=[-8]), "no whole numbers from 0 up"),
    "shape of fractions": (entry(shape=[8.0]), "no whole numbers from 0 up"),
    "shape that overflows": (entry(shape=[1 << 62, 1 << 62]), "can't hold F32"),
    "shape of many axes": (entry(shape=[1] * 70 + [8]), "no whole numbers from 0 up"),
    "no offsets": (header(lambda said: said[BIAS].pop("data_offsets") and None), "must have one dtype, shape"),
    "entry that is a number": (header(lambda said: said.update({BIAS: 3})), "must have one dtype, shape"),
    "repeated name": (
        header(lambda said: json.dumps(said).replace("{", f'{{"{BIAS}": {json.dumps(said[BIAS])}, ', 1).encode()),
        f"1 repeated (vae {BIAS})",
    ),
    "NaN": (tensors(lambda t: t[BIAS].fill(np.nan)), f"1 not finite in float16 (vae {BIAS})"),
    "infinity": (tensors(lambda t: t[BIAS].fill(-np.inf)), f"1 not finite in float16 (vae {BIAS})"),
    "too large for the dtype": (tensors(lambda t: t[BIAS].fill(1e30)), f"1 not finite in float16 (vae {BIAS})"),
    "swapped shape": (
        tensors(lambda t: t.update({"quant_conv.weight": t["quant_conv.weight"].reshape(4, 16, 1, 1)})),
        "1 mis-shaped (vae quant_conv.weight",
    ),
    "missing tensor": (tensors(lambda t: t.pop(BIAS) is None), f"1 missing (vae {BIAS})"),
    "unknown tensor": (tensors(lambda t: t.update(more=t[BIAS])), "1 unknown (vae more)"),
    "unknown tensor of a long name": (tensors(lambda t: t.update({"x" * 100_000: t[BIAS]})), "1 unknown (vae xxx"),
    "web page for weights": (text(VAE, HTML), f"{VAE} is no whole safetensors file (it is a web page"),
    "pointer for weights": (text(VAE, LFS), f"{VAE} is no whole safetensors file (it is a Git LFS pointer"),
    "error message for weights": (text(VAE, "<?xml version='1.0'?><Error/>"), "it is an XML document"),
    "no weights": (removed(VAE), "vae has no diffusion_pytorch_model.safetensors"),
    "shard that is not there": (
        shards(lambda m: m | {BIAS: "two.safetensors"}),
        "names 'two.safetensors', which is not beside it",
    ),
    "shard somewhere else": (shards(lambda m: m | {BIAS: "../../secret.safetensors"}), "which is no plain name"),
    "shard with a whole path": (shards(lambda m: m | {BIAS: "/etc/passwd"}), "which is no plain name"),
    "index that names too many": (
        shards(lambda m: m | {"more": "one.safetensors"}),
        "disagree about 1 tensors, 'more' first",
    ),
    "index that names too few": (shards(lambda m: {name: m[name] for name in [*m][1:]}), "disagree about 1 tensors"),
    "index that is a list": (shards(lambda m: [*m]), f"{INDEX} is no index of safetensors files"),
    "index that is no JSON": (shards(lambda m: "{"), f"{INDEX} is not readable JSON"),
    "index of numbers": (shards(lambda m: dict.fromkeys(m, 1)), f"{INDEX} is no index of safetensors files"),
    "empty index": (shards(lambda m: {}), f"{INDEX} is no index of safetensors files"),
    "config with NaN": (
        text("vae/config.json", '{"scaling_factor": NaN}'),
        "vae/config.json is not readable JSON: NaN is no number",
    ),
    "config with infinity": (
        text("vae/config.json", '{"scaling_factor": 1e999}'),
        "vae/config.json: scaling_factor must be",
    ),
    "config with a billion layers": (
        config("text_encoder/config.json", num_hidden_layers=10**9),
        "num_hidden_layers must be a whole number from 1 to 64",
    ),
    "config with a billion blocks": (
        config("unet/config.json", layers_per_block=10**12),
        "unet/config.json: layers_per_block must be",
    ),
    "config with a negative width": (
        config("unet/config.json", block_out_channels=[8, -16, 16]),
        "block_out_channels must be",
    ),
    "config with words for numbers": (
        config("unet/config.json", cross_attention_dim="32"),
        "cross_attention_dim must be",
    ),
    "config with a table for a number": (
        config("vae/config.json", latent_channels={"a": 4}),
        "latent_channels must be",
    ),
    "config nested deeply": (
        text("unet/config.json", nested(100_000)),
        "unet/config.json is not readable JSON: nested too deeply",
    ),
    "config with a key twice": (
        text("vae/config.json", '{"a": 1, "a": 2}'),
        "vae/config.json is not readable JSON: repeated key 'a'",
    ),
    "config that is a list": (text("unet/config.json", "[]"), "unet/config.json must hold a JSON object, got list"),
    "config that is a web page": (text("unet/config.json", HTML), "unet/config.json is a web page"),
    "config that is a pointer": (text("unet/config.json", LFS), "unet/config.json is a Git LFS pointer"),
    "config that is no text": (text("unet/config.json", b"\xff\xfe{}"), "unet/config.json is not readable JSON"),
    "config of gigabytes": (sparse("unet/config.json", 1 << 33), "unet/config.json is larger than"),
    "configs that disagree": (
        config("unet/config.json", cross_attention_dim=64),
        "the text encoders give 32 channels, the UNet expects 64",
    ),
    "config of no such keys": (
        text("scheduler/scheduler_config.json", '{"beta_start": null}'),
        "scheduler_config.json: beta_start must be",
    ),
    "Stable Diffusion 1": (
        config("model_index.json", _class_name="StableDiffusionPipeline"),
        "model_index.json is of a StableDiffusionPipeline",
    ),
    "the refiner": (config("model_index.json", requires_aesthetics_score=True), "the SDXL refiner"),
    "no config": (removed("unet/config.json"), "unet/config.json is missing"),
    "no words": (removed("tokenizer_2/merges.txt"), "tokenizer_2 must hold tokenizer_config.json"),
    "words that are a web page": (text("tokenizer/vocab.json", HTML), "tokenizer/vocab.json is a web page"),
    "words that are a pointer": (text("tokenizer/merges.txt", LFS), "tokenizer/merges.txt is a Git LFS pointer"),
    "words of gigabytes": (sparse("tokenizer/merges.txt", 1 << 33), "tokenizer/merges.txt is larger than"),
    "more words than the encoder knows": (words(lambda v: v | {"more": 600}), "tokenizer has ids up to 600"),
    "two words of one id": (words(lambda v: v | {"more": 3}), "tokenizer/vocab.json gives one id to two words"),
    "ids that are words": (words(lambda v: v | {"more": "3"}), "must have an id from 0 up"),
    "no end of text": (words(lambda v: {w.replace("<|endoftext|>", "end"): i for w, i in v.items()}), "tokenizer"),
    "merges of three": (
        text("tokenizer/merges.txt", "#version: 0.2\na b c\n"),
        "tokenizer/merges.txt: line 2 must hold two",
    ),
    "merges of unknown words": (
        text("tokenizer/merges.txt", "xyz zyx\n"),
        "tokenizer holds no tokenizer that can be used",
    ),
    "settings that are a list": (
        text("tokenizer/tokenizer_config.json", "[]"),
        "tokenizer_config.json must hold a JSON object",
    ),
    "padding with what is no word": (config("tokenizer_2/tokenizer_config.json", pad_token="nothing"), "tokenizer_2"),
    "foreign tokenizer.json": (only_tokenizer_json, "tokenizer holds no tokenizer that can be used"),
}


def refused(source: Path, said: str, capsys, *more: str) -> None:
    before = sorted(source.parent.iterdir())
    began = time.process_time()
    code = main([str(source), str(source.parent / "target"), "--dtype", "float16", *more])
    seconds = time.process_time() - began
    printed = capsys.readouterr()
    assert code == 2 and printed.out == ""
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1 and len(printed.err) < 1500
    assert str(source) in printed.err and said in printed.err
    assert sorted(source.parent.iterdir()) == before
    assert seconds < LIMIT


@pytest.mark.parametrize("name", FOLDERS)
def test_a_damaged_folder_is_refused_in_one_sentence(whole, tmp_path, capsys, name):
    damage, said = FOLDERS[name]
    source = shutil.copytree(whole, tmp_path / "source")
    damage(source)
    refused(source, said, capsys)


FLOATS = made.storage("FloatStorage", "0", 4)
GOOD = made.tensor(FLOATS, (4,), (1,))


def pickle(value: bytes, stop: bytes = made.STOP):
    """A .ckpt whose pickle makes `value`; it has one storage of four numbers."""
    return lambda path: made.zipped(path, made.PROTO + value + stop, {"0": bytes(16)})


def tensor(shape, strides, offset=0, stored=FLOATS):
    return pickle(made.table({"x": made.tensor(stored, shape, strides, offset)}))


def touch(module: str, function: str) -> bytes:
    """A call that leaves a file behind, were it made."""
    return made.called(made.name(module, function), made.text("touch harm"))


def damaged_zip(change):
    def make(path: Path) -> None:
        pickle(made.table({"x": GOOD}))(path)
        path.write_bytes(change(path.read_bytes()))

    return make


def twice(path: Path) -> None:
    pickle(made.table({"x": GOOD}))(path)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("archive/data.pkl", b"\x80\x02}.")


def bomb(path: Path) -> None:
    made.zipped(path, made.PROTO + made.table({"x": GOOD}) + made.STOP, {"0": bytes(1 << 28)}, zipfile.ZIP_DEFLATED)


def no_pickle(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "weights")


def raw(content: bytes):
    return lambda path: path.write_bytes(content)


GETATTR = made.called(made.name("builtins", "getattr"), made.name("os", "path"), made.text("system"))
NOT_NEEDED = "which no weights need: do not trust this file"
CKPTS = {
    "os.system": (pickle(touch("os", "system")), f"it asks for os.system, {NOT_NEEDED}"),
    "posix.system among weights": (
        pickle(made.table({"x": GOOD, "y": touch("posix", "system")})),
        f"posix.system, {NOT_NEEDED}",
    ),
    "subprocess": (pickle(touch("subprocess", "getoutput")), f"subprocess.getoutput, {NOT_NEEDED}"),
    "eval": (pickle(touch("builtins", "eval")), f"builtins.eval, {NOT_NEEDED}"),
    "a chain of getattr": (pickle(GETATTR), f"builtins.getattr, {NOT_NEEDED}"),
    "names with dots": (
        pickle(touch("torch", "serialization.os.system")),
        f"torch.serialization.os.system, {NOT_NEEDED}",
    ),
    "a name from the stack": (
        pickle(made.text("os") + made.text("system") + b"\x93" + made.text("touch harm") + b"\x85R"),
        "asks for os.system",
    ),
    "another of PyTorch's": (pickle(touch("torch", "load")), f"torch.load, {NOT_NEEDED}"),
    "a trainer's class that is called": (
        pickle(touch("pytorch_lightning.callbacks", "Callback")),
        f"it calls pytorch_lightning.callbacks.Callback, {NOT_NEEDED}",
    ),
    "a class that is made": (pickle(made.name("collections", "OrderedDict") + b")\x81"), "the instruction NEWOBJ"),
    "an old instance": (pickle(b"(" + made.text("touch harm") + b"ios\nsystem\n"), "the instruction INST"),
    "an old object": (pickle(b"(" + made.name("collections", "OrderedDict") + b"o"), "the instruction OBJ"),
    "an extension": (pickle(b"\x82\x01"), "the instruction EXT1"),
    "a table of tables as key": (pickle(b"}))\x86Ns"), "a table whose keys are no names"),
    "what was never made": (pickle(b"\x85"), "its pickle takes what it never made"),
    "recalls what was never made": (pickle(b"h\x07"), "its pickle recalls what it never made"),
    "text longer than the pickle": (
        pickle(b"\x8d" + struct.pack("<Q", 1 << 62) + b"abc"),
        "is no .ckpt that can be read",
    ),
    "no end": (pickle(made.table({"x": GOOD}), b""), "is no .ckpt that can be read"),
    "no pickle": (pickle(b"\xff\xfe\xfd"), "is no .ckpt that can be read"),
    "a pickle of many megabytes": (pickle(b"0" * (5 << 20)), "more than any table of tensors"),
    "a stack without end": (pickle(b"N" * 200_000), "makes more than any table of tensors has"),
    "a name twice": (pickle(b"}(" + (made.text("x") + GOOD) * 2 + b"u"), "'x' is in its table twice"),
    "no table": (pickle(b"]"), "it holds no table of tensors"),
    "no tensors": (pickle(made.table({"x": made.number(3)})), "it holds no table of named tensors"),
    "numbers that are not there": (
        tensor((4,), (1,), stored=made.storage("FloatStorage", "7", 4)),
        "the numbers of 'x' are not in it",
    ),
    "numbers somewhere else": (
        tensor((4,), (1,), stored=made.storage("FloatStorage", "../../etc/passwd", 4)),
        "a storage that can't be",
    ),
    "fewer numbers than said": (
        tensor((8,), (1,), stored=made.storage("FloatStorage", "0", 8)),
        "has 16 bytes, not 8 numbers",
    ),
    "foreign numbers": (
        tensor((4,), (1,), stored=made.storage("QInt8Storage", "0", 4)),
        "numbers of torch.QInt8Storage can't be read",
    ),
    "a shape beyond its numbers": (tensor((5,), (1,)), "reaches beyond its 4 numbers"),
    "strides beyond its numbers": (tensor((2, 2), (3, 1)), "reaches beyond its 4 numbers"),
    "an offset beyond its numbers": (tensor((1,), (1,), 4), "reaches beyond its 4 numbers"),
    "a negative offset": (tensor((4,), (1,), -1), "it describes a tensor that can't be"),
    "negative strides": (tensor((4,), (-1,)), "it describes a tensor whose shape can't be"),
    "a huge view of one number": (tensor((1 << 40,), (0,)), "reaches beyond its 4 numbers"),
    "a compressed bomb": (bomb, "is compressed or encrypted, which PyTorch's files never are"),
    "a file cut off": (damaged_zip(lambda d: d[: len(d) // 2]), "is no .ckpt that can be read"),
    "a zip of something else": (no_pickle, "is a zip, but of no PyTorch weights"),
    "two pickles": (twice, "is in it twice"),
    "a bare pickle": (
        raw(b"\x80\x02" + touch("os", "system") + b"."),
        "it is a pickle in PyTorch's format of before 1.6",
    ),
    "an empty file": (raw(b""), "is no whole safetensors file"),
    "a web page": (raw(HTML), "is a web page"),
    "a pointer": (raw(LFS), "is a Git LFS pointer"),
    "noise": (raw(np.random.default_rng(0).bytes(4096)), "is no whole safetensors file"),
}


@pytest.mark.parametrize("name", CKPTS)
def test_a_harmful_ckpt_is_refused_and_nothing_of_it_runs(whole, tmp_path, capsys, name, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    make, said = CKPTS[name]
    path = tmp_path / "x.ckpt"
    make(path)
    refused(path, said, capsys, "--tokenizers", str(whole))
    assert os.listdir() == []


def test_the_good_pickle_is_read(tmp_path):
    """So that the table above is refused for its harm, and not for how the tests write."""
    from convert.ckpt import read_ckpt

    pickle(made.table({"x": GOOD}))(tmp_path / "x.ckpt")
    [(name, tensor)] = read_ckpt(tmp_path / "x.ckpt")
    assert name == "x" and tensor.tolist() == [0, 0, 0, 0]
