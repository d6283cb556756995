//! What well-known libraries and programs open by name while they run, so that no ELF header says it. Data alone; what of it is on
//! this host is [`super::collect`]'s to find.

/// Something that a library opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opens {
    /// A library, found as if the one that opens it needed it.
    Library(&'static str),
    /// A path or a pattern.
    Path(&'static str),
    /// A path from the folder that the program lies in.
    Beside(&'static str),
}

use Opens::{Beside, Library, Path};

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

/// What phpenmod(8) has enabled, as links, the modules that this names, and time zones, which Debian's PHP has none of its own of.
const PHP: &[Opens] = &[
    Path("/etc/php/*/*/conf.d"),
    Path("/etc/php/*/*/php.ini"),
    Path("/usr/lib/php/[0-9]*"),
    Path("/usr/share/zoneinfo"),
];
/// The virtual machine, its classes, and what it is set up to do, which Debian keeps in /etc behind links.
const JAVA: &[Opens] = &[Beside("../lib"), Beside("../conf"), Beside("../release")];

/// By patterns of where a program really lies.
const PROGRAMS: [(&str, &[Opens]); 4] = [
    ("/usr/bin/php[0-9]*", PHP),
    ("/usr/bin/php-cgi[0-9]*", PHP),
    ("/usr/sbin/php-fpm[0-9]*", PHP),
    ("/usr/lib/jvm/*/bin/*", JAVA),
];

/// What the program at this path opens.
pub fn by_program(path: &std::path::Path) -> &'static [Opens] {
    let is = |pattern: &str| glob::Pattern::new(pattern).is_ok_and(|p| p.matches_path(path));
    let found = PROGRAMS.iter().find(|(pattern, _)| is(pattern));
    found.map_or(&[], |(_, opens)| opens)
}

/// What the library of this name opens.
pub fn by(library: &str) -> &'static [Opens] {
    TABLE
        .iter()
        .find(|(name, _)| *name == library)
        .map_or(&[], |(_, opens)| opens)
}
