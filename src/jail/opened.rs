//! What well-known libraries open by name while they run, so that no ELF header says it. Data alone; what of it is on
//! this host is [`super::collect`]'s to find.

/// Something that a library opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opens {
    /// A library, found as if the one that opens it needed it.
    Library(&'static str),
    /// A path or a pattern.
    Path(&'static str),
}

use Opens::{Library, Path};

/// glibc: when a thread ends (and it aborts without it), names of users and hosts, the locale that programs fall back to,
/// the time zone.
const GLIBC: &[Opens] = &[
    Library("libgcc_s.so.1"),
    Library("libnss_files.so.2"),
    Library("libnss_dns.so.2"),
    Path("/usr/lib/locale/C.utf8"),
    Path("/etc/localtime"),
];
/// Whom to trust: Debian's place, and the others'.
const CERTIFICATES: &[Opens] = &[
    Path("/etc/ssl/certs"),
    Path("/usr/lib/ssl/certs"),
    Path("/etc/ssl/cert.pem"),
    Path("/etc/pki/tls/certs"),
    Path("/etc/pki/tls/cert.pem"),
    Path("/etc/pki/ca-trust/extracted/pem"),
];
const OPENSSL: &[Opens] = &[
    Path("/etc/ssl/openssl.cnf"),
    Path("/usr/lib/ssl/openssl.cnf"),
    Path("/etc/pki/tls/openssl.cnf"),
    Path("/usr/lib/*/ossl-modules"),
    Path("/usr/lib64/ossl-modules"),
];
/// Mozilla's NSS: the modules with its algorithms and roots.
const NSS: &[Opens] = &[
    Library("libsoftokn3.so"),
    Library("libfreebl3.so"),
    Library("libfreeblpriv3.so"),
    Library("libnssckbi.so"),
    Path("/usr/lib/*/nss"),
];

/// By the name that those who need a library know it by.
const TABLE: [(&str, &[Opens]); 9] = [
    ("libc.so.6", GLIBC),
    // On its own until glibc 2.34.
    ("libpthread.so.0", &[Library("libgcc_s.so.1")]),
    ("libcrypto.so.3", OPENSSL),
    ("libcrypto.so.1.1", OPENSSL),
    ("libssl.so.3", CERTIFICATES),
    ("libssl.so.1.1", CERTIFICATES),
    ("libgnutls.so.30", CERTIFICATES),
    ("libnss3.so", NSS),
    ("libsasl2.so.2", &[Path("/usr/lib/*/sasl2"), Path("/usr/lib64/sasl2")]),
];

/// What the library of this name opens.
pub fn by(library: &str) -> &'static [Opens] {
    TABLE
        .iter()
        .find(|(name, _)| *name == library)
        .map_or(&[], |(_, opens)| opens)
}
