//! What an ELF file needs to run: its interpreter and its libraries by name, and where the dynamic linker looks for
//! them (ld.so(8)). Files are read, never run.

use object::Endianness;
use object::elf;
use object::read::elf::{Dyn, FileHeader, ProgramHeader};
use std::path::{Path, PathBuf};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// 32 or 64 bit, machine: a library of another kind is not what is looked for.
    pub kind: (u8, u16),
    pub interpreter: Option<PathBuf>,
    pub libraries: Vec<String>,
    pub rpath: Vec<String>,
    pub runpath: Vec<String>,
    /// Libraries that it opens by name when it wants them, as far as it says so itself: a note that the dlopen metadata
    /// of systemd's ELF_DLOPEN_METADATA define.
    pub opened: Vec<String>,
}

/// Of that note: who defines it, and its number.
const NOTE_OF: &[u8] = b"FDO";
const NOTE_DLOPEN: u32 = 0x407c_0c0a;

pub fn is_elf(data: &[u8]) -> bool {
    data.starts_with(b"\x7fELF")
}

/// `None`: neither a program nor a shared library (an object file, a core).
pub fn needs(data: &[u8]) -> Result<Option<Needs>, String> {
    match data.get(4) {
        Some(1) => read::<elf::FileHeader32<Endianness>>(data, 1),
        Some(2) => read::<elf::FileHeader64<Endianness>>(data, 2),
        _ => Err("its class is neither 32 nor 64 bit".into()),
    }
}

fn read<H: FileHeader<Endian = Endianness>>(data: &[u8], class: u8) -> Result<Option<Needs>, String> {
    let wrong = |e: object::read::Error| e.to_string();
    let header = H::parse(data).map_err(wrong)?;
    let endian = header.endian().map_err(wrong)?;
    if !matches!(header.e_type(endian), elf::ET_EXEC | elf::ET_DYN) {
        return Ok(None);
    }
    let segments = header.program_headers(endian, data).map_err(wrong)?;
    let mut needs = Needs {
        kind: (class, header.e_machine(endian).0),
        ..Needs::default()
    };
    for segment in segments {
        if let Some(name) = segment.interpreter(endian, data).map_err(wrong)? {
            needs.interpreter = Some(PathBuf::from(String::from_utf8_lossy(name).into_owned()));
        }
        // A note that cannot be read takes nothing from the program.
        if let Ok(Some(mut notes)) = segment.notes(endian, data) {
            while let Ok(Some(note)) = notes.next() {
                if note.name() == NOTE_OF && note.n_type(endian).0 == NOTE_DLOPEN {
                    needs.opened.extend(dlopen_note(note.desc()));
                }
            }
        }
        let Some(entries) = segment.dynamic(endian, data).map_err(wrong)? else {
            continue;
        };
        let value = |tag: elf::DynamicTag| {
            entries
                .iter()
                .find(|d| d.tag(endian) == tag)
                .map(|d| -> u64 { d.d_val(endian).into() })
        };
        let (Some(address), Some(size)) = (value(elf::DT_STRTAB), value(elf::DT_STRSZ)) else {
            continue;
        };
        // The table stands by address; a segment says where in the file that is.
        let table = segments
            .iter()
            .find_map(|s| s.data_range(endian, data, address, size).ok().flatten())
            .ok_or("its string table lies outside the file")?;
        let text = |at: u64| -> Result<String, String> {
            let rest = usize::try_from(at).ok().and_then(|at| table.get(at..));
            let rest = rest.ok_or("a name lies outside its string table")?;
            let end = rest.iter().position(|b| *b == 0).ok_or("a name has no end")?;
            Ok(String::from_utf8_lossy(&rest[..end]).into_owned())
        };
        for entry in entries {
            let at: u64 = entry.d_val(endian).into();
            let list = |at| text(at).map(|t| t.split(':').map(str::to_owned).collect::<Vec<_>>());
            match entry.tag(endian) {
                elf::DT_NULL => break,
                elf::DT_NEEDED => needs.libraries.push(text(at)?),
                elf::DT_RPATH => needs.rpath = list(at)?,
                elf::DT_RUNPATH => needs.runpath = list(at)?,
                _ => {}
            }
        }
    }
    if !needs.runpath.is_empty() {
        needs.rpath.clear();
    }
    Ok(Some(needs))
}

/// Names that are files' own: nothing that leads to a folder.
fn dlopen_note(text: &[u8]) -> Vec<String> {
    #[derive(serde::Deserialize)]
    struct Feature {
        #[serde(default)]
        soname: Vec<String>,
    }
    let text = text.split(|b| *b == 0).next().unwrap_or_default();
    let features: Vec<Feature> = serde_json::from_slice(text).unwrap_or_default();
    let names = features.into_iter().flat_map(|f| f.soname);
    names.filter(|n| !n.contains('/')).collect()
}

/// The folders of a search path, for an object at `object`, as its loader names it.
pub fn expand(paths: &[String], object: &Path, kind: (u8, u16)) -> Vec<PathBuf> {
    let origin = object.parent().unwrap_or(Path::new("/")).to_string_lossy().into_owned();
    let (triplet, platform) = names_of(kind);
    // Debian's linker has `lib/x86_64-linux-gnu` there, others' have `lib64`, or plain `lib`.
    let debian = format!("lib/{triplet}");
    let libs: &[&str] = match (triplet, kind.0) {
        ("", _) => &["lib"],
        (_, 2) => &[&debian, "lib64", "lib"],
        _ => &[&debian, "lib"],
    };
    let put = |path: &str, name: &str, value: &str| {
        let braced = path.replace(&format!("${{{name}}}"), value);
        braced.replace(&format!("${name}"), value)
    };
    let mut out = Vec::new();
    for path in paths.iter().filter(|p| !p.is_empty()) {
        let path = put(&put(path, "ORIGIN", &origin), "PLATFORM", platform);
        let each = libs.iter().map(|lib| PathBuf::from(put(&path, "LIB", lib)));
        // Without $LIB they are one and the same.
        for folder in each.filter(|p| p.is_absolute()) {
            if !out.contains(&folder) {
                out.push(folder);
            }
        }
    }
    out
}

/// Debian's name for a kind of machine, and the linker's.
fn names_of(kind: (u8, u16)) -> (&'static str, &'static str) {
    match elf::Machine(kind.1) {
        elf::EM_X86_64 if kind.0 == 2 => ("x86_64-linux-gnu", "x86_64"),
        elf::EM_386 => ("i386-linux-gnu", "i686"),
        elf::EM_AARCH64 => ("aarch64-linux-gnu", "aarch64"),
        elf::EM_ARM => ("arm-linux-gnueabihf", "v7l"),
        elf::EM_RISCV => ("riscv64-linux-gnu", "riscv64"),
        _ => ("", ""),
    }
}

/// Names and paths of ld.so.cache; of one that cannot be read, none.
pub fn cache(data: &[u8]) -> Vec<(String, PathBuf)> {
    const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
    // The old form may stand before the new one.
    let Some(start) = data.windows(MAGIC.len()).position(|w| w == MAGIC) else {
        return Vec::new();
    };
    let data = &data[start..];
    let number = |at: usize| {
        let bytes = data.get(at..at.checked_add(4)?)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?) as usize)
    };
    let text = |at: usize| {
        let rest = data.get(at..)?;
        let end = rest.iter().position(|b| *b == 0)?;
        Some(String::from_utf8_lossy(&rest[..end]).into_owned())
    };
    let count = number(20).unwrap_or(0);
    (0..count)
        .map_while(|i| {
            let at = 48 + i * 24;
            Some((text(number(at + 4)?)?, PathBuf::from(text(number(at + 8)?)?)))
        })
        .collect()
}

/// Where the linker looks without being told: Debian's and the others' defaults.
pub fn default_folders(kind: (u8, u16)) -> Vec<PathBuf> {
    let (triplet, _) = names_of(kind);
    let mut out = Vec::new();
    if !triplet.is_empty() {
        out.extend([format!("/lib/{triplet}"), format!("/usr/lib/{triplet}")]);
    }
    let plain: &[&str] = if kind.0 == 2 {
        &["/lib64", "/usr/lib64", "/lib", "/usr/lib"]
    } else {
        &["/lib", "/usr/lib"]
    };
    out.extend(plain.iter().map(|p| (*p).to_owned()));
    out.into_iter().map(PathBuf::from).collect()
}
