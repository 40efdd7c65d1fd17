"""Text as EXIF and XMP, for the formats of picture files that have no text of their own; labels as XMP, for all."""

import struct
from collections.abc import Mapping
from types import MappingProxyType
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

JPEG_ROOM = 65_504  # bytes of XMP, whose segment has a header besides; EXIF has 29 more
PARAMETERS = "parameters"  # A1111's name for its text in a PNG; elsewhere it is an EXIF UserComment
EXIF_IFD, USER_COMMENT = 0x8769, 0x9286
NAMESPACE = "urn:ssd1b_jax:text:1:"
IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"  # of a label's properties
XMP_CHUNK = "XML:com.adobe.xmp"  # the name of XMP among the texts of a PNG

EMPTY: Mapping[str, str] = MappingProxyType({})
_UTF16 = b"UNICODE\0"
_LONG, _UNDEFINED = 4, 7  # types of EXIF values
_PACKET = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about=""{properties}/>'
    '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)


def pack(text: Mapping[str, str], label: Mapping[str, str] = EMPTY) -> dict[str, bytes]:
    """EXIF for the text named "parameters", XMP for others and for the label, by Pillow's names for them.

    The names of the others are XML's, and their values have no control characters but line feeds.
    """
    packed, others = {}, {name: value for name, value in text.items() if name != PARAMETERS}
    if PARAMETERS in text:
        packed["exif"] = _exif(_UTF16 + text[PARAMETERS].encode("utf-16-be"))
    if others or label:
        packed["xmp"] = packet(others, label)
    return packed


def packet(text: Mapping[str, str], label: Mapping[str, str]) -> bytes:
    """XMP with our own text, and with a label's properties as IPTC names them."""
    spaces = dict(ssd1b=(NAMESPACE, text), Iptc4xmpExt=(IPTC, label))
    properties = "".join(
        f" xmlns:{prefix}={quoteattr(space)}"
        + "".join(f" {prefix}:{name}={quoteattr(value)}" for name, value in values.items())
        for prefix, (space, values) in spaces.items()
        if values
    )
    return _PACKET.format(properties=properties).encode("utf-8", "replace")


def fitting(text: Mapping[str, str], label: Mapping[str, str] = EMPTY) -> dict[str, str]:
    """The text that a JPEG has room for, in one segment of EXIF and one of XMP that has a label too."""
    packed = pack(text, label)
    kinds = {name: "exif" if name == PARAMETERS else "xmp" for name in text}
    return {name: value for name, value in text.items() if len(packed[kinds[name]]) <= JPEG_ROOM}


def _exif(comment: bytes) -> bytes:
    """One user comment. By hand: Pillow calls it BYTE, and readers like A1111's insist on UNDEFINED."""
    to_exif, to_comment = 8 + 18, 8 + 18 + 18  # after the header and one directory, or two, of one entry each
    head = struct.pack(">2sHI", b"MM", 42, 8)
    first = struct.pack(">HHHIII", 1, EXIF_IFD, _LONG, 1, to_exif, 0)
    second = struct.pack(">HHHIII", 1, USER_COMMENT, _UNDEFINED, len(comment), to_comment, 0)
    return b"Exif\0\0" + head + first + second + comment


def unpack(user_comment: object, xmp: bytes | None) -> dict[str, str]:
    """The text that `pack` packed, from the EXIF value and the XMP; nothing from those of others.

    ValueError for XMP that is no XML.
    """
    text = {}
    if isinstance(user_comment, bytes) and user_comment.startswith(_UTF16):
        text[PARAMETERS] = user_comment.removeprefix(_UTF16).decode("utf-16-be")
    return text | (properties(xmp, NAMESPACE) if xmp else {})


def properties(xmp: bytes, namespace: str) -> dict[str, str]:
    """What XMP has as attributes of a namespace. ValueError for XMP that is no XML."""
    try:
        nodes = ElementTree.fromstring(xmp.rstrip(b"\0")).iter()
    except ElementTree.ParseError as error:
        raise ValueError(f"its XMP is damaged: {error}") from error
    mark = f"{{{namespace}}}"
    return {key.removeprefix(mark): value for node in nodes for key, value in node.items() if key.startswith(mark)}
