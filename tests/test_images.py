"""Pictures in and out: every stated rule by its exact values."""

import hashlib
import io
import os
import random
import struct
import sys

import numpy as np
import pytest
from PIL import Image, ImageCms

from ssd1b_jax import files, images
from ssd1b_jax.errors import ImageError, SaveError
from ssd1b_jax.images import reading

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
CORNERS = np.array([[RED, GREEN, BLUE], [WHITE, BLACK, RED]], np.uint8)  # no symmetry


def file_bytes(picture, form="PNG", **options):
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def noise_pixels(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def loaded(picture, form="PNG", **options):
    return images.load(file_bytes(picture, form, **options))


# in


def test_every_kind_of_source_is_the_same_picture(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(file_bytes(Image.fromarray(CORNERS)))
    for source in (path, str(path), path.read_bytes(), Image.fromarray(CORNERS), Image.open(path), CORNERS):
        pixels, notes, _ = images.load(source)
        np.testing.assert_array_equal(pixels, CORNERS)
        assert pixels.dtype == np.uint8 and notes == () and pixels is not CORNERS and pixels.flags.writeable


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize(
    "orientation, upright",
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.swapaxes(0, 1)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: np.rot90(a, 2).swapaxes(0, 1)),
        (8, lambda a: np.rot90(a, 1)),
    ],
)
def test_orientation_is_applied(form, orientation, upright):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if form == "WEBP" else {}
    pixels, notes, _ = loaded(Image.fromarray(CORNERS), form, exif=exif, **options)
    np.testing.assert_array_equal(pixels, upright(CORNERS))
    assert notes == ()


def test_transparency_goes_on_white():
    rgba = np.array([[[10, 20, 30, 0], [10, 20, 30, 255], [0, 100, 200, 51]]], np.uint8)
    mixed = [[[255, 255, 255], [10, 20, 30], [204, 224, 244]]]  # 51 / 255 is a fifth
    for source in (rgba, Image.fromarray(rgba), file_bytes(Image.fromarray(rgba))):
        pixels, notes, _ = images.load(source)
        np.testing.assert_array_equal(pixels, mixed)
        assert notes == ("transparent parts were put on white",)


def test_transparency_of_other_modes():
    grey = Image.fromarray(np.array([[[40, 0], [40, 255]]], np.uint8))
    assert grey.mode == "LA"
    np.testing.assert_array_equal(loaded(grey).pixels, [[WHITE, (40, 40, 40)]])
    keyed = Image.fromarray(np.array([[7, 8]], np.uint8))
    np.testing.assert_array_equal(loaded(keyed, transparency=7).pixels, [[WHITE, (8, 8, 8)]])
    deep = Image.fromarray(np.array([[7, 514]], np.uint16))
    np.testing.assert_array_equal(loaded(deep, transparency=7).pixels, [[WHITE, (2, 2, 2)]])
    palette = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    palette.putpalette([*RED, *GREEN])
    np.testing.assert_array_equal(loaded(palette, transparency=bytes([0, 255])).pixels, [[WHITE, GREEN]])


def test_opaque_alpha_is_no_news():
    assert images.load(np.full((2, 2, 4), 255, np.uint8)).notes == ()


def test_modes_become_rgb():
    np.testing.assert_array_equal(images.load(np.array([[0, 9]], np.uint8)).pixels, [[BLACK, (9, 9, 9)]])
    np.testing.assert_array_equal(loaded(Image.new("L", (1, 1), 9)).pixels, [[(9, 9, 9)]])
    np.testing.assert_array_equal(loaded(Image.new("1", (1, 1), 1)).pixels, [[WHITE]])
    np.testing.assert_array_equal(images.load(Image.new("HSV", (1, 1), (0, 255, 255))).pixels, [[RED]])
    pixels, notes, _ = loaded(Image.new("CMYK", (1, 1), (0, 255, 255, 0)), "TIFF")
    np.testing.assert_array_equal(pixels, [[RED]])
    assert notes == ("CMYK without a colour profile, colours are approximate",)
    lab = images.load(Image.new("LAB", (1, 1), (255, 128, 128))).pixels
    np.testing.assert_allclose(lab.astype(int), [[WHITE]], atol=1)


def test_16_bits_are_scaled_not_clipped():
    values = np.array([[0, 128, 129, 257 * 7, 32768, 65535]], np.uint16)
    expected = np.rint(values / 257)
    assert expected.tolist() == [[0, 0, 1, 7, 128, 255]]
    big_endian = b"P5 6 1 65535\n" + values.astype(">u2").tobytes()  # Pillow reads it as 32 bits
    for source in (file_bytes(Image.fromarray(values)), big_endian):
        pixels, notes, _ = images.load(source)
        np.testing.assert_array_equal(pixels, np.repeat(expected[..., None], 3, -1))
        assert notes == ()


@pytest.mark.parametrize("value", [-1, 65536])
def test_grey_beyond_16_bits_is_refused(value):
    with pytest.raises(ImageError, match=r"grey values must be in \[0, 65535\], got"):
        loaded(Image.fromarray(np.array([[0, value]], np.int32)), "TIFF")


def test_floating_point_is_refused():
    with pytest.raises(ImageError, match="floating-point pixels have no known range"):
        loaded(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF")


def test_profiles():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels = noise_pixels(8, 8)
    result = loaded(Image.fromarray(pixels), icc_profile=srgb)
    np.testing.assert_array_equal(result.pixels, pixels)
    assert result.notes == ()
    result = loaded(Image.fromarray(pixels), icc_profile=b"no profile at all")
    np.testing.assert_array_equal(result.pixels, pixels)
    assert result.notes == ("the colour profile could not be used, colours may be off",)


def test_grey_may_have_the_profile_of_its_colours():
    """As programs save it whose colour space is RGB's."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    grey = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    result = loaded(grey, icc_profile=srgb)
    assert result.notes == ()
    np.testing.assert_array_equal(result.pixels, np.asarray(grey.convert("RGB")))


def test_heic_is_read(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    smooth = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], 48, 0).repeat(3, 2)
    pillow_heif.from_bytes("RGB", (64, 48), smooth.tobytes()).save(tmp_path / "a.heic", quality=90)
    result = images.load(tmp_path / "a.heic")
    assert result.pixels.shape == smooth.shape and result.notes == ()
    assert np.abs(result.pixels.astype(int) - smooth).max() <= 8
    assert images.probe(tmp_path / "a.heic") == images.measure(tmp_path / "a.heic") == (64, 48)


def test_heic_without_its_reader_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for brands in (b"heic\0\0\0\0mif1heic", b"mif1\0\0\0\0mif1heic"):
        with pytest.raises(ImageError, match=r"it is HEIC, which needs pillow-heif: .*'ssd1b_jax\[heic\]'"):
            images.load(b"\0\0\0\x18ftyp" + brands + bytes(100))


def test_avif_is_read_or_named(tmp_path, monkeypatch):
    data = io.BytesIO()
    Image.new("RGB", (16, 8), (200, 30, 30)).save(data, "AVIF")
    assert images.load(data.getvalue()).pixels.shape == (8, 16, 3)
    monkeypatch.setattr(reading.features, "check", lambda name: False)
    with pytest.raises(ImageError, match="it is AVIF, which this build of Pillow can't read"):
        images.load(data.getvalue())


@pytest.mark.parametrize("address", ["https://example.org/a.png", "HTTP://x/y", "s3://bucket/a.png"])
@pytest.mark.parametrize("read", [images.load, images.probe, images.measure])
def test_an_address_is_told_as_one(read, address):
    with pytest.raises(ImageError) as error:
        read(address)
    assert str(error.value) == f"{address}: it is an address, and pictures are read from files: download it first"


def test_a_profile_changes_colours():
    """A display profile whose red and green are swapped shows red where green is stored."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = profile.index(b"rXYZ"), profile.index(b"gXYZ")
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    result = loaded(Image.fromarray(np.array([[GREEN]], np.uint8)), icc_profile=bytes(profile))
    np.testing.assert_allclose(result.pixels.astype(int), [[RED]], atol=2)
    assert result.notes == ()


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_frame_of_several(form):
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, BLUE)]
    options = {"lossless": True} if form == "WEBP" else {}
    pixels, notes, _ = loaded(frames[0], form, save_all=True, append_images=frames[1:], **options)
    np.testing.assert_array_equal(pixels, np.full((4, 4, 3), RED))
    assert notes == ("only the first of several frames was used",)


def test_a_phones_second_picture_is_no_frame():
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    assert loaded(frames[0], "MPO", save_all=True, append_images=frames[1:]).notes == ()


@pytest.mark.parametrize(
    "array", [np.zeros((2, 2, 3), np.float32), np.zeros((2, 2, 2), np.uint8), np.zeros(4, np.uint8)]
    + [np.zeros((1, 2, 2, 3), np.uint8), np.zeros((0, 2, 3), np.uint8)],
)  # fmt: skip
def test_other_arrays_are_refused(array):
    with pytest.raises(ImageError, match="an array must be uint8 or bool of shape"):
        images.load(array)


def test_bad_paths_are_named(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not a picture")
    picture = file_bytes(Image.fromarray(noise_pixels(32, 32)))
    (tmp_path / "half.png").write_bytes(picture[: len(picture) // 2])
    reasons = {
        "missing.png": "cannot be read: no such file or directory",
        "": "cannot be read: is a directory",
        "nul\0.png": "cannot be read: embedded null byte",
        "empty.png": "the file is empty",
        "text.png": "not a picture in a known format",
        "half.png": "cannot be read: image file is truncated",
    }
    for name, reason in reasons.items():
        with pytest.raises(ImageError) as caught:
            images.load(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: {reason}")


def test_no_pixels():
    with pytest.raises(ImageError, match="the picture: has no pixels"):
        images.load(Image.new("RGB", (0, 5)))


@pytest.mark.parametrize("side", [9_460, 20_000])  # Pillow warns of the first, refuses the second
def test_too_large_is_refused_before_decoding(side, monkeypatch):
    header = bytearray(file_bytes(Image.new("1", (8, 8)), "BMP"))
    header[18:26] = np.array([side, side], "<i4").tobytes()
    limit = Image.MAX_IMAGE_PIXELS
    with pytest.raises(ImageError, match="the picture: has more than 89 megapixels"):
        images.load(bytes(header))
    assert limit == Image.MAX_IMAGE_PIXELS
    monkeypatch.setattr(reading, "MAX_PIXELS", 63)
    with pytest.raises(ImageError, match="has more than"):
        images.load(Image.new("1", (8, 8)))


def test_formats_that_run_programs_are_unknown():
    with pytest.raises(ImageError, match="not a picture in a known format"):
        images.load(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")


@pytest.mark.filterwarnings("ignore")  # Pillow has some for damaged metadata
def test_damaged_files_load_or_raise_image_error():
    rng = random.Random(0)
    picture = Image.fromarray(noise_pixels(24, 24))
    files = [file_bytes(picture, form) for form in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "AVIF")]
    for _ in range(800):
        damaged = bytearray(rng.choice(files))
        for _ in range(4):
            damaged[rng.randrange(min(200, len(damaged)))] = rng.randrange(256)
        try:
            pixels = images.load(bytes(damaged[: rng.randrange(1, 2 * len(damaged))])).pixels
        except ImageError:
            continue
        assert pixels.dtype == np.uint8 and pixels.shape[-1] == 3


# sizes


@pytest.mark.parametrize("mode", images.RESIZE_MODES)
@pytest.mark.parametrize("size", [(24, 24), (16, 40), (1, 1), (300, 8)])
@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (1, 7), (1, 1), (3, 2000)])
def test_every_mode_gives_the_size_and_then_changes_nothing(mode, size, shape):
    width, height = size
    pixels = images.resize(noise_pixels(*shape), width, height, mode)
    assert pixels.shape == (height, width, 3) and pixels.dtype == np.uint8
    np.testing.assert_array_equal(images.resize(pixels, width, height, mode), pixels)


def test_crop_keeps_the_middle():
    thirds = np.repeat(np.array([[RED, GREEN, BLUE]], np.uint8), 12, axis=0).repeat(12, axis=1)
    np.testing.assert_array_equal(images.resize(thirds, 12, 12, "crop"), np.full((12, 12, 3), GREEN))
    tall = thirds.swapaxes(0, 1)
    np.testing.assert_array_equal(images.resize(tall, 12, 12, "crop"), np.full((12, 12, 3), GREEN))


def test_pad_repeats_the_border():
    halves = np.repeat(np.array([[RED, BLUE]], np.uint8), 4, axis=0).repeat(8, axis=1)
    padded = images.resize(halves, 16, 10, "pad")
    np.testing.assert_array_equal(padded[3:7], halves)
    np.testing.assert_array_equal(padded[:3], np.repeat(halves[:1], 3, axis=0))
    np.testing.assert_array_equal(padded[7:], np.repeat(halves[-1:], 3, axis=0))


def test_stretch_is_pillows_lanczos():
    pixels = noise_pixels(20, 30)
    expected = Image.fromarray(pixels).resize((64, 64), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(images.resize(pixels, 64, 64, "stretch"), np.asarray(expected))


def test_bad_sizes():
    pixels = noise_pixels(2, 2)
    with pytest.raises(ImageError, match="resize_mode must be one of crop, fit, pad, stretch, got 'fill'"):
        images.resize(pixels, 8, 8, "fill")
    with pytest.raises(ImageError, match="width and height must be at least 1, got 0x8"):
        images.resize(pixels, 0, 8)
    with pytest.raises(ImageError, match="upscale must be a whole number from 1 to 8, got 0"):
        images.upscale(pixels, 0)


def test_upscale():
    doubled = images.upscale(CORNERS, 2)
    expected = Image.fromarray(CORNERS).resize((6, 4), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(doubled, np.asarray(expected))
    np.testing.assert_array_equal(images.upscale(CORNERS, 1), CORNERS)


# to the model


def test_values_fill_their_range():
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    image = images.to_model(pixels)
    assert image.dtype == np.float32 and image.min() == -1 and image.max() == 1
    np.testing.assert_array_equal(np.rint((image / 2 + 0.5) * 255), pixels)


def test_scaling_equals_diffusers():
    pytest.importorskip("torch")
    VaeImageProcessor = pytest.importorskip("diffusers.image_processor").VaeImageProcessor
    processor, pixels = VaeImageProcessor(), noise_pixels(32, 40)
    expected = processor.preprocess(Image.fromarray(pixels))[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(images.to_model(pixels), expected)
    stretched = processor.preprocess(Image.fromarray(pixels), height=64, width=64)[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(images.to_model(images.resize(pixels, 64, 64, "stretch")), stretched)


# out


@pytest.mark.parametrize("suffix, form", [("png", "PNG"), ("PNG", "PNG"), ("jpg", "JPEG"), ("jpeg", "JPEG")]
    + [("webp", "WEBP")])  # fmt: skip
def test_save_takes_the_format_from_the_name(tmp_path, suffix, form):
    pixels = images.resize(CORNERS, 96, 64, "stretch")
    path = tmp_path / f"a.{suffix}"
    path.write_text("an older file")
    images.save(pixels, path)
    assert os.listdir(tmp_path) == [path.name]
    with Image.open(path) as picture:
        assert picture.format == form
    error = np.abs(images.load(path).pixels.astype(int) - pixels)
    assert error.max() <= (0 if form == "PNG" else 12)  # seen: 6 for JPEG, 8 for WebP


TEXT = {"ssd1b": '{"prompt": "a <red> & \\u82f9\\n"}', "parameters": "\u00e9t\u00e9 苹果 🍎\nSteps: 3"}


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_text_is_read_back(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    for text in (TEXT, {}, *({key: value} for key, value in TEXT.items())):
        images.save(CORNERS, path, text)
        assert images.read_text(path) == text


@pytest.mark.parametrize("form", ["JPEG", "WEBP"])
def test_the_user_comment_is_as_exif_has_it(form):
    """Type UNDEFINED, and UTF-16 in the byte order of the whole; a reader by another author agrees with all of it."""
    exif = Image.open(io.BytesIO(images.encode(CORNERS, f".{form.lower()}", TEXT))).info["exif"]
    exif = exif if exif.startswith(b"Exif\0\0") else b"Exif\0\0" + exif  # a WebP goes without
    assert exif[6:8] == b"MM"
    tag, kind, count, offset = struct.unpack(">HHII", exif[6 + 26 + 2 : 6 + 26 + 14])
    assert (tag, kind) == (0x9286, 7)
    assert exif[6 + offset :][:count] == b"UNICODE\0" + TEXT["parameters"].encode("utf-16-be") and count % 2 == 0


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "PNG"])
def test_the_text_of_others_is_left_alone(tmp_path, form):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0from a camera"
    exif[0x010E] = "a holiday"
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a xmlns="urn:b" ssd1b="no"/></x:xmpmeta>'
    Image.fromarray(CORNERS).save(tmp_path / "a", form, exif=exif, **({} if form == "PNG" else {"xmp": xmp}))
    assert images.read_text(tmp_path / "a") == {}
    Image.fromarray(CORNERS).save(tmp_path / "a", "JPEG", xmp=b"<no xml")
    with pytest.raises(ImageError, match="a: cannot be read: its xmp is damaged"):
        images.read_text(tmp_path / "a")


@pytest.mark.parametrize("name", TEXT)
def test_a_jpeg_has_little_room(tmp_path, name):
    text = {name: "x" * 70_000}
    with pytest.raises(ImageError, match="cannot be a JPEG file: (exif|xmp) data is too long"):
        images.save(CORNERS, tmp_path / "a.jpg", text)
    images.save(CORNERS, tmp_path / "a.webp", text)
    assert images.read_text(tmp_path / "a.webp") == text


def test_what_is_attached_to_a_png(tmp_path):
    attached = {"inPt": random.Random(0).randbytes(3_000_000), "maSk": b""}
    images.save(CORNERS, tmp_path / "a.png", TEXT, attached)
    assert images.read_attached(tmp_path / "a.png") == attached
    assert images.read_text(tmp_path / "a.png") == TEXT
    np.testing.assert_array_equal(images.load(tmp_path / "a.png").pixels, CORNERS)
    images.save(CORNERS, tmp_path / "a.jpg")
    assert images.read_attached(tmp_path / "a.jpg") == {}
    with pytest.raises(ImageError, match="the input can be embedded in a PNG only, got '.jpg'"):
        images.save(CORNERS, tmp_path / "b.jpg", None, attached)


def test_sha256(tmp_path):
    """Of a file's bytes, or of the pixels with their shape."""
    data = file_bytes(Image.fromarray(CORNERS))
    (tmp_path / "a.png").write_bytes(data)
    assert images.load(tmp_path / "a.png").sha256 == images.load(data).sha256 == hashlib.sha256(data).hexdigest()
    expected = hashlib.sha256(b"2 3 3\n" + CORNERS.tobytes()).hexdigest()
    assert images.load(CORNERS).sha256 == images.load(Image.fromarray(CORNERS)).sha256 == expected
    assert images.sha256(CORNERS) == expected != images.sha256(CORNERS.reshape(3, 2, 3))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_nothing_of_the_input_leaks(suffix):
    exif = Image.Exif()
    exif[0x010E] = "home address"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    source = file_bytes(Image.fromarray(CORNERS), "JPEG", exif=exif, icc_profile=profile, comment=b"home address")
    written = images.encode(images.load(source).pixels, suffix)
    assert b"home address" in source and b"home address" not in written
    picture = Image.open(io.BytesIO(written))
    assert not picture.getexif() and not {"exif", "icc_profile", "comment", "xmp"} & set(picture.info)


def test_a_failed_save_leaves_the_folder_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"older")

    def full(*_):
        raise OSError(28, "No space left on device")

    for culprit in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(files.os, culprit, full)
            with pytest.raises(SaveError, match="a.png: cannot be saved: no space left on device"):
                images.save(CORNERS, path)
        assert os.listdir(tmp_path) == ["a.png"] and path.read_bytes() == b"older"


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    for name, reason in {
        "missing/a.png": "no such file or directory",
        "file/a.png": "not a directory",
        "folder.png": "is a directory",
    }.items():
        with pytest.raises(SaveError) as caught:
            images.save(CORNERS, tmp_path / name)
        assert str(caught.value) == f"{tmp_path / name}: cannot be saved: {reason}"
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.png"]


def test_what_cannot_be_encoded(tmp_path):
    with pytest.raises(ImageError, match="a picture's name must end in .png, .jpg, .jpeg, .webp, got .bmp"):
        images.save(CORNERS, tmp_path / "a.bmp")
    for form, suffix, longest in (("WEBP", "webp", 16_383), ("JPEG", "jpg", 65_500)):
        pixels, path = np.zeros((1, longest + 1, 3), np.uint8), tmp_path / f"a.{suffix}"
        assert images.encode(pixels[:, 1:], path.suffix), "the limit is the format's own, not less"
        with pytest.raises(ImageError, match=f"a {form} file has at most {longest} pixels a side, got {longest + 1} x"):
            images.save(pixels, path)
        with pytest.raises(ImageError, match=f"got 1 x {longest + 1}: make it a .png"):
            images.check_writable(path, 1, longest + 1)
    assert os.listdir(tmp_path) == []


def test_a_saved_file_has_the_usual_permissions(tmp_path):
    images.save(CORNERS, tmp_path / "a.png")
    (tmp_path / "b").touch()
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "b").stat().st_mode
