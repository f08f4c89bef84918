"""A throw-away certificate authority, so that a test of mutual TLS needs nothing but a directory."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

LOOPBACK = ("localhost", "127.0.0.1", "::1")
VALID_FOR = timedelta(days=1)

_SIGNS = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


class Authority:
    """Issues certificates into a directory. Two authorities do not trust each other."""

    def __init__(self, directory: Path, name: str = "disheap test authority") -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        constraint = x509.BasicConstraints(ca=True, path_length=0)
        unsigned = _builder(self._name, self._name, self._key, self._key, VALID_FOR)
        unsigned = unsigned.add_extension(constraint, critical=True).add_extension(_SIGNS, critical=True)
        self.certificate = unsigned.sign(self._key, hashes.SHA256())
        self.cafile = directory / f"{self.certificate.serial_number:x}-ca.pem"
        self.cafile.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, hosts: Sequence[str] = LOOPBACK, valid_for: timedelta = VALID_FOR) -> dict[str, str]:
        """A `[transport.tls]` table for somebody called `name`, who is reached as `hosts`. A negative `valid_for` has
        expired. Where `name` is not "", it is the first name in the certificate."""
        names = [_general_name(host) for host in ([name] if name else []) + list(hosts)]
        return self._issue(_name(name or "nobody"), names, valid_for)

    def issue_nameless(self, hosts: Sequence[str] = ()) -> dict[str, str]:
        """Issues a certificate with neither a DNS name nor a common name; `hosts` are IP addresses."""
        organization = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "somebody's")])
        names: list[x509.GeneralName] = [x509.RFC822Name("somebody@example.org"), *map(_general_name, hosts)]
        return self._issue(organization, names, VALID_FOR)

    def _issue(self, subject: x509.Name, names: Sequence[x509.GeneralName], valid_for: timedelta) -> dict[str, str]:
        key = ec.generate_private_key(ec.SECP256R1())
        unsigned = _builder(subject, self._name, key, self._key, valid_for).add_extension(
            x509.SubjectAlternativeName(names), critical=False
        )
        certificate = unsigned.sign(self._key, hashes.SHA256())
        certfile = self._directory / f"{certificate.serial_number:x}.pem"
        keyfile = certfile.with_suffix(".key")
        certfile.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        keyfile.touch(mode=0o600)
        keyfile.write_bytes(_private_pem(key))
        return {"cafile": str(self.cafile), "certfile": str(certfile), "keyfile": str(keyfile)}


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    valid_for: timedelta,
) -> x509.CertificateBuilder:
    """With the key identifiers that Python 3.13 looks for by default (RFC 5280 §4.2.1.1)."""
    now = datetime.now(UTC)
    end = now + valid_for
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    return (
        builder.serial_number(x509.random_serial_number())
        .not_valid_before(min(now, end) - VALID_FOR)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
