//! What an access class may do with a resource, and what `r`, `w`, `x` and `c` mean to files, directories and sockets.

/// `r`, `w`, `x` and `c`, for one access class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Perms {
    pub read: bool,
    pub write: bool,
    pub exec: bool,
    /// Connecting to sockets, where neither `r` nor `w` says so already.
    pub connect: bool,
}

impl Perms {
    pub const ALL: Perms = Perms {
        read: true,
        write: true,
        exec: true,
        connect: true,
    };
    /// What everybody has of code.
    pub const READ_AND_RUN: Perms = Perms {
        read: true,
        write: false,
        exec: true,
        connect: false,
    };

    pub fn any(self) -> bool {
        self.read || self.write || self.exec || self.connect
    }

    /// May it connect to sockets there? Whoever reads may: as root it is shown the files as its own, and no mount
    /// withholds connecting.
    pub fn connects(self) -> bool {
        self.connect || self.read || self.write
    }

    /// The three bits of one class in a file's mode. To connect takes `w` on the socket, unix(7); that nothing else is
    /// written, the mount sees to.
    pub fn file_bits(self) -> u32 {
        u32::from(self.read) << 2 | u32::from(self.write || self.connect) << 1 | u32::from(self.exec)
    }

    /// The same for a directory, where reading and writing are worth nothing without search.
    pub fn directory_bits(self) -> u32 {
        u32::from(self.read) << 2 | u32::from(self.write) << 1 | u32::from(self.any())
    }

    /// With connecting where another right brings it.
    pub fn with_implied(self) -> Perms {
        Perms {
            connect: self.connects(),
            ..self
        }
    }

    /// What of this `other` does not have.
    pub fn without(self, other: Perms) -> Perms {
        Perms {
            read: self.read && !other.read,
            write: self.write && !other.write,
            exec: self.exec && !other.exec,
            connect: self.connect && !other.connect,
        }
    }

    pub fn count(self) -> usize {
        [self.read, self.write, self.exec, self.connect]
            .into_iter()
            .filter(|on| *on)
            .count()
    }

    /// As a manifest writes them: `rw`.
    pub fn letters(self) -> String {
        self.to_string().replace('-', "")
    }

    pub fn union(self, other: Perms) -> Perms {
        Perms {
            read: self.read || other.read,
            write: self.write || other.write,
            exec: self.exec || other.exec,
            connect: self.connect || other.connect,
        }
    }
}

/// Three columns, as `ls` prints them: `rw-`; a fourth where connecting is granted by name: `---c`.
impl std::fmt::Display for Perms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bit = |on, letter| if on { letter } else { '-' };
        write!(
            f,
            "{}{}{}",
            bit(self.read, 'r'),
            bit(self.write, 'w'),
            bit(self.exec, 'x')
        )?;
        f.write_str(if self.connect { "c" } else { "" })
    }
}
