"""A certificate chain of the tests' own, which content credentials are signed with."""

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = datetime.timedelta(days=1)
USAGES = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
    "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip


def write_chain(folder: Path) -> bytes:
    """Write chain.pem and key.pem; returns the PEM of the authority that vouches for them."""
    root, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = x509.SubjectKeyIdentifier.from_public_key(root.public_key())
    of_root = (
        _certificate("authority", root, "key_cert_sign")
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(authority, critical=False)
        .sign(root, hashes.SHA256())
    )
    of_server = (
        _certificate("server", key, "digital_signature")
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority), critical=False)
        .sign(root, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "chain.pem").write_bytes(of_server.public_bytes(pem) + of_root.public_bytes(pem))
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(pem, *plain))
    return of_root.public_bytes(pem)


def _certificate(subject: str, key, usage: str) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name("authority"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + 9 * DAY)
        .add_extension(x509.KeyUsage(**{name: name == usage for name in USAGES}), critical=True)
    )


def _name(common: str) -> x509.Name:
    names = {NameOID.ORGANIZATION_NAME: "ssd1b_jax's tests", NameOID.COMMON_NAME: common}
    return x509.Name([x509.NameAttribute(kind, name) for kind, name in names.items()])
